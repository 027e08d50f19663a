"""Sound: clips of files and of the tracks of videos, resampled to what the model hears."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from omnicore import media
from omnicore.media import load_audio
from tests.media_files import (
    SOUND_RATE,
    main_hz,
    stamps,
    tone,
    write_video,
)

SIZE = (96, 64)
FORMATS = ["mp4", "mkv", "webm"]


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.mp4", "a.mkv", "a.webm"])
def test_sound_of_every_form_is_cut_at_the_same_place(tmp_path: Path, name: str) -> None:
    """Half a second of silence, then a tone: the onset is where the file has it, whatever the codec."""
    wave = np.concatenate([np.zeros(SOUND_RATE // 2, np.float32), tone(1000, 1.5, SOUND_RATE)])
    path = tmp_path / name
    if path.suffix in (".mp4", ".mkv", ".webm"):
        write_video(path, [*stamps(2, 25), 2], SIZE, wave)
    else:
        soundfile.write(path, np.stack([wave, wave], 1), SOUND_RATE)
    for start, end in ((0.0, None), (0.3, 1.0), (0.45, 0.75)):
        cut = load_audio(path, start, end)
        assert len(cut) == pytest.approx(16_000 * ((end or 2) - start), abs=500 if end is None else 1)
        onset = np.flatnonzero(np.abs(cut) > 0.25)[0] / 16_000 + start
        assert onset == pytest.approx(0.5, abs=0.03), "lossy codecs add up to 25 ms that the container does not tell of"
        assert np.abs(cut[int((0.6 - start) * 16_000) :]).max() == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("ending", FORMATS)
def test_clip_of_a_track_is_that_part_of_the_whole(tmp_path: Path, ending: str) -> None:
    time = np.arange(4 * SOUND_RATE) / SOUND_RATE
    rising = (0.5 * np.sin(2 * np.pi * (200 + 400 * time) * time)).astype(np.float32)
    path = write_video(tmp_path / f"a.{ending}", [*stamps(4, 25), 4], SIZE, rising)
    whole = load_audio(path)
    for start, end in ((1.0, 2.0), (1.503, 3.25), (1.0, 1.02)):
        part = load_audio(path, start, end)
        first = round(start * 16_000)
        # Matroska rounds to a millisecond, which is 16 samples.
        errors = [np.abs(part - whole[first + lag : first + lag + len(part)]) for lag in range(-17, 18)]
        error = min(e[40:-40].max() for e in errors)  # without the resampler's edges
        assert error < 0.01


@pytest.mark.parametrize(("late", "silent"), [(0, (0, 1)), (1.2, (1.3, 2.2))])
def test_gaps_of_a_sound_track_are_silence(tmp_path: Path, late: float, silent: tuple[float, float]) -> None:
    """Packets from `late` seconds on are put off by one second."""
    import av

    path = write_video(tmp_path / "a.mkv", [*stamps(3, 25), 3], SIZE, tone(440, 2, SOUND_RATE))
    with av.open(str(path)) as source, av.open(str(tmp_path / "b.mkv"), "w") as target:
        streams = {s.index: target.add_stream_from_template(s) for s in (source.streams.video[0], source.streams.audio[0])}
        for packet in source.demux():
            if packet.dts is not None and packet.pts is not None:
                if packet.stream.type == "audio" and packet.pts >= 1000 * late:
                    packet.pts, packet.dts = packet.pts + 1000, packet.dts + 1000
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    wave = load_audio(tmp_path / "b.mkv")
    start, end = (round(16_000 * time) for time in silent)
    assert np.abs(wave[start + 100 : end - 100]).max() == 0
    assert main_hz(wave[end + 100 : end + 8_100]) == 440
    assert len(wave) == pytest.approx(48_000, abs=100)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_resampling_keeps_what_can_be_kept_and_drops_the_rest(rate: int) -> None:
    kept = media.resample(tone(440, 1, rate), rate)
    assert len(kept) == 16_000
    assert np.abs(kept - tone(440, 1))[200:-200].max() < 0.001
    if rate > 20_000:
        high = media.resample(tone(10_000, 1, rate), rate)
        assert np.abs(high[200:-200]).max() < 0.001, "else it comes back as 6 kHz"


def test_stereo_is_the_mean_of_its_channels(tmp_path: Path) -> None:
    left, right = tone(440, 1, 44_100), tone(880, 1, 44_100)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 44_100, subtype="FLOAT")
    wave = load_audio(tmp_path / "a.wav")
    assert np.abs(wave - (tone(440, 1) + tone(880, 1)) / 2)[200:-200].max() < 0.001
