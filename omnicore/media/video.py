"""What PyAV reads: the frames of a video at given times, and the sound track of a video or m4a.

Used through `media`. Frames are found by their time stamps, so a variable frame rate is no case of
its own: the frame on show at a time is the last one that does not begin after it. Between two times
the reader seeks to the keyframe before the later one where that saves decoding, so 32 frames of an
hour cost 32 short runs. Every seek is verified (`_from`), since containers without an index lead to
any packet: the frames are those of a decode from the beginning.
"""

from __future__ import annotations

import io
import json
import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from omnicore.errors import ConfigError, DataError

if TYPE_CHECKING:
    from av import AudioFrame, Packet, VideoFrame, VideoStream
    from av.container import InputContainer
    from av.stream import Stream

MAX_BYTES = 4_000_000_000  # of one file
MAX_PIXELS = 64_000_000  # of one picture or frame
MAX_RATIO = 200  # of the sides of one picture or frame; smart_resize in Qwen's processors raises ValueError above
MAX_SECONDS = 7200.0  # of one clip
MAX_FRAMES = 2048  # of one clip
MAX_SAMPLE = 100.0  # samples; full scale is 1. Whole numbers of 16 bits written as floats are far above, quiet speech included
MIN_MIX_ENERGY = 1e-2  # of the energy of its channels: less is left where they cancel out, lossy codecs included (Vorbis: 1e-3)
JPEG_QUALITY = 95  # of a frame's JPEG
# Nothing that refers to other files, as playlists do: a hostile file may not make us read or fetch another.
_FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,wav,w64,flac,mp3,aac,ac3,amr,aiff,au,caf"
)
_ESTIMATED = ("mp3", "aac", "ac3", "amr", "ogg")  # see `_states_length`
_MATROSKA = "matroska,webm"
_SAME = 0.001  # seconds; Matroska rounds its time stamps to that
_SLACK = 1.0  # seconds that a track may end before the container says
_GAP = 3600.0  # seconds that a stream may send nothing
_AHEAD = 5.0  # seconds of decoding that are worth a seek, where the file has no index


