"""Limits of media files and clips, and the checks that every reader shares."""

from __future__ import annotations

import math
from pathlib import Path

from omnicore.errors import DataError

MAX_BYTES = 4_000_000_000  # of one file
MAX_PIXELS = 64_000_000  # of one picture or frame
# Longer side by shorter side of a picture or frame; `smart_resize` in Qwen's processors raises
# ValueError above.
MAX_RATIO = 200
MAX_SECONDS = 7200.0  # of one clip
MAX_FRAMES = 2048  # of one clip


def check_file(path: Path, kind: str) -> None:
    """Raise DataError when the file is empty or above `MAX_BYTES`.

    Args:
        path: The file.
        kind: What it should be, for the message: picture, sound or video.
    """
    size = path.stat().st_size
    if not size:
        raise DataError(
            f"{path} is not a readable {kind}: it is empty; copy it again",
            code="media-empty",
            path=path,
        )
    if size > MAX_BYTES:
        raise DataError(
            f"{path}: {size} bytes, more than {MAX_BYTES}: cut it, or encode it smaller",
            code="media-file-too-large",
            path=path,
        )


def check_size(file: Path | str, width: int, height: int) -> None:
    """Raise DataError for a picture or frame of more than `MAX_PIXELS` or beyond `MAX_RATIO`.

    Args:
        file: The file, or its name in the message where the picture is in memory.
        width: In pixels.
        height: In pixels.
    """
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{file}: {width}x{height} pixels, more than {MAX_PIXELS}: scale it down",
            code="media-too-many-pixels",
            path=file if isinstance(file, Path) else None,
        )
    if max(width, height) > MAX_RATIO * min(width, height):
        raise DataError(
            f"{file}: {width}x{height} pixels, sides in a ratio above {MAX_RATIO}: cut it, or add a"
            " margin",
            code="media-too-narrow",
            path=file if isinstance(file, Path) else None,
        )


def clip_bounds(
    path: Path, start: float | None, end: float | None, length: float, kind: str
) -> tuple[float, float]:
    """Return where a clip begins and ends, in seconds from the beginning of its file.

    Args:
        path: The file, for the message.
        start: Requested start, None for the beginning of the file.
        end: Requested end, None for the end of the file; an end after that is moved to it.
        length: Seconds of the file, infinity where they are not known.
        kind: What the file is, for the message: sound or video.

    Raises:
        DataError: The clip is empty, begins after the end of the file or is above `MAX_SECONDS`.
    """
    begin = start or 0.0
    if end is not None and end <= begin:
        raise DataError(
            f"{path}: a clip from {begin:g} to {end:g} s is empty: fix its start and end",
            code="media-clip-empty",
            path=path,
        )
    if begin >= length:
        raise clip_after_end(path, begin, length, kind)
    stop = length if end is None else min(end, length)
    if MAX_SECONDS < stop - begin < math.inf:
        raise DataError(
            f"{path}: {stop - begin:.0f} s of {kind}, more than {MAX_SECONDS:.0f}: cut it",
            code="media-clip-too-long",
            path=path,
        )
    return begin, stop


def clip_after_end(path: Path, begin: float, length: float, kind: str) -> DataError:
    """Return the error for a clip that begins at `begin` s of a file of `length` s."""
    return DataError(
        f"{path}: a clip from {begin:g} s, but the {kind} ends at {length:.3f} s: fix its start"
        " and end",
        code="media-clip-after-end",
        path=path,
    )


def damaged_error(path: Path, seconds: float) -> DataError:
    """Return the error for a file of which nothing after `seconds` can be read."""
    return DataError(
        f"{path} is damaged or truncated after {seconds:.2f} s: copy it again, or end the clip"
        " before that",
        code="media-damaged",
        path=path,
    )


def disk_error(path: Path, error: OSError) -> DataError:
    """Return the error for a file that the operating system refuses to read."""
    return DataError(
        f"{path} cannot be read: {error.strerror or error}; check its permissions and the disk",
        code="media-read-failed",
        path=path,
    )
