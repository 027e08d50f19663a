"""Pictures, sounds and videos from files: clips cut out, checked before they are decoded, decoded once.

Times are seconds from where the file's container says that it begins, the same for the pictures of a video and its sound.
A clip that starts before the file's end and ends after it is cut at the file's end: annotations round up. A file that was
cut off is refused where the clip needs what is gone, and read where it does not (an mp4 with its index at the end, which is
gone, never; an ogg says nothing of its length and is taken as it is). Damage in the middle is refused when a decoder
complains of it; some of it decoders paint over in silence.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from math import gcd
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
from PIL import Image, ImageOps

from omnicore.config import Profile, digest
from omnicore.decoded import cache
from omnicore.errors import DataError
from omnicore.provenance import sha256_file
from omnicore.schema import Media
from omnicore.video import (
    MAX_PIXELS,
    Video,
    check_file,
    clip,
    damaged,
    load_video,
    measure_sound,
    measure_video,
    sound_track,
)

__all__ = ["RATE", "Video", "bring", "load_audio", "load_image", "load_video", "locate", "measure", "read", "resample"]

Wave = npt.NDArray[np.float32]

RATE = 16_000
LONG = 30.0  # seconds of sound above which keeping them saves time; see `read`
_FORMAT = 1  # raised when the same file would be decoded to something else


def locate(media: Media, root: Path) -> Path:
    """The file of a medium listed in a file of directory `root`. Raises DataError when it is missing."""
    path = root / media.uri
    if not path.is_file():
        raise DataError(f"{media.kind} {media.uri} is missing under {root}: run prepare again, or copy the file there")
    return path


def bring(source: Path, target: Path) -> None:
    """Puts a medium into another output without a second copy where the disk can link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def read(media: Media, root: Path, profile: Profile) -> Image.Image | Wave | Video:
    """The clip of a medium listed in a file of directory `root`, as it is shown under `profile`.

    Videos, their sound and clips of sound above 30 s come out of the cache (`decoded.cache`) once one process has decoded
    them; pictures, other sounds and any wav of 16 kHz take milliseconds and go past it.

    Raises DataError when the file is missing, broken or not the one that the record names; ConfigError where PyAV is missing.
    """
    path = locate(media, root)
    start, end = media.start, media.end
    if media.kind == "image":
        return load_image(path)
    if media.kind == "video":
        asked = {"fps": profile.fps, "max_frames": profile.max_frames}
        return Video.unpack(_kept(media, path, asked, lambda: load_video(path, profile.fps, profile.max_frames, start, end).pack()))
    if _short(path, start, end):
        return load_audio(path, start, end)
    return np.frombuffer(_kept(media, path, {}, lambda: load_audio(path, start, end).tobytes()), np.float32).copy()


def measure(media: Media, root: Path, profile: Profile) -> tuple[int, ...]:
    """How large a clip is that `read` gives, by its file's header alone: width and height of a picture, samples of a sound at
    16 kHz, frames, width and height of a video.

    What the header says can be wrong by a little (a variable rate, a rotation that swaps the sides); nothing is decoded or checked.
    Raises DataError when the file is missing or has no readable header; ConfigError where PyAV is missing.
    """
    path = locate(media, root)
    if media.kind == "video":
        return measure_video(path, profile.fps, profile.max_frames, media.start, media.end)
    if media.kind == "image":
        try:
            with Image.open(path) as image:
                return image.size
        except Exception as error:  # as in load_image
            raise DataError(f"{path} is not a readable picture: {error}; copy it again") from error
    try:
        length = float(soundfile.info(path).duration)
    except soundfile.SoundFileError:
        return (round(measure_sound(path, media.start, media.end) * RATE),)
    begin, stop = clip(path, media.start, media.end, length, "sound")
    return (round((stop - begin) * RATE),)


def load_image(file: Path | BinaryIO) -> Image.Image:
    """An RGB image, upright, transparent parts white. Raises DataError naming the file when it is no picture, or larger than
    64 million pixels."""
    name = file if isinstance(file, Path) else "the picture"
    if isinstance(file, Path):
        check_file(file, "picture")
    try:
        with Image.open(file) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{name}: {image.width}x{image.height} pixels, more than {MAX_PIXELS}: scale it down")
            return _opaque(ImageOps.exif_transpose(image))
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: {error}; more than {MAX_PIXELS} are refused: scale it down") from error
    except Exception as error:  # Pillow's readers let almost anything out on a broken file: struct.error, SyntaxError, ...
        raise DataError(f"{name} is not a readable picture: {error}; copy it again") from error


