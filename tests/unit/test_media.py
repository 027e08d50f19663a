from __future__ import annotations

import io
import itertools
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from omnicore import dataurl, media, video
from omnicore.config import Profile
from omnicore.errors import ConfigError, DataError
from omnicore.media import load_audio, load_image, load_video, read
from omnicore.schema import Media
from tests.media_files import (
    SOUND_RATE,
    main_hz,
    make_picture,
    make_tone,
    make_video,
    medium,
    number_shown,
    stamps,
    tone,
    write_video,
)

SIZE = (96, 64)
FORMATS = ["mp4", "mkv", "webm"]
PROFILE = Profile(fps=2, max_frames=4)


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OMNI_MEDIA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def entries(cache: Path) -> int:
    return len([path for path in cache.glob("*") if path.suffix != ".lock"])


def numbers(clip: video.Video) -> list[int]:
    return [number_shown(frame) for frame in clip.frames]


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


def png_that_claims(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (head, data, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("side", [50_000, 9_000])
def test_decompression_bomb_is_refused_unread(tmp_path: Path, side: int) -> None:
    (tmp_path / "a.png").write_bytes(png_that_claims(side, side))
    with pytest.raises(DataError, match=r"a\.png.*pixels.*scale it down"):
        load_image(tmp_path / "a.png")


def test_transparent_parts_are_white_and_turned_pictures_upright(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)
    picture = Image.new("RGB", (8, 4), "red")
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by a quarter
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert load_image(tmp_path / "a.jpg").size == (4, 8)


# Sampling by time stamps


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.parametrize(
    ("fps", "most", "start", "end"),
    [(2, 100, None, None), (1, 3, None, None), (5, 100, 2.0, 3.5), (10, 4, 3.0, None), (50, 100, 1.0, 1.5), (1, 1, None, None)],
)
def test_frames_are_those_on_show(
    tmp_path: Path, ending: str, variable: bool, fps: float, most: int, start: float | None, end: float | None
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


def test_far_frames_are_reached_without_decoding_what_lies_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", [*stamps(60, 25), 60], SIZE, keyframes=25)
    decoded = 0
    original = video._decoded

    def counted(*args: Any) -> Any:
        nonlocal decoded
        for frame in original(*args):
            decoded += 1
            yield frame

    monkeypatch.setattr(video, "_decoded", counted)
    assert numbers(load_video(path, 1, 4)) == [0, 375, 750, 1125]
    assert numbers(load_video(path, 1, 4, 58.5, 59)) == [1462]
    assert decoded < 5 * 30, "of 1,500 frames, each run needs no more than one group"


def test_turned_video_is_upright(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 0.2, 25, SIZE, None)
    data = path.read_bytes()
    place = data.index(b"tkhd") + 4 + 40
    quarter = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)  # clockwise, as a phone held upright writes it
    path.write_bytes(data[:place] + quarter + data[place + 36 :])
    wide = make_video(tmp_path / "b.mp4", 0.2, 25, SIZE, None)
    turned, plain = load_video(path, 25, 4).frames[1], load_video(wide, 25, 4).frames[1]
    assert turned.size == (64, 96)
    assert np.abs(np.asarray(turned, np.float64) - np.asarray(plain.rotate(-90, expand=True))).mean() < 5


# Clips, damage and limits


@pytest.mark.parametrize(("start", "end"), [(1.0, 1.0), (2.0, 1.0)])
def test_empty_clip_is_refused(tmp_path: Path, start: float, end: float) -> None:
    for load in (lambda path: load_video(path, 1, 1, start, end), lambda path: load_audio(path, start, end)):
        with pytest.raises(DataError, match=r"a\.mp4: a clip from \d to 1 s is empty"):
            load(make_video(tmp_path / "a.mp4", 3, 5, SIZE, 440))
    with pytest.raises(DataError, match=r"a\.wav: a clip from \d to 1 s is empty"):
        load_audio(make_tone(tmp_path / "a.wav", 440, 3), start, end)


def test_clip_beyond_the_end_is_refused_and_one_over_the_end_cut(tmp_path: Path) -> None:
    path, sound = make_video(tmp_path / "a.mp4", 3, 5, SIZE, 440), make_tone(tmp_path / "a.wav", 440, 3)
    with pytest.raises(DataError, match=r"a\.mp4: a clip from 3 s, but the video ends at 3\.000 s"):
        load_video(path, 1, 4, 3, 5)
    for file in (path, sound):
        with pytest.raises(DataError, match=r"a clip from 3\.5 s, but the sound ends at 3\.000 s"):
            load_audio(file, 3.5, 5)
        assert len(load_audio(file, 2, 9)) == 16_000
    assert numbers(load_video(path, 2, 100, 2, 9)) == [10, 12]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.wav", "a.png"])
@pytest.mark.parametrize("content", [b"", b"just a text\n" * 50, b"\x00" * 4096])
def test_file_that_is_something_else_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    for load, what in ((load_image, "picture"), (load_audio, "sound"), (lambda path: load_video(path, 1, 1), "video")):
        with pytest.raises(DataError, match=rf"{name} is not a readable {what}: .*copy it again"):
            load(tmp_path / name)


def test_playlist_may_not_open_other_files(tmp_path: Path) -> None:
    make_video(tmp_path / "secret.mp4", 1, 5, SIZE, 440)
    lists = {
        "a.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path / 'secret.mp4'}\n#EXT-X-ENDLIST\n",
        "b.mp4": f"ffconcat version 1.0\nfile {tmp_path / 'secret.mp4'}\n",
    }
    for name, content in lists.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=f"{name} is not a readable video"):
            load_video(tmp_path / name, 1, 1)


def test_name_with_a_colon_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_video(tmp_path / "a.mp4", 1, 5, SIZE, None).rename(tmp_path / "http:a.mp4")
    monkeypatch.chdir(tmp_path)
    assert numbers(load_video(Path("http:a.mp4"), 1, 1)) == [0]


def test_absent_track_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.mp4 has no audio track: leave its audio out of the query"):
        load_audio(make_video(tmp_path / "a.mp4", 1, 5, SIZE, None))
    with pytest.raises(DataError, match=r"a\.mp3 has no video track: list it as a sound"):
        load_video(make_tone(tmp_path / "a.mp3", 440, 1), 1, 1)
    cover = b"\0image/png\0\3\0" + make_picture(tmp_path / "a.png", "red", (8, 8)).read_bytes()
    frame = b"APIC" + struct.pack(">I", len(cover)) + b"\0\0" + cover
    size = bytes(len(frame) >> shift & 127 for shift in (21, 14, 7, 0))
    (tmp_path / "b.mp3").write_bytes(b"ID3\3\0\0" + size + frame + (tmp_path / "a.mp3").read_bytes())
    with pytest.raises(DataError, match=r"b\.mp3 has no video track"):  # but a picture of its cover
        load_video(tmp_path / "b.mp3", 1, 1)


def test_cut_file_is_refused_only_where_the_clip_needs_what_is_gone(tmp_path: Path) -> None:
    sound = tone(440, 8, SOUND_RATE)
    for name, options in (("a.mkv", {}), ("a.webm", {}), ("a.mp4", {"movflags": "faststart"})):
        path = write_video(tmp_path / name, [*stamps(8, 25), 8], SIZE, sound, options=options)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        for load in (lambda file, *clip: load_video(file, 2, 32, *clip), load_audio):
            for clip in ((), (3.0, None), (6.0, 7.0)):
                with pytest.raises(DataError, match=rf"{name} is damaged or cut off after [345]\.\d+ s: copy it again"):
                    load(path, *clip)
        assert numbers(load_video(path, 2, 32, 1, 3)) == [25, 37, 50, 62]
        assert main_hz(load_audio(path, 1, 3)) == 440
    # Its index is at the end.
    path = write_video(tmp_path / "b.mp4", [*stamps(8, 25), 8], SIZE, sound)
    path.write_bytes(path.read_bytes()[:-2000])
    for load in (lambda file: load_video(file, 2, 32, 0, 1), load_audio):
        with pytest.raises(DataError, match=r"b\.mp4 is not a readable (video|sound): .*copy it again"):
            load(path)


@pytest.mark.parametrize("ending", FORMATS)
def test_tracks_of_unlike_length_are_no_damage(tmp_path: Path, ending: str) -> None:
    still = write_video(tmp_path / f"a.{ending}", [*stamps(1, 5), 1], SIZE, tone(440, 6, SOUND_RATE))
    if ending == "mp4":  # which says how long each track is
        with pytest.raises(DataError, match=r"the video ends at 1\.000 s"):
            load_video(still, 1, 32, 4, 6)
    else:
        assert numbers(load_video(still, 1, 32, 0, 6)) == [0, 4, 4, 4, 4, 4]
    silent = write_video(tmp_path / f"b.{ending}", [*stamps(6, 5), 6], SIZE, tone(440, 2, SOUND_RATE))
    assert len(load_audio(silent)) == pytest.approx(32_000, abs=700)


def test_recorded_stream_that_says_no_length_is_read_to_its_end(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", [*stamps(4, 25), 4], SIZE, tone(440, 4, SOUND_RATE), options={"live": "1"})
    assert numbers(load_video(path, 1, 32)) == [0, 25, 50, 75]
    assert numbers(load_video(path, 1, 32, 2)) == [50, 75]
    assert len(load_audio(path)) == pytest.approx(64_000, abs=100)
    with pytest.raises(DataError, match=r"the video ends at 4\.\d+ s"):
        load_video(path, 1, 32, 5)


@pytest.mark.parametrize("ending", ["flac", "mp3", "wav"])
def test_cut_sound_is_refused_only_where_the_clip_needs_what_is_gone(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, np.random.default_rng(0).uniform(-1, 1, 160_000), 16_000)
    data, whole = path.read_bytes(), load_audio(path)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=rf"a\.{ending} is damaged.* copy it again, or end the clip before"):
        load_audio(path)
    assert load_audio(path, 1, 3) == pytest.approx(whole[16_000:48_000], abs=1e-6)


@pytest.mark.parametrize("size", [0, 0x7FFFF024, 0xFFFFFFFF])
def test_wav_written_into_a_pipe_is_whole(tmp_path: Path, size: int) -> None:
    path = make_tone(tmp_path / "a.wav", 440, 1)
    data = path.read_bytes()
    path.write_bytes(data[:4] + struct.pack("<I", size) + data[8:])
    assert main_hz(load_audio(path)) == 440


def test_mp3_that_ends_in_silence_is_no_damage(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.mp3", np.concatenate([tone(440, 3), np.zeros(48_000)]), 16_000)
    wave = load_audio(tmp_path / "a.mp3")
    assert len(wave) == pytest.approx(96_000, abs=2000)
    assert not wave[-16_000:].any()


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [
        ("MAX_BYTES", 100, "bytes, more than 100: cut it"),
        ("MAX_PIXELS", 999, "frames of 96x64 pixels, more than 999: scale it down"),
        ("MAX_SECONDS", 1.5, "2 s of video, more than 2: cut it"),
        ("MAX_FRAMES", 7, r"8 frames asked for, more than 7: lower profile\.max_frames"),
    ],
)
def test_video_above_a_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: float, message: str
) -> None:
    path = make_video(tmp_path / "a.mp4", 2, 5, SIZE, None)
    monkeypatch.setattr(video, limit, value)
    with pytest.raises(DataError, match=rf"a\.mp4: .*{message}"):
        load_video(path, 4, 100)


