"""Pictures and sounds from files, and media read through the cache."""

from __future__ import annotations

import itertools
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image, ImageCms

from omnicore.config import Profile
from omnicore.errors import DataError
from omnicore.media import limits, read
from omnicore.media.images import load_image
from omnicore.media.read import read_media
from omnicore.media.sounds import load_audio
from omnicore.media.video import load_video
from omnicore.schema import Media
from omnicore.storage import files
from tests.errors import refused
from tests.media_files import (
    main_hz,
    make_picture,
    make_tone,
    make_video,
    medium,
    numbers,
)

SIZE = (96, 64)
PROFILE = Profile(fps=2, max_frames=4)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OMNI_MEDIA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def entries(cache: Path) -> int:
    return len([path for path in cache.glob("*") if path.suffix != ".lock"])


def test_missing_media_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "media/gone.wav"
    with refused(DataError, "media-missing", path=path):
        read.locate_media(Media(kind="audio", uri="media/gone.wav", sha256="0" * 64), tmp_path)


@pytest.mark.parametrize(
    ("name", "content"), [("a.png", b"no picture"), ("a.png", b"\x89PNG\r\n\x1a\n"), ("a.png", b"")]
)
def test_broken_picture_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    code = "media-unreadable" if content else "media-empty"
    with refused(DataError, code, path=tmp_path / name):
        load_image(tmp_path / name)


def test_truncated_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with refused(DataError, "media-unreadable", path=path):
        load_image(path)


def test_picture_above_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_PIXELS", 99)
    Image.new("L", (10, 10)).save(tmp_path / "a.png")
    with refused(DataError, "media-too-many-pixels") as caught:
        load_image(tmp_path / "a.png")
    assert "10x10 pixels, more than 99" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"no sound at all"])
def test_broken_sound_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    code = "media-unreadable" if content else "media-empty"
    with refused(DataError, code, path=tmp_path / "a.wav"):
        load_audio(tmp_path / "a.wav")


def test_empty_sound_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 16_000)
    with refused(DataError, "media-no-samples", path=tmp_path / "a.wav"):
        load_audio(tmp_path / "a.wav")


def test_long_sound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_SECONDS", 0.5)
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    with refused(DataError, "media-clip-too-long") as caught:
        load_audio(tmp_path / "a.wav")
    assert "1 s of sound, more than 0" in str(caught.value)


def test_stereo_at_another_rate_becomes_mono_at_16_khz(tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(8_000) / 8_000)
    soundfile.write(tmp_path / "a.wav", np.stack([tone, tone], 1), 8_000, subtype="FLOAT")
    wave = load_audio(tmp_path / "a.wav")
    assert wave.dtype == np.float32
    assert len(wave) == 16_000
    peak = np.abs(np.fft.rfft(wave)).argmax()
    assert peak == 440


