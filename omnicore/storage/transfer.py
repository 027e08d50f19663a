"""Threads, progress and checksums of a transfer of many files."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from omnicore.progress import track
from omnicore.storage.digests import sha256_file

if TYPE_CHECKING:
    from omnicore.storage.s3 import ProgressCallback

S = TypeVar("S")
T = TypeVar("T")
MB = 1_000_000


class TransferCancelled(Exception):
    """Raised inside a transfer's threads after another one failed, or on Ctrl-C."""


@contextmanager
def transfer_pool() -> Iterator[ThreadPoolExecutor]:
    """Open a pool of transfer threads; drop the waiting tasks when the block fails."""
    from omnicore.storage.s3 import WORKERS

    pool = ThreadPoolExecutor(WORKERS)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def map_all(pool: ThreadPoolExecutor, call: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """Return the results in the items' order; raise the first failure as soon as it happens."""
    futures = [pool.submit(call, item) for item in items]
    # Not `as_completed`: it wakes this thread for each of thousands of files and takes the time
    # from the threads that work.
    for future in wait(futures, return_when=FIRST_EXCEPTION).done:
        future.result()
    return [future.result() for future in futures]


def sha256_files(pool: ThreadPoolExecutor, paths: Sequence[Path]) -> list[str]:
    """Return the sha256 of files in their order; a small file is faster without a thread."""
    large = [path for path in paths if path.stat().st_size > MB]
    hashes = dict(zip(large, map_all(pool, sha256_file, large), strict=True))
    return [hashes.get(path) or sha256_file(path) for path in paths]


@contextmanager
def progress_meter(total: int, label: str) -> Iterator[ProgressCallback]:
    """Show progress in MB that many threads report.

    Args:
        total: Bytes of the whole transfer.
        label: What is transferred.

    Yields:
        The callback. It raises TransferCancelled once the block has failed, which ends the
        transfers that still run.
    """
    lock, cancelled = threading.Lock(), threading.Event()
    done = transferred = 0
    with track(max(1, -(-total // MB)), label) as progress:

        def report(size: int, moved: int) -> None:
            nonlocal done, transferred
            if cancelled.is_set():
                raise TransferCancelled
            with lock:
                done, transferred = done + size, transferred + moved
                progress.advance(done // MB - progress.done, moved=-(-transferred // MB))

        try:
            yield report
        except BaseException:
            cancelled.set()
            raise
        progress.advance(progress.total - progress.done)