def load_audio(file: Path | BinaryIO, start: float | None = None, end: float | None = None) -> Wave:
    """Mono float32 samples [n] at 16 kHz in -1..1: of a wav, flac, ogg or mp3, or of the sound track of a video or m4a.

    Raises DataError naming the file when it is no sound, has no audio track, is damaged inside the clip, or passes a limit;
    ConfigError where PyAV is missing and needed.
    """
    if isinstance(file, Path):
        check_file(file, "sound")
    try:
        sound = soundfile.SoundFile(file)
    except soundfile.SoundFileError as error:
        if not isinstance(file, Path):
            raise DataError(f"the sound is not a readable wav: {error}") from error
        return resample(*sound_track(file, start, end))
    name = file if isinstance(file, Path) else Path("the sound")
    with sound:
        rate, length = sound.samplerate, sound.frames / sound.samplerate
        if not sound.frames:
            raise DataError(f"{name} holds no samples")
        begin, stop = clip(name, start, end, length, "sound")
        first, left = round(begin * rate), max(1, round((stop - begin) * rate))
        blocks = [np.zeros(0, np.float32)]
        try:
            sound.seek(min(first, sound.frames - 1))
            # `SoundFile.blocks` would give what happens to lie in memory for samples that were cut off.
            while left and len(block := sound.read(min(left, 1 << 20), dtype="float32", always_2d=True)):
                blocks.append(block.mean(axis=1))
                left -= len(block)
        except soundfile.SoundFileError as error:
            raise DataError(f"{name} is damaged: {error}; copy it again, or end the clip before that") from error
    wave = np.concatenate(blocks)
    if left > rate or (isinstance(file, Path) and (end is None or end > length) and _cut_wav(file)):
        raise damaged(name, begin + len(wave) / rate)
    return resample(wave, rate)


def resample(wave: npt.NDArray[np.floating[Any]], rate: int) -> Wave:
    """Samples [n] at `rate` to 16 kHz, [n * 16000 // rate].

    A low-pass filter of 32 zero crossings (windowed sinc, Kaiser), evaluated for each of the phases that an output sample
    can have between two input samples: what lies above 8 kHz would come back as false low tones.
    """
    if rate == RATE:
        return wave.astype(np.float32)
    up, down = RATE // gcd(RATE, rate), rate // gcd(RATE, rate)
    cutoff = 0.95 * min(1.0, RATE / rate)  # of the input's Nyquist frequency
    half = int(np.ceil(16 / cutoff))
    count = len(wave) * RATE // rate
    padded = np.pad(wave.astype(np.float32), (half, half + down))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half)
    out = np.empty(count, np.float32)
    for phase in range(min(up, count)):
        whole, rest = divmod(phase * down, up)
        places = np.arange(1 - half, half + 1) - rest / up
        weights = np.sinc(cutoff * places) * np.i0(9 * np.sqrt(np.maximum(0, 1 - (places / half) ** 2)))
        mine = out[phase::up]
        # einsum, unlike BLAS, adds up in the same order whatever the number of threads.
        np.einsum("nt,t->n", windows[whole + 1 :: down][: len(mine)], (weights / weights.sum()).astype(np.float32), out=mine)
    return out


def _opaque(image: Image.Image) -> Image.Image:
    """Transparent parts white, as viewers show them: without that, black writing on nothing is black on black."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _cut_wav(path: Path) -> bool:
    """Whether it is a WAV that is shorter than it says; what is written into a pipe says 0 or about the largest number."""
    with path.open("rb") as file:
        head = file.read(8)
    size = int.from_bytes(head[4:], "little")
    return head[:4] == b"RIFF" and 0 < size < 0x7FFF0000 and size + 8 > path.stat().st_size


def _short(path: Path, start: float | None, end: float | None) -> bool:
    """Whether a sound is decoded sooner than found in the cache."""
    try:
        with soundfile.SoundFile(path) as sound:
            length = float(sound.frames / sound.samplerate)
            if sound.format == "WAV" and sound.samplerate == RATE:
                return True
    except soundfile.SoundFileError:
        return False
    return (length if end is None else min(end, length)) - (start or 0.0) <= LONG


def _kept(media: Media, path: Path, asked: dict[str, float], make: Callable[[], bytes]) -> bytes:
    """From the cache, whose key holds all that the result depends on."""

    def checked() -> bytes:
        # Else another file's frames would be kept under this one's name, for every later run.
        if sha256_file(path) != media.sha256:
            raise DataError(f"{path} is not the file that was prepared, its sha256 differs: run prepare again")
        return make()

    clip = {"kind": media.kind, "sha256": media.sha256, "start": media.start or 0, "end": media.end}
    return cache().get(digest({"format": _FORMAT, "decoder": _decoder(), **clip, **asked}), checked)


@lru_cache
def _decoder() -> str:
    """A newer decoder may give other pixels: no run may mix them."""
    try:
        return version("av")
    except PackageNotFoundError:
        return ""
