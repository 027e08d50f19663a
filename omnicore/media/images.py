"""Pictures from files: upright, opaque, 8 bits a channel, RGB."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from omnicore.errors import DataError
from omnicore.media.limits import MAX_PIXELS, check_file, check_size

_BITS, _PHOTOMETRIC = 258, 262  # tags of TIFF


def load_image(file: Path | BinaryIO) -> Image.Image:
    """Read a picture as RGB: upright, transparent parts white, 16 bits scaled to 8.

    Of several frames, the first is read.

    Raises:
        DataError: The file is not a picture, has more than 64 million pixels, is more than 200
            times as long as wide, or its samples do not say what is white (floating point, 32
            bits); the message names the file.
    """
    name = file if isinstance(file, Path) else "the picture"
    if isinstance(file, Path):
        check_file(file, "picture")
    try:
        with Image.open(file) as image:
            check_size(name, *image.size)
            return _opaque(_to_eight_bits(name, ImageOps.exif_transpose(image), image))
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{name}: {error}; more than {MAX_PIXELS} are refused: scale it down",
            code="media-too-many-pixels",
            path=file if isinstance(file, Path) else None,
        ) from error
    # On a broken file, Pillow's readers raise almost anything: struct.error, SyntaxError, ...
    except Exception as error:
        raise _unreadable(name, error) from error


def measure_image(path: Path) -> tuple[int, int]:
    """Return the width and height of a picture by its header.

    Raises as `load_image` does.
    """
    try:
        with Image.open(path) as image:
            check_size(path, *image.size)
            return image.size
    except DataError:
        raise
    # As in `load_image`.
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(name: Path | str, error: Exception) -> DataError:
    return DataError(
        f"{name} is not a readable picture: {error}; copy it again",
        code="media-unreadable",
        path=name if isinstance(name, Path) else None,
    )


def _to_eight_bits(name: Path | str, image: Image.Image, opened: Image.Image) -> Image.Image:
    """Scale grey of 16 bits to 8 by its upper byte, as Pillow does with 16-bit colour.

    Pillow's own conversion makes all but the darkest 256 levels white, and ignores that the
    `opened` TIFF may have 12 bits or count from white.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    # Pillow scales a PPM to 16 bits when it opens it.
    if image.mode == "F" or (image.mode == "I" and opened.format != "PPM"):
        raise DataError(
            f"{name}: mode {image.mode}, whose samples do not say what is white: convert it to 8 or"
            " 16 bits",
            code="media-image-mode",
            path=name if isinstance(name, Path) else None,
        )
    tags = getattr(opened, "tag_v2", {})
    levels = np.asarray(image) >> (tags.get(_BITS, [16])[0] - 8)
    if tags.get(_PHOTOMETRIC) == 0:
        levels = 255 - levels
    return Image.fromarray(levels.astype(np.uint8))


def _opaque(image: Image.Image) -> Image.Image:
    """Make transparent parts white, as viewers do; else black writing would be black on black."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
