"""Videos: which frames are shown, and which files and clips are refused."""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from omnicore.errors import ConfigError, DataError
from omnicore.media import frames, limits, video
from omnicore.media.images import load_image
from omnicore.media.sounds import load_audio
from omnicore.media.video import load_video
from tests.errors import refused
from tests.media_files import (
    SOUND_RATE,
    main_hz,
    make_picture,
    make_tone,
    make_video,
    numbers,
    stamps,
    tone,
    write_video,
)

SIZE = (96, 64)
FORMATS = ["mp4", "mkv", "webm"]


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.parametrize(
    ("fps", "most", "start", "end"),
    [
        (2, 100, None, None),
        (1, 3, None, None),
        (5, 100, 2.0, 3.5),
        (10, 4, 3.0, None),
        (50, 100, 1.0, 1.5),
        (1, 1, None, None),
    ],
)
def test_frames_are_those_on_show(
    tmp_path: Path,
    ending: str,
    variable: bool,
    fps: float,
    most: int,
    start: float | None,
    end: float | None,
) -> None:
    path = make_video(tmp_path / f"a.{ending}", 4, 25, SIZE, 440, variable)
    begins = stamps(4, 25, variable)
    clip = load_video(path, fps, most, start, end)
    assert clip.fps == pytest.approx(
        min(fps, most / ((end or 4) - (start or 0))), rel=0.01
    )  # WebM ends with its last packet of sound
    wanted = [(start or 0) + i / clip.fps for i in range(len(clip.jpegs))]
    assert len(wanted) <= most
    assert wanted[-1] < (end or 4.01) <= wanted[-1] + 1 / clip.fps + 0.011
    shown = [max(i for i, begin in enumerate(begins) if begin <= time + 0.001) for time in wanted]
    assert numbers(clip) == shown
    assert clip.times == pytest.approx([begins[i] for i in shown], abs=0.001)
    assert {(frame.mode, frame.size) for frame in clip.frames} == {("RGB", SIZE)}


def test_far_frames_are_reached_by_seeking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", [*stamps(60, 25), 60], SIZE, keyframes=25)
    decoded = 0
    original = frames.decode

    def counted(*args: Any) -> Any:
        nonlocal decoded
        for frame in original(*args):
            decoded += 1
            yield frame

    monkeypatch.setattr(frames, "decode", counted)
    assert numbers(load_video(path, 1, 4)) == [0, 375, 750, 1125]
    assert numbers(load_video(path, 1, 4, 58.5, 59)) == [1462]
    assert decoded < 5 * 30, "of 1,500 frames, each run needs no more than one group"


@pytest.mark.parametrize(
    "gaps",
    [
        [0.1] * 4 + [9.6],
        [9] + [0.1] * 4 + [0.6],
        [2.0] * 5,
        [0.04] * 20 + [1.84] * 5,
        [0.04, 0.2, 0.08] * 25,
    ],
)
@pytest.mark.parametrize("sound", [False, True])
def test_mp4_of_variable_rate_ends_as_mkv_does(
    tmp_path: Path, gaps: list[float], sound: bool
) -> None:
    times = [0.0, *np.cumsum(gaps).tolist()]
    for ending in ("mp4", "mov", "mkv"):
        wave = tone(440, 3, SOUND_RATE) if sound else None
        path = write_video(tmp_path / f"a.{ending}", times, SIZE, wave, preset="medium")
        shown = [
            max(i for i, time in enumerate(times[:-1]) if time <= k / 4 + 0.001)
            for k in range(round(4 * times[-1]))
        ]
        assert numbers(load_video(path, 4, 100)) == shown
        assert numbers(load_video(path, 4, 100, times[-1] - 1)) == shown[-4:]


def test_turned_video_is_upright(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 0.2, 25, SIZE, None)
    data = path.read_bytes()
    place = data.index(b"tkhd") + 4 + 40
    quarter = struct.pack(
        ">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30
    )  # clockwise, as a phone held upright writes it
    path.write_bytes(data[:place] + quarter + data[place + 36 :])
    wide = make_video(tmp_path / "b.mp4", 0.2, 25, SIZE, None)
    turned, plain = load_video(path, 25, 4).frames[1], load_video(wide, 25, 4).frames[1]
    assert turned.size == (64, 96)
    assert (
        np.abs(np.asarray(turned, np.float64) - np.asarray(plain.rotate(-90, expand=True))).mean()
        < 5
    )


