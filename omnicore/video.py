"""What PyAV reads: the frames of a video at given times, and the sound track of a video or m4a. Used through `media`.

Frames are found by their time stamps, so a variable frame rate is no case of its own: what is shown at a time is the last
frame that does not begin after it. Between two times the reader goes to the keyframe before the later one when the index
of the file knows one that lies ahead, so 32 frames of an hour cost 32 short runs.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from omnicore.errors import ConfigError, DataError

if TYPE_CHECKING:
    from av import AudioFrame, VideoFrame, VideoStream
    from av.container import InputContainer
    from av.stream import Stream

MAX_BYTES = 4_000_000_000  # of one file
MAX_PIXELS = 64_000_000  # of one picture or frame
MAX_SECONDS = 7200.0  # of one clip
MAX_FRAMES = 2048  # of one clip
QUALITY = 95  # of a frame's JPEG
# Nothing that refers to other files, as playlists do: a hostile file may not make us read or fetch another.
_FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,wav,flac,mp3,aac,ac3,amr,aiff,caf"
_SAME = 0.001  # seconds; Matroska rounds its time stamps to that
_SLACK = 1.0  # seconds that a track may end before the container says


@dataclass(frozen=True)
class Video:
    """Frames of one clip, `fps` of them a second. `times[i]` is when frame i begins, in seconds of the file; a frame that is
    shown for long comes several times.

    Frames are kept as JPEG, of quality 95, from where they are decoded: what is cached, sent to a server and shown to a model
    in this process are the same pixels.
    """

    jpegs: tuple[bytes, ...]
    times: tuple[float, ...]
    fps: float

    @property
    def frames(self) -> list[Image.Image]:
        """All of one size, RGB; decoded at each call."""
        return [Image.open(io.BytesIO(jpeg)).convert("RGB") for jpeg in self.jpegs]

    def pack(self) -> bytes:
        head = {"times": self.times, "fps": self.fps, "lengths": [len(jpeg) for jpeg in self.jpegs]}
        return b"".join([json.dumps(head).encode(), b"\n", *self.jpegs])

    @classmethod
    def unpack(cls, data: bytes) -> Video:
        head, _, rest = data.partition(b"\n")
        fields = json.loads(head)
        ends = np.cumsum([0, *fields["lengths"]]).tolist()
        jpegs = tuple(rest[a:b] for a, b in pairwise(ends))
        return cls(jpegs, tuple(fields["times"]), fields["fps"])


def load_video(path: Path, fps: float, max_frames: int, start: float | None = None, end: float | None = None) -> Video:
    """What is shown from `start` on, `fps` times a second, or `max_frames` evenly spread over a clip that is longer.

    Raises DataError naming the file when it is no video, is damaged inside the clip, has no picture there, or passes a limit;
    ConfigError where PyAV is missing.
    """
    with _opened(path, "video") as container:
        stream, origin, begin, step, count = _plan(path, container, fps, max_frames, start, end)
        frames = list(_shown(path, container, stream, [origin + begin + i * step for i in range(count)]))
    return Video(tuple(jpeg for jpeg, _ in frames), tuple(round(time - origin, 6) for _, time in frames), 1 / step)


def measure_video(
    path: Path, fps: float, max_frames: int, start: float | None = None, end: float | None = None
) -> tuple[int, int, int]:
    """Number of frames that `load_video` shows, their width and height (or the other way round, where they lie on their side), by
    the file's header alone: nothing is decoded. Raises as `load_video` does."""
    with _opened(path, "video") as container:
        stream, _, _, _, count = _plan(path, container, fps, max_frames, start, end)
        return count, stream.codec_context.width, stream.codec_context.height


def _plan(
    path: Path, container: InputContainer, fps: float, max_frames: int, start: float | None, end: float | None
) -> tuple[VideoStream, float, float, float, int]:
    """What to show of a video: its track, the clock's time at its beginning, seconds from there to the first frame and from one to
    the next, and how many."""
    # A cover picture is a video track of one frame.
    stream = next((s for s in container.streams.video if not s.disposition & s.disposition.attached_pic), None)
    if stream is None:
        raise DataError(f"{path} has no video track: list it as a sound, or get the file with its pictures")
    _refuse_pixels(path, stream.codec_context.width, stream.codec_context.height)
    origin = (container.start_time or 0) / 1e6
    begin, stop = clip(path, start, end, _end(container, stream) - origin, "video")
    step = max(1 / fps, (stop - begin) / max_frames)
    count = max(1, math.ceil((stop - begin) / step - 1e-6))
    if count > MAX_FRAMES:
        raise DataError(f"{path}: {count} frames asked for, more than {MAX_FRAMES}: lower profile.max_frames")
    return stream, origin, begin, step, count


