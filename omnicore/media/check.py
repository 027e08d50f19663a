"""What is wrong with the media of queries, found before anything is asked: each file, kind and clip
once, on all cores, remembered.

A medium that passed is known by its sha256, so that the next `prepare` does not decode it again;
one that failed is decoded again: there are few, and a decoder that was updated may read it.
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

Clip = tuple[str, str, float | None, float | None]
_FILE = "<file>"  # in a fault: queries may have the same bytes under other names


def find_media_errors(
    queries: Sequence[Query], place: Callable[[Media], Path], label: str, workers: int
) -> dict[str, str]:
    """Return the first fault of each query that has one, by its id.

    `place` gives the file of a medium, which the fault names by its uri.

    Raises ConfigError where PyAV is missing and needed.
    """
    found = _checked(
        {_clip(medium): medium for query in queries for medium in query.media},
        place,
        label,
        workers,
    )
    named: dict[str, str] = {}
    for query in queries:
        for medium in query.media:
            if fault := found.get(_clip(medium)):
                named.setdefault(query.id, f"{medium.kind} {fault.replace(_FILE, medium.uri)}")
    return named


def _checked(
    media: dict[Clip, Media], place: Callable[[Media], Path], label: str, workers: int
) -> dict[Clip, str]:
    """Return the faults of those media that have one."""
    kept = media_cache()
    passed = kept.marks()
    keys = {clip: check_media_key(medium) for clip, medium in media.items()}
    found: dict[Clip, str] = {}
    pool = ThreadPoolExecutor(workers, "check")  # decoders work without Python's lock
    try:
        due = {
            pool.submit(_fault, media[clip], place(media[clip])): clip
            for clip, key in keys.items()
            if key not in passed
        }
        with track(len(media), label) as progress:
            progress.advance(len(media) - len(due))
            for done in as_completed(due):
                if fault := done.result():
                    found[due[done]] = fault
                else:
                    kept.mark(keys[due[done]])
                progress.advance(faults=len(found))
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def _fault(medium: Media, path: Path) -> str:
    try:
        check_media(medium, path)
    except DataError as error:
        return str(error).replace(str(path), _FILE)
    return ""


def _clip(medium: Media) -> Clip:
    return medium.kind, medium.sha256, medium.start, medium.end
