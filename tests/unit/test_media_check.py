"""Which media the short decode of prepare refuses and passes, and that it decodes each once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from omnicore.config import Profile
from omnicore.errors import DataError
from omnicore.media import check as check_media
from omnicore.media import frames as video_frames
from omnicore.media import read, sound_track
from omnicore.schema import Media, Query
from tests.media_files import (
    SOUND_RATE,
    make_picture,
    make_sound_track,
    make_tone,
    make_video,
    medium,
    tone,
    write_video,
)

RATE = 16_000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OMNI_MEDIA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def film(path: Path, sound: bool = True, seconds: float = 4.0, **options: str) -> Path:
    times = [i / 8 for i in range(round(seconds * 8) + 1)]
    return write_video(
        path, times, (64, 48), tone(440, seconds, SOUND_RATE) if sound else None, options=options
    )


def cut(path: Path, share: float = 0.5) -> Path:
    path.write_bytes(path.read_bytes()[: round(path.stat().st_size * share)])
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def wave(path: Path, samples: np.ndarray, subtype: str = "FLOAT") -> Path:
    soundfile.write(path, samples, RATE, subtype=subtype)
    return path


def not_finite(path: Path) -> Path:
    samples = tone(440, 60.0)
    samples[30 * RATE] = np.nan
    return wave(path, samples)


def cancelling(path: Path, seconds: float) -> Path:
    """Channels that cancel each other in the first `seconds` of five."""
    left = tone(440, 5.0)
    right = left.copy()
    right[: round(seconds * RATE)] *= -1
    soundfile.write(path, np.stack([left, right], 1), RATE)
    return path


Make = Callable[[Path], Path]
BAD: dict[str, tuple[str, str, Make, str]] = {
    "mute": ("audio", "a.mp4", lambda p: film(p, sound=False), "audio a.mp4 has no audio track"),
    "mute, mkv": (
        "audio",
        "a.mkv",
        lambda p: film(p, sound=False),
        "audio a.mkv has no audio track",
    ),
    "sound only": ("video", "a.mp4", make_sound_track, "video a.mp4 has no video track"),
    "half, index first": (
        "video",
        "a.mp4",
        lambda p: cut(film(p, seconds=8, movflags="faststart")),
        "is damaged or truncated after",
    ),
    "half, index first, sound": (
        "audio",
        "a.mp4",
        lambda p: cut(film(p, movflags="faststart")),
        "is damaged or truncated after",
    ),
    "half, index last": ("video", "a.mp4", lambda p: cut(film(p)), "is not a readable video"),
    "half, index last, sound": (
        "audio",
        "a.mp4",
        lambda p: cut(film(p)),
        "is not a readable sound",
    ),
    "half an mkv": (
        "video",
        "a.mkv",
        lambda p: cut(film(p, seconds=8)),
        "is damaged or truncated after",
    ),
    "half an mkv, sound": (
        "audio",
        "a.mkv",
        lambda p: cut(film(p)),
        "is damaged or truncated after",
    ),
    "half a wav": (
        "audio",
        "a.wav",
        lambda p: cut(make_tone(p, 300, 3.0)),
        "is damaged or truncated after 1.50 s",
    ),
    "half a flac": ("audio", "a.flac", lambda p: cut(make_tone(p, 300, 3.0)), "a.flac is damaged"),
    "half a png": (
        "image",
        "a.png",
        lambda p: cut(make_picture(p, "red", (64, 64))),
        "is not a readable picture",
    ),
    "half a jpg": (
        "image",
        "a.jpg",
        lambda p: cut(make_picture(p, "red", (640, 480)), 0.8),
        "image file is truncated",
    ),
    "text for a picture": (
        "image",
        "a.png",
        lambda p: written(p, b"not found"),
        "image a.png is not a readable picture",
    ),
    "text for a sound": (
        "audio",
        "a.wav",
        lambda p: written(p, b"not found"),
        "audio a.wav is not a readable sound",
    ),
    "text for a video": (
        "video",
        "a.mp4",
        lambda p: written(p, b"not found"),
        "video a.mp4 is not a readable video",
    ),
    "a picture for a video": (
        "video",
        "a.png",
        lambda p: make_picture(p, "red", (9, 9)),
        "is not a readable video",
    ),
    "a sound for a picture": (
        "image",
        "a.wav",
        lambda p: make_tone(p, 300, 1.0),
        "is not a readable picture",
    ),
    "empty picture": (
        "image",
        "a.png",
        lambda p: written(p, b""),
        "is not a readable picture: it is empty",
    ),
    "empty sound": (
        "audio",
        "a.wav",
        lambda p: written(p, b""),
        "is not a readable sound: it is empty",
    ),
    "empty video": (
        "video",
        "a.mp4",
        lambda p: written(p, b""),
        "is not a readable video: it is empty",
    ),
    "not finite in the middle": ("audio", "a.wav", not_finite, "holds a sample of nan"),
    "absurd": (
        "audio",
        "a.wav",
        lambda p: wave(p, tone(440, 1.0) * 20_000),
        "holds a sample of 10000",
    ),
    "too short": (
        "audio",
        "a.wav",
        lambda p: make_tone(p, 300, 0.02),
        "20.0 ms of sound, too short",
    ),
    "cancels out": ("audio", "a.wav", lambda p: cancelling(p, 5.0), "its channels cancel out"),
    "narrow": (
        "image",
        "a.png",
        lambda p: make_picture(p, "red", (2, 900)),
        "2x900 pixels, sides in a ratio above 200",
    ),
}
GOOD: dict[str, tuple[str, str, Make]] = {
    "mp4": ("video", "a.mp4", film),
    "mute mp4, its picture": ("video", "a.mp4", lambda p: film(p, sound=False)),
    "sound of an mp4": ("audio", "a.mp4", film),
    "sound of an mkv": ("audio", "a.mkv", film),
    "webm": ("video", "a.webm", film),
    "sound of a webm": ("audio", "a.webm", film),
    "one frame": ("video", "a.mp4", lambda p: film(p, seconds=0.125)),
    "sound that ends before the picture": (
        "audio",
        "a.mkv",
        lambda p: write_video(p, [i / 8 for i in range(49)], (64, 48), tone(440, 2.5, SOUND_RATE)),
    ),
    "mp3": ("audio", "a.mp3", lambda p: make_tone(p, 300, 5.0)),
    "ogg": ("audio", "a.ogg", lambda p: make_tone(p, 300, 5.0)),
    "flac": ("audio", "a.flac", lambda p: make_tone(p, 300, 5.0)),
    "sound only": ("audio", "a.mp4", make_sound_track),
    "a beginning that cancels out": ("audio", "a.wav", lambda p: cancelling(p, 2.0)),
    "jpg": ("image", "a.jpg", lambda p: make_picture(p, "red", (64, 48))),
}


def query(name: str, *shown: Media) -> Query:
    return Query(
        benchmark="b",
        id=name,
        type="t",
        question="Which?",
        options=("a", "b"),
        answer="a",
        media=shown,
        cluster="c",
    )


def media_errors(folder: Path, *queries: Query) -> dict[str, str]:
    return check_media.find_media_errors(queries, lambda one: folder / one.uri, "check", 2)


@pytest.mark.parametrize(("kind", "name", "make", "message"), BAD.values(), ids=BAD)
def test_unreadable_medium_is_reported(
    tmp_path: Path, kind: str, name: str, make: Make, message: str
) -> None:
    path = make(tmp_path / name)
    bad, good = (
        medium(path, kind),
        medium(make_picture(tmp_path / "good.png", "blue", (9, 9)), "image"),
    )  # type: ignore[arg-type]
    with pytest.raises(DataError):
        read.read_media(bad, tmp_path, Profile())
    found = media_errors(tmp_path, query("one", good), query("two", good, bad))
    assert set(found) == {"two"}
    assert message in found["two"]
    assert found["two"].startswith(f"{kind} {name}")
    assert str(tmp_path) not in found["two"]


@pytest.mark.parametrize(("kind", "name", "make"), GOOD.values(), ids=GOOD)
def test_readable_medium_passes(tmp_path: Path, kind: str, name: str, make: Make) -> None:
    good = medium(make(tmp_path / name), kind)  # type: ignore[arg-type]
    read.read_media(good, tmp_path, Profile())
    assert media_errors(tmp_path, query("one", good)) == {}


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_clip_after_the_end_is_an_error_of_its_query(tmp_path: Path, kind: str) -> None:
    path = film(tmp_path / "a.mp4")
    clips = {
        "inside": (1.0, 2.0),
        "over the end": (3.0, 9.0),
        "beyond": (4.5, 6.0),
        "open": (4.5, None),
    }
    asked = [query(name, medium(path, kind, *clip)) for name, clip in clips.items()]  # type: ignore[arg-type]
    found = media_errors(tmp_path, *asked)
    assert set(found) == {"beyond", "open"}
    assert (
        f"{kind} a.mp4: a clip from 4.5 s, but the {'sound' if kind == 'audio' else 'video'} ends"
        " at 4.0" in found["beyond"]
    )


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Kind and uri of every medium that is decoded."""
    done: list[tuple[str, str]] = []

    def check(one: Media, path: Path) -> None:
        done.append((one.kind, one.uri))
        read.check_media(one, path)

    monkeypatch.setattr(check_media, "check_media", check)
    return done


