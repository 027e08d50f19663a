"""The cache of decoded media, hammered by real processes, on disks that are damaged, full or not
ours."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from omnicore.errors import ConfigError, DataError
from omnicore.media import cache
from omnicore.media.cache import MediaCache
from tests.errors import refused

FORK = multiprocessing.get_context("fork")


def key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def content(number: int) -> bytes:
    return random.Random(number).randbytes(500 + 400 * (number % 7))


def used(directory: Path) -> int:
    """Bytes of all entries and unfinished entries."""
    total = 0
    for path in directory.iterdir():
        try:
            total += 0 if path.name.endswith(".lock") else path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def never() -> bytes:
    raise AssertionError("the entry is in the cache")


def in_process(work: Callable[[], None]) -> int:
    """The exit status of a fork that does `work`."""
    process = FORK.Process(target=work)
    process.start()
    process.join()
    return process.exitcode or 0


def test_entry_is_shared_between_caches(tmp_path: Path) -> None:
    assert MediaCache(tmp_path / "new", 10_000).get(key(1), lambda: content(1)) == content(1)
    assert MediaCache(tmp_path / "new", 10_000).get(key(1), never) == content(1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes() + b"\0"),
        lambda path: path.write_bytes(path.read_bytes()[:40] + b"?" + path.read_bytes()[41:]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes((path.parent / key(2)).read_bytes()),  # whole, but another's
    ],
)
def test_damaged_entry_is_made_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    cache = MediaCache(tmp_path, 10_000)
    for number in (1, 2):
        cache.get(key(number), lambda number=number: content(number))  # type: ignore[misc]
    damage(tmp_path / key(1))
    assert cache.get(key(1), lambda: content(1)) == content(1)
    assert cache.get(key(1), never) == content(1)


def test_least_recently_used_entry_is_evicted(tmp_path: Path) -> None:
    cache = MediaCache(tmp_path, 3 * 1032)
    for number in range(3):
        cache.get(key(number), lambda: b"x" * 1000)
        os.utime(tmp_path / key(number), (number, number))
    cache.get(key(0), never)  # now the latest
    cache.get(key(3), lambda: b"x" * 1000)
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".lock"} == {
        key(0),
        key(2),
        key(3),
    }


def test_entry_above_the_limit_is_not_stored(tmp_path: Path) -> None:
    cache = MediaCache(tmp_path, 1000)
    cache.get(key(0), lambda: b"small")
    made = [cache.get(key(1), lambda: bytes(1000)) for _ in range(2)]
    assert made == [bytes(1000)] * 2
    assert not (tmp_path / key(1)).exists()
    assert cache.get(key(0), never) == b"small", "nothing was thrown out for it"


def test_failure_is_raised_and_not_stored(tmp_path: Path) -> None:
    cache = MediaCache(tmp_path, 1000)

    def broken() -> bytes:
        raise DataError("broken file", code="media-damaged")

    with refused(DataError, "media-damaged"):
        cache.get(key(0), broken)
    assert cache.get(key(0), lambda: b"mended") == b"mended"


def test_remains_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    (tmp_path / f"{key(9)}.tmp").write_bytes(bytes(5000))
    MediaCache(tmp_path, 1000).get(key(0), lambda: b"small")
    assert used(tmp_path) == 32 + len(b"small")


@pytest.fixture
def stderr(capfd: pytest.CaptureFixture[str]) -> Iterator[pytest.CaptureFixture[str]]:
    """What this process and its forks write to stderr, the warnings of the cache included."""
    handler = logging.lastResort  # writes to what `sys.stderr` is at the time
    assert handler
    cache.logger.addHandler(handler)
    cache.logger.propagate = False  # handlers that a command has set up would repeat it
    yield capfd
    cache.logger.propagate = True
    cache.logger.removeHandler(handler)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Whose parents anybody may enter, unlike those of tmp_path."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_read_only_directory_is_read_with_a_warning(
    open_directory: Path, stderr: pytest.CaptureFixture[str]
) -> None:
    MediaCache(open_directory, 10_000).get(key(0), lambda: b"there")
    open_directory.chmod(0o555)

    def work() -> None:
        if os.getuid() == 0:  # whom no permission stops
            os.setuid(65534)
        cache = MediaCache(open_directory, 10_000)
        assert cache.get(key(0), never) == b"there"
        assert [cache.get(key(1), lambda: b"made") for _ in range(3)] == [b"made"] * 3

    assert in_process(work) == 0
    text = stderr.readouterr().err
    assert text.count("media are decoded again each time") == 1
    assert "set OMNI_MEDIA_CACHE to a directory that can be written" in text
    assert not (open_directory / key(1)).exists()


def test_write_that_fails_midway_leaves_nothing(
    tmp_path: Path, stderr: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        # As a full disk: the first 2000 bytes of a file are written.
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        cache = MediaCache(tmp_path, 100_000)
        assert [cache.get(key(0), lambda: bytes(50_000)) for _ in range(3)] == [bytes(50_000)] * 3
        assert cache.get(key(1), lambda: b"small") == b"small"

    assert in_process(work) == 0
    assert stderr.readouterr().err.count("media are decoded again each time") == 1
    assert used(tmp_path) == 32 + len(b"small")


def test_path_that_is_not_a_directory_warns(
    tmp_path: Path, stderr: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert MediaCache(tmp_path / "file", 1000).get(key(0), lambda: b"made") == b"made"
    assert "media are decoded again" in stderr.readouterr().err


def test_concurrent_callers_wait_for_the_first(tmp_path: Path) -> None:
    made = tmp_path / "made"

    def slow() -> bytes:
        with made.open("a") as file:
            file.write("x")
        time.sleep(0.3)
        return b"decoded"

    def work() -> None:
        cache = MediaCache(tmp_path / "cache", 1000)
        threads = [threading.Thread(target=cache.get, args=(key(0), slow)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert cache.get(key(0), never) == b"decoded"

    processes = [FORK.Process(target=work) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert made.read_text() == "x"


def test_cache_survives_killed_processes_and_damage(tmp_path: Path) -> None:
    limit, rounds = (
        9000,
        400,
    )  # a third of what all entries need, so that every other call throws one out

    def work(seed: int) -> None:
        cache, rng = MediaCache(tmp_path, limit), random.Random(seed)
        for _ in range(rounds):
            number = rng.randrange(16)
            if cache.get(key(number), lambda number=number: content(number)) != content(number):  # type: ignore[misc]
                sys.exit(1)

    processes = [FORK.Process(target=work, args=(seed,)) for seed in range(4)]
    for process in processes:
        process.start()
    cache, rng, largest = MediaCache(tmp_path, limit), random.Random(0), 0
    victims = {processes[3]: 60, processes[2]: 120}  # killed after so many damages
    damages = 0
    while any(process.is_alive() for process in processes[:2]):
        entries = [path for path in tmp_path.iterdir() if len(path.name) == 64]
        with cache._locked("write.lock"):  # else the sum would be over sizes of different moments
            largest = max(largest, used(tmp_path))
        if entries:
            try:
                with rng.choice(entries).open("r+b") as file:
                    file.truncate(rng.randrange(1 + file.seek(0, os.SEEK_END)))
            except FileNotFoundError:
                continue
            damages += 1
        for process, after in victims.items():
            if damages == after and process.pid:
                os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.001)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes[:2]] == [0, 0]
    assert 0 < largest <= limit
    for number in range(16):
        assert cache.get(key(number), lambda number=number: content(number)) == content(number)  # type: ignore[misc]
    assert used(tmp_path) <= limit


@pytest.mark.parametrize("size", ["much", "-1", "nan", "inf"])
def test_invalid_size_is_refused(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNI_MEDIA_CACHE_GB", size)
    with refused(ConfigError, "media-cache-size-invalid", field="OMNI_MEDIA_CACHE_GB"):
        cache.media_cache()


def test_directory_and_size_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNI_MEDIA_CACHE", str(tmp_path / "kept"))
    monkeypatch.setenv("OMNI_MEDIA_CACHE_GB", "0")
    assert cache.media_cache().get(key(0), lambda: b"made") == b"made"
    assert not (tmp_path / "kept").exists(), "0 stores nothing"
    monkeypatch.setenv("OMNI_MEDIA_CACHE_GB", "0.5")
    assert cache.media_cache().limit == 500_000_000
    assert cache.media_cache() is cache.media_cache(), "else each would warn again"
    cache.media_cache().get(key(0), lambda: b"made")
    assert (tmp_path / "kept" / key(0)).exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user of no name")
def test_user_without_a_home_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("OMNI_MEDIA_CACHE", raising=False)

    def work() -> None:
        os.setuid(54321)
        with refused(ConfigError, "media-cache-no-home", field="OMNI_MEDIA_CACHE"):
            cache.media_cache()

    assert in_process(work) == 0
