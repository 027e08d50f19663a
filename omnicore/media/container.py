"""Open a video or sound file with PyAV, seek in it and decode it.

Times are seconds of the stream's clock; `start_seconds` is the clock's time where the file begins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnicore.errors import DataError, missing_package
from omnicore.media.limits import check_file, damaged_error

if TYPE_CHECKING:
    from av import Packet
    from av.container import InputContainer
    from av.stream import Stream

# No format that refers to other files, as playlists do: a hostile file must not make this process
# read or fetch another.
_FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,wav,w64,flac,mp3,aac,ac3,amr,aiff,au,caf"
)
TOLERANCE = 0.001  # seconds; Matroska rounds its time stamps to that
SLACK = 1.0  # seconds that a track may end before its header says
DECODE_AHEAD = 5.0  # seconds of decoding that a seek must save where the file has no index
_MAX_GAP = 3600.0  # seconds that a stream may send nothing


@contextmanager
def open_container(path: Path, kind: str) -> Iterator[InputContainer]:
    """Open a file with PyAV; `kind` (video or sound) is what a message calls it.

    Raises:
        DataError: The file is empty, above the limit or of no format that is read.
        ConfigError: PyAV is missing.
    """
    try:
        import av
    except ImportError as error:
        raise missing_package("av", "audit", f"reading {path}") from error
    check_file(path, kind)
    try:
        # Without "file:" a name with a colon would be taken for an address.
        with av.open(
            f"file:{path}", options={"format_whitelist": _FORMATS}, metadata_errors="ignore"
        ) as container:
            yield container
    except (av.FFmpegError, ValueError) as error:
        reason = error.strerror if isinstance(error, av.FFmpegError) else error
        raise DataError(
            f"{path} is not a readable {kind}: {reason}; copy it again, or convert it to mp4",
            code="media-unreadable",
            path=path,
        ) from error


def start_seconds(container: InputContainer) -> float:
    """Return the clock's time at which the file begins."""
    return (container.start_time or 0) / 1e6


def is_mpeg_stream(container: InputContainer) -> bool:
    """Return whether the file is an MPEG transport or program stream, which has no index.

    Its demuxer estimates the end and seeks to any packet. In a program stream, packets after a seek
    have wrong times: it is decoded from its beginning.
    """
    return container.format.name in ("mpegts", "mpeg")


def seek(container: InputContainer, stream: Stream, seconds: float) -> None:
    """Seek to the keyframe before a time, or without an index to a packet decoded before it."""
    assert stream.time_base, "every demuxer sets it"
    container.seek(math.floor(seconds / stream.time_base), stream=stream)


def rewind(container: InputContainer, stream: Stream) -> None:
    """Seek to the first packet.

    It is decoded before the file begins where frames are sent out of order.
    """
    ahead = DECODE_AHEAD if is_mpeg_stream(container) else 0
    seek(container, stream, start_seconds(container) - ahead)


def last_packet_end(path: Path, container: InputContainer, *streams: Stream) -> float:
    """Return when the last packet of all `streams` ends, read from where the container stands.

    Raises:
        DataError: The clock of an MPEG stream jumps, since the file was joined of several.
    """
    from av import FFmpegError

    last, previous = -math.inf, -math.inf
    one_clock = len(streams) == 1 and is_mpeg_stream(container)
    with suppress(FFmpegError):
        for packet in container.demux(*streams):
            if packet.pts is None or not packet.time_base:
                # Some program streams give times to keyframes only.
                if one_clock:
                    last += float((packet.duration or 0) * (packet.time_base or 0))
                continue
            if one_clock and packet.dts is not None:
                decoded = float(packet.dts * packet.time_base)
                if previous > -math.inf and not -SLACK < decoded - previous < _MAX_GAP:
                    raise _clock_jump(path, last - start_seconds(container))
                previous = decoded
            last = max(last, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return last


def _clock_jump(path: Path, seconds: float) -> DataError:
    return DataError(
        f"{path}: its clock jumps after {seconds:.2f} s, it was joined of several:"
        f" ffmpeg -i {path.name} joined.mp4 gives it one clock",
        code="media-clock-jump",
        path=path,
    )


def decode(
    path: Path, container: InputContainer, stream: Any, packets: Iterable[Packet[Any]] | None = None
) -> Iterator[Any]:
    """Yield the frames that have a time stamp, of `packets` or from where the container stands.

    Raises:
        DataError: The file is damaged.
    """
    from av import FFmpegError

    seconds, is_avi = start_seconds(container), container.format.name == "avi"
    next_pts = 0 if is_avi else None
    try:
        for packet in container.demux(stream) if packets is None else packets:
            for frame in packet.decode():
                # An AVI has no times but those of decoding.
                if is_avi:
                    frame.pts = frame.dts
                # The last frames of an AVI and those between keyframes of a program stream.
                if frame.pts is None:
                    frame.pts = next_pts
                if frame.pts is not None:
                    next_pts = frame.pts + (frame.duration or 1)
                if frame.time is not None:
                    seconds = frame.time
                    yield frame
    except FFmpegError as error:
        # The parser takes tags and padding of an mp3 for a last frame.
        if container.format.name == "mp3" and not _can_decode_more(container, stream):
            return
        raise damaged_error(path, seconds - start_seconds(container)) from error


def _can_decode_more(container: InputContainer, stream: Any) -> bool:
    """Return whether a frame can be decoded after one that could not."""
    from av import FFmpegError

    for packet in container.demux(stream):
        with suppress(FFmpegError):
            if packet.decode():
                return True
    return False