def test_each_file_kind_and_clip_is_decoded_once(
    tmp_path: Path, decoded: Sequence[tuple[str, str]]
) -> None:
    path = film(tmp_path / "a.mp4")
    shown = medium(path, "video"), medium(path, "audio"), medium(path, "audio", 1.0, 2.0)
    asked = [query(str(i), *shown) for i in range(20)]
    assert media_errors(tmp_path, *asked) == {}
    assert sorted(decoded) == [("audio", "a.mp4"), ("audio", "a.mp4"), ("video", "a.mp4")]
    assert media_errors(tmp_path, *asked, query("more", medium(path, "video", 0.0, 1.0))) == {}
    assert len(decoded) == 4


def test_passed_medium_is_remembered_by_its_bytes(
    tmp_path: Path, decoded: list[tuple[str, str]]
) -> None:
    good, text = (
        make_picture(tmp_path / "good.png", "red", (9, 9)),
        written(tmp_path / "text.png", b"no picture"),
    )
    shown = [query(path.stem, medium(path, "image")) for path in (good, text)]
    first = media_errors(tmp_path, *shown)
    assert set(first) == {"text"}
    good.rename(tmp_path / "moved.png")
    decoded.clear()
    moved = query("good", medium(tmp_path / "moved.png", "image"))
    assert media_errors(tmp_path, moved, shown[1]) == first
    assert decoded == [("image", "text.png")]
    make_picture(tmp_path / "moved.png", "blue", (9, 9))
    assert media_errors(tmp_path, query("good", medium(tmp_path / "moved.png", "image"))) == {}
    assert decoded[1:] == [("image", "moved.png")]