@dataclass(frozen=True)
class Video:
    """Frames of one clip, `fps` of them a second.

    `times[i]` is when frame i begins, in seconds of the file; a frame that is shown for long comes
    several times.

    Frames are kept as JPEG, of quality 95, from where they are decoded: what is cached, sent to a
    server and shown to a model in this process are the same pixels.
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


def load_video(
    path: Path, fps: float, max_frames: int, start: float | None = None, end: float | None = None
) -> Video:
    """What is shown from `start` on, `fps` times a second, or `max_frames` evenly spread over a
    clip that is longer.

    Raises DataError naming the file when it is no video, is damaged inside the clip, has no picture
    there, or passes a limit; ConfigError where PyAV is missing.
    """
    with _opened(path, "video") as container:
        stream, origin, begin, step, count = _plan(path, container, fps, max_frames, start, end)
        frames = list(
            _shown(path, container, stream, [origin + begin + i * step for i in range(count)])
        )
    return Video(
        tuple(jpeg for jpeg, _ in frames),
        tuple(round(time - origin, 6) for _, time in frames),
        1 / step,
    )


def measure_video(
    path: Path, fps: float, max_frames: int, start: float | None = None, end: float | None = None
) -> tuple[int, int, int]:
    """Number of frames that `load_video` shows, their width and height (or the other way round,
    where they lie on their side), by the file's header alone: nothing is decoded.

    Raises as `load_video` does.
    """
    with _opened(path, "video") as container:
        stream, _, _, _, count = _plan(path, container, fps, max_frames, start, end)
        return count, *_size(stream, stream.codec_context.width, stream.codec_context.height)


def frame_interval(
    path: Path, fps: float, max_frames: int, start: float | None = None, end: float | None = None
) -> float:
    """Seconds from one frame that `load_video` shows to the next, by the file's header alone.

    Raises as `load_video` does.
    """
    with _opened(path, "video") as container:
        return _plan(path, container, fps, max_frames, start, end)[3]


def check_video(path: Path, start: float | None = None, end: float | None = None) -> None:
    """Decode a frame at the clip's beginning, a second later, and at the beginning of its last
    second.

    Raises as `load_video` does for what these frames show: damage in the middle is not found.
    """
    with _opened(path, "video") as container:
        stream, origin, begin, step, count = _plan(path, container, 1.0, MAX_FRAMES, start, end)
        times = sorted({0, min(1, count - 1), count - 1})
        for _ in _shown(path, container, stream, [origin + begin + i * step for i in times]):
            pass


def check_sound_track(path: Path, start: float | None = None, end: float | None = None) -> None:
    """Decode the first and the last second of a clip of a sound track, or all of it where the file
    does not say how long it is.

    Raises as `sound_track` does for these seconds, and may refuse what holds for them alone:
    channels that cancel out, or a track that ends before the file. `sound_track` decides then.
    """
    with _opened(path, "sound") as container:
        _, _, begin, stop = _heard(path, container, start, end)
    if stop - begin <= 2 * _SLACK or stop == math.inf:
        load_sound_track(path, start, end)
        return
    load_sound_track(path, begin, begin + _SLACK)
    load_sound_track(path, stop - _SLACK, stop)


def has_sound_track(path: Path) -> bool:
    """Whether a video has a sound track.

    Raises DataError for what is no video; ConfigError where PyAV is missing.
    """
    with _opened(path, "video") as container:
        return bool(container.streams.audio)


def _plan(
    path: Path,
    container: InputContainer,
    fps: float,
    max_frames: int,
    start: float | None,
    end: float | None,
) -> tuple[VideoStream, float, float, float, int]:
    """What to show of a video: its track, the clock's time at its beginning, seconds from there to
    the first frame and from one to the next, and how many."""
    # A cover picture is a video track of one frame.
    stream = next(
        (s for s in container.streams.video if not s.disposition & s.disposition.attached_pic), None
    )
    if stream is None:
        raise DataError(
            f"{path} has no video track: list it as a sound, or get the file with its pictures"
        )
    check_size(path, *_size(stream, stream.codec_context.width, stream.codec_context.height))
    origin = (container.start_time or 0) / 1e6
    last = max(_end(path, container, stream), _mp4_end(path, container, stream))
    begin, stop = clip_bounds(path, start, end, last - origin, "video")
    step = max(1 / fps, (stop - begin) / max_frames)
    count = max(1, math.ceil((stop - begin) / step - 1e-6))
    if count > MAX_FRAMES:
        raise DataError(
            f"{path}: {count} frames asked for, more than {MAX_FRAMES}: lower profile.max_frames"
        )
    return stream, origin, begin, step, count


class MonoMix:
    """The mean of the channels of a sound, which is read block by block and checked as it comes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._blocks: list[npt.NDArray[np.float32]] = []
        self._energy = 0.0

    def add(self, channels: npt.NDArray[np.float32]) -> None:
        """Append samples [channels, n].

        Raises DataError for one that is not finite or beyond `LOUDEST`: it would drown all.
        """
        peak = np.abs(channels).max(initial=0.0)
        if not peak <= MAX_SAMPLE:
            raise DataError(
                f"{self._path} holds a sample of {peak:g}, and full scale is 1: encode it again, as"
                " 16-bit PCM"
            )
        self._energy += float(np.vdot(channels, channels)) / len(channels)
        self._blocks.append(channels.mean(axis=0, dtype=np.float32))

    def wave(self) -> npt.NDArray[np.float32]:
        """Return the mean [n].

        Raises DataError where the channels cancel each other: the model would hear silence.
        """
        wave = np.concatenate([np.zeros(0, np.float32), *self._blocks])
        if float(np.vdot(wave, wave)) < MIN_MIX_ENERGY * self._energy:
            raise DataError(
                f"{self._path}: its channels cancel out when they are mixed to one: keep one"
                " (ffmpeg -af 'pan=mono|c0=c0')"
            )
        return wave