def test_missing_pyav_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video(tmp_path / "a.mp4", 1, 5, SIZE, 440)
    monkeypatch.setitem(sys.modules, "av", None)
    for load in (lambda: load_video(path, 1, 1), lambda: load_audio(path)):
        with pytest.raises(ConfigError, match=r"a\.mp4 needs PyAV.*: pip install 'omnicore\[audit\]'"):
            load()
    assert len(load_audio(make_tone(tmp_path / "a.wav", 440, 1))) == 16_000


# Sound


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


# Reading through the cache


@pytest.mark.parametrize("kind", ["video", "audio"])
def test_video_and_its_sound_are_decoded_once(tmp_path: Path, cache_of_its_own: Path, kind: Any, monkeypatch: Any) -> None:
    path = make_video(tmp_path / "a.mp4", 2, 25, SIZE, 440)
    first = read(medium(path, kind), tmp_path, PROFILE)
    monkeypatch.setattr(media, "load_video", None)
    monkeypatch.setattr(media, "load_audio", None)
    second = read(medium(path, kind), tmp_path, PROFILE)
    if kind == "video":
        assert first == second == load_video(path, 2, 4)
        assert numbers(second) == [0, 12, 25, 37]
    else:
        assert np.array_equal(first, second)
        assert np.array_equal(second, load_audio(path))
        second[0] = 1  # the caller's own
    assert entries(cache_of_its_own) == 1