def test_equal_bytes_are_named_by_their_own_path(tmp_path: Path) -> None:
    asked = [
        query(name, medium(written(tmp_path / f"{name}.png", b""), "image"))
        for name in ("one", "two")
    ]
    assert {
        name: message.split()[1] for name, message in media_errors(tmp_path, *asked).items()
    } == {
        "one": "one.png",
        "two": "two.png",
    }


def test_without_a_cache_everything_is_decoded(
    tmp_path: Path, cache: Path, decoded: Sequence[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNI_MEDIA_CACHE_GB", "0")
    shown = query("one", medium(make_picture(tmp_path / "a.png", "red", (9, 9)), "image"))
    assert [media_errors(tmp_path, shown) for _ in range(2)] == [{}, {}]
    assert len(decoded) == 2
    assert not cache.exists()


def test_torn_mark_is_ignored(
    tmp_path: Path, cache: Path, decoded: Sequence[tuple[str, str]]
) -> None:
    shown = query("one", medium(make_picture(tmp_path / "a.png", "red", (9, 9)), "image"))
    media_errors(tmp_path, shown)
    marks = cache / "marks.txt"
    marks.write_text(marks.read_text()[:-9] + hashlib.sha256(b"").hexdigest() + "\n")
    assert media_errors(tmp_path, shown) == {}
    assert len(decoded) == 2


def test_file_that_the_disk_refuses_is_an_error(tmp_path: Path) -> None:
    shown = medium(make_picture(tmp_path / "a.png", "red", (9, 9)), "image")
    (tmp_path / "a.png").unlink()
    (tmp_path / "a.png").symlink_to("/proc/self/mem")
    sound = shown.model_copy(update={"kind": "audio"})
    assert media_errors(tmp_path, query("one", sound)) == {
        "one": "audio a.png cannot be read: Input/output error; check its permissions and the disk"
    }


def test_long_video_is_not_decoded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video(tmp_path / "a.mp4", 60.0, 8, (64, 48), 440.0)
    frames: list[float] = []
    decode = video_frames.decode

    def counted(*args: object) -> object:
        for frame in decode(*args):  # type: ignore[arg-type]
            frames.append(frame.time)
            yield frame

    for module in (video_frames, sound_track):
        monkeypatch.setattr(module, "decode", counted)
    read.check_media(medium(path, "video"), path)
    pictures = len(frames)
    read.check_media(medium(path, "audio"), path)
    assert pictures < 50  # of 480
    assert len(frames) - pictures < 300  # of 2813
