"""The sound track of a video or m4a, and every sound that libsndfile does not read, by PyAV."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from omnicore.errors import DataError
from omnicore.media.container import (
    SLACK,
    TOLERANCE,
    decode,
    open_container,
    seek,
    start_seconds,
)
from omnicore.media.limits import MAX_SECONDS, clip_after_end, clip_bounds, damaged_error
from omnicore.media.track_end import mp3_seconds, refuse_truncated, states_length, track_end

if TYPE_CHECKING:
    from av import AudioFrame
    from av.container import InputContainer

# Samples; full scale is 1. Whole numbers of 16 bits that were written as floats are far above,
# those of quiet speech too.
MAX_SAMPLE = 100.0
# Least energy of a mix, as a share of that of its channels. Less is left where channels cancel each
# other out, also by a lossy codec (Vorbis: 1e-3).
MIN_MIX_ENERGY = 1e-2


class MonoMix:
    """The mean of the channels of a sound that is read and checked block by block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._blocks: list[npt.NDArray[np.float32]] = []
        self._energy = 0.0

    def add(self, channels: npt.NDArray[np.float32]) -> None:
        """Append samples [channels, n].

        Raises:
            DataError: A sample is not finite or beyond `MAX_SAMPLE`: it would drown all others.
        """
        peak = np.abs(channels).max(initial=0.0)
        if not peak <= MAX_SAMPLE:
            raise DataError(
                f"{self._path} holds a sample of {peak:g}, and full scale is 1: encode it again, as"
                " 16-bit PCM",
                code="media-sample-out-of-range",
                path=self._path,
            )
        self._energy += float(np.vdot(channels, channels)) / len(channels)
        self._blocks.append(channels.mean(axis=0, dtype=np.float32))

    def wave(self) -> npt.NDArray[np.float32]:
        """Return the mean [n].

        Raises:
            DataError: The channels cancel each other out: the model would hear silence.
        """
        wave = np.concatenate([np.zeros(0, np.float32), *self._blocks])
        if float(np.vdot(wave, wave)) < MIN_MIX_ENERGY * self._energy:
            raise DataError(
                f"{self._path}: its channels cancel out when they are mixed to one: keep one"
                " (ffmpeg -af 'pan=mono|c0=c0')",
                code="media-channels-cancel",
                path=self._path,
            )
        return wave


def load_sound_track(
    path: Path, start: float | None = None, end: float | None = None
) -> tuple[npt.NDArray[np.float32], int]:
    """Read samples [n] of the first sound track, its channels averaged, and their rate.

    Silence fills gaps between packets and before the first, so that times are those of the video. A
    file that states no length, or only estimates it, is decoded from its beginning to `end`, or to
    its last packet.

    Raises:
        DataError: The file has no sound track, is damaged inside the clip, passes a limit, or
            `MonoMix` refuses its samples; the message names the file.
        ConfigError: PyAV is missing.
    """
    with open_container(path, "sound") as container:
        stream, origin, begin, stop = _clip_of_track(path, container, start, end)
        frames = _frames_from(path, container, stream, origin + begin)
        first = next(frames, None)
        if first is None:
            refuse_truncated(path, container)
            raise DataError(f"{path} holds no samples", code="media-no-samples", path=path)
        rate = first.sample_rate
        wanted = max(1, round(min(stop - begin, MAX_SECONDS + 1) * rate))
        mix = MonoMix(path)
        # `place` is the sample of the clip that is due next, below 0 before the clip.
        place = round((first.time - origin - begin) * rate)
        mix.add(_silence(0, min(place, wanted)))
        for frame in chain([first], frames):
            _check_rate(path, rate, frame)
            due = round((frame.time - origin - begin) * rate)
            if due - place > rate / 10:
                mix.add(_silence(max(0, place), min(due, wanted)))
                place = due
            mix.add(_channels(frame)[:, max(0, -place) : max(0, wanted - place)])
            place += frame.samples
            if place >= wanted:
                break
        ended = begin + place / rate
        if place <= wanted - SLACK * rate:
            _refuse_short(path, container, ended, stop, rate)
    if place <= 0:
        raise clip_after_end(path, begin, ended, "sound")
    wave = mix.wave()
    if len(wave) > MAX_SECONDS * rate:
        raise DataError(
            f"{path}: more than {MAX_SECONDS:.0f} s of sound: cut it",
            code="media-clip-too-long",
            path=path,
        )
    return wave, rate