def test_every_clip_and_sampling_has_an_entry_of_its_own(tmp_path: Path, cache_of_its_own: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 4, 25, SIZE, 440)
    other = make_video(tmp_path / "b.mp4", 4, 25, SIZE, 880)
    profiles = [PROFILE, Profile(fps=1, max_frames=4), Profile(fps=2, max_frames=3)]
    clips = [medium(path, "video"), medium(path, "video", 1), medium(path, "video", 1, 2), medium(path, "video", None, 2)]
    for profile, clip in itertools.product(profiles, clips):
        expected = load_video(path, profile.fps, profile.max_frames, clip.start, clip.end)
        assert read(clip, tmp_path, profile) == expected == read(clip, tmp_path, profile)
    assert entries(cache_of_its_own) == 12
    sounds = [read(m, tmp_path, p) for p in profiles for m in (medium(path, "audio"), medium(other, "audio"))]
    assert [main_hz(np.asarray(sound)) for sound in sounds] == [440, 880] * 3
    assert entries(cache_of_its_own) == 14, "frames a second are nothing to a sound"


def test_pictures_and_short_sounds_go_past_the_cache(tmp_path: Path, cache_of_its_own: Path) -> None:
    picture = read(medium(make_picture(tmp_path / "a.png", "red", (8, 8)), "image"), tmp_path, PROFILE)
    assert isinstance(picture, Image.Image)
    assert picture.getpixel((0, 0)) == (255, 0, 0)
    sound = read(medium(make_tone(tmp_path / "a.flac", 440, 2), "audio", 0.5, 1.5), tmp_path, PROFILE)
    assert main_hz(np.asarray(sound)) == 440
    assert len(np.asarray(sound)) == 16_000
    assert not cache_of_its_own.exists()
    read(medium(make_tone(tmp_path / "b.wav", 440, 40), "audio"), tmp_path, PROFILE)
    assert not cache_of_its_own.exists(), "a wav of 16 kHz is read as fast as an entry"
    read(medium(make_tone(tmp_path / "b.flac", 440, 40), "audio"), tmp_path, PROFILE)
    assert entries(cache_of_its_own) == 1


