"""Directories in S3: published whole or not at all, believed only with their checksums.

  s3://bucket/prefix/published.json          names, sizes, sha256 and ETags of the files, and the digest over them; written last
  s3://bucket/prefix/<digest>/<name>         the files, the folder named by the digest's first 32 digits

Readers believe `published.json` alone. Other content has another digest and so another folder: a republish under the same prefix
moves readers from one whole result to the next by the write of one object, two writers at once leave one of both whole, and who
reads the old one goes on reading it. Nothing is ever removed here; folders that no `published.json` names may be.

An interrupted `publish` goes on when it is called again: what is there with the same checksum is not sent again, nor are parts of
large files. `fetch` writes to `<directory>.part`, goes on with what is good there, and renames it when every file has its sha256.
Servers, keys and certificates: omnicore/storage/s3.py.
"""

from __future__ import annotations

import fcntl
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Self, TypeVar

from pydantic import AfterValidator, Field, ValidationError, model_validator

from omnicore.errors import ConfigError, DataError, StorageError
from omnicore.progress import track
from omnicore.schema import Record
from omnicore.storage.digests import sha256_file
from omnicore.storage.files import storage_errors

if TYPE_CHECKING:
    from omnicore.storage.s3 import Bucket, ProgressCallback

S = TypeVar("S")
T = TypeVar("T")
PUBLISHED = "published.json"
UNFINISHED = ("*.journal", "*.lock", "*.tmp")  # work on its way is no part of a result
FOLDER_DIGITS = 32  # digits of the digest in the name of its folder
MB = 1_000_000
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _inside(name: str) -> str:
    """A manifest that another wrote must not place files outside the directory that is filled."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or name == ".":
        raise ValueError(f"{name!r} is no path inside a directory")
    return name


class PublishedFile(Record):
    """One file of a published directory.

    `etag` is what the server called the object when it was written.
    """

    name: Annotated[str, AfterValidator(_inside)]
    size: int = Field(ge=0)
    sha256: Sha256
    etag: str


class Publication(Record):
    """The content of `published.json`.

    `digest` is over sorted names and sha256, as in `provenance.digest_directory`.
    """

    digest: Sha256
    files: tuple[PublishedFile, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.digest != digest((file.name, file.sha256) for file in self.files):
            raise ValueError("the digest is not that of the files")
        return self

    @property
    def folder(self) -> str:
        """Below the prefix, where the files are under their own names."""
        return self.digest[:FOLDER_DIGITS]


def is_s3(place: str) -> bool:
    return place.startswith("s3://")


def publish(directory: Path, uri: str, moved: ProgressCallback | None = None) -> Publication:
    """Makes `uri` hold the files of `directory`, and lets readers see them when all are there.

    `moved` is told of each piece in place of who watches this process, and ends the publication by
    what it raises. Raises DataError for a directory without files, or one that changes meanwhile;
    ConfigError for a wrong address or setting; StorageError when the store refuses or is away for
    longer than the retries of omnicore/storage/s3.py last.
    """
    bucket, prefix = open_bucket(uri)
    paths = _files(directory)
    with _pool() as files, _pool() as parts:
        before = {name: _state(path) for name, path in paths.items()}
        sums = dict(zip(paths, _sums(files, list(paths.values())), strict=True))
        whole = digest(sums.items())
        folder = f"{prefix}/{whole[:FOLDER_DIGITS]}/"
        with bucket.errors(uri):
            there = bucket.list(folder)

        def send(name: str, tell: ProgressCallback) -> PublishedFile:
            size = before[name][0]
            with bucket.errors(f"s3://{bucket.name}/{folder}{name}"):
                etag = bucket.send(folder + name, paths[name], size, there.get(name), parts, tell)
            if _state(paths[name]) != before[name]:
                raise DataError(
                    f"{paths[name]} changed while it was published to {uri}; give the same command"
                    " again"
                )
            return PublishedFile(name=name, size=size, sha256=sums[name], etag=etag)

        total = sum(size for size, _ in before.values())
        with nullcontext(moved) if moved else _meter(total, f"publish {uri}, MB") as tell:
            sent = _each(files, partial(send, tell=tell), paths)
    published = Publication(digest=whole, files=tuple(sent))
    with bucket.errors(f"{uri}/{PUBLISHED}"):
        bucket.write(f"{prefix}/{PUBLISHED}", published.model_dump_json(indent=1).encode() + b"\n")
    return published


def stat(uri: str) -> Publication | None:
    """What is published at `uri`, None when nothing is.

    Raises StorageError when its manifest is damaged or the store refuses.
    """
    bucket, prefix = open_bucket(uri)
    with bucket.errors(f"{uri}/{PUBLISHED}"):
        text = bucket.read(f"{prefix}/{PUBLISHED}")
    if text is None:
        return None
    try:
        return Publication.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise StorageError(
            f"{uri}/{PUBLISHED} is damaged: {where or 'content'}: {first['msg']}; remove it and"
            " publish the result again"
        ) from error


def require(uri: str) -> Publication:
    """As `stat`, but raises DataError when nothing is published."""
    published = stat(uri)
    if published is None:
        raise DataError(
            f"{uri}: nothing is published there (no {PUBLISHED}); run the step that makes it, with"
            f" --output {uri}"
        )
    return published


def verify(uri: str, published: Publication) -> bool:
    """Whether the store still has every object with the size and ETag that it was written with.

    One listing, no bytes: objects that vanished or were overwritten are found, bytes that rotted
    are found by `fetch`.
    """
    bucket, prefix = open_bucket(uri)
    with bucket.errors(uri):
        there = bucket.list(f"{prefix}/{published.folder}/")
    return all(there.get(file.name) == (file.size, file.etag) for file in published.files)


def read_file(uri: str, published: Publication, name: str) -> bytes:
    """One small file of a publication, which has it.

    Raises StorageError when it is damaged or gone, or the store refuses.
    """
    file = next(file for file in published.files if file.name == name)
    bucket, prefix = open_bucket(uri)
    where = f"{prefix}/{published.folder}/{name}"
    with bucket.errors(f"s3://{bucket.name}/{where}"):
        data = bucket.read(where)
    if data is None or hashlib.sha256(data).hexdigest() != file.sha256:
        raise _damaged(f"s3://{bucket.name}/{where}")
    return data


def fetch(uri: str, directory: Path, published: Publication | None = None) -> Publication:
    """Makes `directory` hold what is published at `uri`, every file checked; the directory is whole
    or absent.

    `published` is what `stat` found there before. A directory that holds the same already is left
    as it is. Raises DataError when nothing is published there, ConfigError for a directory with
    other content, StorageError for a damaged or vanished object, a full disk, or a store that
    refuses.
    """
    published = published or require(uri)
    bucket, prefix = open_bucket(uri)
    scratch = directory.with_name(directory.name + ".part")
    with storage_errors(directory), lock_directory(directory), _pool() as pool, _pool() as parts:
        if directory.exists() and any(directory.iterdir()):
            if (
                set(_good(directory, published, pool))
                == set(_names(directory))
                == {file.name for file in published.files}
            ):
                return published
            raise ConfigError(
                f"{directory} is not empty and does not hold what {uri} does; give a new or empty"
                " directory"
            )
        kept = set(_good(scratch, published, pool))
        for name in set(_names(scratch)) - kept:
            (scratch / name).unlink()

        def take(file: PublishedFile, tell: ProgressCallback) -> None:
            target, where = scratch / file.name, f"{prefix}/{published.folder}/{file.name}"
            if file.name in kept:
                return tell(file.size, 0)
            target.parent.mkdir(parents=True, exist_ok=True)
            with bucket.errors(f"s3://{bucket.name}/{where}"):
                found = bucket.take(where, target, file.size, parts, tell)
            if found != file.sha256:
                target.unlink()
                raise _damaged(f"s3://{bucket.name}/{where}")
            return None

        with _meter(sum(file.size for file in published.files), f"fetch {uri}, MB") as tell:
            _each(pool, partial(take, tell=tell), published.files)
        scratch.rename(directory)
    return published


@contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """One process at a time; the kernel lets go when it ends, however it ends."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with directory.with_name(directory.name + ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def open_bucket(uri: str) -> tuple[Bucket, str]:
    """The bucket of an address, and the prefix in it.

    Raises ConfigError where the SDK is missing or the address is none.
    """
    try:
        from omnicore.storage import s3
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{uri} needs {error.name}, which is not installed: pip install 'omnicore[cluster]'"
        ) from error
    address = s3.parse_uri(uri)
    return s3.Bucket(address.bucket), address.prefix


