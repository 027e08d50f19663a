"""Sound: clips of files and of the tracks of videos, resampled to what the model hears."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from omnicore.config import Profile
from omnicore.errors import DataError
from omnicore.media import limits, sound_track
from omnicore.media.read import measure_media
from omnicore.media.sounds import load_audio, resample
from tests.errors import refused
from tests.media_files import (
    SOUND_RATE,
    main_hz,
    medium,
    stamps,
    tone,
    write_video,
)

SIZE = (96, 64)
FORMATS = ["mp4", "mkv", "webm"]


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.mp4", "a.mkv", "a.webm"])
def test_clip_has_its_onset_in_every_format(tmp_path: Path, name: str) -> None:
    """Half a second of silence, then a tone: the onset is where the file has it, whatever the
    codec."""
    wave = np.concatenate([np.zeros(SOUND_RATE // 2, np.float32), tone(1000, 1.5, SOUND_RATE)])
    path = tmp_path / name
    if path.suffix in (".mp4", ".mkv", ".webm"):
        write_video(path, [*stamps(2, 25), 2], SIZE, wave)
    else:
        soundfile.write(path, np.stack([wave, wave], 1), SOUND_RATE)
    for start, end in ((0.0, None), (0.3, 1.0), (0.45, 0.75)):
        cut = load_audio(path, start, end)
        assert len(cut) == pytest.approx(
            16_000 * ((end or 2) - start), abs=500 if end is None else 1
        )
        onset = np.flatnonzero(np.abs(cut) > 0.25)[0] / 16_000 + start
        assert onset == pytest.approx(0.5, abs=0.03), (
            "lossy codecs add up to 25 ms that the container does not tell of"
        )
        assert np.abs(cut[int((0.6 - start) * 16_000) :]).max() == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("ending", FORMATS)
def test_clip_of_a_track_is_that_part_of_the_whole(tmp_path: Path, ending: str) -> None:
    time = np.arange(4 * SOUND_RATE) / SOUND_RATE
    rising = (0.5 * np.sin(2 * np.pi * (200 + 400 * time) * time)).astype(np.float32)
    path = write_video(tmp_path / f"a.{ending}", [*stamps(4, 25), 4], SIZE, rising)
    whole = load_audio(path)
    for start, end in ((1.0, 2.0), (1.503, 3.25), (1.0, 1.03)):
        part = load_audio(path, start, end)
        first = round(start * 16_000)
        # Matroska rounds to a millisecond, which is 16 samples.
        errors = [
            np.abs(part - whole[first + lag : first + lag + len(part)]) for lag in range(-17, 18)
        ]
        error = min(e[40:-40].max() for e in errors)  # without the resampler's edges
        assert error < 0.01


@pytest.mark.parametrize(("late", "silent"), [(0, (0, 1)), (1.2, (1.3, 2.2))])
def test_gaps_of_a_sound_track_are_silence(
    tmp_path: Path, late: float, silent: tuple[float, float]
) -> None:
    """Packets from `late` seconds on are put off by one second."""
    import av

    path = write_video(tmp_path / "a.mkv", [*stamps(3, 25), 3], SIZE, tone(440, 2, SOUND_RATE))
    with av.open(str(path)) as source, av.open(str(tmp_path / "b.mkv"), "w") as target:
        streams = {
            s.index: target.add_stream_from_template(s)
            for s in (source.streams.video[0], source.streams.audio[0])
        }
        for packet in source.demux():
            if packet.dts is not None and packet.pts is not None:
                if packet.stream.type == "audio" and packet.pts >= 1000 * late:
                    packet.pts, packet.dts = packet.pts + 1000, packet.dts + 1000
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    wave = load_audio(tmp_path / "b.mkv")
    start, end = (round(16_000 * time) for time in silent)
    assert np.abs(wave[start + 100 : end - 100]).max() < 1e-6
    assert main_hz(wave[end + 100 : end + 8_100]) == 440
    assert len(wave) == pytest.approx(48_000, abs=100)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_resampling_keeps_the_passband_and_stops_the_rest(rate: int) -> None:
    kept = resample(tone(440, 1, rate), rate)
    assert len(kept) == 16_000
    assert np.abs(kept - tone(440, 1))[200:-200].max() < 0.001
    for hz, least, most in ((7_000, -0.1, 0.1), (8_100, -999, -100), (10_000, -999, -100)):
        if rate > 2 * hz:
            power = np.square(
                resample(tone(hz, 3, rate), rate)[1600:-1600], dtype=np.float64
            ).mean()
            assert least < 10 * np.log10(power / 0.125) < most, f"{hz} Hz, in dB of what it was"


@pytest.mark.parametrize("count", [1, 2, 999, 44_100, 66_151])
def test_resampled_length_is_rounded_down_and_repeatable(count: int) -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, count).astype(np.float32)
    out = resample(wave, 22_050)
    assert len(out) == count * 16_000 // 22_050
    assert np.array_equal(out, resample(wave, 22_050))


def test_stereo_is_the_mean_of_its_channels(tmp_path: Path) -> None:
    left, right = tone(440, 1, 44_100), tone(880, 1, 44_100)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 44_100, subtype="FLOAT")
    wave = load_audio(tmp_path / "a.wav")
    assert np.abs(wave - (tone(440, 1) + tone(880, 1)) / 2)[200:-200].max() < 0.001


def speech(seconds: float, rate: int = SOUND_RATE) -> np.ndarray:
    """Bursts of noise and pauses: what makes the bit rate of an encoder vary, and estimates of a
    length wrong."""
    noise = np.random.default_rng(0).normal(0, 0.1, round(seconds * rate))
    time = np.arange(len(noise)) / rate
    return (noise * (np.sin(2 * np.pi * time / 4) > 0) + tone(300, seconds, rate) * 0.2).astype(
        np.float32
    )


def encode(path: Path, wave: np.ndarray, rate: int, codec: str, **options: str) -> Path:
    """One channel by PyAV, whose muxer follows the name."""
    with av.open(str(path), "w", options=options) as container:
        track = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            (wave * 32767).astype(np.int16)[None], format="s16", layout="mono"
        )
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for packet in [*track.encode(frame), *track.encode()]:
            container.mux(packet)
    return path


def make(path: Path) -> Path:
    """20 s of `speech` in the form that a name stands for."""
    wave, kind = speech(20), path.stem
    if kind in ("vbr", "noheader", "joined", "tail"):
        soundfile.write(path, wave, SOUND_RATE, bitrate_mode="VARIABLE")
        data = path.read_bytes()
        if kind == "noheader":  # without the first frame, which is the Xing header
            path.write_bytes(data[data.index(data[:2], 4) :])
        elif kind == "joined":
            path.write_bytes(data + b"TAG" + bytes(125) + b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + data)
        elif kind == "tail":
            path.write_bytes(data + bytes(4000))
        return path
    if kind == "unheaded":
        return encode(path, wave, SOUND_RATE, "mp3", write_xing="0")
    if kind == "gsm":
        soundfile.write(path, speech(20, 8_000), 8_000, subtype="GSM610")
    elif path.suffix == ".aac":
        encode(path, wave, SOUND_RATE, "aac")
    elif path.suffix == ".amr":
        encode(path, speech(20, 8_000), 8_000, "libopencore_amrnb")
    elif path.suffix == ".flac":
        soundfile.write(path, wave, SOUND_RATE)
        data = bytearray(path.read_bytes())
        data[21:26] = bytes(
            [data[21] & 0xF0, 0, 0, 0, 0]
        )  # the number of samples, which a pipe leaves at 0
        path.write_bytes(data)
    else:
        soundfile.write(path, wave, SOUND_RATE)
        if kind == "chained":
            path.write_bytes(path.read_bytes() * 2)
    return path


FORMS = {
    "vbr.mp3": 20,
    "noheader.mp3": 20,
    "unheaded.mp3": 20,
    "joined.mp3": 40,
    "tail.mp3": 20,
    "a.aac": 20,
    "a.amr": 20,
}
FORMS |= {
    "gsm.wav": 20,
    "piped.flac": 20,
    "a.ogg": 20,
    "chained.ogg": 40,
    "a.aiff": 20,
    "a.rf64": 20,
    "a.w64": 20,
    "a.au": 20,
    "a.caf": 20,
}


@pytest.mark.parametrize(("name", "seconds"), FORMS.items())
def test_sound_is_read_to_its_end_in_every_format(
    tmp_path: Path, name: str, seconds: float
) -> None:
    path = make(tmp_path / name)
    whole = load_audio(path)
    assert len(whole) / 16_000 == pytest.approx(seconds, abs=0.11), "encoders add up to 0.1 s"
    assert measure_media(medium(path, "audio"), tmp_path, Profile())[0] / 16_000 == pytest.approx(
        len(whole) / 16_000, abs=0.2
    )
    assert np.abs(whole[-16_000:]).max() > 0.05
    for start, end in (
        (5.0, 7.0),
        (11.5, 12.5),
        (seconds - 2, seconds - 1),
        (seconds - 1, seconds + 5),
    ):
        part, first = load_audio(path, start, end), round(start * 16_000)
        off = np.abs(part - whole[first : first + len(part)])[
            80:-80
        ].max()  # without the edges of the resampler
        assert off < (0.02 if name == "gsm.wav" else 0.001), "GSM predicts from what came before"
    assert len(load_audio(path, seconds - 1, seconds + 5)) == pytest.approx(16_000, abs=1800)
    with refused(DataError, "media-clip-after-end", path=path) as caught:
        load_audio(path, 45, 46)
    assert re.search(rf"the sound ends at ({seconds}|{seconds - 1})\.\d+ s", str(caught.value))


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_piped_wav_is_read_at_any_data_size(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(440, 2), 16_000)
    data = path.read_bytes()
    path.write_bytes(data[:40] + size.to_bytes(4, "little") + data[44:])
    assert np.abs(load_audio(path) - tone(440, 2)).max() < 1e-4
    assert measure_media(medium(path, "audio"), tmp_path, Profile()) == (32_000,)


@pytest.mark.parametrize("name", ["a.aiff", "a.mp3"])
def test_truncated_sound_that_states_its_length_is_refused(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, speech(20), SOUND_RATE)
    (tmp_path / name).write_bytes(
        (tmp_path / name).read_bytes()[: (tmp_path / name).stat().st_size // 2]
    )
    for clip in ((None, None), (2, 15), (12, 14)):
        codes = {"media-damaged", "media-clip-after-end"}
        with pytest.raises(DataError) as caught:
            load_audio(tmp_path / name, *clip)
        assert caught.value.code in codes
        assert re.search(r" (after|ends at) (9|10)\.\d+ s", str(caught.value))
    assert len(load_audio(tmp_path / name, 2, 4)) == 32_000


def test_mp3_with_damage_in_its_middle_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "vbr.mp3")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(3000) + data[len(data) // 2 :])
    with refused(DataError, "media-damaged", path=path) as caught:
        load_audio(path)
    assert re.search(r" after (9|10)\.", str(caught.value))


@pytest.mark.parametrize("limited", ["a.wav", "a.mp3"])
def test_sound_above_the_limit_is_refused(
    tmp_path: Path, limited: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (limits, sound_track):
        monkeypatch.setattr(module, "MAX_SECONDS", 3)
    soundfile.write(tmp_path / limited, speech(6), SOUND_RATE)
    with refused(DataError, "media-clip-too-long", path=tmp_path / limited) as caught:
        load_audio(tmp_path / limited)
    assert "more than 3" in str(caught.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3_000.0, -1e30])
@pytest.mark.parametrize("name", ["a.wav", "a.mkv"])
def test_samples_out_of_range_are_refused(tmp_path: Path, bad: float, name: str) -> None:
    wave = tone(440, 1)
    wave[8_000] = bad
    if name == "a.wav":
        soundfile.write(tmp_path / name, wave, 16_000, subtype="FLOAT")
    else:
        with av.open(str(tmp_path / name), "w") as container:
            track = container.add_stream("pcm_f32le", rate=16_000, layout="mono")
            frame = av.AudioFrame.from_ndarray(wave[None], format="flt", layout="mono")
            frame.sample_rate = 16_000
            for packet in [*track.encode(frame), *track.encode()]:
                container.mux(packet)
    with refused(DataError, "media-sample-out-of-range", path=tmp_path / name) as caught:
        load_audio(tmp_path / name)
    assert f"a sample of {abs(bad):g}, and full scale is 1" in str(caught.value)
    assert len(load_audio(tmp_path / name, 0, 0.4)) == 6_400


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.flac"])
def test_channels_that_cancel_out_are_refused(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, np.stack([speech(3), -speech(3)], 1), SOUND_RATE)
    with refused(DataError, "media-channels-cancel", path=tmp_path / name):
        load_audio(tmp_path / name)
    soundfile.write(tmp_path / name, np.stack([speech(3), 0 * speech(3)], 1), SOUND_RATE)
    assert np.abs(load_audio(tmp_path / name)).max() > 0.05
    soundfile.write(tmp_path / name, np.zeros((SOUND_RATE, 2)), SOUND_RATE)
    assert not load_audio(tmp_path / name).any(), "silence is a sound"


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_sound_below_25_ms_is_refused(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, tone(440, 0.024, SOUND_RATE), SOUND_RATE)
    with refused(DataError, "media-sound-too-short", path=tmp_path / name) as caught:
        load_audio(tmp_path / name)
    assert "24.0 ms of sound" in str(caught.value)
    assert "needs 25 ms" in str(caught.value)
    soundfile.write(tmp_path / name, tone(440, 1, SOUND_RATE), SOUND_RATE)
    assert len(load_audio(tmp_path / name, 0.5, 0.525)) == 400