def sound_track(path: Path, start: float | None = None, end: float | None = None) -> tuple[npt.NDArray[np.float32], int]:
    """Samples [n] of the first sound track, its channels averaged, and their rate. Silence fills gaps between its packets and
    before its first, so that times are those of the video. Raises as `load_video` does."""
    with _opened(path, "sound") as container:
        stream, origin, begin, stop = _heard(path, container, start, end)
        if begin > 0:
            # Decoders of lossy sound need some packets before they are right.
            _seek(container, stream, origin + begin - 0.5)
        wave, rate, place = np.zeros(0, np.float32), 0, 0
        for frame in _decoded(path, container, stream):
            if not rate:
                rate = frame.sample_rate
                wave = np.zeros(max(1, round((stop - begin) * rate)), np.float32)
                place = round((frame.time - origin - begin) * rate)
            elif frame.sample_rate != rate:
                raise DataError(f"{path}: its sound changes from {rate} to {frame.sample_rate} Hz: convert it")
            due = round((frame.time - origin - begin) * rate)
            if due - place > rate / 10:
                place = due
            samples = _mono(frame)[max(0, -place) :]
            at = max(0, place)
            wave[at : at + len(samples)] = samples[: max(0, len(wave) - at)]
            place += frame.samples
            if place >= len(wave):
                break
        if place <= len(wave) - _SLACK * rate:
            _refuse_cut(path, container)
        wave = wave[: max(0, place)]
    if not len(wave):
        raise DataError(f"{path} holds no samples between {begin:g} and {stop:g} s")
    return wave, rate


def measure_sound(path: Path, start: float | None = None, end: float | None = None) -> float:
    """Seconds of the sound track that `sound_track` reads, by the file's header alone. Raises as that does."""
    with _opened(path, "sound") as container:
        _, _, begin, stop = _heard(path, container, start, end)
        return stop - begin


def _heard(path: Path, container: InputContainer, start: float | None, end: float | None) -> tuple[Any, float, float, float]:
    """The first sound track, the clock's time at the file's beginning, and from where to where in seconds from there."""
    if not container.streams.audio:
        raise DataError(f"{path} has no audio track: leave its audio out of the query, or get the file with its sound")
    stream = container.streams.audio[0]
    origin = (container.start_time or 0) / 1e6
    return stream, origin, *clip(path, start, end, _end(container, stream) - origin, "sound")


def check_file(path: Path, what: str) -> None:
    """Raises DataError when the file is empty or above the limit."""
    size = path.stat().st_size
    if not size:
        raise DataError(f"{path} is not a readable {what}: it is empty; copy it again")
    if size > MAX_BYTES:
        raise DataError(f"{path}: {size} bytes, more than {MAX_BYTES}: cut it, or encode it smaller")


def clip(path: Path, start: float | None, end: float | None, length: float, what: str) -> tuple[float, float]:
    """Seconds from where to where a clip goes in a file of `length` seconds. Raises DataError when that is nothing, or more
    than two hours."""
    begin = start or 0.0
    if end is not None and end <= begin:
        raise DataError(f"{path}: a clip from {begin:g} to {end:g} s is empty: mend its start and end")
    if begin >= length:
        raise DataError(f"{path}: a clip from {begin:g} s, but the {what} ends at {length:.3f} s: mend its start and end")
    stop = length if end is None else min(end, length)
    if stop - begin > MAX_SECONDS:
        raise DataError(f"{path}: {stop - begin:.0f} s of {what}, more than {MAX_SECONDS:.0f}: cut it")
    return begin, stop


def damaged(path: Path, time: float) -> DataError:
    """The error to raise for a file of which nothing after `time`, in seconds, can be read."""
    return DataError(f"{path} is damaged or cut off after {time:.2f} s: copy it again, or end the clip before that")


@contextmanager
def _opened(path: Path, what: str) -> Iterator[InputContainer]:
    try:
        import av
    except ImportError as error:
        raise ConfigError(f"{path} needs PyAV, which reads videos and their sound: pip install 'omnicore[audit]'") from error
    check_file(path, what)
    try:
        # Without "file:" a name with a colon would be taken for an address.
        with av.open(f"file:{path}", options={"format_whitelist": _FORMATS}, metadata_errors="ignore") as container:
            yield container
    except (av.FFmpegError, ValueError) as error:
        reason = error.strerror if isinstance(error, av.FFmpegError) else error
        raise DataError(f"{path} is not a readable {what}: {reason}; copy it again, or convert it to mp4") from error


def _end(container: InputContainer, stream: Stream) -> float:
    """When a track ends, by the container's own word; where that has none, when its last packet does."""
    if stream.duration and stream.time_base:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    if container.duration:
        return ((container.start_time or 0) + container.duration) / 1e6
    last = _last_packet(container, stream)
    _seek(container, stream, (container.start_time or 0) / 1e6)
    return last


