"""Tiny real media for tests: videos whose every frame says its number, tones, pictures of one
colour."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import numpy.typing as npt
import soundfile
from PIL import Image

from omnicore.media.video import Video
from omnicore.schema import Media

BITS = 12  # of a frame's number, shown as as many black or white columns
SOUND_RATE = 48_000  # of sound tracks, in stereo; tone files have 16 kHz, one channel
CODECS = {
    ".mp4": ("libx264", "aac"),
    ".mov": ("libx264", "aac"),
    ".mkv": ("libx264", "flac"),
    ".webm": ("libvpx-vp9", "libopus"),
}


def stamps(seconds: float, fps: float, variable: bool = False) -> list[float]:
    """When the frames of `make_video` begin; `variable`: the gaps between them are 1, 5 and 2
    periods in turn."""
    if not variable:
        return [i / fps for i in range(round(seconds * fps))]
    steps = np.cumsum(np.tile([1, 5, 2], round(seconds * fps)))
    return [0.0, *(float(s) / fps for s in steps if s < round(seconds * fps))]


def painted(number: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """A grey picture [height, width] that shows a number as black and white columns."""
    columns = np.array([255 * (number >> bit & 1) for bit in range(BITS)], np.uint8)
    edges = [len(part) for part in np.array_split(np.arange(size[0]), BITS)]
    return np.tile(np.repeat(columns, edges), (size[1], 1))


def number_shown(image: Image.Image) -> int:
    """The number of the frame that `image` is: the inverse of `painted`."""
    grey = np.asarray(image.convert("L"), np.float64)
    columns = [part.mean() for part in np.array_split(grey, BITS, axis=1)]
    return sum(1 << i for i, column in enumerate(columns) if column > 127)


def tone(hz: float, seconds: float, rate: int = 16_000) -> npt.NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(
        np.float32
    )


def main_hz(wave: npt.NDArray[np.float32], rate: int = 16_000) -> float:
    """The strongest frequency of a sound."""
    return float(np.abs(np.fft.rfft(wave)).argmax() * rate / len(wave))


def make_video(
    path: Path,
    seconds: float,
    fps: float,
    size: tuple[int, int],
    tone_hz: float | None,
    variable: bool = False,
) -> Path:
    """An mp4, mkv or webm, by its name, with a sound track of one tone or none."""
    sound = None if tone_hz is None else tone(tone_hz, seconds, SOUND_RATE)
    return write_video(path, [*stamps(seconds, fps, variable), seconds], size, sound)


def write_video(
    path: Path,
    times: Sequence[float],
    size: tuple[int, int],
    sound: npt.NDArray[np.float32] | None = None,
    *,
    keyframes: int = 12,
    options: dict[str, str] | None = None,
    preset: str = "ultrafast",
) -> Path:
    """Frame i is on show from `times[i]` to `times[i + 1]` and shows i; `sound` is one channel at
    SOUND_RATE, written in stereo.

    A keyframe every `keyframes` frames. `options` are those of the muxer, as in movflags=faststart;
    x264 sends frames out of order with a `preset` slower than ultrafast.
    """
    picture_codec, sound_codec = CODECS[path.suffix]
    with av.open(str(path), "w", options=options or {}) as container:
        picture = container.add_stream(
            picture_codec, rate=1000, width=size[0], height=size[1], pix_fmt="yuv420p"
        )
        picture.time_base = picture.codec_context.time_base = Fraction(1, 1000)
        picture.codec_context.gop_size = keyframes
        picture.options = {"crf": "18", "threads": "1"} | (
            {"preset": preset}
            if picture_codec == "libx264"
            else {"b:v": "0", "deadline": "realtime", "cpu-used": "8"}
        )
        packets = []
        track = (
            container.add_stream(sound_codec, rate=SOUND_RATE, layout="stereo")
            if sound is not None
            else None
        )
        for i, time in enumerate(times[:-1]):
            frame = av.VideoFrame.from_ndarray(np.stack([painted(i, size)] * 3, -1), format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            packets += picture.encode(frame)
        packets += picture.encode()
        gaps = dict(zip((round(1000 * t) for t in times), np.diff(times), strict=False))
        for (
            packet
        ) in packets:  # the encoder knows none, and a last frame of 1 ms would shorten the video
            packet.duration = round(1000 * float(gaps[packet.pts]))
        if track is not None and sound is not None:
            samples = np.repeat((sound * 32767).astype(np.int16), 2)[None]
            whole = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples), format="s16", layout="stereo"
            )
            whole.sample_rate, whole.pts, whole.time_base = SOUND_RATE, 0, Fraction(1, SOUND_RATE)
            packets += track.encode(whole)
            packets += track.encode()
        for packet in sorted(packets, key=lambda p: (p.dts or 0) * (p.time_base or 0)):
            container.mux(packet)
    return path


def make_sound_track(path: Path) -> Path:
    """An mp4 without a picture: one tone of 3 s in AAC."""
    with av.open(str(path), "w") as container:
        track = container.add_stream("aac", rate=SOUND_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            tone(440, 3.0, SOUND_RATE)[None], format="fltp", layout="mono"
        )
        frame.sample_rate = SOUND_RATE
        for packet in [*track.encode(frame), *track.encode()]:
            container.mux(packet)
    return path


def make_tone(path: Path, hz: float, seconds: float) -> Path:
    """A wav, flac, ogg or mp3, by its name."""
    soundfile.write(path, tone(hz, seconds), 16_000)
    return path


def make_picture(path: Path, colour: str, size: tuple[int, int]) -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


def medium(
    path: Path,
    kind: Literal["image", "audio", "video"],
    start: float | None = None,
    end: float | None = None,
) -> Media:
    """The record of a file, whose root is the directory that it lies in."""
    return Media(
        kind=kind,
        uri=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        start=start,
        end=end,
    )


def numbers(clip: Video) -> list[int]:
    """The numbers that the frames of `make_video` show."""
    return [number_shown(frame) for frame in clip.frames]