def _damaged(where: str) -> StorageError:
    return StorageError(
        f"{where}: its bytes are not those that were published; give the command that made it"
        " again, it is mended"
    )


def digest(sums: Iterable[tuple[str, str]]) -> str:
    """Sha256 over pairs of a file's relative name and its sha256."""
    total = hashlib.sha256()
    for name, value in sorted(sums):
        total.update(f"{name}\0{value}\n".encode())
    return total.hexdigest()


def _names(directory: Path) -> list[str]:
    return sorted(
        path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()
    )


def _files(directory: Path) -> dict[str, Path]:
    names = _names(directory) if directory.is_dir() else []
    found = {
        name: directory / name
        for name in names
        if not any(fnmatch(part, p) for part in name.split("/") for p in UNFINISHED)
    }
    if not found:
        raise DataError(f"{directory} has no files to publish; run the step that fills it")
    return found


def _good(directory: Path, published: Publication, pool: ThreadPoolExecutor) -> list[str]:
    """The files of a publication that the directory has already."""
    there = [file for file in published.files if (directory / file.name).is_file()]
    sized = [file for file in there if (directory / file.name).stat().st_size == file.size]
    sums = _sums(pool, [directory / file.name for file in sized])
    return [file.name for file, value in zip(sized, sums, strict=True) if value == file.sha256]


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


@contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    """Ends what runs and leaves out what waits when the block fails."""
    from omnicore.storage import s3

    pool = ThreadPoolExecutor(s3.WORKERS)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _each(pool: ThreadPoolExecutor, call: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """Results in the items' order.

    Raises the first failure when it happens.
    """
    futures = [pool.submit(call, item) for item in items]
    # Not `as_completed`, which wakes this thread for each of thousands and takes the time from those that work.
    for future in wait(futures, return_when=FIRST_EXCEPTION).done:
        future.result()
    return [future.result() for future in futures]


def _sums(pool: ThreadPoolExecutor, paths: Sequence[Path]) -> list[str]:
    """Sha256 of files, in their order; a small one takes less time than handing it to a thread."""
    large = [path for path in paths if path.stat().st_size > MB]
    hashed = dict(zip(large, _each(pool, sha256_file, large), strict=True))
    return [hashed.get(path) or sha256_file(path) for path in paths]


class _Stopped(Exception):
    """Ends the other threads' transfers when one has failed, or the user has pressed Ctrl-C."""


@contextmanager
def _meter(total: int, label: str) -> Iterator[ProgressCallback]:
    """Progress in MB out of threads; `moved` of them had to travel."""
    lock, stopped, done, travelled = threading.Lock(), threading.Event(), 0, 0
    with track(max(1, -(-total // MB)), label) as progress:

        def tell(size: int, moved: int) -> None:
            nonlocal done, travelled
            if stopped.is_set():
                raise _Stopped
            with lock:
                done, travelled = done + size, travelled + moved
                progress.advance(done // MB - progress.done, moved=-(-travelled // MB))

        try:
            yield tell
        except BaseException:
            stopped.set()
            raise
        progress.advance(progress.total - progress.done)
