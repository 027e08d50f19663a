"""What was decoded once, kept on disk: bytes under a key, shared by all processes of a machine and
bounded in size.

A file holds a checksum over key and bytes, then the bytes, and takes its name when it is whole. One
writer works at a time: it removes what killed writers left, makes room by what was used longest
ago, then writes, so the bound holds at every moment. Whoever wants what another is just decoding
waits for it, in this process or another; `flock` ends with its holder.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from omnicore.errors import ConfigError, StorageError
from omnicore.storage.files import atomic_writer

_KEY = re.compile(r"[0-9a-f]{64}")
_CHECKSUM = 32  # bytes
_MARKS = "marks.txt"


class MediaCache:
    """Files in `directory`, at most `limit` bytes of them."""

    def __init__(self, directory: Path, limit: int) -> None:
        self.directory, self.limit = directory, limit
        self._complained = threading.Lock()  # taken for good by the first to complain

    def get(self, key: str, make: Callable[[], bytes]) -> bytes:
        """The bytes under `key` (64 hexadecimal digits), else what `make` gives, kept from now on.

        A directory that cannot be written costs the time of making everything anew, and one line on
        stderr. What `make` raises is raised, and nothing is kept.
        """
        if not self.limit:
            return make()
        if (found := self._read(key)) is not None:
            return found
        with ExitStack() as held:
            try:
                held.enter_context(
                    self._locked(f"{key[:2]}.lock")
                )  # 256 locks, so that none need ever be removed
            except OSError as error:
                self._complain(error)
            if (found := self._read(key)) is not None:
                return found
            made = make()
            try:
                self._write(key, made)
            except (OSError, StorageError) as error:
                self._complain(error)
        return made

    def marks(self) -> set[str]:
        """All keys that were given to `mark`, by whatever process."""
        try:
            return (
                set((self.directory / _MARKS).read_text(errors="replace").splitlines())
                if self.limit
                else set()
            )
        except OSError:
            return set()

    def mark(self, key: str) -> None:
        """Remember `key`, a fact without content, in a list that does not count for `limit`: 65
        bytes each."""
        if not self.limit:
            return
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            # One short write at the end of the file: lines of several processes do not mix, and a torn one is no key.
            with (self.directory / _MARKS).open("ab", buffering=0) as file:
                file.write(f"{key}\n".encode())
        except OSError as error:
            self._complain(error)

    def _read(self, key: str) -> bytes | None:
        path = self.directory / key
        try:
            with path.open("rb") as file:
                checksum, data = file.read(_CHECKSUM), file.read()
        except OSError:
            return None
        if checksum != _checksum(key, data):
            return None  # damaged, or under another's name: it is made and written again
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
        """Removes what was used longest ago until `size` bytes fit; False when they never can."""
        if size > self.limit:
            return False
        kept, total = [], 0
        with os.scandir(self.directory) as entries:
            for entry in entries:
                # `key` is there when it was found damaged; no one else writes now, so another's .tmp is of one killed.
                if entry.name.endswith(".tmp") or entry.name == key:
                    Path(entry.path).unlink()
                elif _KEY.fullmatch(entry.name):
                    status = entry.stat()
                    kept.append((status.st_mtime_ns, entry.path, status.st_size))
                    total += status.st_size
        for _, path, length in sorted(kept):
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
                # Closing is not enough: a process forked meanwhile holds the file, and the lock with it.
                fcntl.flock(file, fcntl.LOCK_UN)

    def _complain(self, error: Exception) -> None:
        if self._complained.acquire(blocking=False):
            reason = (
                "set OMNI_MEDIA_CACHE to a directory that can be written, or OMNI_MEDIA_CACHE_GB=0"
            )
            print(
                f"media are decoded anew each time, nothing is kept in {self.directory}: {error};"
                f" {reason}",
                file=sys.stderr,
            )


def media_cache() -> MediaCache:
    """The one of this user: in `OMNI_MEDIA_CACHE` (~/.cache/omnicore/media), of
    `OMNI_MEDIA_CACHE_GB` (20; 0 keeps nothing).

    Raises ConfigError for a size that is no number, and where there is no home.
    """
    directory = os.environ.get("OMNI_MEDIA_CACHE", "")
    if not directory:
        try:
            directory = str(Path("~/.cache/omnicore/media").expanduser())
        except RuntimeError as error:  # a container's user of no name
            raise ConfigError(
                "this user has no home directory: set OMNI_MEDIA_CACHE to one for decoded media"
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
            f"OMNI_MEDIA_CACHE_GB={size}: give gigabytes as in 20, or 0 to keep nothing"
        )
    return MediaCache(Path(directory), limit)


def _checksum(key: str, data: bytes) -> bytes:
    checksum = hashlib.sha256(key.encode())
    checksum.update(data)
    return checksum.digest()
