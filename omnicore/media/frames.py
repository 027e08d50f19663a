"""Decode the frames of a video that are on show at given times.

Frames are found by their time stamps, so a variable frame rate needs no special case: the frame on
show at a time is the last one that does not begin after it. Between two times the reader seeks to
the keyframe before the later one where that saves decoding, so 32 frames of an hour cost 32 short
runs. Every seek is verified (`_decode_from`), since containers without an index lead to any packet:
the frames are those of a decode from the beginning.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from omnicore.errors import DataError
from omnicore.media.container import (
    DECODE_AHEAD,
    SLACK,
    TOLERANCE,
    decode,
    is_mpeg_stream,
    rewind,
    seek,
    start_seconds,
)
from omnicore.media.limits import check_size
from omnicore.media.track_end import refuse_truncated

if TYPE_CHECKING:
    from av import Packet, VideoFrame, VideoStream
    from av.container import InputContainer

JPEG_QUALITY = 95
_STEPS_BACK = (0.0, 2.0, 20.0, 200.0)  # seconds before a time to which a seek is tried


def frames_at(
    path: Path, container: InputContainer, stream: VideoStream, times: Sequence[float]
) -> Iterator[tuple[bytes, float]]:
    """Yield JPEG and beginning of the frame on show at each of the ascending `times`.

    Before the first frame, the first is on show; after the last, the last. All have the size of the
    first one.

    Raises:
        DataError: No frame can be decoded, or the file is damaged or truncated before a time.
    """
    reader = _FrameReader(path, container, stream)
    encoded: VideoFrame | None = None
    jpeg, size = b"", None
    for time in times:
        frame = reader.frame_at(time)
        if frame is not encoded:
            check_size(path, *square_size(stream, frame.width, frame.height))
            image = _upright(frame, stream)
            size = size or image.size
            jpeg = _to_jpeg(image if image.size == size else image.resize(size))
            encoded = frame
        yield jpeg, frame.time


class _FrameReader:
    """Find the frame on show at each of ascending times, by seeking or by decoding on."""

    def __init__(self, path: Path, container: InputContainer, stream: VideoStream) -> None:
        self._path, self._container, self._stream = path, container, stream
        self._shown: VideoFrame | None = None
        self._next: VideoFrame | None = None
        self._frames: Iterator[VideoFrame] = iter(())
        self._is_complete = False  # the file was found to end where its header says

    def frame_at(self, time: float) -> VideoFrame:
        self._seek_if_shorter(time)
        while self._next is not None and self._next.time <= time + TOLERANCE:
            self._shown, self._next = self._next, next(self._frames, None)
        frame = self._shown or self._next
        if frame is None:
            raise DataError(
                f"{self._path} holds no frame that can be decoded: copy it again, or convert it to"
                " mp4",
                code="media-no-frame",
                path=self._path,
            )
        is_last = self._next is None
        if is_last and not self._is_complete and time > _frame_end(frame) + SLACK:
            # A track that ends early keeps showing its last frame; a truncated file is refused.
            refuse_truncated(self._path, self._container)
            self._is_complete = True
        return frame

    def _seek_if_shorter(self, time: float) -> None:
        newest = self._next or self._shown
        if newest is None or newest.time + TOLERANCE < _keyframe_before(
            self._container, self._stream, time
        ):
            self._shown = None
            self._next, self._frames = _decode_from(self._path, self._container, self._stream, time)


def _keyframe_before(container: InputContainer, stream: VideoStream, time: float) -> float:
    """Return the time of a keyframe before `time` by the file's index.

    Without an index, return a time from which decoding is cheaper than a seek.
    """
    if container.format.name == "mpeg":
        return -math.inf
    if is_mpeg_stream(container):
        return time - DECODE_AHEAD
    assert stream.time_base, "every demuxer sets it"
    place = stream.index_entries.search_timestamp(math.floor(time / stream.time_base))
    if place < 0:
        return -math.inf
    return float(stream.index_entries[place].timestamp * stream.time_base)


def _decode_from(
    path: Path, container: InputContainer, stream: VideoStream, time: float
) -> tuple[VideoFrame | None, Iterator[VideoFrame]]:
    """Return a frame that begins no later than `time`, or the first of all, and those after it.

    A seek may lead to any packet, also to one after `time`: decoding begins at the last keyframe
    from there that is shown in time, else the seek is tried again from further back, and at last
    the file is decoded from its beginning.
    """
    latest = time
    for back in _STEPS_BACK if container.format.name != "mpeg" else ():
        seek(container, stream, max(time - back, start_seconds(container)))
        packets = container.demux(stream)
        group = _last_group(packets, latest + TOLERANCE)
        if not group:
            continue
        begin = _packet_time(group[0])
        frames = decode(path, container, stream, chain(group, packets))
        # Frames before the keyframe were made of others, which lie before it.
        first = next((frame for frame in frames if frame.time > begin - TOLERANCE), None)
        if first is not None and first.time <= time + TOLERANCE:
            return first, frames
        # With intra refresh, pictures are whole only some frames after a keyframe.
        latest = begin - 2 * TOLERANCE
    rewind(container, stream)
    frames = decode(path, container, stream)
    return next(frames, None), frames


def _last_group(packets: Iterator[Packet[Any]], latest: float) -> list[Packet[Any]]:
    """Return the last keyframe that is shown no later than `latest`.

    The packets after it that were read to find that out follow it in the list.
    """
    group: list[Packet[Any]] = []
    for packet in packets:
        if packet.is_keyframe and _packet_time(packet) <= latest:
            group = [packet]
        elif group:
            group.append(packet)
        if packet.dts is not None and packet.dts * (packet.time_base or 0) > latest:
            break
    return group


def _packet_time(packet: Packet[Any]) -> float:
    """Return when the frame of a packet is shown, infinity where the packet does not say."""
    return math.inf if packet.pts is None else float(packet.pts * (packet.time_base or 0))


def _frame_end(frame: VideoFrame) -> float:
    return frame.time + float((frame.duration or 0) * (frame.time_base or 0))


def square_size(stream: VideoStream, width: int, height: int) -> tuple[int, int]:
    """Return width and height of a frame in square pixels.

    The side that is too short is stretched, so that no detail is lost (as mpv does).
    """
    aspect = stream.sample_aspect_ratio or 1
    return (round(width * aspect), height) if aspect >= 1 else (width, round(height / aspect))


def _upright(frame: Any, stream: VideoStream) -> Image.Image:
    """Return a frame in square pixels, turned and mirrored as its display matrix says."""
    image: Image.Image = frame.to_image()
    image = image.resize(square_size(stream, image.width, image.height))
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    entries = np.frombuffer(memoryview(matrix), np.int32)[:5].tolist()
    right_to_x, right_to_y, _, down_to_x, down_to_y = entries
    if abs(right_to_x) < abs(right_to_y):
        image = image.transpose(Image.Transpose.TRANSPOSE)
        right_to_x, down_to_y = down_to_x, right_to_y
    if right_to_x < 0:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if down_to_y < 0 else image


def _to_jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()