@pytest.mark.parametrize(("start", "end"), [(1.0, 1.0), (2.0, 1.0)])
def test_empty_clip_is_refused(tmp_path: Path, start: float, end: float) -> None:
    for load in (
        lambda path: load_video(path, 1, 1, start, end),
        lambda path: load_audio(path, start, end),
    ):
        path = make_video(tmp_path / "a.mp4", 3, 5, SIZE, 440)
        with refused(DataError, "media-clip-empty", path=path) as caught:
            load(path)
        assert f"a clip from {start:g} to 1 s is empty" in str(caught.value)
    with refused(DataError, "media-clip-empty", path=tmp_path / "a.wav"):
        load_audio(make_tone(tmp_path / "a.wav", 440, 3), start, end)


def test_clip_after_the_end_is_refused_one_over_it_cut(tmp_path: Path) -> None:
    path, sound = (
        make_video(tmp_path / "a.mp4", 3, 5, SIZE, 440),
        make_tone(tmp_path / "a.wav", 440, 3),
    )
    with refused(DataError, "media-clip-after-end", path=path) as caught:
        load_video(path, 1, 4, 3, 5)
    assert "a clip from 3 s, but the video ends at 3.000 s" in str(caught.value)
    for file in (path, sound):
        with refused(DataError, "media-clip-after-end", path=file) as caught:
            load_audio(file, 3.5, 5)
        assert "a clip from 3.5 s, but the sound ends at 3.000 s" in str(caught.value)
        assert len(load_audio(file, 2, 9)) == 16_000
    assert numbers(load_video(path, 2, 100, 2, 9)) == [10, 12]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.wav", "a.png"])
@pytest.mark.parametrize("content", [b"", b"just a text\n" * 50, b"\x00" * 4096])
def test_file_of_another_format_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    code = "media-unreadable" if content else "media-empty"
    for load, kind in (
        (load_image, "picture"),
        (load_audio, "sound"),
        (lambda path: load_video(path, 1, 1), "video"),
    ):
        with refused(DataError, code, path=tmp_path / name) as caught:
            load(tmp_path / name)
        assert f"is not a readable {kind}" in str(caught.value)


def test_playlist_cannot_open_other_files(tmp_path: Path) -> None:
    make_video(tmp_path / "secret.mp4", 1, 5, SIZE, 440)
    lists = {
        "a.mp4": (
            f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path / 'secret.mp4'}\n#EXT-X-ENDLIST\n"
        ),
        "b.mp4": f"ffconcat version 1.0\nfile {tmp_path / 'secret.mp4'}\n",
    }
    for name, content in lists.items():
        (tmp_path / name).write_text(content)
        with refused(DataError, "media-unreadable", path=tmp_path / name):
            load_video(tmp_path / name, 1, 1)


def test_name_with_a_colon_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_video(tmp_path / "a.mp4", 1, 5, SIZE, None).rename(tmp_path / "http:a.mp4")
    monkeypatch.chdir(tmp_path)
    assert numbers(load_video(Path("http:a.mp4"), 1, 1)) == [0]


def test_missing_track_is_refused(tmp_path: Path) -> None:
    with refused(DataError, "media-no-audio-track", path=tmp_path / "a.mp4"):
        load_audio(make_video(tmp_path / "a.mp4", 1, 5, SIZE, None))
    with refused(DataError, "media-no-video-track", path=tmp_path / "a.mp3"):
        load_video(make_tone(tmp_path / "a.mp3", 440, 1), 1, 1)
    cover = b"\0image/png\0\3\0" + make_picture(tmp_path / "a.png", "red", (8, 8)).read_bytes()
    frame = b"APIC" + struct.pack(">I", len(cover)) + b"\0\0" + cover
    size = bytes(len(frame) >> shift & 127 for shift in (21, 14, 7, 0))
    (tmp_path / "b.mp3").write_bytes(
        b"ID3\3\0\0" + size + frame + (tmp_path / "a.mp3").read_bytes()
    )
    # The picture of its cover is a video track of one frame.
    with refused(DataError, "media-no-video-track", path=tmp_path / "b.mp3"):
        load_video(tmp_path / "b.mp3", 1, 1)


def test_truncated_file_is_read_before_its_end(tmp_path: Path) -> None:
    sound = tone(440, 8, SOUND_RATE)
    for name, options in (("a.mkv", {}), ("a.webm", {}), ("a.mp4", {"movflags": "faststart"})):
        path = write_video(tmp_path / name, [*stamps(8, 25), 8], SIZE, sound, options=options)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        for load in (lambda file, *clip: load_video(file, 2, 32, *clip), load_audio):
            for clip in ((), (3.0, None), (6.0, 7.0)):
                with refused(DataError, "media-damaged", path=path) as caught:
                    load(path, *clip)
                assert re.search(r" after [345]\.\d+ s", str(caught.value))
        assert numbers(load_video(path, 2, 32, 1, 3)) == [25, 37, 50, 62]
        assert main_hz(load_audio(path, 1, 3)) == 440
    # Its index is at the end.
    path = write_video(tmp_path / "b.mp4", [*stamps(8, 25), 8], SIZE, sound)
    path.write_bytes(path.read_bytes()[:-2000])
    for load in (lambda file: load_video(file, 2, 32, 0, 1), load_audio):
        with refused(DataError, "media-unreadable", path=path):
            load(path)


