"""Directories in S3: published whole or not at all, and read with their checksums.

  s3://bucket/prefix/published.json    names, sizes, sha256 and ETags of the files, and the digest
                                       over them; written last
  s3://bucket/prefix/<digest>/<name>   the files; the folder is the digest's first 32 digits

Readers trust only `published.json`. Other content has another digest and so another folder: a
republish under the same prefix moves readers from one whole result to the next by one write, of two
concurrent writers one wins whole, and readers of the old result keep it. Nothing is deleted here;
folders that no `published.json` names may be deleted.

A repeated `publish` resumes an interrupted one: files with the same checksum, and parts of large
files, are not sent again. `fetch` writes to `<directory>.part`, keeps the intact files there, and
renames it when every file has its sha256. Servers, keys and certificates:
omnicore/storage/s3_connection.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from pydantic import ValidationError

from omnicore.errors import ConfigError, DataError, StorageError
from omnicore.storage.digests import matches_any
from omnicore.storage.files import storage_errors
from omnicore.storage.publication import (
    FOLDER_DIGITS,
    PUBLISHED,
    Publication,
    PublishedFile,
    digest_files,
)
from omnicore.storage.transfer import map_all, progress_meter, sha256_files, transfer_pool

if TYPE_CHECKING:
    from omnicore.storage.s3 import Bucket, ProgressCallback

__all__ = [
    "FOLDER_DIGITS",
    "PUBLISHED",
    "Publication",
    "PublishedFile",
    "fetch",
    "is_s3",
    "lock_directory",
    "open_bucket",
    "publish",
    "read_file",
    "require",
    "stat",
    "verify",
]

UNFINISHED = ("*.journal", "*.lock", "*.tmp")  # unfinished work is not part of a result


def is_s3(place: str) -> bool:
    """Return whether a place is an s3:// address."""
    return place.startswith("s3://")


def publish(directory: Path, uri: str, moved: ProgressCallback | None = None) -> Publication:
    """Upload a directory's files to `uri` and show them to readers once all are there.

    Args:
        directory: The files; journals, locks and temporary files are left out.
        uri: s3:// address.
        moved: Called for each finished piece instead of a progress bar; an exception that it
            raises cancels the upload.

    Raises:
        DataError: The directory has no files, or one changes during the upload.
        ConfigError: The address or a setting is wrong.
        StorageError: The store refuses, or stays away longer than the retries last.
    """
    bucket, prefix = open_bucket(uri)
    paths = _publishable_files(directory)
    with transfer_pool() as files, transfer_pool() as parts:
        before = {name: _size_and_mtime(path) for name, path in paths.items()}
        sha256 = dict(zip(paths, sha256_files(files, list(paths.values())), strict=True))
        digest = digest_files(sha256)
        folder = f"{prefix}/{digest[:FOLDER_DIGITS]}/"
        with bucket.errors(uri):
            existing = bucket.list(folder)

        def upload(name: str, report: ProgressCallback) -> PublishedFile:
            key, size = folder + name, before[name][0]
            with bucket.errors(f"s3://{bucket.name}/{key}"):
                etag = bucket.upload(key, paths[name], size, existing.get(name), parts, report)
            if _size_and_mtime(paths[name]) != before[name]:
                raise DataError(
                    f"{paths[name]} changed while it was published to {uri}; re-run the command",
                    code="publish-file-changed",
                    path=paths[name],
                )
            return PublishedFile(name=name, size=size, sha256=sha256[name], etag=etag)

        total = sum(size for size, _ in before.values())
        with nullcontext(moved) if moved else progress_meter(total, f"publish {uri}, MB") as report:
            published_files = map_all(files, partial(upload, report=report), paths)
    publication = Publication(digest=digest, files=tuple(published_files))
    with bucket.errors(f"{uri}/{PUBLISHED}"):
        manifest = publication.model_dump_json(indent=1).encode() + b"\n"
        bucket.write(f"{prefix}/{PUBLISHED}", manifest)
    return publication