def test_file_that_is_not_the_prepared_one_is_refused(tmp_path: Path, cache_of_its_own: Path) -> None:
    record = medium(make_video(tmp_path / "a.mp4", 1, 5, SIZE, 440), "video")
    make_video(tmp_path / "a.mp4", 1, 10, SIZE, 440)
    with pytest.raises(DataError, match=r"a\.mp4 is not the file that was prepared.*: run prepare again"):
        read(record, tmp_path, PROFILE)
    assert entries(cache_of_its_own) == 0


# As text


@pytest.mark.parametrize(
    ("name", "mode", "options", "kind"),
    [
        ("a.png", "RGB", {}, "png"),
        ("a.jpg", "RGB", {}, "jpeg"),
        ("a.jpg", "L", {}, "jpeg"),
        ("a.webp", "RGB", {"lossless": True}, "webp"),
        ("misnamed.jpg", "RGB", {"format": "PNG"}, "png"),
        ("a.jpg", "CMYK", {}, "png, made anew"),
        ("a.png", "RGBA", {}, "png, made anew"),
        ("a.png", "P", {}, "png, made anew"),
        ("a.png", "I;16", {}, "png, made anew"),
        ("a.bmp", "RGB", {}, "png, made anew"),
        ("a.tiff", "RGB", {}, "png, made anew"),
        ("a.gif", "RGB", {}, "png, made anew"),
        ("moving.webp", "RGB", {"save_all": True, "append_images": [Image.new("RGB", (16, 12))]}, "png, made anew"),
        (
            "turned.jpg",
            "RGB",
            {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"},
            "png, made anew",
        ),
    ],
)
def test_picture_comes_back_as_it_is_read(tmp_path: Path, name: str, mode: str, options: dict[str, Any], kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8))
    (noise.convert("L") if mode == "I;16" else noise).convert(mode).save(tmp_path / name, **options)
    url = dataurl.image_url(tmp_path / name)
    assert url.startswith(f"data:image/{kind.split(',')[0]};base64,")
    assert (dataurl._bytes(url.partition(",")[2], "") == (tmp_path / name).read_bytes()) == ("anew" not in kind)
    assert dataurl.from_data_url(url).tobytes() == load_image(tmp_path / name).tobytes()


