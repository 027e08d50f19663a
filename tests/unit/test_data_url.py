"""Media as text, as a server takes them, and back."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from omnicore.errors import DataError
from omnicore.media import data_url
from omnicore.media.images import load_image
from omnicore.media.sounds import load_audio
from omnicore.media.video import load_video
from tests.errors import refused
from tests.media_files import (
    make_video,
    numbers,
)

SIZE = (96, 64)


@pytest.mark.parametrize(
    ("name", "mode", "options", "kind"),
    [
        ("a.png", "RGB", {}, "png"),
        ("a.jpg", "RGB", {}, "jpeg"),
        ("a.jpg", "L", {}, "jpeg"),
        ("a.webp", "RGB", {"lossless": True}, "webp"),
        ("misnamed.jpg", "RGB", {"format": "PNG"}, "png"),
        ("a.jpg", "CMYK", {}, "png, encoded again"),
        ("a.png", "RGBA", {}, "png, encoded again"),
        ("a.png", "P", {}, "png, encoded again"),
        ("a.png", "I;16", {}, "png, encoded again"),
        ("a.bmp", "RGB", {}, "png, encoded again"),
        ("a.tiff", "RGB", {}, "png, encoded again"),
        ("a.gif", "RGB", {}, "png, encoded again"),
        (
            "moving.webp",
            "RGB",
            {"save_all": True, "append_images": [Image.new("RGB", (16, 12))]},
            "png, encoded again",
        ),
        (
            "turned.jpg",
            "RGB",
            {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"},
            "png, encoded again",
        ),
    ],
)
def test_picture_file_round_trips(
    tmp_path: Path, name: str, mode: str, options: dict[str, Any], kind: str
) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8))
    (noise.convert("L") if mode == "I;16" else noise).convert(mode).save(tmp_path / name, **options)
    url = data_url.image_to_url(tmp_path / name)
    assert url.startswith(f"data:image/{kind.split(',')[0]};base64,")
    assert (
        data_url._decode_base64(url.partition(",")[2], "") == (tmp_path / name).read_bytes()
    ) == ("again" not in kind)
    assert data_url.image_from_url(url).tobytes() == load_image(tmp_path / name).tobytes()


def test_picture_in_memory_round_trips(tmp_path: Path) -> None:
    picture = Image.new("RGB", (5, 3), "green")
    assert data_url.image_from_url(data_url.image_to_url(picture)).tobytes() == picture.tobytes()


def test_wav_round_trips_exactly(tmp_path: Path) -> None:
    samples = np.arange(-32768, 32768).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16_000)
    wave = load_audio(tmp_path / "a.wav")
    data = data_url.wav_to_base64(wave)
    assert np.array_equal(data_url.wav_from_base64(data), wave)
    info = soundfile.info(io.BytesIO(data_url._decode_base64(data, "")))
    assert (info.samplerate, info.channels, info.subtype, info.format) == (
        16_000,
        1,
        "PCM_16",
        "WAV",
    )
    back = data_url.wav_from_base64(
        data_url.wav_to_base64(np.tile(np.array([2, -2], np.float32), 200))
    )
    assert back[:2].tolist() == [32767 / 32768, -1], "cut, not wrapped"


def test_wav_above_full_scale_is_the_same_at_a_server(tmp_path: Path) -> None:
    loud = np.linspace(-3, 3, 16_000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", loud, 16_000, subtype="FLOAT")
    here = load_audio(tmp_path / "a.wav")
    assert here.max() == 32767 / 32768
    assert (
        np.abs(here - data_url.wav_from_base64(data_url.wav_to_base64(here))).max() <= 0.5 / 32768
    )


def test_video_round_trips_without_sound(tmp_path: Path) -> None:
    clip = load_video(make_video(tmp_path / "a.mp4", 2, 25, SIZE, 440), 2, 3)
    url = data_url.video_to_url(clip)
    head, *frames = url.split(",")
    assert head == "data:video/jpeg;base64"
    assert [
        Image.open(io.BytesIO(data_url._decode_base64(frame, ""))).format for frame in frames
    ] == ["JPEG"] * 3
    back = data_url.video_from_url(url, clip.fps)
    assert (back.jpegs, back.fps) == (clip.jpegs, clip.fps)
    assert numbers(back) == [0, 16, 33]
    settings = {
        "media_io_kwargs": {"video": {"num_frames": -1, "fps": 0.5}},
        "mm_processor_kwargs": {"fps": 0.5},
    }
    assert data_url.video_settings(0.5) == settings


@pytest.mark.parametrize(
    ("parse", "text", "code"),
    [
        (
            data_url.image_from_url,
            "http://example.com/a.png",
            "media-url-invalid",
        ),
        (data_url.image_from_url, "data:image/png,abc", "media-url-invalid"),
        (data_url.image_from_url, "data:image/png;base64,???", "media-not-base64"),
        (
            data_url.image_from_url,
            "data:image/png;base64,",
            "media-unreadable",
        ),
        (
            data_url.image_from_url,
            "data:image/png;base64,YWJj",
            "media-unreadable",
        ),
        (data_url.wav_from_base64, "YWJj", "media-unreadable"),
        (data_url.wav_from_base64, "é", "media-not-base64"),
        (
            data_url.wav_from_base64,
            data_url.wav_to_base64(np.zeros(399, np.float32)),
            "media-sound-too-short",
        ),
        (data_url.video_from_url, "data:video/mp4;base64,YWJj", "media-url-invalid"),
        (data_url.video_from_url, "data:video/jpeg;base64,", "media-unreadable"),
        (
            data_url.video_from_url,
            "data:video/jpeg;base64," + "," * 3000,
            "media-too-many-frames",
        ),
    ],
)
def test_text_that_is_not_a_medium_is_refused(parse: Any, text: str, code: str) -> None:
    with refused(DataError, code):
        parse(text)
