"""Sounds from files: mono, 16 kHz, by libsndfile where it reads the format right, else by PyAV."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from omnicore.errors import DataError
from omnicore.media.limits import check_file, clip_bounds, damaged_error
from omnicore.media.sound_track import MonoMix, load_sound_track

Wave = npt.NDArray[np.float32]

SAMPLE_RATE = 16_000
# Seconds of the shortest sound: below, vLLM refuses it and the model has no token for it.
MIN_SECONDS = 0.025
# The largest sample of 16 bits, as `data_url.wav_to_base64` sends it.
_FULL_SCALE = 1 - 2**-15
# First bytes of the sounds that libsndfile reads.
_LIBSNDFILE_MAGIC = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"fLaC")
_NOT_SEEKABLE = ("MPEG", "GSM")  # codecs inside a wav in which libsndfile cannot seek
_MAX_FRAMES = 2**48  # a flac out of a pipe states more
_BLOCK = 1 << 20  # samples that are read at a time


def load_audio(file: Path | BinaryIO, start: float | None = None, end: float | None = None) -> Wave:
    """Read a sound file or the sound track of a video as mono samples [n] at 16 kHz in -1..1.

    libsndfile reads wav, aiff and flac that state their length, PyAV everything else. Measured with
    libsndfile 1.2.2: an mp3 without a Xing header has an estimated length (32 s for 22), an ogg or
    mp3 joined of two ends after the first, a clip from the middle of an mp3 begins with silence,
    and GSM cannot be sought. PyAV 18 reads all of these as ffmpeg does, and its clips equal that
    part of the whole decode.

    Samples are cut off at full scale, where 16 bits on the way to a server would cut them.

    Raises:
        DataError: The file is not a sound, has no sound track, is shorter than 25 ms, is damaged
            inside the clip, holds samples that are no sound, has channels that cancel out, or
            passes a limit; the message names the file.
        ConfigError: PyAV is missing and needed.
    """
    name = file if isinstance(file, Path) else Path("the sound")
    if isinstance(file, Path):
        check_file(file, "sound")
    if libsndfile_header(file) is not None:
        wave, rate = _read_by_libsndfile(file, name, start, end)
    elif isinstance(file, Path):
        wave, rate = load_sound_track(file, start, end)
    else:
        raise DataError(
            "the sound is not a readable wav, or holds no samples: send it as 16-bit PCM in a WAV",
            code="media-unreadable",
        )
    wave = np.clip(resample(wave, rate), -1.0, _FULL_SCALE)
    if len(wave) < MIN_SECONDS * SAMPLE_RATE:
        milliseconds = 1000 * len(wave) / SAMPLE_RATE
        raise DataError(
            f"{name}: {milliseconds:.1f} ms of sound, too short for the model, which needs"
            f" {1000 * MIN_SECONDS:g} ms: take a longer clip",
            code="media-sound-too-short",
            path=name,
        )
    return wave


def _read_by_libsndfile(
    file: Path | BinaryIO, name: Path, start: float | None, end: float | None
) -> tuple[Wave, int]:
    """Read samples [n] of a file, its channels averaged, and their rate; raise as `load_audio`."""
    with soundfile.SoundFile(file) as sound:
        rate, length = sound.samplerate, sound.frames / sound.samplerate
        begin, stop = clip_bounds(name, start, end, length, "sound")
        left = max(1, round((stop - begin) * rate))
        mix = MonoMix(name)
        try:
            sound.seek(min(round(begin * rate), sound.frames - 1))
            while left:
                # `SoundFile.blocks` would give whatever lies in memory for samples that were
                # truncated.
                block = sound.read(min(left, _BLOCK), dtype="float32", always_2d=True)
                if not len(block):
                    break
                mix.add(block.T)
                left -= len(block)
        except soundfile.SoundFileError as error:
            raise DataError(
                f"{name} is damaged: {error}; copy it again, or end the clip before that",
                code="media-damaged",
                path=name,
            ) from error
    wave = mix.wave()
    needs_end = end is None or end > length
    if left > rate or (isinstance(file, Path) and needs_end and _is_truncated(file)):
        raise damaged_error(name, begin + len(wave) / rate)
    return wave, rate


def resample(wave: npt.NDArray[np.floating[Any]], rate: int) -> Wave:
    """Convert samples [n] at `rate` to [n * 16000 // rate] at 16 kHz.

    By soxr's HQ, as librosa does for the model's own pipeline. Measured at 48 kHz: 7.0 kHz is kept
    within 0.01 dB, 8.1 kHz comes back below -130 dB.
    """
    if rate == SAMPLE_RATE:
        return wave.astype(np.float32)
    resampled: Wave = soxr.resample(wave.astype(np.float32), rate, SAMPLE_RATE, quality="HQ")
    # soxr rounds to the nearest.
    return resampled[: len(wave) * SAMPLE_RATE // rate]


def libsndfile_header(file: Path | BinaryIO) -> Any:
    """Read a sound's header by libsndfile: `frames`, `samplerate`, `duration` and `format`.

    Returns:
        None for what `load_audio` leaves to PyAV: other formats, a wav of GSM or mp3 frames, and a
        wav or flac out of a pipe, which states that it has no samples, or 2**63.
    """
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return libsndfile_header(opened)
    info = None
    if file.read(4) in _LIBSNDFILE_MAGIC:
        file.seek(0)
        with suppress(soundfile.SoundFileError):
            info = soundfile.info(file)
    file.seek(0)
    if info is None or info.subtype.startswith(_NOT_SEEKABLE):
        return None
    return info if 0 < info.frames < _MAX_FRAMES else None


def _is_truncated(path: Path) -> bool:
    """Return whether a WAV or AIFF is shorter than its header says.

    A file that was written into a pipe states 0 or about the largest number, and is not.
    """
    with path.open("rb") as file:
        head = file.read(8)
    order: Literal["little", "big"] = "little" if head[:4] == b"RIFF" else "big"
    size = int.from_bytes(head[4:], order)
    if head[:4] not in (b"RIFF", b"RIFX", b"FORM") or not 0 < size < 0x7FFF0000:
        return False
    return size + 8 > path.stat().st_size