def load_sound_track(
    path: Path, start: float | None = None, end: float | None = None
) -> tuple[npt.NDArray[np.float32], int]:
    """Read samples [n] of the first sound track, its channels averaged, and their rate.

    Silence fills gaps between packets and before the first, so that times are those of the video. A
    file that states no length, or only estimates it, is decoded from its beginning to `end`, or to
    its last packet.

    Raises as `load_video` does, and as `Mix` does.
    """
    with _opened(path, "sound") as container:
        stream, origin, begin, stop = _heard(path, container, start, end)
        frames = _heard_from(path, container, stream, origin + begin)
        first = next(frames, None)
        if first is None:
            _refuse_cut(path, container)
            raise DataError(f"{path} holds no samples")
        rate, place = first.sample_rate, round((first.time - origin - begin) * first.sample_rate)
        most = max(1, round(min(stop - begin, MAX_SECONDS + 1) * rate))
        mix = MonoMix(path)
        mix.add(_silence(0, min(place, most)))
        for frame in chain([first], frames):
            if frame.sample_rate != rate:
                raise DataError(
                    f"{path}: its sound changes from {rate} to {frame.sample_rate} Hz: convert it"
                )
            due = round((frame.time - origin - begin) * rate)
            if due - place > rate / 10:
                mix.add(_silence(max(0, place), min(due, most)))
                place = due
            mix.add(_channels(frame)[:, max(0, -place) : max(0, most - place)])
            place += frame.samples
            if place >= most:
                break
        ended = begin + place / rate
        if place <= most - _SLACK * rate:
            _refuse_short(path, container, ended, stop, rate)
    if place <= 0:
        raise DataError(
            f"{path}: a clip from {begin:g} s, but the sound ends at {ended:.3f} s: mend its start"
            " and end"
        )
    wave = mix.wave()
    if len(wave) > MAX_SECONDS * rate:
        raise DataError(f"{path}: more than {MAX_SECONDS:.0f} s of sound: cut it")
    return wave, rate


def measure_sound_track(path: Path, start: float | None = None, end: float | None = None) -> float:
    """Return the seconds of the sound track that `sound_track` reads; nothing is decoded.

    By the file's header, where that states a length, or where its estimate is near what the packets
    add up to: those count the up to 0.1 s that an encoder adds. Raises as `sound_track` does.
    """
    with _opened(path, "sound") as container:
        stream, _, begin, stop = _heard(path, container, start, end)
        if _states_length(container):
            return stop - begin
        counted = _counted(container, stream)
        stated = (container.duration or 0) / 1e6
        begin, stop = clip_bounds(
            path, start, end, stated if abs(stated - counted) < 0.2 else counted, "sound"
        )
        return stop - begin


def _heard(
    path: Path, container: InputContainer, start: float | None, end: float | None
) -> tuple[Any, float, float, float]:
    """The first sound track, the clock's time at the file's beginning, and from where to where in
    seconds from there: to infinity where neither `end` nor the file says."""
    if not container.streams.audio:
        raise DataError(
            f"{path} has no audio track: leave its audio out of the query, or get the file with its"
            " sound"
        )
    stream = container.streams.audio[0]
    origin = (container.start_time or 0) / 1e6
    length = _end(path, container, stream) - origin if _states_length(container) else math.inf
    return stream, origin, *clip_bounds(path, start, end, length, "sound")


def _states_length(container: InputContainer) -> bool:
    """Whether the length that ffmpeg gives is the file's own word.

    Of raw streams it is an estimate by the bit rate of the first packets, of an ogg that was joined
    of two the length of the first.
    """
    if container.format.name == "avi":
        return any(_avi_length(stream) for stream in container.streams)
    return bool(container.duration) and container.format.name not in _ESTIMATED


def _heard_from(path: Path, container: InputContainer, stream: Any, time: float) -> Iterator[Any]:
    """Frames of sound of which one begins no later than `time`, or the first of all, and those that
    follow."""
    from av import FFmpegError

    begin = (container.start_time or 0) / 1e6
    if time > begin and _states_length(container):
        with suppress(FFmpegError, DataError):  # a seek may land inside a packet
            # Decoders of lossy sound need some packets before they are right.
            _seek(container, stream, max(begin, time - 1.0))
            frames = _decoded(path, container, stream)
            first = next(frames, None)
            if first is not None and first.time <= time + _SAME:
                return chain([first], frames)
        _seek(container, stream, begin)
    return _decoded(path, container, stream)


def _counted(container: InputContainer, stream: Any) -> float:
    """Seconds of all packets of a track, from where the container stands to the end of what can be
    read."""
    from av import FFmpegError

    units = 0
    with suppress(FFmpegError):
        for packet in container.demux(stream):
            units += packet.duration or 0
    return float(units * stream.time_base)