def measure_sound_track(path: Path, start: float | None = None, end: float | None = None) -> float:
    """Return the seconds of the sound track that `load_sound_track` reads, without decoding.

    The header gives them where it states a length, or where its estimate is near the sum of the
    packets: packets also count the up to 0.1 s that an encoder adds. Raises as `load_sound_track`
    does.
    """
    with open_container(path, "sound") as container:
        stream, _, begin, stop = _clip_of_track(path, container, start, end)
        if states_length(container):
            return stop - begin
        counted = _packet_seconds(container, stream)
        stated = (container.duration or 0) / 1e6
        length = stated if abs(stated - counted) < 0.2 else counted
        begin, stop = clip_bounds(path, start, end, length, "sound")
        return stop - begin


def check_sound_track(path: Path, start: float | None = None, end: float | None = None) -> None:
    """Decode the first and the last second of a clip, or all of it where its length is not known.

    Raises as `load_sound_track` does for these seconds, and may refuse what holds only for them:
    channels that cancel out, or a track that ends before the file. `load_sound_track` decides then.
    """
    with open_container(path, "sound") as container:
        _, _, begin, stop = _clip_of_track(path, container, start, end)
    if stop - begin <= 2 * SLACK or stop == math.inf:
        load_sound_track(path, start, end)
        return
    load_sound_track(path, begin, begin + SLACK)
    load_sound_track(path, stop - SLACK, stop)


def _clip_of_track(
    path: Path, container: InputContainer, start: float | None, end: float | None
) -> tuple[Any, float, float, float]:
    """Return the first sound track, the clock's time at the file's start, and the clip's bounds.

    The bounds are seconds from the file's beginning, up to infinity where neither `end` nor the
    file says.
    """
    if not container.streams.audio:
        raise DataError(
            f"{path} has no audio track: leave its audio out of the query, or get the file with its"
            " sound",
            code="media-no-audio-track",
            path=path,
        )
    stream = container.streams.audio[0]
    origin = start_seconds(container)
    is_stated = states_length(container)
    length = track_end(path, container, stream) - origin if is_stated else math.inf
    return stream, origin, *clip_bounds(path, start, end, length, "sound")


def _frames_from(path: Path, container: InputContainer, stream: Any, time: float) -> Iterator[Any]:
    """Return frames of sound from one on that begins no later than `time`, or the first of all."""
    from av import FFmpegError

    begin = start_seconds(container)
    if time > begin and states_length(container):
        # A seek may land inside a packet, which no decoder reads.
        with suppress(FFmpegError, DataError):
            # Decoders of lossy sound need some packets before they are right.
            seek(container, stream, max(begin, time - 1.0))
            frames = decode(path, container, stream)
            first = next(frames, None)
            if first is not None and first.time <= time + TOLERANCE:
                return chain([first], frames)
        seek(container, stream, begin)
    return decode(path, container, stream)


def _packet_seconds(container: InputContainer, stream: Any) -> float:
    """Return the seconds of all packets of a track, from where the container stands."""
    from av import FFmpegError

    units = 0
    with suppress(FFmpegError):
        for packet in container.demux(stream):
            units += packet.duration or 0
    return float(units * stream.time_base)


def _check_rate(path: Path, rate: int, frame: AudioFrame) -> None:
    if frame.sample_rate != rate:
        raise DataError(
            f"{path}: its sound changes from {rate} to {frame.sample_rate} Hz: convert it",
            code="media-rate-changes",
            path=path,
        )


def _refuse_short(
    path: Path, container: InputContainer, last: float, stop: float, rate: int
) -> None:
    """Raise DataError when the sound was truncated at `last` seconds, before `stop`.

    Of raw streams only an mp3 may state its length.
    """
    if states_length(container):
        refuse_truncated(path, container)
    elif container.format.name == "mp3" and last < min(stop, mp3_seconds(path, rate)) - SLACK:
        raise damaged_error(path, last)


def _channels(frame: AudioFrame) -> npt.NDArray[np.float32]:
    """Return samples [channels, n] of a frame; whole numbers are scaled to -1..1."""
    data: npt.NDArray[Any] = frame.to_ndarray()
    channels = data if frame.format.is_planar else data.reshape(-1, frame.layout.nb_channels).T
    if channels.dtype.kind == "f":
        return channels.astype(np.float32)
    if channels.dtype == np.uint8:
        return ((channels - 128.0) / 128.0).astype(np.float32)
    return (channels / -float(np.iinfo(channels.dtype).min)).astype(np.float32)


def _silence(begin: int, end: int) -> npt.NDArray[np.float32]:
    """Return zeros [1, n] from one sample to another, none if they are in the wrong order."""
    return np.zeros((1, max(0, end - begin)), np.float32)