def stat(uri: str) -> Publication | None:
    """Return what is published at `uri`; None when nothing is.

    Raises:
        StorageError: The manifest is damaged, or the store refuses.
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
        field = ".".join(str(part) for part in first["loc"])
        raise StorageError(
            f"{uri}/{PUBLISHED} is damaged: {field or 'content'}: {first['msg']}; remove it and"
            " publish the result again",
            code="s3-manifest-damaged",
            path=f"{uri}/{PUBLISHED}",
            field=field or None,
        ) from error


def require(uri: str) -> Publication:
    """Return what is published at `uri`.

    Raises:
        DataError: Nothing is published there.
        StorageError: As `stat` raises it.
    """
    publication = stat(uri)
    if publication is None:
        raise DataError(
            f"{uri}: nothing is published there (no {PUBLISHED}); run the step that writes it,"
            f" with --output {uri}",
            code="s3-not-published",
            path=uri,
        )
    return publication


def verify(uri: str, publication: Publication) -> bool:
    """Return whether the store has every object with its size and ETag.

    This takes one listing and no transfer: it finds objects that are missing or overwritten.
    `fetch` finds corrupted bytes.
    """
    bucket, prefix = open_bucket(uri)
    with bucket.errors(uri):
        existing = bucket.list(f"{prefix}/{publication.folder}/")
    return all(existing.get(file.name) == (file.size, file.etag) for file in publication.files)


def read_file(uri: str, publication: Publication, name: str) -> bytes:
    """Return the content of one small file of a publication.

    Raises:
        StorageError: The object is damaged or missing, or the store refuses.
    """
    file = next(file for file in publication.files if file.name == name)
    bucket, prefix = open_bucket(uri)
    key = f"{prefix}/{publication.folder}/{name}"
    with bucket.errors(f"s3://{bucket.name}/{key}"):
        data = bucket.read(key)
    if data is None or hashlib.sha256(data).hexdigest() != file.sha256:
        raise _corrupted(f"s3://{bucket.name}/{key}")
    return data


def fetch(uri: str, directory: Path, publication: Publication | None = None) -> Publication:
    """Download what is published at `uri` and check every file; the directory is whole or absent.

    Args:
        uri: s3:// address.
        directory: Where to; one that holds the same files already is left as it is.
        publication: What `stat` returned for the address earlier.

    Raises:
        DataError: Nothing is published there.
        ConfigError: The directory has other content.
        StorageError: An object is damaged or missing, the disk is full, or the store refuses.
    """
    publication = publication or require(uri)
    bucket, prefix = open_bucket(uri)
    partial_dir = directory.with_name(directory.name + ".part")
    with (
        storage_errors(directory),
        lock_directory(directory),
        transfer_pool() as pool,
        transfer_pool() as parts,
    ):
        if directory.exists() and any(directory.iterdir()):
            if _holds_exactly(directory, publication, pool):
                return publication
            raise ConfigError(
                f"{directory} is not empty and differs from {uri}; choose a new or empty directory",
                code="fetch-directory-not-empty",
                path=directory,
            )
        intact = set(_intact_files(partial_dir, publication, pool))
        for name in set(_file_names(partial_dir)) - intact:
            (partial_dir / name).unlink()

        def download(file: PublishedFile, report: ProgressCallback) -> None:
            if file.name in intact:
                report(file.size, 0)
                return
            target, key = partial_dir / file.name, f"{prefix}/{publication.folder}/{file.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            with bucket.errors(f"s3://{bucket.name}/{key}"):
                sha256 = bucket.download(key, target, file.size, parts, report)
            if sha256 != file.sha256:
                target.unlink()
                raise _corrupted(f"s3://{bucket.name}/{key}")

        with progress_meter(publication.size, f"fetch {uri}, MB") as report:
            map_all(pool, partial(download, report=report), publication.files)
        partial_dir.rename(directory)
    return publication


@contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Hold a lock on `<directory>.lock`; the kernel releases it when the process ends."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(directory.with_name(directory.name + ".lock")):
        yield


def open_bucket(uri: str) -> tuple[Bucket, str]:
    """Return the bucket of an address and the prefix in it.

    Raises:
        ConfigError: The SDK is not installed, or `uri` is not an s3:// address.
    """
    try:
        from omnicore.storage import s3
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{uri} needs {error.name}, which is not installed: pip install 'omnicore[cluster]'",
            code="s3-sdk-missing",
        ) from error
    address = s3.parse_uri(uri)
    return s3.Bucket(address.bucket), address.prefix


def _corrupted(where: str) -> StorageError:
    return StorageError(
        f"{where}: content differs from what was published; re-run the command that published it",
        code="s3-object-corrupted",
        path=where,
    )


def _file_names(directory: Path) -> list[str]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return sorted(path.relative_to(directory).as_posix() for path in files)


def _publishable_files(directory: Path) -> dict[str, Path]:
    names = _file_names(directory) if directory.is_dir() else []
    paths = {name: directory / name for name in names if not matches_any(name, UNFINISHED)}
    if not paths:
        raise DataError(
            f"{directory} has no files to publish; run the step that fills it",
            code="publish-no-files",
            path=directory,
        )
    return paths


def _holds_exactly(directory: Path, publication: Publication, pool: ThreadPoolExecutor) -> bool:
    """Return whether a directory holds the files of a publication and no others."""
    if set(_file_names(directory)) != publication.names:
        return False
    return set(_intact_files(directory, publication, pool)) == publication.names


def _intact_files(directory: Path, publication: Publication, pool: ThreadPoolExecutor) -> list[str]:
    """Return the files of a publication that the directory has with the right sha256."""
    candidates = []
    for file in publication.files:
        path = directory / file.name
        if path.is_file() and path.stat().st_size == file.size:
            candidates.append(file)
    hashes = sha256_files(pool, [directory / file.name for file in candidates])
    pairs = zip(candidates, hashes, strict=True)
    return [file.name for file, sha256 in pairs if sha256 == file.sha256]


def _size_and_mtime(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
