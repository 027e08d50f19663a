"""Videos as frames at a given rate, and what their headers say of them.

The frames themselves are decoded in `frames.py`, the sound track in `sound_track.py`.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from omnicore.errors import DataError
from omnicore.media.container import open_container, start_seconds
from omnicore.media.frames import frames_at, square_size
from omnicore.media.limits import MAX_FRAMES, check_size, clip_bounds
from omnicore.media.track_end import mp4_track_end, track_end

if TYPE_CHECKING:
    from av import VideoStream
    from av.container import InputContainer


@dataclass(frozen=True)
class Video:
    """Frames of one clip, `fps` of them a second.

    `times[i]` is when frame i begins, in seconds of the file; a frame that is shown for long comes
    several times.

    Frames are kept as JPEG of quality 95 from where they are decoded: the cache holds, a server
    gets and a model in this process is shown the same pixels.
    """

    jpegs: tuple[bytes, ...]
    times: tuple[float, ...]
    fps: float

    @property
    def frames(self) -> list[Image.Image]:
        """All frames in RGB, of one size; decoded at each call."""
        return [Image.open(io.BytesIO(jpeg)).convert("RGB") for jpeg in self.jpegs]

    def pack(self) -> bytes:
        """Return the video as bytes for the cache: a line of JSON, then the JPEGs."""
        head = {"times": self.times, "fps": self.fps, "lengths": [len(jpeg) for jpeg in self.jpegs]}
        return b"".join([json.dumps(head).encode(), b"\n", *self.jpegs])

    @classmethod
    def unpack(cls, data: bytes) -> Video:
        """Return the video that `pack` made `data` of."""
        head, _, rest = data.partition(b"\n")
        fields = json.loads(head)
        ends = np.cumsum([0, *fields["lengths"]]).tolist()
        jpegs = tuple(rest[begin:end] for begin, end in pairwise(ends))
        return cls(jpegs, tuple(fields["times"]), fields["fps"])


def load_video(
    path: Path, fps: float, max_frames: int, start: float | None = None, end: float | None = None
) -> Video:
    """Decode `fps` frames a second of a clip, or `max_frames` evenly spread ones if it is longer.

    Raises:
        DataError: The file is not a video, is damaged inside the clip, has no picture there, or
            passes a limit; the message names the file.
        ConfigError: PyAV is missing.
    """
    with open_container(path, "video") as container:
        plan = _plan(path, container, fps, max_frames, start, end)
        frames = list(frames_at(path, container, plan.stream, plan.times(range(plan.count))))
    return Video(
        jpegs=tuple(jpeg for jpeg, _ in frames),
        times=tuple(round(time - plan.origin, 6) for _, time in frames),
        fps=1 / plan.interval,
    )


def measure_video(
    path: Path, fps: float, max_frames: int, start: float | None = None, end: float | None = None
) -> tuple[int, int, int]:
    """Return the number of frames that `load_video` shows, their width and their height.

    Only the header is read. Width and height are swapped for frames that lie on their side. Raises
    as `load_video` does.
    """
    with open_container(path, "video") as container:
        plan = _plan(path, container, fps, max_frames, start, end)
        return plan.count, *_frame_size(plan.stream)


def frame_interval(
    path: Path, fps: float, max_frames: int, start: float | None = None, end: float | None = None
) -> float:
    """Return the seconds from one frame that `load_video` shows to the next, by the header alone.

    Raises as `load_video` does.
    """
    with open_container(path, "video") as container:
        return _plan(path, container, fps, max_frames, start, end).interval


def check_video(path: Path, start: float | None = None, end: float | None = None) -> None:
    """Decode three frames: at the clip's beginning, a second later and one second before its end.

    Raises as `load_video` does for what these frames show: damage in the middle is not found.
    """
    with open_container(path, "video") as container:
        plan = _plan(path, container, 1.0, MAX_FRAMES, start, end)
        numbers = sorted({0, min(1, plan.count - 1), plan.count - 1})
        for _ in frames_at(path, container, plan.stream, plan.times(numbers)):
            pass


def has_sound_track(path: Path) -> bool:
    """Return whether a video has a sound track.

    Raises:
        DataError: The file is not a video.
        ConfigError: PyAV is missing.
    """
    with open_container(path, "video") as container:
        return bool(container.streams.audio)


@dataclass(frozen=True)
class _Plan:
    """Which frames of a video are shown.

    `origin` is the clock's time at the file's beginning, `begin` the seconds from there to the
    first frame, `interval` those from one frame to the next.
    """

    stream: VideoStream
    origin: float
    begin: float
    interval: float
    count: int

    def times(self, numbers: range | list[int]) -> list[float]:
        """Return the clock's times of frames by their numbers, 0 for the first."""
        return [self.origin + self.begin + number * self.interval for number in numbers]


def _plan(
    path: Path,
    container: InputContainer,
    fps: float,
    max_frames: int,
    start: float | None,
    end: float | None,
) -> _Plan:
    # A cover picture is a video track of one frame.
    streams = (s for s in container.streams.video if not s.disposition & s.disposition.attached_pic)
    stream = next(streams, None)
    if stream is None:
        raise DataError(
            f"{path} has no video track: list it as a sound, or get the file with its pictures",
            code="media-no-video-track",
            path=path,
        )
    check_size(path, *_frame_size(stream))
    origin = start_seconds(container)
    last = max(track_end(path, container, stream), mp4_track_end(path, container, stream))
    begin, stop = clip_bounds(path, start, end, last - origin, "video")
    interval = max(1 / fps, (stop - begin) / max_frames)
    count = max(1, math.ceil((stop - begin) / interval - 1e-6))
    if count > MAX_FRAMES:
        raise DataError(
            f"{path}: {count} frames requested, more than {MAX_FRAMES}: lower profile.max_frames",
            code="media-too-many-frames",
            path=path,
            field="profile.max_frames",
        )
    return _Plan(stream, origin, begin, interval, count)


def _frame_size(stream: VideoStream) -> tuple[int, int]:
    return square_size(stream, stream.codec_context.width, stream.codec_context.height)
