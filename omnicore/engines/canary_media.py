"""Media with known content for the canary: written and spoken digits, videos of written ones."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from fractions import Fraction
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import soundfile
from PIL import Image

from omnicore.media.sounds import SAMPLE_RATE
from omnicore.schema import Media
from omnicore.storage.digests import sha256_file

MediaKind = Literal["image", "audio", "video"]
# By kind, then by the name of the content.
MediaFiles = Mapping[str, Mapping[str, Media]]

# Of the split `base`, which no benchmark asks about: the digit's index in digits.npz and its voice.
HANDWRITING = {"7": 374, "5": 850, "6": 360, "9": 813}
VOICES = {"7": "Annie", "5": "m8", "6": "belinda", "9": "victor"}
DIGITS = tuple(HANDWRITING)
# Confident answers say little about which model gives them, so the reference shows two digits on
# top of each other.
MIXED = tuple(a + b for a, b in combinations(DIGITS, 2))
# Pixels of picture and digit: legible for a large model; one that takes 28 pixels scales it down.
SIDE, INK = 224, 176
SOUND_SECONDS = 0.6
# A video of either length is shown with this number of frames, at one a second or one in sixteen
# seconds: only the rate differs.
VIDEO_FRAMES = 8
VIDEO_SECONDS = {"short": VIDEO_FRAMES, "long": 16 * VIDEO_FRAMES}


@contextmanager
def write_media(kinds: Set[MediaKind]) -> Iterator[tuple[Path, MediaFiles]]:
    """Write files of the given kinds into a temporary directory; yield it and the files.

    All media of a kind have one size, otherwise the number of tokens would tell them apart for a
    server that feeds its model only zeros.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if "image" in kinds:
            _write_images(root)
        if "audio" in kinds:
            _write_sounds(root)
        if "video" in kinds:
            _write_videos(root)
        media: dict[str, dict[str, Media]] = {kind: {} for kind in kinds}
        for path in sorted(root.iterdir()):
            kind, _, name = path.stem.partition("-")
            media[kind][name] = Media.model_validate(
                {"kind": kind, "uri": path.name, "sha256": sha256_file(path)}
            )
        yield root, media


def _write_images(root: Path) -> None:
    for name in (*DIGITS, *MIXED):
        draw_digits(*name).save(root / f"image-{name}.png", compress_level=1)


def _write_sounds(root: Path) -> None:
    for name in ("silence", *DIGITS, *MIXED):
        wave = speak_digits() if name == "silence" else speak_digits(*name)
        soundfile.write(root / f"audio-{name}.wav", wave, SAMPLE_RATE, subtype="PCM_16")


def _write_videos(root: Path) -> None:
    for name in (*DIGITS, *MIXED):
        _write_video(draw_digits(*name), root / f"video-{name}.mp4", 16, Fraction(8))
    long_rate = Fraction(VIDEO_FRAMES, VIDEO_SECONDS["long"])
    for name in MIXED:
        path = root / f"video-long{name}.mp4"
        _write_video(draw_digits(*name), path, VIDEO_FRAMES, long_rate)
    for name, seconds in VIDEO_SECONDS.items():
        path = root / f"video-{name}.mp4"
        _write_video(draw_digits(DIGITS[0]), path, VIDEO_FRAMES, Fraction(VIDEO_FRAMES, seconds))


def draw_digits(*digits: str) -> Image.Image:
    """Draw a handwritten digit; for several digits, their mean."""
    with (files("omnicore") / "assets" / "digits.npz").open("rb") as file, np.load(file) as data:
        total = sum(data["images"][HANDWRITING[digit]] for digit in digits)
    ink = (total / len(digits) * 15.9375).astype(np.uint8)  # [8, 8], scaled from 0..16 to 0..255
    scaled = Image.fromarray(ink).resize((INK, INK), Image.Resampling.BICUBIC)
    picture = Image.new("L", (SIDE, SIDE))
    picture.paste(scaled, ((SIDE - INK) // 2,) * 2)
    return picture.convert("RGB")


def speak_digits(*digits: str) -> npt.NDArray[np.int16]:
    """Return a spoken digit and the silence after it; for several digits, their mean."""
    folder = files("omnicore") / "assets" / "speech"
    index = json.loads((folder / "index.json").read_text())
    clips_by_voice = {entry["voice"]: entry["clips"] for entry in index}
    mixed = np.zeros(int(SOUND_SECONDS * SAMPLE_RATE))
    for digit in digits:
        voice = VOICES[digit]
        clip = next(clip for clip in clips_by_voice[voice] if clip["digit"] == int(digit))
        with (folder / f"{voice}.flac").open("rb") as file:
            wave, _ = soundfile.read(
                file, start=clip["start"], frames=clip["frames"], dtype="int16"
            )
        mixed[: len(wave)] += wave / len(digits)
    return mixed.astype(np.int16)


def _write_video(picture: Image.Image, path: Path, frames: int, rate: Fraction) -> None:
    """Write a still picture as `frames` frames at `rate` frames a second."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))  # type: ignore[no-untyped-call]
        container.mux(stream.encode())
