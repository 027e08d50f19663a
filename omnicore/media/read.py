"""Pictures, sounds and videos from files: clips cut out, checked before they are decoded, decoded
once.

Times are seconds from where the file's container says that it begins, the same for the pictures of
a video and its sound. A clip that starts before the file's end and ends after it is cut at the
file's end: annotations round up. A file that was cut off is refused where the clip needs what is
gone, and read where it does not (an mp4 with its index at the end, which is gone, never; an ogg
says nothing of its length and is taken as it is). Damage in the middle is refused when a decoder
complains of it; some of it decoders paint over in silence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
from PIL import Image, ImageOps

from omnicore.config import Profile, digest
from omnicore.errors import DataError
from omnicore.media.cache import media_cache
from omnicore.media.video import (
    MAX_PIXELS,
    MonoMix,
    Video,
    check_file,
    check_size,
    check_sound_track,
    check_video,
    clip_bounds,
    damaged_error,
    frame_interval,
    load_sound_track,
    load_video,
    measure_sound_track,
    measure_video,
)
from omnicore.schema import Media
from omnicore.storage.digests import sha256_file

__all__ = [
    "SAMPLE_RATE",
    "Video",
    "load_audio",
    "load_image",
    "load_video",
    "locate_media",
    "measure_media",
    "read_media",
    "resample",
    "verify_media",
    "with_common_fps",
]

Wave = npt.NDArray[np.float32]

SAMPLE_RATE = 16_000
LONG = 30.0  # seconds of sound above which keeping them saves time; see `read`
SHORTEST = 0.025  # seconds of sound; below, vLLM refuses it and the model has no token for it
_FULL = 1 - 2**-15  # the largest sample of 16 bits, as `dataurl.wav_base64` sends them
_DIRECT = (
    b"RIFF",
    b"RIFX",
    b"RF64",
    b"FORM",
    b"fLaC",
)  # first bytes of the sounds that libsndfile reads
_UNSOUGHT = ("MPEG", "GSM")  # codecs inside a wav in which libsndfile cannot seek
_BITS, _PHOTOMETRIC = 258, 262  # tags of TIFF
_ENDLESS = 2**48  # frames
_FORMAT = 5  # raised when the same file would be decoded to something else


def locate_media(media: Media, root: Path) -> Path:
    """The file of a medium listed in a file of directory `root`.

    Raises DataError when it is missing.
    """
    path = root / media.uri
    if not path.is_file():
        raise DataError(f"{path} is missing: run prepare again, or copy the {media.kind} there")
    return path


def verify_media(media: Media, root: Path) -> Path:
    """Return the file of a medium after a check that it is the one that the record names, whose
    sha256 is computed once.

    Raises DataError when it is missing, cannot be read or was changed: a score would be that of
    another medium.
    """
    path = locate_media(media, root)
    try:
        state = path.stat()
        found = _sha256(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise _refused_by_disk(path, error) from error
    if found != media.sha256:
        raise DataError(
            f"{path} is not the file that was prepared, its sha256 differs: run prepare again, or"
            " copy it again"
        )
    return path


@lru_cache(4096)
def _sha256(path: Path, size: int, changed: int) -> str:  # noqa: ARG001 - a file of another size or time is another file
    return sha256_file(path)


def _refused_by_disk(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path} cannot be read: {error.strerror or error}; check its permissions and the disk"
    )


def read_media(media: Media, root: Path, profile: Profile) -> Image.Image | Wave | Video:
    """The clip of a medium listed in a file of directory `root`, as it is shown under `profile`.

    Videos, their sound, sounds that PyAV reads (mp3, ogg, ...) and clips above 30 s come out of the
    cache (`decoded.cache`) once one process has decoded them; pictures, short clips of wav or flac
    and any wav of 16 kHz take milliseconds and go past it.

    Raises DataError when the file is missing, broken or not the one that the record names;
    ConfigError where PyAV is missing.
    """
    try:
        return _decode(media, root, profile)
    except OSError as error:
        raise _refused_by_disk(root / media.uri, error) from error


def _decode(media: Media, root: Path, profile: Profile) -> Image.Image | Wave | Video:
    path = locate_media(media, root)
    start, end = media.start, media.end
    if media.kind == "image":
        return load_image(verify_media(media, root))
    if media.kind == "video":
        asked = {"fps": profile.fps, "max_frames": profile.max_frames}
        return Video.unpack(
            _kept(
                media,
                root,
                asked,
                lambda: load_video(path, profile.fps, profile.max_frames, start, end).pack(),
            )
        )
    if _short(path, start, end):
        return load_audio(verify_media(media, root), start, end)
    return np.frombuffer(
        _kept(media, root, {}, lambda: load_audio(path, start, end).tobytes()), np.float32
    ).copy()


def with_common_fps(parts: Sequence[Media | str], root: Path, profile: Profile) -> Profile:
    """The profile for the media of one request: several videos are shown at one rate, that of the
    one that is shown slowest.

    A request to a server has room for one rate (vLLM's `fps` counts for all its videos), and a
    model must be shown the same in this process. Raises as `measure` does.
    """
    videos = [part for part in parts if isinstance(part, Media) and part.kind == "video"]
    if len(videos) < 2:
        return profile
    step = max(
        _step(locate_media(m, root), profile.fps, profile.max_frames, m.start, m.end)
        for m in videos
    )
    fps = 1 / step
    while 1 / fps < step:  # rounded the wrong way, the slowest would keep a rate of its own
        fps = math.nextafter(fps, 0)
    return profile.model_copy(update={"fps": fps})


@lru_cache(4096)
def _step(path: Path, fps: float, max_frames: int, start: float | None, end: float | None) -> float:
    return frame_interval(path, fps, max_frames, start, end)


def measure_media(media: Media, root: Path, profile: Profile) -> tuple[int, ...]:
    """How large a clip is that `read` gives, by its file's header alone: width and height of a
    picture, samples of a sound at 16 kHz, frames, width and height of a video.

    What the header says can be wrong by a little (a variable rate, a rotation that swaps the
    sides); nothing is decoded or checked. Raises DataError when the file is missing or has no
    readable header; ConfigError where PyAV is missing.
    """
    path = locate_media(media, root)
    if media.kind == "video":
        return measure_video(path, profile.fps, profile.max_frames, media.start, media.end)
    if media.kind == "image":
        try:
            with Image.open(path) as image:
                check_size(path, *image.size)
                return image.size
        except DataError:
            raise
        except Exception as error:  # as in load_image
            raise DataError(f"{path} is not a readable picture: {error}; copy it again") from error
    info = _info(path)
    if info is None:
        return (round(measure_sound_track(path, media.start, media.end) * SAMPLE_RATE),)
    begin, stop = clip_bounds(path, media.start, media.end, info.duration, "sound")
    return (round((stop - begin) * SAMPLE_RATE),)


def check_media(media: Media, path: Path) -> None:
    """Raise DataError for a file of which a clip will hardly be read, by its header and a short
    decode: the whole picture, the beginning and the end of a video and of a sound track, the whole
    of a sound that libsndfile reads.

    Damage in the middle of a video is not found, and neither are samples there that are no sound.
    """
    try:
        if media.kind == "image":
            load_image(path)
        elif media.kind == "video":
            check_video(path, media.start, media.end)
        elif _info(path) is not None:
            load_audio(path, media.start, media.end)
        else:
            _check_track(path, media.start, media.end)
    except OSError as error:
        raise _refused_by_disk(path, error) from error


def _check_track(path: Path, start: float | None, end: float | None) -> None:
    try:
        check_sound_track(path, start, end)
    except DataError:  # what a part lacks the whole may have
        load_audio(path, start, end)


def check_media_key(media: Media) -> str:
    """Return a digest of all that the result of `check` depends on."""
    return digest({"check": _FORMAT, "decoder": _decoder(), **_clip(media)})


def load_image(file: Path | BinaryIO) -> Image.Image:
    """Read a picture as RGB: upright, transparent parts white, 16 bits scaled to 8, the first of
    several frames.

    Raises DataError naming the file when it is no picture, larger than 64 million pixels, more than
    200 times as long as wide, or of samples that have no white (floating point, 32 bits).
    """
    name = file if isinstance(file, Path) else "the picture"
    if isinstance(file, Path):
        check_file(file, "picture")
    try:
        with Image.open(file) as image:
            check_size(name, *image.size)
            return _opaque(_eight_bits(name, ImageOps.exif_transpose(image), image))
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{name}: {error}; more than {MAX_PIXELS} are refused: scale it down"
        ) from error
    except Exception as error:  # Pillow's readers let almost anything out on a broken file: struct.error, SyntaxError, ...
        raise DataError(f"{name} is not a readable picture: {error}; copy it again") from error


def load_audio(file: Path | BinaryIO, start: float | None = None, end: float | None = None) -> Wave:
    """Read a sound file, or the sound track of a video, as mono float32 samples [n] at 16 kHz in -1..1.

    libsndfile reads wav, aiff and flac that say their length, PyAV everything else. Measured with libsndfile 1.2.2: an mp3
    without a Xing header has an estimated length (32 s for 22), an ogg or mp3 joined of two ends after the first, a clip from the
    middle of an mp3 begins with silence, and GSM cannot be sought; PyAV 18 reads all of these as ffmpeg does, and its clips equal
    that part of the whole decode.

    Samples are cut at full scale, where 16 bits on the way to a server would cut them.

    Raises:
        DataError: naming the file, when it is no sound, has no sound track, is shorter than 25 ms, is damaged inside the clip,
            holds samples that are no sound, has channels that cancel out, or passes a limit.
        ConfigError: PyAV is missing and needed.
    """
    name = file if isinstance(file, Path) else Path("the sound")
    if isinstance(file, Path):
        check_file(file, "sound")
    if _info(file) is not None:
        wave, rate = _samples(file, name, start, end)
    elif isinstance(file, Path):
        wave, rate = load_sound_track(file, start, end)
    else:
        raise DataError(
            "the sound is not a readable wav, or holds no samples: send it as 16-bit PCM in a WAV"
        )
    wave = np.clip(resample(wave, rate), -1.0, _FULL)
    if len(wave) < SHORTEST * SAMPLE_RATE:
        length = f"{1000 * len(wave) / SAMPLE_RATE:.1f} ms of sound"
        raise DataError(
            f"{name}: {length}, too short for the model, which needs {1000 * SHORTEST:g} ms: take a"
            " longer clip"
        )
    return wave


def _samples(
    file: Path | BinaryIO, name: Path, start: float | None, end: float | None
) -> tuple[Wave, int]:
    """Samples [n] of a file by libsndfile, its channels averaged, and their rate.

    Raises as `load_audio` does.
    """
    with soundfile.SoundFile(file) as sound:
        rate, length = sound.samplerate, sound.frames / sound.samplerate
        begin, stop = clip_bounds(name, start, end, length, "sound")
        first, left = round(begin * rate), max(1, round((stop - begin) * rate))
        mix = MonoMix(name)
        try:
            sound.seek(min(first, sound.frames - 1))
            # `SoundFile.blocks` would give what happens to lie in memory for samples that were cut off.
            while left and len(
                block := sound.read(min(left, 1 << 20), dtype="float32", always_2d=True)
            ):
                mix.add(block.T)
                left -= len(block)
        except soundfile.SoundFileError as error:
            raise DataError(
                f"{name} is damaged: {error}; copy it again, or end the clip before that"
            ) from error
    wave = mix.wave()
    if left > rate or (isinstance(file, Path) and (end is None or end > length) and _cut(file)):
        raise damaged_error(name, begin + len(wave) / rate)
    return wave, rate


def resample(wave: npt.NDArray[np.floating[Any]], rate: int) -> Wave:
    """Samples [n] at `rate` to 16 kHz, [n * 16000 // rate], by soxr's HQ, as librosa does for the
    model's own pipeline.

    Measured at 48 kHz: 7.0 kHz is kept within 0.01 dB, 8.1 kHz comes back below -130 dB.
    """
    if rate == SAMPLE_RATE:
        return wave.astype(np.float32)
    resampled: Wave = soxr.resample(wave.astype(np.float32), rate, SAMPLE_RATE, quality="HQ")
    return resampled[: len(wave) * SAMPLE_RATE // rate]  # soxr rounds to the nearest


def _eight_bits(name: Path | str, image: Image.Image, opened: Image.Image) -> Image.Image:
    """Scale grey of 16 bits to 8 by its upper byte, as Pillow does with 16-bit colour; its own
    conversion makes all but the darkest 256 levels white, and forgets that the `opened` TIFF may
    have 12 bits, or say that white is 0."""
    if not image.mode.startswith(("I", "F")):
        return image
    if image.mode == "F" or (
        image.mode == "I" and opened.format != "PPM"
    ):  # a PPM is scaled to 16 bits where it is opened
        raise DataError(
            f"{name}: mode {image.mode}, whose samples do not say what is white: convert it to 8 or"
            " 16 bits"
        )
    tags = getattr(opened, "tag_v2", {})
    levels = np.asarray(image) >> (tags.get(_BITS, [16])[0] - 8)
    white_is_zero = tags.get(_PHOTOMETRIC) == 0
    return Image.fromarray((255 - levels if white_is_zero else levels).astype(np.uint8))


def _opaque(image: Image.Image) -> Image.Image:
    """Transparent parts white, as viewers show them: without that, black writing on nothing is
    black on black."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _info(file: Path | BinaryIO) -> Any:
    """Read a sound's header by libsndfile: `frames`, `samplerate`, `duration`, `format`. None for what `load_audio` leaves to
    PyAV, among it a wav of GSM or mp3 frames, and a wav or flac out of a pipe, which says that it has no samples, or 2**63.
    """
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return _info(opened)
    info = None
    if file.read(4) in _DIRECT:
        file.seek(0)
        with suppress(soundfile.SoundFileError):
            info = soundfile.info(file)
    file.seek(0)
    return (
        info
        if info and not info.subtype.startswith(_UNSOUGHT) and 0 < info.frames < _ENDLESS
        else None
    )


def _cut(path: Path) -> bool:
    """Whether a WAV or AIFF is shorter than its header says; what is written into a pipe says 0 or
    about the largest number."""
    with path.open("rb") as file:
        head = file.read(8)
    order: Literal["little", "big"] = "little" if head[:4] == b"RIFF" else "big"
    size = int.from_bytes(head[4:], order)
    return (
        head[:4] in (b"RIFF", b"RIFX", b"FORM")
        and 0 < size < 0x7FFF0000
        and size + 8 > path.stat().st_size
    )


def _short(path: Path, start: float | None, end: float | None) -> bool:
    """Whether a sound is decoded sooner than found in the cache."""
    info = _info(path)
    if info is None:
        return False
    if info.format == "WAV" and info.samplerate == SAMPLE_RATE:
        return True
    return bool(
        (info.duration if end is None else min(end, info.duration)) - (start or 0.0) <= LONG
    )


def _kept(media: Media, root: Path, asked: dict[str, float], make: Callable[[], bytes]) -> bytes:
    """From the cache, whose key holds all that the result depends on."""

    def checked() -> bytes:
        verify_media(
            media, root
        )  # else another file's frames would be kept under this one's name, for every later run
        return make()

    return media_cache().get(
        digest({"format": _FORMAT, "decoder": _decoder(), **_clip(media), **asked}), checked
    )


def _clip(media: Media) -> dict[str, str | float | None]:
    return {"kind": media.kind, "sha256": media.sha256, "start": media.start or 0, "end": media.end}


@lru_cache
def _decoder() -> str:
    """A newer decoder may give other pixels or samples: no run may mix them."""
    versions = {}
    for package in ("av", "soxr"):
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return str(versions)