def _refuse_short(
    path: Path, container: InputContainer, last: float, stop: float, rate: int
) -> None:
    """Raises DataError when the sound was cut off at `last` seconds, before `stop`.

    Of raw streams only an mp3 may tell.
    """
    if _states_length(container):
        _refuse_cut(path, container)
    elif container.format.name == "mp3" and last < min(stop, _mp3_length(path, rate)) - _SLACK:
        raise damaged_error(path, last)


def _mp3_length(path: Path, rate: int) -> float:
    """Seconds of an mp3 by its first frame, where that is a header (Xing or Info, as LAME, ffmpeg
    and libsndfile write), else 0."""
    with path.open("rb") as file:
        tag = file.read(10)
        if tag[:3] == b"ID3":
            file.seek(
                sum(byte << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True)), 1
            )
        else:
            file.seek(0)
        frame = file.read(64)
    place = max(frame.find(b"Xing"), frame.find(b"Info"))
    if place < 0 or not frame[place + 7] & 1:
        return 0.0
    return (
        int.from_bytes(frame[place + 8 : place + 12], "big")
        * (1152 if rate >= 32_000 else 576)
        / rate
    )


def check_file(path: Path, what: str) -> None:
    """Raises DataError when the file is empty or above the limit."""
    size = path.stat().st_size
    if not size:
        raise DataError(f"{path} is not a readable {what}: it is empty; copy it again")
    if size > MAX_BYTES:
        raise DataError(
            f"{path}: {size} bytes, more than {MAX_BYTES}: cut it, or encode it smaller"
        )


def check_size(file: Path | str, width: int, height: int) -> None:
    """Raises DataError when a picture or frame is above the limit, or so narrow that the model's
    processor refuses it."""
    if width * height > MAX_PIXELS:
        raise DataError(f"{file}: {width}x{height} pixels, more than {MAX_PIXELS}: scale it down")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise DataError(
            f"{file}: {width}x{height} pixels, sides in a ratio above {MAX_RATIO}: cut it, or add a"
            " margin"
        )


def clip_bounds(
    path: Path, start: float | None, end: float | None, length: float, what: str
) -> tuple[float, float]:
    """Seconds from where to where a clip goes in a file of `length` seconds, infinity where that is
    not known.

    Raises DataError when that is nothing, or more than two hours.
    """
    begin = start or 0.0
    if end is not None and end <= begin:
        raise DataError(
            f"{path}: a clip from {begin:g} to {end:g} s is empty: mend its start and end"
        )
    if begin >= length:
        raise DataError(
            f"{path}: a clip from {begin:g} s, but the {what} ends at {length:.3f} s: mend its"
            " start and end"
        )
    stop = length if end is None else min(end, length)
    if MAX_SECONDS < stop - begin < math.inf:
        raise DataError(
            f"{path}: {stop - begin:.0f} s of {what}, more than {MAX_SECONDS:.0f}: cut it"
        )
    return begin, stop


def damaged_error(path: Path, time: float) -> DataError:
    """The error to raise for a file of which nothing after `time`, in seconds, can be read."""
    return DataError(
        f"{path} is damaged or cut off after {time:.2f} s: copy it again, or end the clip before"
        " that"
    )


@contextmanager
def _opened(path: Path, what: str) -> Iterator[InputContainer]:
    try:
        import av
    except ImportError as error:
        raise ConfigError(
            f"{path} needs PyAV, which reads videos and their sound: pip install 'omnicore[audit]'"
        ) from error
    check_file(path, what)
    try:
        # Without "file:" a name with a colon would be taken for an address.
        with av.open(
            f"file:{path}", options={"format_whitelist": _FORMATS}, metadata_errors="ignore"
        ) as container:
            yield container
    except (av.FFmpegError, ValueError) as error:
        reason = error.strerror if isinstance(error, av.FFmpegError) else error
        raise DataError(
            f"{path} is not a readable {what}: {reason}; copy it again, or convert it to mp4"
        ) from error