def _last_packet(container: InputContainer, *streams: Stream) -> float:
    """When the last packet of all `streams` ends, from where the container stands to the end of what can be read."""
    from av import FFmpegError

    last = 0.0
    with suppress(FFmpegError):
        for packet in container.demux(*streams):
            if packet.pts is not None and packet.time_base:
                last = max(last, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return last


def _refuse_cut(path: Path, container: InputContainer) -> None:
    """Raises DataError when the file ends before it says. One track may well end before another, but a file that was cut
    lost the end of all."""
    start = container.start_time or 0
    container.seek(start)
    last = _last_packet(container, *container.streams)
    if container.duration and last < (start + container.duration) / 1e6 - _SLACK:
        raise damaged(path, last - start / 1e6)


def _seek(container: InputContainer, stream: Stream, time: float) -> None:
    """To the keyframe before `time` of the stream's clock."""
    assert stream.time_base, "every demuxer sets it"
    container.seek(math.floor(time / stream.time_base), stream=stream)


def _decoded(path: Path, container: InputContainer, stream: Any) -> Iterator[Any]:
    """Frames with a time stamp, from where the container stands. Raises DataError at damage."""
    from av import FFmpegError

    time = 0.0
    try:
        for frame in container.decode(stream):
            if frame.time is not None:
                time = frame.time
                yield frame
    except FFmpegError as error:
        raise damaged(path, time - (container.start_time or 0) / 1e6) from error


def _shown(path: Path, container: InputContainer, stream: VideoStream, wanted: Sequence[float]) -> Iterator[tuple[bytes, float]]:
    """JPEG and beginning of the frame on show at each of the ascending times `wanted`; before the first frame, the first."""
    shown: VideoFrame | None = None
    ahead: VideoFrame | None = None
    frames: Iterator[VideoFrame] = iter(())
    jpeg, size, whole = b"", None, False
    for time in wanted:
        newest = ahead or shown
        keyframe = _keyframe(stream, time)
        if newest is None or (keyframe is not None and keyframe > newest.time + _SAME):
            shown, ahead, frames = None, *_from(path, container, stream, time)
        before = shown
        while ahead is not None and ahead.time <= time + _SAME:
            shown, ahead = ahead, next(frames, None)
        frame = shown or ahead
        if frame is None:
            raise DataError(f"{path} holds no frame that can be decoded: copy it again, or convert it to mp4")
        if ahead is None and not whole and time > _until(frame) + _SLACK:
            _refuse_cut(path, container)
            whole = True  # the track ends here, and its last frame stands
        if not jpeg or frame is not before:
            image = _upright(frame, path)
            size = size or image.size
            jpeg = _jpeg(image if image.size == size else image.resize(size))
        yield jpeg, frame.time


def _keyframe(stream: VideoStream, time: float) -> float | None:
    """When the keyframe before `time` is, by the index of the file."""
    assert stream.time_base, "every demuxer sets it"
    place = stream.index_entries.search_timestamp(math.floor(time / stream.time_base))
    return None if place < 0 else float(stream.index_entries[place].timestamp * stream.time_base)


def _from(
    path: Path, container: InputContainer, stream: VideoStream, time: float
) -> tuple[VideoFrame | None, Iterator[VideoFrame]]:
    """A frame that begins no later than `time`, or the first of all, and those that follow it."""
    first: VideoFrame | None = None
    frames: Iterator[VideoFrame] = iter(())
    for back in (0.0, 2.0, 20.0, math.inf):  # an index by decoding times may lead to a keyframe that is shown too late
        _seek(container, stream, max(time - back, (container.start_time or 0) / 1e6))
        frames = _decoded(path, container, stream)
        first = next(frames, None)
        if first is not None and first.time <= time + _SAME:
            break
    return first, frames


def _until(frame: VideoFrame) -> float:
    return frame.time + float((frame.duration or 0) * (frame.time_base or 0))


def _upright(frame: Any, path: Path) -> Image.Image:
    _refuse_pixels(path, frame.width, frame.height)
    image: Image.Image = frame.to_image()
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image


def _refuse_pixels(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(f"{path}: frames of {width}x{height} pixels, more than {MAX_PIXELS}: scale it down")


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _mono(frame: AudioFrame) -> npt.NDArray[np.float32]:
    """Mean of the channels, in -1..1."""
    data: npt.NDArray[Any] = frame.to_ndarray()
    channels = data if frame.format.is_planar else data.reshape(-1, frame.layout.nb_channels).T
    if channels.dtype == np.uint8:
        channels = channels.astype(np.float32) - 128
        scale = 128.0
    else:
        scale = 1.0 if channels.dtype.kind == "f" else float(-np.iinfo(channels.dtype).min)
    return np.asarray(channels.mean(axis=0, dtype=np.float32) / np.float32(scale), np.float32)
