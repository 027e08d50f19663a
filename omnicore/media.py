"""Pictures and sounds from files, checked before they are decoded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
from PIL import Image, UnidentifiedImageError

from omnicore.errors import DataError
from omnicore.schema import Media

RATE = 16_000
MAX_PIXELS = 64_000_000
MAX_SECONDS = 600.0


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


def load_image(path: Path) -> Image.Image:
    """An RGB image. Raises DataError naming the file when it is no picture, or larger than 64 million pixels."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{path}: {image.width}x{image.height} pixels, more than {MAX_PIXELS}: scale it down")
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a readable picture: {error}") from error


def load_audio(path: Path) -> npt.NDArray[np.float32]:
    """Mono float32 samples at 16 kHz in -1..1. Raises DataError naming the file when it is no sound, or over 600 s."""
    try:
        info = soundfile.info(path)
        if info.duration > MAX_SECONDS:
            raise DataError(f"{path}: {info.duration:.0f} s of sound, more than {MAX_SECONDS:.0f}: cut it")
        wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise DataError(f"{path} is not a readable sound: {error}") from error
    mono: npt.NDArray[Any] = wave.mean(axis=1)
    if not len(mono):
        raise DataError(f"{path} holds no samples")
    if rate != RATE:
        places = np.arange(int(len(mono) * RATE / rate)) * rate / RATE
        mono = np.interp(places, np.arange(len(mono)), mono)
    return mono.astype(np.float32)