def test_link_or_copy_keeps_existing_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    files.link_or_copy(tmp_path / "a", tmp_path / "sub" / "b")
    assert (tmp_path / "sub" / "b").read_bytes() == b"1"
    (tmp_path / "c").write_bytes(b"2")
    files.link_or_copy(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == b"2"


def png_that_claims(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = [
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c))
        for c in (head, data, b"IEND")
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("side", [50_000, 9_000])
def test_decompression_bomb_is_refused_unread(tmp_path: Path, side: int) -> None:
    (tmp_path / "a.png").write_bytes(png_that_claims(side, side))
    with refused(DataError, "media-too-many-pixels", path=tmp_path / "a.png"):
        load_image(tmp_path / "a.png")


def test_picture_is_opaque_and_upright(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)
    picture = Image.new("RGB", (8, 4), "red")
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by a quarter
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert load_image(tmp_path / "a.jpg").size == (4, 8)


GREY = np.tile(np.linspace(0, 65_535, 64).astype(np.uint16), (8, 1))
COLOUR = np.stack(
    [np.tile(np.linspace(0, 255, 64), (8, 1)), np.full((8, 64), 128), np.zeros((8, 64))], -1
).astype(np.uint8)


def lab() -> Image.Image:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.applyTransform(
        Image.fromarray(COLOUR), ImageCms.buildTransform(*profiles, "RGB", "LAB")
    )


@pytest.mark.parametrize(
    ("name", "order"), [("a.png", "<u2"), ("a.tif", "<u2"), ("a.tif", ">u2"), ("a.jp2", "<u2")]
)
def test_grey_of_16_bits_is_scaled_to_8(tmp_path: Path, name: str, order: str) -> None:
    Image.fromarray(GREY.astype(order)).save(tmp_path / name)
    shown = np.asarray(load_image(tmp_path / name))
    assert np.array_equal(shown, np.stack([GREY >> 8] * 3, -1))


def test_tiff_that_counts_from_white_is_inverted(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.tif")
    data = (tmp_path / "a.tif").read_bytes()
    entry = struct.pack("<HHIHH", 262, 3, 1, 1, 0)  # photometric interpretation: black is 0
    assert data.count(entry) == 1
    (tmp_path / "a.tif").write_bytes(data.replace(entry, struct.pack("<HHIHH", 262, 3, 1, 0, 0)))
    assert np.array_equal(np.asarray(load_image(tmp_path / "a.tif"))[..., 0], 255 - (GREY >> 8))


def test_tiff_of_12_bits_is_scaled_to_8(tmp_path: Path) -> None:
    levels = np.array([0, 1_000, 2_000, 4_095])
    packed = b"".join(
        bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in levels.reshape(2, 2).tolist()
    )
    fields = {256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: len(packed)}
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in fields.items())
    header = b"II*\0" + struct.pack("<I", 8 + len(packed))
    (tmp_path / "a.tif").write_bytes(
        header + packed + struct.pack("<H", len(fields)) + entries + bytes(4)
    )
    assert np.asarray(load_image(tmp_path / "a.tif"))[0, :, 0].tolist() == (levels >> 4).tolist()


def test_pgm_is_scaled_by_its_maximum(tmp_path: Path) -> None:
    for white in (65_535, 4_095):
        levels = (GREY.astype(np.int64) * white // 65_535).astype(">u2")
        (tmp_path / "a.pgm").write_bytes(b"P5 64 8 %d\n" % white + levels.tobytes())
        assert (
            np.abs(
                np.asarray(load_image(tmp_path / "a.pgm"))[..., 0].astype(int) - (GREY >> 8)
            ).max()
            <= 1
        )


@pytest.mark.parametrize("samples", [np.float32, np.int32])
def test_picture_without_a_white_is_refused(tmp_path: Path, samples: Any) -> None:
    Image.fromarray((GREY // 4).astype(samples)).save(tmp_path / "a.tif")
    with refused(DataError, "media-image-mode", path=tmp_path / "a.tif"):
        load_image(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("name", "mode", "off"),
    [
        ("a.tif", "CMYK", 2),
        ("a.jpg", "CMYK", 8),
        ("a.png", "P", 8),
        ("a.gif", "P", 8),
        ("a.tif", "YCbCr", 3),
        ("a.tif", "LAB", 10),
    ],
)
def test_picture_of_every_mode_shows_its_colours(
    tmp_path: Path, name: str, mode: str, off: int
) -> None:
    plain = Image.fromarray(COLOUR)
    saved = lab() if mode == "LAB" else plain.quantize(64) if mode == "P" else plain.convert(mode)
    saved.save(tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert image.mode == mode
    assert np.abs(np.asarray(load_image(tmp_path / name)).astype(int) - COLOUR).max() <= off


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_picture_of_one_bit_is_black_and_white(tmp_path: Path, name: str) -> None:
    Image.fromarray(GREY > 30_000).save(tmp_path / name)
    assert np.array_equal(
        np.asarray(load_image(tmp_path / name))[..., 0], np.where(GREY > 30_000, 255, 0)
    )


@pytest.mark.parametrize("name", ["a.tif", "a.gif", "a.png", "a.webp", "a.mpo"])
def test_first_of_several_frames_is_shown(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / name) as image:
        assert image.n_frames == 2
    assert np.abs(np.subtract(load_image(tmp_path / name).getpixel((4, 4)), (255, 0, 0))).max() < 10


@pytest.mark.parametrize("size", [(2_001, 10), (10, 2_001)])
def test_picture_beyond_the_side_ratio_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    path = make_picture(tmp_path / "a.png", "red", size)
    for load in (
        lambda: load_image(path),
        lambda: read.measure_media(medium(path, "image"), tmp_path, PROFILE),
    ):
        with refused(DataError, "media-too-narrow", path=path) as caught:
            load()
        assert f"{size[0]}x{size[1]} pixels, sides in a ratio above 200" in str(caught.value)
    assert load_image(make_picture(tmp_path / "b.png", "red", (2_000, 10))).size == (2_000, 10)


@pytest.mark.parametrize("kind", ["video", "audio"])
def test_video_and_its_sound_are_decoded_once(
    tmp_path: Path, own_cache: Path, kind: Any, monkeypatch: Any
) -> None:
    path = make_video(tmp_path / "a.mp4", 2, 25, SIZE, 440)
    first = read_media(medium(path, kind), tmp_path, PROFILE)
    monkeypatch.setattr(read, "load_video", None)
    monkeypatch.setattr(read, "load_audio", None)
    second = read_media(medium(path, kind), tmp_path, PROFILE)
    if kind == "video":
        assert first == second == load_video(path, 2, 4)
        assert numbers(second) == [0, 12, 25, 37]
    else:
        assert np.array_equal(first, second)
        assert np.array_equal(second, load_audio(path))
        second[0] = 1  # the caller may write into its copy
    assert entries(own_cache) == 1


def test_every_clip_and_sampling_has_its_own_entry(tmp_path: Path, own_cache: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 4, 25, SIZE, 440)
    other = make_video(tmp_path / "b.mp4", 4, 25, SIZE, 880)
    profiles = [PROFILE, Profile(fps=1, max_frames=4), Profile(fps=2, max_frames=3)]
    clips = [
        medium(path, "video"),
        medium(path, "video", 1),
        medium(path, "video", 1, 2),
        medium(path, "video", None, 2),
    ]
    for profile, clip in itertools.product(profiles, clips):
        expected = load_video(path, profile.fps, profile.max_frames, clip.start, clip.end)
        assert (
            read_media(clip, tmp_path, profile) == expected == read_media(clip, tmp_path, profile)
        )
    assert entries(own_cache) == 12
    sounds = [
        read_media(m, tmp_path, p)
        for p in profiles
        for m in (medium(path, "audio"), medium(other, "audio"))
    ]
    assert [main_hz(np.asarray(sound)) for sound in sounds] == [440, 880] * 3
    assert entries(own_cache) == 14, "a sound does not depend on frames a second"


def test_pictures_and_short_sounds_bypass_the_cache(tmp_path: Path, own_cache: Path) -> None:
    picture = read_media(
        medium(make_picture(tmp_path / "a.png", "red", (8, 8)), "image"), tmp_path, PROFILE
    )
    assert isinstance(picture, Image.Image)
    assert picture.getpixel((0, 0)) == (255, 0, 0)
    sound = read_media(
        medium(make_tone(tmp_path / "a.flac", 440, 2), "audio", 0.5, 1.5), tmp_path, PROFILE
    )
    assert main_hz(np.asarray(sound)) == 440
    assert len(np.asarray(sound)) == 16_000
    assert not own_cache.exists()
    read_media(medium(make_tone(tmp_path / "b.wav", 440, 40), "audio"), tmp_path, PROFILE)
    assert not own_cache.exists(), "a wav of 16 kHz is read as fast as an entry"
    read_media(medium(make_tone(tmp_path / "b.flac", 440, 40), "audio"), tmp_path, PROFILE)
    assert entries(own_cache) == 1


def test_changed_file_is_refused(tmp_path: Path, own_cache: Path) -> None:
    record = medium(make_video(tmp_path / "a.mp4", 1, 5, SIZE, 440), "video")
    make_video(tmp_path / "a.mp4", 1, 10, SIZE, 440)
    with refused(DataError, "media-changed", path=tmp_path / "a.mp4"):
        read_media(record, tmp_path, PROFILE)
    assert entries(own_cache) == 0
