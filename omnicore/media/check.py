"""Check all media of queries before a model is asked: each file, kind and clip once, on all cores.

The cache remembers a medium that passed by its sha256, so that the next `prepare` does not decode
it again. One that failed is decoded again: there are few, and a newer decoder may read it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from omnicore.errors import DataError
from omnicore.media.cache import media_cache
from omnicore.media.read import check_media, check_media_key
from omnicore.progress import track
from omnicore.schema import Media, Query

Clip = tuple[str, str, float | None, float | None]  # kind, sha256, start, end
# Stands for the path in a message: queries may have the same bytes under other names.
_PATH = "<file>"


def find_media_errors(
    queries: Sequence[Query], path_of: Callable[[Media], Path], label: str, workers: int
) -> dict[str, str]:
    """Return the first error of each query whose media cannot all be read, by the query's id.

    Args:
        queries: The queries.
        path_of: Gives the file of a medium; errors name the medium by its uri.
        label: Name of the progress bar.
        workers: Number of threads that decode.

    Raises:
        ConfigError: PyAV is missing and needed.
    """
    media = {_clip(medium): medium for query in queries for medium in query.media}
    clip_errors = _check_clips(media, path_of, label, workers)
    query_errors: dict[str, str] = {}
    for query in queries:
        for medium in query.media:
            message = clip_errors.get(_clip(medium))
            if message:
                message = f"{medium.kind} {message.replace(_PATH, medium.uri)}"
                query_errors.setdefault(query.id, message)
    return query_errors


def _check_clips(
    media: dict[Clip, Media], path_of: Callable[[Media], Path], label: str, workers: int
) -> dict[Clip, str]:
    """Return the error of each clip that has one."""
    cache = media_cache()
    passed = cache.marks()
    keys = {clip: check_media_key(medium) for clip, medium in media.items()}
    errors: dict[Clip, str] = {}
    # Threads suffice: decoders release Python's lock.
    pool = ThreadPoolExecutor(workers, "check")
    try:
        checks = {
            pool.submit(_check_clip, media[clip], path_of(media[clip])): clip
            for clip, key in keys.items()
            if key not in passed
        }
        with track(len(media), label) as progress:
            progress.advance(len(media) - len(checks))
            for check in as_completed(checks):
                clip = checks[check]
                message = check.result()
                if message:
                    errors[clip] = message
                else:
                    cache.mark(keys[clip])
                progress.advance(unreadable=len(errors))
    finally:
        pool.shutdown(cancel_futures=True)
    return errors


def _check_clip(medium: Media, path: Path) -> str:
    try:
        check_media(medium, path)
    except DataError as error:
        return str(error).replace(str(path), _PATH)
    return ""


def _clip(medium: Media) -> Clip:
    return medium.kind, medium.sha256, medium.start, medium.end
