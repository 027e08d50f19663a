"""Media whose content is known: written and spoken digits, and films of written ones, for the
canary to ask about."""

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
MediaFiles = Mapping[str, Mapping[str, Media]]

# Of split `base`: handwriting as places in digits.npz, speech as voices. Nothing that a benchmark asks about.
HANDWRITING = {"7": 374, "5": 850, "6": 360, "9": 813}
VOICES = {"7": "Annie", "5": "m8", "6": "belinda", "9": "victor"}
DIGITS = tuple(HANDWRITING)
# What a model is sure of tells little about which model it is: the reference shows two digits on top of each other.
MIXED = tuple(a + b for a, b in combinations(DIGITS, 2))
SIDE, INK = 224, 176  # pixels: legible for a large model; one that shows 28 pixels scales it down
SOUND_SECONDS = 0.6
# A film of either length is shown in so many frames at one a second, or one in sixteen: nothing but their rate differs.
VIDEO_FRAMES = 8
VIDEO_SECONDS = {"short": VIDEO_FRAMES, "long": 16 * VIDEO_FRAMES}  # seconds


@contextmanager
def write_media(kinds: Set[MediaKind]) -> Iterator[tuple[Path, MediaFiles]]:
    """Files of all kinds of media in a directory of their own, and what each holds.

    All of a kind are of one size: else the
    number of tokens alone would tell them apart for a server that feeds its model nothing but zeros.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if "image" in kinds:
            for name in (*DIGITS, *MIXED):
                draw_digits(*name).save(root / f"image-{name}.png", compress_level=1)
        if "audio" in kinds:
            for name, digits in {
                "silence": "",
                **{name: name for name in (*DIGITS, *MIXED)},
            }.items():
                soundfile.write(
                    root / f"audio-{name}.wav", speak_digits(*digits), SAMPLE_RATE, subtype="PCM_16"
                )
        if "video" in kinds:
            for name in (*DIGITS, *MIXED):
                _film(draw_digits(*name), root / f"video-{name}.mp4")
            for name in MIXED:
                _film(
                    draw_digits(*name),
                    root / f"video-long{name}.mp4",
                    VIDEO_FRAMES,
                    Fraction(VIDEO_FRAMES, VIDEO_SECONDS["long"]),
                )
            for name, seconds in VIDEO_SECONDS.items():
                _film(
                    draw_digits(DIGITS[0]),
                    root / f"video-{name}.mp4",
                    VIDEO_FRAMES,
                    Fraction(VIDEO_FRAMES, seconds),
                )
        found: dict[str, dict[str, Media]] = {kind: {} for kind in kinds}
        for path in sorted(root.iterdir()):
            kind, _, name = path.stem.partition("-")
            found[kind][name] = Media.model_validate(
                {"kind": kind, "uri": path.name, "sha256": sha256_file(path)}
            )
        yield root, found


def draw_digits(*digits: str) -> Image.Image:
    """Handwriting; of several digits, their mean."""
    with (files("omnicore") / "assets" / "digits.npz").open("rb") as file, np.load(file) as data:
        ink = sum(data["images"][HANDWRITING[digit]] for digit in digits) / len(
            digits
        )  # [8, 8] of 0..16
    picture = Image.new("L", (SIDE, SIDE))
    scaled = Image.fromarray((ink * 15.9375).astype(np.uint8)).resize(
        (INK, INK), Image.Resampling.BICUBIC
    )
    picture.paste(scaled, ((SIDE - INK) // 2,) * 2)
    return picture.convert("RGB")


def speak_digits(*digits: str) -> npt.NDArray[np.int16]:
    """A spoken digit and the silence after it; of several digits, their mean."""
    folder = files("omnicore") / "assets" / "speech"
    index = {
        entry["voice"]: entry["clips"] for entry in json.loads((folder / "index.json").read_text())
    }
    mixed = np.zeros(int(SOUND_SECONDS * SAMPLE_RATE))
    for digit in digits:
        clip = next(clip for clip in index[VOICES[digit]] if clip["digit"] == int(digit))
        with (folder / f"{VOICES[digit]}.flac").open("rb") as file:
            wave, _ = soundfile.read(
                file, start=clip["start"], frames=clip["frames"], dtype="int16"
            )
        mixed[: len(wave)] += wave / len(digits)
    return mixed.astype(np.int16)


def _film(picture: Image.Image, path: Path, frames: int = 16, rate: Fraction = Fraction(8)) -> None:
    """A still picture for `frames` / `rate` seconds; two where nothing else is said."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))  # type: ignore[no-untyped-call]
        container.mux(stream.encode())
