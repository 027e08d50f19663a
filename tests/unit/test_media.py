from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from omnicore import media, video
from omnicore.errors import DataError
from omnicore.schema import Media


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"media/gone\.wav is missing under .*: run prepare again"):
        media.locate(Media(kind="audio", uri="media/gone.wav", sha256="0" * 64), tmp_path)


@pytest.mark.parametrize(("name", "content"), [("a.png", b"no picture"), ("a.png", b"\x89PNG\r\n\x1a\n"), ("a.png", b"")])
def test_broken_picture_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png is not a readable picture"):
        media.load_image(tmp_path / name)


def test_truncated_picture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"a\.png is not a readable picture"):
        media.load_image(path)


def test_picture_above_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "MAX_PIXELS", 99)
    Image.new("L", (10, 10)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="10x10 pixels, more than 99"):
        media.load_image(tmp_path / "a.png")


@pytest.mark.parametrize("content", [b"", b"RIFF", b"no sound at all"])
def test_broken_sound_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.wav is not a readable sound"):
        media.load_audio(tmp_path / "a.wav")


def test_empty_sound_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 16_000)
    with pytest.raises(DataError, match="holds no samples"):
        media.load_audio(tmp_path / "a.wav")


def test_long_sound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MAX_SECONDS", 0.5)
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    with pytest.raises(DataError, match="1 s of sound, more than 0"):
        media.load_audio(tmp_path / "a.wav")


def test_stereo_at_another_rate_becomes_mono_at_16_khz(tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(8_000) / 8_000)
    soundfile.write(tmp_path / "a.wav", np.stack([tone, tone], 1), 8_000, subtype="FLOAT")
    wave = media.load_audio(tmp_path / "a.wav")
    assert wave.dtype == np.float32
    assert len(wave) == 16_000
    peak = np.abs(np.fft.rfft(wave)).argmax()
    assert peak == 440


def test_bring_links_and_leaves_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    media.bring(tmp_path / "a", tmp_path / "sub" / "b")
    assert (tmp_path / "sub" / "b").read_bytes() == b"1"
    (tmp_path / "c").write_bytes(b"2")
    media.bring(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == b"2"
