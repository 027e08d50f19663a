"""Media of records: verified, checked and read from their files, decoded once.

Times are seconds from where the file's container says that it begins, the same for the pictures of
a video and its sound. A clip that starts before the file's end and ends after it is cut at the
file's end: annotations round up. A truncated file is refused where the clip needs what is missing,
and read where it does not. Exceptions: an mp4 that lost the index at its end is never read, and an
ogg, which does not state its length, is taken as it is. Damage in the middle is refused when a
decoder reports it; decoders conceal some damage without a report.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from PIL import Image

from omnicore.config import Profile, digest
from omnicore.errors import DataError
from omnicore.media.cache import media_cache
from omnicore.media.images import load_image, measure_image
from omnicore.media.limits import clip_bounds, disk_error
from omnicore.media.sound_track import check_sound_track, measure_sound_track
from omnicore.media.sounds import SAMPLE_RATE, Wave, libsndfile_header, load_audio
from omnicore.media.video import Video, check_video, frame_interval, load_video, measure_video
from omnicore.schema import Media
from omnicore.storage.digests import sha256_file

# Seconds of sound above which the cache is faster than decoding; see `read_media`.
_CACHED_FROM = 30.0
# Raised when the same file would be decoded to something else.
_FORMAT = 5


def locate_media(media: Media, root: Path) -> Path:
    """Return the file of a medium that a file of directory `root` lists.

    Raises:
        DataError: The file is missing.
    """
    path = root / media.uri
    if not path.is_file():
        raise DataError(
            f"{path} is missing: run prepare again, or copy the {media.kind} there",
            code="media-missing",
            path=path,
        )
    return path


def verify_media(media: Media, root: Path) -> Path:
    """Return the file of a medium after a check of its sha256, which is computed once.

    Raises:
        DataError: The file is missing, cannot be read or was changed: a score would be that of
            another medium.
    """
    path = locate_media(media, root)
    try:
        state = path.stat()
        actual = _sha256(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise disk_error(path, error) from error
    if actual != media.sha256:
        raise DataError(
            f"{path} is not the file that was prepared, its sha256 differs: run prepare again, or"
            " copy it again",
            code="media-changed",
            path=path,
        )
    return path


# A file of another size or time of change is another file: both are part of the cache's key.
@lru_cache(4096)
def _sha256(path: Path, size: int, changed: int) -> str:  # noqa: ARG001
    return sha256_file(path)


def read_media(media: Media, root: Path, profile: Profile) -> Image.Image | Wave | Video:
    """Read the clip of a medium that a file of directory `root` lists, as `profile` shows it.

    Videos, their sound, sounds that PyAV reads (mp3, ogg, ...) and clips above 30 s come out of the
    cache once one process has decoded them. Pictures, short clips of wav or flac and any wav of
    16 kHz take milliseconds and bypass it.

    Raises:
        DataError: The file is missing, broken or not the one that the record names.
        ConfigError: PyAV is missing and needed.
    """
    try:
        return _decode(media, root, profile)
    except OSError as error:
        raise disk_error(root / media.uri, error) from error


def _decode(media: Media, root: Path, profile: Profile) -> Image.Image | Wave | Video:
    path = locate_media(media, root)
    start, end = media.start, media.end
    if media.kind == "image":
        return load_image(verify_media(media, root))
    if media.kind == "video":
        fps, max_frames = profile.fps, profile.max_frames

        def packed_video() -> bytes:
            return load_video(path, fps, max_frames, start, end).pack()

        settings = {"fps": fps, "max_frames": max_frames}
        return Video.unpack(_from_cache(media, root, settings, packed_video))
    if _is_fast(path, start, end):
        return load_audio(verify_media(media, root), start, end)
    samples = _from_cache(media, root, {}, lambda: load_audio(path, start, end).tobytes())
    return np.frombuffer(samples, np.float32).copy()


def with_common_fps(parts: Sequence[Media | str], root: Path, profile: Profile) -> Profile:
    """Return the profile for one request: several videos are shown at the rate of the slowest.

    A request to a server has room for one rate (vLLM's `fps` counts for all its videos), and a
    model in this process must be shown the same. Raises as `measure_media` does.
    """
    videos = [part for part in parts if isinstance(part, Media) and part.kind == "video"]
    if len(videos) < 2:
        return profile
    interval = 0.0
    for video in videos:
        path = locate_media(video, root)
        own = _frame_interval(path, profile.fps, profile.max_frames, video.start, video.end)
        interval = max(interval, own)
    fps = 1 / interval
    # Rounded the wrong way, the slowest would keep its own rate.
    while 1 / fps < interval:
        fps = math.nextafter(fps, 0)
    return profile.model_copy(update={"fps": fps})


_frame_interval = lru_cache(4096)(frame_interval)


def measure_media(media: Media, root: Path, profile: Profile) -> tuple[int, ...]:
    """Return the size of the clip that `read_media` gives, by its file's header alone.

    The header can be wrong by a little (a variable rate, a rotation that swaps the sides); nothing
    is decoded or checked.

    Returns:
        Width and height of a picture, samples of a sound at 16 kHz, or frames, width and height of
        a video.

    Raises:
        DataError: The file is missing or has no readable header.
        ConfigError: PyAV is missing and needed.
    """
    path = locate_media(media, root)
    if media.kind == "video":
        return measure_video(path, profile.fps, profile.max_frames, media.start, media.end)
    if media.kind == "image":
        return measure_image(path)
    header = libsndfile_header(path)
    if header is None:
        seconds = measure_sound_track(path, media.start, media.end)
    else:
        begin, stop = clip_bounds(path, media.start, media.end, header.duration, "sound")
        seconds = stop - begin
    return (round(seconds * SAMPLE_RATE),)


def check_media(media: Media, path: Path) -> None:
    """Check that a clip can be read, by its header and a short decode.

    Decoded are a picture, the beginning and the end of a video and of a sound track, and all of a
    sound that libsndfile reads. Damage in the middle of a video is not found, and neither are
    samples there that are no sound.

    Raises:
        DataError: The file is broken, or passes a limit.
        ConfigError: PyAV is missing and needed.
    """
    try:
        if media.kind == "image":
            load_image(path)
        elif media.kind == "video":
            check_video(path, media.start, media.end)
        elif libsndfile_header(path) is not None:
            load_audio(path, media.start, media.end)
        else:
            _check_sound_track(path, media.start, media.end)
    except OSError as error:
        raise disk_error(path, error) from error


def _check_sound_track(path: Path, start: float | None, end: float | None) -> None:
    try:
        check_sound_track(path, start, end)
    except DataError:
        # The whole may have what its first and last second lack.
        load_audio(path, start, end)


def check_media_key(media: Media) -> str:
    """Return a digest of all that the result of `check_media` depends on."""
    return digest({"check": _FORMAT, "decoder": _decoder(), **_clip_fields(media)})


def _is_fast(path: Path, start: float | None, end: float | None) -> bool:
    """Return whether a sound is decoded sooner than found in the cache."""
    header = libsndfile_header(path)
    if header is None:
        return False
    if header.format == "WAV" and header.samplerate == SAMPLE_RATE:
        return True
    stop = header.duration if end is None else min(end, header.duration)
    return bool(stop - (start or 0.0) <= _CACHED_FROM)


def _from_cache(
    media: Media, root: Path, settings: dict[str, float], decode: Callable[[], bytes]
) -> bytes:
    """Return what `decode` gives, from the cache under a key of all that it depends on."""

    def verified() -> bytes:
        # Else another file's frames would be stored under this one's name, for every later run.
        verify_media(media, root)
        return decode()

    key = {"format": _FORMAT, "decoder": _decoder()} | _clip_fields(media) | settings
    return media_cache().get(digest(key), verified)


def _clip_fields(media: Media) -> dict[str, str | float | None]:
    return {"kind": media.kind, "sha256": media.sha256, "start": media.start or 0, "end": media.end}


@lru_cache
def _decoder() -> str:
    """Return the versions of the decoders: newer ones may give other pixels or samples."""
    versions = {}
    for package in ("av", "soxr"):
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return str(versions)
