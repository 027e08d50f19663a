"""When a track ends: by its container's header where that states it, else by its last packet."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from omnicore.media.container import (
    SLACK,
    is_mpeg_stream,
    last_packet_end,
    rewind,
    seek,
    start_seconds,
)
from omnicore.media.limits import damaged_error

if TYPE_CHECKING:
    from av import VideoStream
    from av.container import InputContainer
    from av.stream import Stream

_ESTIMATED = ("mp3", "aac", "ac3", "amr", "ogg")  # formats of `states_length`
_MATROSKA = "matroska,webm"
_AVI_UNKNOWN = 1 << 30  # frames; a header that was never filled in says more


def states_length(container: InputContainer) -> bool:
    """Return whether the file itself states the length that FFmpeg gives.

    FFmpeg estimates the length of raw streams by the bit rate of the first packets, and gives the
    length of the first part for an ogg that was joined of two.
    """
    if container.format.name == "avi":
        return any(avi_seconds(stream) for stream in container.streams)
    return bool(container.duration) and container.format.name not in _ESTIMATED


def track_end(path: Path, container: InputContainer, stream: Stream) -> float:
    """Return when a track ends by its header, or without one when its last packet ends.

    Raises:
        DataError: The file is of MPEG streams that were joined, each with its own clock.
    """
    start = start_seconds(container)
    # Matroska that begins late: its duration is an end or a length, see `_header_end`.
    is_late = container.format.name == _MATROSKA and start > 0
    stated = 0.0
    if container.format.name == "avi":
        stated = avi_seconds(stream)
    elif stream.duration and stream.time_base:
        stated = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    elif container.duration:
        stated = start + container.duration / 1e6
    if stated and not is_late and not is_mpeg_stream(container):
        return stated
    if stated and is_late:
        seek(container, stream, stated)  # to the last keyframe
    last = last_packet_end(path, container, stream)
    rewind(container, stream)
    return _header_end(container, last) if stated and is_late else max(last, stated)


def _header_end(container: InputContainer, last: float) -> float:
    """Return when a file ends by its header, 0 where that does not say.

    Matroska's duration is the time of the end as FFmpeg writes it, and the length from the first
    frame on as mkvmerge does: `last`, the end of the last packet, tells which.
    """
    if container.format.name == "avi":
        return max((avi_seconds(stream) for stream in container.streams), default=0.0)
    start, length = start_seconds(container), (container.duration or 0) / 1e6
    if not length or (container.format.name == _MATROSKA and last <= length + 0.1):
        return length
    return start + length


def refuse_truncated(path: Path, container: InputContainer) -> None:
    """Raise DataError when the file ends before its header says.

    One track may end before another; a truncated file lost the end of all tracks.
    """
    container.seek(container.start_time or 0)
    last = last_packet_end(path, container, *container.streams)
    stated = _header_end(container, last)
    if stated and last < stated - SLACK:
        raise damaged_error(path, last - start_seconds(container))


def avi_seconds(stream: Stream) -> float:
    """Return the seconds of an AVI's track by its header, 0 where that was never filled in.

    A pipe leaves it unfilled. FFmpeg's duration would be an estimate, also where the file was
    truncated.
    """
    if stream.time_base and stream.frames < _AVI_UNKNOWN:
        return float(stream.frames * stream.time_base)
    return 0.0


def mp4_track_end(path: Path, container: InputContainer, stream: VideoStream) -> float:
    """Return when a track of an mp4 ends by its header, 0 where that does not say.

    FFmpeg adds up the times between decoding frames, which are not those between showing them where
    the rate varies and frames are sent out of order.
    """
    if not container.format.name.startswith("mov"):
        return 0.0
    with path.open("rb") as file:
        movie = next(_mp4_boxes(file, b"moov", 0, path.stat().st_size), (0, 0))
        movie_scale, _ = _scale_and_duration(file, next(_mp4_boxes(file, b"mvhd", *movie), None))
        for track in _mp4_boxes(file, b"trak", *movie):
            header = next(_mp4_boxes(file, b"tkhd", *track), None)
            track_id, shown = _scale_and_duration(file, header, 4)
            media = next(_mp4_boxes(file, b"mdia", *track), (0, 0))
            header = next(_mp4_boxes(file, b"mdhd", *media), None)
            scale, duration = _scale_and_duration(file, header)
            if track_id == stream.id and movie_scale and scale:
                begin = float((stream.start_time or 0) * (stream.time_base or 0))
                return min(shown / movie_scale, begin + duration / scale)
    return 0.0


def _mp4_boxes(file: BinaryIO, kind: bytes, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield where the contents of boxes of one kind begin and end, between two places of an mp4."""
    while begin + 8 <= end:
        file.seek(begin)
        size, box_kind, wide_size = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        header_bytes = 16 if size == 1 else 8
        length = {0: end - begin, 1: wide_size}.get(size, size)
        if length < header_bytes:
            return
        if box_kind == kind:
            yield begin + header_bytes, min(begin + length, end)
        begin += length


def _scale_and_duration(
    file: BinaryIO, box: tuple[int, int] | None, gap: int = 0
) -> tuple[int, int]:
    """Read a header's time scale, or its track number, and the duration `gap` bytes after it.

    Both are 0 without a box; a duration of ones is unknown, and 0.
    """
    if box is None:
        return 0, 0
    file.seek(box[0])
    data = file.read(box[1] - box[0])[:44]
    width = 8 if data[:1] == b"\1" else 4
    place = 4 + 2 * width
    scale = int.from_bytes(data[place : place + 4], "big")
    duration = data[place + 4 + gap : place + 4 + gap + width]
    return scale, 0 if set(duration) == {255} else int.from_bytes(duration, "big")


def mp3_seconds(path: Path, rate: int) -> float:
    """Return the seconds of an mp3 by its first frame, 0 where that is not a header.

    LAME, FFmpeg and libsndfile write such a header, Xing or Info.
    """
    with path.open("rb") as file:
        tag = file.read(10)
        if tag[:3] == b"ID3":
            shifts = zip(tag[6:], (21, 14, 7, 0), strict=True)
            file.seek(sum(byte << shift for byte, shift in shifts), 1)
        else:
            file.seek(0)
        frame = file.read(64)
    place = max(frame.find(b"Xing"), frame.find(b"Info"))
    if place < 0 or not frame[place + 7] & 1:
        return 0.0
    frames = int.from_bytes(frame[place + 8 : place + 12], "big")
    samples_per_frame = 1152 if rate >= 32_000 else 576
    return frames * samples_per_frame / rate