def _end(path: Path, container: InputContainer, stream: Stream) -> float:
    """When a track ends, by the container's own word; where that has none, when its last packet
    does.

    Raises DataError for MPEG streams that were joined, each with a clock of its own.
    """
    stated, start = 0.0, (container.start_time or 0) / 1e6
    late = container.format.name == _MATROSKA and start > 0
    if container.format.name == "avi":
        stated = _avi_length(stream)
    elif stream.duration and stream.time_base:
        stated = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    elif container.duration:
        stated = start + container.duration / 1e6
    if stated and not late and not _unindexed(container):
        return stated
    if stated and late:
        _seek(container, stream, stated)  # to the last keyframe
    last = _last_packet(path, container, stream)
    _rewind(container, stream)
    return _stated_end(container, last) if stated and late else max(last, stated)


def _stated_end(container: InputContainer, last: float) -> float:
    """Return when a file of which the last packet ends at `last` ends by its header, 0 where that
    does not say.

    Matroska's duration is the time of the end as FFmpeg writes it, and the length from the first
    frame on as mkvmerge does.
    """
    if container.format.name == "avi":
        return max((_avi_length(stream) for stream in container.streams), default=0.0)
    start, length = (container.start_time or 0) / 1e6, (container.duration or 0) / 1e6
    if not length or (container.format.name == _MATROSKA and last <= length + 0.1):
        return length
    return start + length


def _avi_length(stream: Stream) -> float:
    """Return the seconds of an AVI's track by its header, 0 where that was never filled in, as in
    one out of a pipe.

    In place of that number, FFmpeg's duration may be an estimate: always there, and where the file
    was cut off.
    """
    return (
        float(stream.frames * stream.time_base)
        if stream.time_base and stream.frames < 1 << 30
        else 0.0
    )


def _mp4_end(path: Path, container: InputContainer, stream: VideoStream) -> float:
    """When a track of an mp4 ends by its header, 0 where that does not say: FFmpeg adds up the
    times between decoding frames, which are not those between showing them where the rate varies
    and frames are sent out of order."""
    if not container.format.name.startswith("mov"):
        return 0.0
    with path.open("rb") as file:
        movie = next(_boxes(file, b"moov", 0, path.stat().st_size), (0, 0))
        units, _ = _header(file, next(_boxes(file, b"mvhd", *movie), None))
        for track in _boxes(file, b"trak", *movie):
            number, shown = _header(file, next(_boxes(file, b"tkhd", *track), None), 4)
            media = next(_boxes(file, b"mdia", *track), (0, 0))
            rate, held = _header(file, next(_boxes(file, b"mdhd", *media), None))
            if number == stream.id and units and rate:
                begin = float((stream.start_time or 0) * (stream.time_base or 0))
                return min(shown / units, begin + held / rate)
    return 0.0


def _boxes(file: BinaryIO, kind: bytes, place: int, end: int) -> Iterator[tuple[int, int]]:
    """Where the contents of an mp4's boxes of one kind begin and end, between `place` and `end`."""
    while place + 8 <= end:
        file.seek(place)
        size, found, wide = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        head = 16 if size == 1 else 8
        length = {0: end - place, 1: wide}.get(size, size)
        if length < head:
            return
        if found == kind:
            yield place + head, min(place + length, end)
        place += length


def _header(file: BinaryIO, box: tuple[int, int] | None, gap: int = 0) -> tuple[int, int]:
    """A header's time scale or track number, and its duration, which lies `gap` bytes after that;
    zeros where it has none."""
    if box is None:
        return 0, 0
    file.seek(box[0])
    data = file.read(box[1] - box[0])[:44]
    width = 8 if data[:1] == b"\1" else 4
    place = 4 + 2 * width
    duration = data[place + 4 + gap : place + 4 + gap + width]
    return int.from_bytes(data[place : place + 4], "big"), (
        0 if set(duration) == {255} else int.from_bytes(duration, "big")
    )


def _unindexed(container: InputContainer) -> bool:
    """Whether the file is an MPEG transport or program stream: nothing says where its keyframes
    are, so its demuxer estimates the end and seeks to any packet.

    In a program stream, packets after a seek have wrong times: it is decoded from its beginning.
    """
    return container.format.name in ("mpegts", "mpeg")