@pytest.mark.parametrize("ending", FORMATS)
def test_tracks_of_unlike_length_are_read(tmp_path: Path, ending: str) -> None:
    still = write_video(
        tmp_path / f"a.{ending}", [*stamps(1, 5), 1], SIZE, tone(440, 6, SOUND_RATE)
    )
    if ending == "mp4":  # which says how long each track is
        with refused(DataError, "media-clip-after-end") as caught:
            load_video(still, 1, 32, 4, 6)
        assert "the video ends at 1.000 s" in str(caught.value)
    else:
        assert numbers(load_video(still, 1, 32, 0, 6)) == [0, 4, 4, 4, 4, 4]
    silent = write_video(
        tmp_path / f"b.{ending}", [*stamps(6, 5), 6], SIZE, tone(440, 2, SOUND_RATE)
    )
    assert len(load_audio(silent)) == pytest.approx(32_000, abs=700)


def test_stream_without_a_length_is_read_to_its_end(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "a.mkv",
        [*stamps(4, 25), 4],
        SIZE,
        tone(440, 4, SOUND_RATE),
        options={"live": "1"},
    )
    assert numbers(load_video(path, 1, 32)) == [0, 25, 50, 75]
    assert numbers(load_video(path, 1, 32, 2)) == [50, 75]
    assert len(load_audio(path)) == pytest.approx(64_000, abs=100)
    with refused(DataError, "media-clip-after-end") as caught:
        load_video(path, 1, 32, 5)
    assert "the video ends at 4.0" in str(caught.value)


@pytest.mark.parametrize("ending", ["flac", "mp3", "wav"])
def test_truncated_sound_is_read_before_its_end(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, np.random.default_rng(0).uniform(-1, 1, 160_000), 16_000)
    data, whole = path.read_bytes(), load_audio(path)
    path.write_bytes(data[: len(data) // 2])
    with refused(DataError, "media-damaged", path=path):
        load_audio(path)
    assert load_audio(path, 1, 3) == pytest.approx(whole[16_000:48_000], abs=1e-6)


@pytest.mark.parametrize("size", [0, 0x7FFFF024, 0xFFFFFFFF])
def test_wav_written_into_a_pipe_is_read(tmp_path: Path, size: int) -> None:
    path = make_tone(tmp_path / "a.wav", 440, 1)
    data = path.read_bytes()
    path.write_bytes(data[:4] + struct.pack("<I", size) + data[8:])
    assert main_hz(load_audio(path)) == 440


def test_mp3_that_ends_in_silence_is_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.mp3", np.concatenate([tone(440, 3), np.zeros(48_000)]), 16_000)
    wave = load_audio(tmp_path / "a.mp3")
    assert len(wave) == pytest.approx(96_000, abs=2000)
    assert not wave[-16_000:].any()


@pytest.mark.parametrize(
    ("limit", "value", "code", "message"),
    [
        ("MAX_BYTES", 100, "media-file-too-large", "bytes, more than 100"),
        ("MAX_PIXELS", 999, "media-too-many-pixels", "96x64 pixels, more than 999"),
        ("MAX_RATIO", 1, "media-too-narrow", "96x64 pixels, sides in a ratio above 1"),
        ("MAX_SECONDS", 1.5, "media-clip-too-long", "2 s of video, more than 2"),
        ("MAX_FRAMES", 7, "media-too-many-frames", "8 frames requested, more than 7"),
    ],
)
def test_video_above_a_limit_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    value: float,
    code: str,
    message: str,
) -> None:
    path = make_video(tmp_path / "a.mp4", 2, 5, SIZE, None)
    monkeypatch.setattr(video if limit == "MAX_FRAMES" else limits, limit, value)
    with refused(DataError, code, path=path) as caught:
        load_video(path, 4, 100)
    assert message in str(caught.value)


def test_missing_pyav_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video(tmp_path / "a.mp4", 1, 5, SIZE, 440)
    monkeypatch.setitem(sys.modules, "av", None)
    for load in (lambda: load_video(path, 1, 1), lambda: load_audio(path)):
        with refused(ConfigError, "package-missing", field="av") as caught:
            load()
        assert "reading " + str(path) in str(caught.value)
    assert len(load_audio(make_tone(tmp_path / "a.wav", 440, 1))) == 16_000