def test_drawn_picture_comes_back(tmp_path: Path) -> None:
    picture = Image.new("RGB", (5, 3), "green")
    assert dataurl.from_data_url(dataurl.image_url(picture)).tobytes() == picture.tobytes()


def test_wav_comes_back_exactly(tmp_path: Path) -> None:
    samples = np.arange(-32768, 32768).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16_000)
    wave = load_audio(tmp_path / "a.wav")
    data = dataurl.wav_base64(wave)
    assert np.array_equal(dataurl.from_wav(data), wave)
    info = soundfile.info(io.BytesIO(dataurl._bytes(data, "")))
    assert (info.samplerate, info.channels, info.subtype, info.format) == (16_000, 1, "PCM_16", "WAV")
    assert dataurl.from_wav(dataurl.wav_base64(np.array([2, -2], np.float32))).tolist() == [32767 / 32768, -1], "cut, not wrapped"


def test_frames_come_back_without_the_sound(tmp_path: Path) -> None:
    clip = load_video(make_video(tmp_path / "a.mp4", 2, 25, SIZE, 440), 2, 3)
    url = dataurl.video_url(clip)
    head, *frames = url.split(",")
    assert head == "data:video/jpeg;base64"
    assert [Image.open(io.BytesIO(dataurl._bytes(frame, ""))).format for frame in frames] == ["JPEG"] * 3
    back = dataurl.frames_from_url(url, clip.fps)
    assert (back.jpegs, back.fps) == (clip.jpegs, clip.fps)
    assert numbers(back) == [0, 16, 33]
    assert dataurl.video_settings(clip) == {"video": {"num_frames": -1, "fps": clip.fps}}


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (dataurl.from_data_url, "http://example.com/a.png", "is no picture: give data:image/png;base64"),
        (dataurl.from_data_url, "data:image/png,abc", "is no picture"),
        (dataurl.from_data_url, "data:image/png;base64,???", "the picture is not base64"),
        (dataurl.from_data_url, "data:image/png;base64,", "the picture is not a readable picture"),
        (dataurl.from_data_url, "data:image/png;base64,YWJj", "the picture is not a readable picture"),
        (dataurl.from_wav, "YWJj", "the sound is not a readable wav"),
        (dataurl.from_wav, "é", "the sound is not base64"),
        (dataurl.frames_from_url, "data:video/mp4;base64,YWJj", "is no video of frames"),
        (dataurl.frames_from_url, "data:video/jpeg;base64,", "is not a readable picture"),
        (dataurl.frames_from_url, "data:video/jpeg;base64," + "," * 3000, "a video of 3001 frames, more than 2048"),
    ],
)
def test_what_is_no_medium_is_refused(parse: Any, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse(text)
