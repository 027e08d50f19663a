"""Frames and samples against those that ffmpeg's own program decodes from the beginning, over
containers, codecs and clips."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from omnicore.config import Profile
from omnicore.errors import DataError
from omnicore.media.read import measure_media
from omnicore.media.sounds import load_audio, resample
from omnicore.media.video import load_video
from tests.errors import refused
from tests.media_files import medium, painted

pytestmark = pytest.mark.skipif(
    not shutil.which("ffmpeg"), reason="needs the ffmpeg program: apt-get install ffmpeg"
)

SIZE = (96, 64)
RATE = 25
H264 = "-c:v libx264 -preset fast -crf 15 -threads 1"
X265 = "-c:v libx265 -preset ultrafast -crf 15 -x265-params log-level=error:pools=1"
OPEN = "open-gop=1:keyint=50:scenecut=0:bframes=3"
MPEG2 = "-c:v mpeg2video -q:v 2 -bf 2 -g 15"
ORIENTATIONS = (
    *((1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)),  # turned clockwise by quarters
    *(
        (-1, 0, 0, 1),
        (1, 0, 0, -1),
        (0, 1, 1, 0),
        (0, -1, -1, 0),
    ),  # mirrored: a negative determinant
)
VARIABLE = "if(lt(N,20),N*0.04,0.8+(N-20)*1.88)/TB"  # the gaps between frames
CLIPS = (
    (0.0, None),
    (0.0, 0.5),
    (3.31, 4.1),
    (5.25, 5.6),
)  # no frame begins within a millisecond of one shown


@dataclass(frozen=True)
class Case:
    """`name` of a file, and how ffmpeg encodes the numbered frames and, where `sound`, a tone that
    rises."""

    name: str
    options: str
    sound: bool = False
    seconds: float = 6.0
    matrix: tuple[int, int, int, int] | None = (
        None  # of the mp4's track, a b c d as in (x, y) -> (a x + c y, b x + d y)
    )
    piped: bool = False  # so that its header says no length


CASES = (
    Case("h264.ts", f"{H264} -g 50"),
    Case("h264-sound.ts", f"{H264} -g 50 -c:a aac", True),
    Case("h264-open.ts", f"{H264} -x264-params {OPEN}"),
    Case("h264-open-sound.ts", f"{H264} -x264-params {OPEN} -c:a aac", True),
    Case("h264-one-keyframe.ts", f"{H264} -g 999"),
    Case("h264-intra-refresh.ts", f"{H264} -x264-params intra-refresh=1:keyint=50"),
    Case("h264-short.ts", f"{H264} -g 250", seconds=2),
    Case("h264-late.ts", f"{H264} -g 50 -output_ts_offset 100"),
    Case("h264-clock-wraps.ts", f"{H264} -g 50 -output_ts_offset 95441"),
    Case("h264.m2ts", f"{H264} -g 50 -c:a ac3", True),
    Case("h264.mts", f"{H264} -g 50 -c:a ac3", True),
    Case("ts-named.mp4", f"{H264} -g 50 -c:a aac -f mpegts", True),
    Case("hevc.ts", f"{X265}:keyint=50:open-gop=0"),
    Case("hevc-open.ts", f"{X265}:{OPEN}"),
    Case("hevc-open-sound.ts", f"{X265}:{OPEN} -c:a aac", True),
    Case("mpeg2.ts", f"{MPEG2} -c:a mp2", True),
    Case("mpeg2.mpg", f"{MPEG2} -c:a mp2", True),
    Case("h264-open.mp4", f"{H264} -x264-params {OPEN}"),
    Case("h264-open.mkv", f"{H264} -x264-params {OPEN}"),
    Case("hevc-open.mp4", f"{X265}:{OPEN}"),
    Case("hevc-open.mkv", f"{X265}:{OPEN}"),
    Case("h264.flv", f"{H264} -g 50 -c:a aac", True),
    Case("h264.avi", f"{H264} -g 50 -bf 0 -c:a libmp3lame", True),
    Case("mpeg4-b-frames.avi", "-c:v mpeg4 -q:v 2 -bf 2 -g 50 -c:a libmp3lame", True),
    Case("h264-b-frames.avi", f"{H264} -g 50"),
    Case("wmv2.asf", "-c:v wmv2 -q:v 2 -g 50 -c:a wmav2", True),
    Case("piped.avi", "-c:v mpeg4 -q:v 2 -bf 2 -g 50 -c:a libmp3lame -f avi", True, piped=True),
    Case("piped.mkv", f"{H264} -g 50 -c:a aac -f matroska", True, piped=True),
    Case("h264.vob", f"{H264} -g 50"),  # in which keyframes alone have times
    Case("h264-late.mkv", f"{H264} -g 50 -output_ts_offset 7"),
    Case("h264-late-sound.mkv", f"{H264} -g 50 -c:a aac -output_ts_offset 7", True),
    Case("h264-fragmented.mp4", f"{H264} -g 50 -c:a aac -movflags frag_keyframe+delay_moov", True),
    *(
        Case(
            f"orientation{''.join(f'{value:+d}' for value in matrix)}.mp4",
            f"{H264} -g 50",
            seconds=1,
            matrix=matrix,
        )
        for matrix in ORIENTATIONS
    ),
    *(
        Case(
            f"variable.{ending}",
            f"{H264} -bf 3 -vf setpts='{VARIABLE}' -fps_mode passthrough -enc_time_base 1:1000",
            seconds=1,
        )
        for ending in ("mp4", "mkv", "ts")
    ),
    Case(
        "late-track.mp4", f"{H264} -bf 3 -vf setpts=PTS+1.5/TB -fps_mode passthrough -c:a aac", True
    ),
    Case("wide-pixels.mp4", f"{H264} -vf setsar=4/3", seconds=1),
    Case("tall-pixels.mkv", f"{H264} -vf setsar=8/9", seconds=1),
    Case("wide-pixels.mpg", f"{MPEG2} -aspect 16:9", seconds=1),
    Case("wide-pixels-turned.mp4", f"{H264} -vf setsar=2", seconds=1, matrix=(0, 1, -1, 0)),
    Case("silent-start.mp4", f"{H264} -g 50 -af asetpts=PTS+1.5/TB -c:a aac", True),
    Case("pcm.mov", f"{H264} -g 50 -c:a pcm_s16le", True),
    Case("surround.mp4", f"{H264} -g 50 -c:a aac -ac 6", True),
    Case("stereo-44100.mkv", f"{H264} -g 50 -c:a libmp3lame -ac 2 -ar 44100", True),
    Case("speech-8000.mp4", f"{H264} -g 50 -c:a aac -ar 8000", True),
    Case("sound-only.m4a", "-vn -c:a aac", True),
    Case("sound-only.mp3", "-vn -c:a libmp3lame -ac 2", True),
    Case("sound-only.aac", "-vn -c:a aac", True),
    Case("sound-only.ogg", "-vn -c:a libvorbis", True),
    Case("sound-only.opus", "-vn -c:a libopus", True),
    Case("sound-only.ac3", "-vn -c:a ac3", True),
    Case(
        "vp9.webm",
        "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -crf 10 -b:v 0 -g 50 -c:a libopus",
        True,
    ),
)


def ffmpeg(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["ffmpeg", "-nostdin", "-y", *arguments], input=given, capture_output=True, check=True
    )


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reference")


def made(directory: Path, case: Case) -> Path:
    """The file of a case, encoded once."""
    path = directory / case.name
    if not path.exists():
        pictures = np.stack([painted(i, SIZE) for i in range(round(case.seconds * RATE))])
        pictures[:, : SIZE[1] // 4] = 255  # up is not down
        frames = f"-f rawvideo -pix_fmt gray -s {SIZE[0]}x{SIZE[1]} -r {RATE} -i pipe:"
        rising = (
            f"-f lavfi -i aevalsrc=0.5*sin(2*PI*(100+50*t)*t):s=48000:d={case.seconds}"
            if case.sound
            else ""
        )
        options = f"-v error {frames} {rising} -pix_fmt yuv420p {case.options}".split()
        done = ffmpeg(*options, "pipe:1" if case.piped else str(path), given=pictures.tobytes())
        if case.piped:
            path.write_bytes(done.stdout)
        if case.matrix:
            turn(path, *case.matrix)
    return path


def turn(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Write the display matrix of an mp4's first track."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    data[place : place + 36] = struct.pack(
        ">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30
    )
    path.write_bytes(data)


@cache
def reference(path: Path) -> tuple[list[float], np.ndarray]:
    """When each frame begins, in seconds of the file, and the frames [n, height, width, 3]."""
    done = ffmpeg(
        *("-v", "info", "-nostats", "-threads", "1", "-copyts", "-i", str(path), "-map", "0:v:0"),
        *("-vf", "showinfo,scale=round(iw*max(sar\\,1)):round(ih*max(1/sar\\,1)),format=rgb24"),
        *("-fps_mode", "passthrough", "-f", "rawvideo", "-"),
    )
    with av.open(
        str(path)
    ) as container:  # FFmpeg 5 begins a webm at the priming of its Opus, before 0
        origin = (container.start_time or 0) / 1e6
    times = [
        float(time) - origin for time in re.findall(rb"showinfo.* pts_time:(\S+)", done.stderr)
    ]
    width, height = re.findall(rb"Video: rawvideo.* ([1-9]\d*)x(\d+)", done.stderr)[-1]
    return times, np.frombuffer(done.stdout, np.uint8).reshape(-1, int(height), int(width), 3)


@cache
def reference_sound(path: Path) -> np.ndarray:
    """The mean of the channels, at 16 kHz, from where the file begins."""
    with av.open(str(path)) as container:
        origin = (container.start_time or 0) / 1e6
    filters = f"asetpts=PTS-({origin})/TB,aresample=first_pts=0"
    decoded = path.with_name(f"{path.name}.wav")
    ffmpeg(
        "-v",
        "error",
        "-copyts",
        "-i",
        str(path),
        "-map",
        "0:a:0",
        "-af",
        filters,
        "-c:a",
        "pcm_f32le",
        str(decoded),
    )
    samples, rate = soundfile.read(decoded, dtype="float32", always_2d=True)
    return resample(samples.mean(axis=1), rate)


def frames_error(path: Path, start: float, end: float | None) -> float:
    """The largest mean difference of a frame of a clip to the one that ffmpeg shows at that time,
    in levels of 255."""
    times, frames = reference(path)
    clip = load_video(path, 5, 1000, start, end)
    measured = measure_media(
        medium(path, "video", start, end), path.parent, Profile(fps=5, max_frames=1000)
    )
    assert sorted(measured) == sorted((len(clip.jpegs), *clip.frames[0].size))
    wanted = [start + i / 5 for i in range(len(clip.jpegs))]
    assert len(wanted) == pytest.approx(
        5 * (min(end or np.inf, times[-1] + 1 / RATE) - start), abs=1
    )
    shown = [
        max((i for i, time in enumerate(times) if time <= instant + 0.001), default=0)
        for instant in wanted
    ]
    assert {image.size for image in clip.frames} == {frames.shape[2:0:-1]}
    return max(
        float(np.abs(np.asarray(image, np.float64) - frames[i]).mean())
        for image, i in zip(clip.frames, shown, strict=True)
    )


def sound_error(path: Path, start: float, end: float | None) -> float:
    """The energy of the difference of a clip to what ffmpeg decodes, as a share; up to 1 ms is not
    counted, to which times are rounded in some containers."""
    whole = np.pad(reference_sound(path), 17)
    part = load_audio(path, start, end)
    first = round(start * 16_000)
    assert len(part) == pytest.approx(
        (len(whole) - 34 if end is None else round(end * 16_000)) - first, abs=1600
    )
    part = part[: len(whole) - 34 - first]
    power = max(1e-3, float(np.square(part[40:-40]).mean()))
    errors = [
        np.square(part - whole[first + lag : first + lag + len(part)])[40:-40].mean()
        for lag in range(35)
    ]
    return float(min(errors)) / power


def clips(case: Case) -> list[tuple[float, float | None]]:
    return [(start, end) for start, end in CLIPS if start < case.seconds]


@pytest.mark.parametrize(
    "case", [case for case in CASES if "-vn" not in case.options], ids=lambda case: case.name
)
def test_frames_equal_those_of_ffmpeg(directory: Path, case: Case) -> None:
    path = made(directory, case)
    times, frames = reference(path)
    assert len(times) == len(frames) == round(case.seconds * RATE)
    for clip in clips(case):
        assert frames_error(path, *clip) < 4, clip


@pytest.mark.parametrize("case", [case for case in CASES if case.sound], ids=lambda case: case.name)
def test_sound_equals_that_of_ffmpeg(directory: Path, case: Case) -> None:
    path = made(directory, case)
    for clip in clips(case):
        assert sound_error(path, *clip) < 0.02, clip


def named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


@pytest.mark.parametrize("name", ["h264.avi", "mpeg4-b-frames.avi"])
def test_truncated_avi_is_refused(directory: Path, name: str) -> None:
    data = made(directory, named(name)).read_bytes()
    half = directory / f"half-{name}"
    half.write_bytes(data[: len(data) // 2])
    for load in (lambda: load_video(half, 5, 1000), lambda: load_audio(half)):
        with refused(DataError, "media-damaged", path=half) as caught:
            load()
        assert re.search(r" after [23]\.\d+ s", str(caught.value))
    assert len(load_video(half, 5, 1000, 0, 1).jpegs) == 5


@pytest.mark.parametrize(
    "duration", [13_000.0, 6_000.0], ids=["end-as-ffmpeg", "length-as-mkvmerge"]
)
def test_late_matroska_ends_with_its_last_frame(directory: Path, duration: float) -> None:
    data = made(directory, named("h264-late.mkv")).read_bytes()
    assert data.count(struct.pack(">d", 13_000.0)) == 1
    path = directory / "late-duration.mkv"
    path.write_bytes(data.replace(struct.pack(">d", 13_000.0), struct.pack(">d", duration)))
    assert (
        len(load_video(path, 5, 1000).jpegs)
        == measure_media(medium(path, "video"), directory, Profile(fps=5, max_frames=1000))[0]
        == 30
    )
    path.write_bytes(path.read_bytes()[: len(data) * 3 // 5])
    with refused(DataError, "media-damaged", path=path):
        load_video(path, 5, 1000)


@pytest.mark.parametrize("names", [("h264.ts", "h264.ts"), ("h264-late.ts", "h264.ts")])
def test_stream_joined_of_several_clocks_is_refused(
    directory: Path, names: tuple[str, str]
) -> None:
    parts = [made(directory, named(name)).read_bytes() for name in names]
    (directory / "joined.ts").write_bytes(b"".join(parts))
    with refused(DataError, "media-clock-jump", path=directory / "joined.ts") as caught:
        load_video(directory / "joined.ts", 1, 8, 1, 2)
    assert re.search(r"jumps after 6\.\d+ s", str(caught.value))