def _last_packet(path: Path, container: InputContainer, *streams: Stream) -> float:
    """When the last packet of all `streams` ends, from where the container stands to the end of
    what can be read."""
    from av import FFmpegError

    last, decoded, origin = -math.inf, -math.inf, (container.start_time or 0) / 1e6
    one_clock = len(streams) == 1 and _unindexed(container)
    with suppress(FFmpegError):
        for packet in container.demux(*streams):
            if packet.pts is None or not packet.time_base:
                if one_clock:  # some program streams give times to keyframes only
                    last += float((packet.duration or 0) * (packet.time_base or 0))
                continue
            if one_clock and packet.dts is not None:
                before, decoded = decoded, float(packet.dts * packet.time_base)
                if before > -math.inf and not -_SLACK < decoded - before < _GAP:
                    raise DataError(
                        f"{path}: its clock jumps after {last - origin:.2f} s, it was joined of"
                        f" several: ffmpeg -i {path.name} joined.mp4 gives it one clock"
                    )
            last = max(last, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return last


def _refuse_cut(path: Path, container: InputContainer) -> None:
    """Raises DataError when the file ends before it says.

    One track may well end before another, but a file that was cut lost the end of all.
    """
    start = container.start_time or 0
    container.seek(start)
    last = _last_packet(path, container, *container.streams)
    stated = _stated_end(container, last)
    if stated and last < stated - _SLACK:
        raise damaged_error(path, last - start / 1e6)


def _seek(container: InputContainer, stream: Stream, time: float) -> None:
    """To the keyframe before `time` of the stream's clock, or where that has no index to a packet
    that is decoded before it."""
    assert stream.time_base, "every demuxer sets it"
    container.seek(math.floor(time / stream.time_base), stream=stream)


def _rewind(container: InputContainer, stream: Stream) -> None:
    """To the first packet, which is decoded before the file begins where frames are sent out of
    order."""
    _seek(
        container,
        stream,
        (container.start_time or 0) / 1e6 - (_AHEAD if _unindexed(container) else 0),
    )


def _decoded(
    path: Path, container: InputContainer, stream: Any, packets: Iterable[Packet[Any]] | None = None
) -> Iterator[Any]:
    """Frames with a time stamp of `packets`, or from where the container stands.

    Raises DataError at damage.
    """
    from av import FFmpegError

    time, avi = (container.start_time or 0) / 1e6, container.format.name == "avi"
    place = 0 if avi else None
    try:
        for packet in container.demux(stream) if packets is None else packets:
            for frame in packet.decode():
                if avi:  # which has no other times than those of decoding
                    frame.pts = frame.dts
                if (
                    frame.pts is None
                ):  # the last frames of an AVI, those between keyframes of a program stream
                    frame.pts = place
                if frame.pts is not None:
                    place = frame.pts + (frame.duration or 1)
                if frame.time is not None:
                    time = frame.time
                    yield frame
    except FFmpegError as error:
        if container.format.name == "mp3" and not _goes_on(container, stream):
            return  # tags and padding, which the parser takes for a last frame
        raise damaged_error(path, time - (container.start_time or 0) / 1e6) from error


def _goes_on(container: InputContainer, stream: Any) -> bool:
    """Whether a frame can be decoded after one that could not."""
    from av import FFmpegError

    for packet in container.demux(stream):
        with suppress(FFmpegError):
            if packet.decode():
                return True
    return False


def _shown(
    path: Path, container: InputContainer, stream: VideoStream, wanted: Sequence[float]
) -> Iterator[tuple[bytes, float]]:
    """JPEG and beginning of the frame on show at each of the ascending times `wanted`; before the
    first frame, the first."""
    shown: VideoFrame | None = None
    ahead: VideoFrame | None = None
    frames: Iterator[VideoFrame] = iter(())
    jpeg, size, whole = b"", None, False
    for time in wanted:
        newest = ahead or shown
        if newest is None or newest.time + _SAME < _keyframe(container, stream, time):
            shown, ahead, frames = None, *_from(path, container, stream, time)
        before = shown
        while ahead is not None and ahead.time <= time + _SAME:
            shown, ahead = ahead, next(frames, None)
        frame = shown or ahead
        if frame is None:
            raise DataError(
                f"{path} holds no frame that can be decoded: copy it again, or convert it to mp4"
            )
        if ahead is None and not whole and time > _until(frame) + _SLACK:
            _refuse_cut(path, container)
            whole = True  # the track ends here, and its last frame stands
        if not jpeg or frame is not before:
            check_size(path, *_size(stream, frame.width, frame.height))
            image = _upright(frame, stream)
            size = size or image.size
            jpeg = _jpeg(image if image.size == size else image.resize(size))
        yield jpeg, frame.time


def _keyframe(container: InputContainer, stream: VideoStream, time: float) -> float:
    """When a keyframe before `time` is, by the index of the file; where that has none, a time from
    which decoding is cheap."""
    if container.format.name == "mpeg":
        return -math.inf
    if _unindexed(container):
        return time - _AHEAD
    assert stream.time_base, "every demuxer sets it"
    place = stream.index_entries.search_timestamp(math.floor(time / stream.time_base))
    return (
        -math.inf if place < 0 else float(stream.index_entries[place].timestamp * stream.time_base)
    )


def _from(
    path: Path, container: InputContainer, stream: VideoStream, time: float
) -> tuple[VideoFrame | None, Iterator[VideoFrame]]:
    """A frame that begins no later than `time`, or the first of all, and those that follow it.

    A seek may lead to any packet, also one behind `time`: decoding begins at the last keyframe from
    there that is shown in time, else the seek is tried again from further back, and at last the
    file is decoded from its beginning.
    """
    latest = time
    for back in (0.0, 2.0, 20.0, 200.0) if container.format.name != "mpeg" else ():
        _seek(container, stream, max(time - back, (container.start_time or 0) / 1e6))
        packets = container.demux(stream)
        group = _group(packets, latest + _SAME)
        if group:
            begin = _shown_at(group[0])
            frames = _decoded(path, container, stream, chain(group, packets))
            # Frames before the keyframe were made of others, which lie before it.
            first = next((frame for frame in frames if frame.time > begin - _SAME), None)
            if first is not None and first.time <= time + _SAME:
                return first, frames
            latest = (
                begin - 2 * _SAME
            )  # pictures may be whole some frames after a keyframe: intra refresh
    _rewind(container, stream)
    frames = _decoded(path, container, stream)
    return next(frames, None), frames


def _group(packets: Iterator[Packet[Any]], latest: float) -> list[Packet[Any]]:
    """The last keyframe that is shown no later than `latest`, with the packets after it that were
    read to find that out."""
    group: list[Packet[Any]] = []
    for packet in packets:
        if packet.is_keyframe and _shown_at(packet) <= latest:
            group = [packet]
        elif group:
            group.append(packet)
        if packet.dts is not None and packet.dts * (packet.time_base or 0) > latest:
            break
    return group


def _shown_at(packet: Packet[Any]) -> float:
    return math.inf if packet.pts is None else float(packet.pts * (packet.time_base or 0))


def _until(frame: VideoFrame) -> float:
    return frame.time + float((frame.duration or 0) * (frame.time_base or 0))


def _size(stream: VideoStream, width: int, height: int) -> tuple[int, int]:
    """Width and height of a frame in square pixels: the side that is too short is stretched, so no
    detail is lost (as mpv does)."""
    aspect = stream.sample_aspect_ratio or 1
    return (round(width * aspect), height) if aspect >= 1 else (width, round(height / aspect))


def _upright(frame: Any, stream: VideoStream) -> Image.Image:
    """The picture of a frame in square pixels, turned and mirrored as its display matrix says."""
    image: Image.Image = frame.to_image()
    image = image.resize(_size(stream, image.width, image.height))
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    right_to_x, right_to_y, _, down_to_x, down_to_y = np.frombuffer(memoryview(matrix), np.int32)[
        :5
    ].tolist()
    if abs(right_to_x) < abs(right_to_y):
        image = image.transpose(Image.Transpose.TRANSPOSE)
        right_to_x, down_to_y = down_to_x, right_to_y
    if right_to_x < 0:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if down_to_y < 0 else image


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def _channels(frame: AudioFrame) -> npt.NDArray[np.float32]:
    """Samples [channels, n] of a frame, in -1..1 where they are whole numbers."""
    data: npt.NDArray[Any] = frame.to_ndarray()
    channels = data if frame.format.is_planar else data.reshape(-1, frame.layout.nb_channels).T
    if channels.dtype.kind == "f":
        return channels.astype(np.float32)
    if channels.dtype == np.uint8:
        return ((channels - 128.0) / 128.0).astype(np.float32)
    return (channels / -float(np.iinfo(channels.dtype).min)).astype(np.float32)


def _silence(place: int, until: int) -> npt.NDArray[np.float32]:
    return np.zeros((1, max(0, until - place)), np.float32)
