"""Cache of decoded media on disk: bytes under a key, shared by all processes, bounded in size.

A file holds a checksum over key and bytes, then the bytes, and gets its name when it is complete.
One writer works at a time: it removes what killed writers left, evicts the least recently used
entries, then writes, so that the bound holds at every moment. A caller that wants what another is
decoding waits for it, in this process or another; a lock ends with the process that holds it.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from omnicore.errors import ConfigError, StorageError
from omnicore.storage.files import atomic_writer

logger = logging.getLogger(__name__)

_KEY = re.compile(r"[0-9a-f]{64}")
_CHECKSUM = 32  # bytes
_MARKS = "marks.txt"


class MediaCache:
    """A least-recently-used cache of files in `directory`, at most `limit` bytes of them."""

    def __init__(self, directory: Path, limit: int) -> None:
        self.directory, self.limit = directory, limit
        self._warned = threading.Lock()  # taken by the first warning, and never released

    def get(self, key: str, make: Callable[[], bytes]) -> bytes:
        """Return the bytes under `key` (64 hexadecimal digits); make and store them if absent.

        A directory that cannot be written costs the time of making everything again, and one
        warning. An exception of `make` is raised, and nothing is stored.
        """
        if not self.limit:
            return make()
        data = self._read(key)
        if data is not None:
            return data
        with ExitStack() as held:
            try:
                held.enter_context(
                    self._locked(f"{key[:2]}.lock")
                )  # 256 locks, so that none need ever be removed
            except OSError as error:
                self._warn(error)
            data = self._read(key)
            if data is not None:
                return data
            data = make()
            try:
                self._write(key, data)
            except (OSError, StorageError) as error:
                self._warn(error)
        return data

    def marks(self) -> set[str]:
        """Return all keys that any process gave to `mark`."""
        if not self.limit:
            return set()
        try:
            return set((self.directory / _MARKS).read_text(errors="replace").splitlines())
        except OSError:
            return set()

    def mark(self, key: str) -> None:
        """Record `key`, a fact without content, in a list of 65 bytes a key outside of `limit`."""
        if not self.limit:
            return
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            # One short write at the end of the file: lines of several processes do not mix, and a
            # torn line is not a key.
            with (self.directory / _MARKS).open("ab", buffering=0) as file:
                file.write(f"{key}\n".encode())
        except OSError as error:
            self._warn(error)

    def _read(self, key: str) -> bytes | None:
        path = self.directory / key
        try:
            with path.open("rb") as file:
                checksum, data = file.read(_CHECKSUM), file.read()
        except OSError:
            return None
        # A damaged entry, or one under another's name, is made and written again.
        if checksum != _checksum(key, data):
            return None
        with suppress(OSError):
            os.utime(path)
        return data

    def _write(self, key: str, data: bytes) -> None:
        with self._locked("write.lock"):
            if self._make_room(_CHECKSUM + len(data), key):
                with atomic_writer(self.directory / key) as file:
                    file.write(_checksum(key, data))
                    file.write(data)

    def _make_room(self, size: int, key: str) -> bool:
        """Evict the least recently used entries until `size` bytes fit; False if they never can."""
        if size > self.limit:
            return False
        entries_by_age, total = [], 0
        with os.scandir(self.directory) as entries:
            for entry in entries:
                # `key` is there when it was found damaged. Nobody else writes now, so that the .tmp
                # of another process is of a killed one.
                if entry.name.endswith(".tmp") or entry.name == key:
                    Path(entry.path).unlink()
                elif _KEY.fullmatch(entry.name):
                    status = entry.stat()
                    entries_by_age.append((status.st_mtime_ns, entry.path, status.st_size))
                    total += status.st_size
        for _, path, length in sorted(entries_by_age):
            if total + size <= self.limit:
                break
            Path(path).unlink()
            total -= length
        return True

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / name).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                # Closing is not enough: a process forked meanwhile holds the file, and the lock.
                fcntl.flock(file, fcntl.LOCK_UN)

    def _warn(self, error: Exception) -> None:
        if self._warned.acquire(blocking=False):
            logger.warning(
                "media are decoded again each time, nothing is stored in %s: %s; set"
                " OMNI_MEDIA_CACHE to a directory that can be written, or OMNI_MEDIA_CACHE_GB=0",
                self.directory,
                error,
            )


def media_cache() -> MediaCache:
    """Return the cache of this user.

    `OMNI_MEDIA_CACHE` is its directory (default ~/.cache/omnicore/media), `OMNI_MEDIA_CACHE_GB` its
    size (default 20; 0 stores nothing).

    Raises:
        ConfigError: The size is not a number, or the user has no home directory.
    """
    directory = os.environ.get("OMNI_MEDIA_CACHE", "")
    if not directory:
        try:
            directory = str(Path("~/.cache/omnicore/media").expanduser())
        # A container may run as a user without a name.
        except RuntimeError as error:
            raise ConfigError(
                "this user has no home directory: set OMNI_MEDIA_CACHE to one for decoded media",
                code="media-cache-no-home",
                field="OMNI_MEDIA_CACHE",
            ) from error
    return _cache(directory, os.environ.get("OMNI_MEDIA_CACHE_GB") or "20")


@lru_cache
def _cache(directory: str, size: str) -> MediaCache:
    try:
        limit = int(float(size) * 1e9)
    except (ValueError, OverflowError):
        limit = -1
    if limit < 0:
        raise ConfigError(
            f"OMNI_MEDIA_CACHE_GB={size}: give gigabytes as in 20, or 0 to store nothing",
            code="media-cache-size-invalid",
            field="OMNI_MEDIA_CACHE_GB",
        )
    return MediaCache(Path(directory), limit)


def _checksum(key: str, data: bytes) -> bytes:
    checksum = hashlib.sha256(key.encode())
    checksum.update(data)
    return checksum.digest()
