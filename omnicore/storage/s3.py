"""Objects of one S3 bucket: list, read, write, resumable uploads and checked downloads.

Endpoint, credentials and certificates: omnicore/storage/s3_connection.py.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import urlsplit

import urllib3
from minio.datatypes import Part
from minio.deleteobjects import DeleteObject
from minio.error import InvalidResponseError, S3Error, ServerError

from omnicore.errors import ConfigError, StorageError
from omnicore.storage import s3_connection
from omnicore.storage.files import storage_errors
from omnicore.storage.s3_connection import WORKERS
from omnicore.storage.s3_multipart import MultipartUpload, ObjectStat, upload_is_gone

__all__ = ["PART", "WORKERS", "Bucket", "ObjectStat", "ProgressCallback", "parse_uri"]

MIB = 1 << 20
PART = 8 * MIB  # larger files go in parts; memory of one file in flight is PART x WORKERS
MAX_PARTS = 10_000  # the protocol's limit
MAX_SMALL_OBJECT = 1 << 40  # bytes that `read` asks for: all of any object
TAKEOVERS = 3  # uploads of one file that other writers may end
# Called for each finished piece with its bytes, and with how many of them were transferred.
ProgressCallback = Callable[[int, int], None]


class Address(NamedTuple):
    """Bucket and prefix of an s3:// address."""

    bucket: str
    prefix: str


def parse_uri(uri: str) -> Address:
    """Split s3://bucket/prefix.

    Raises:
        ConfigError: `uri` has another form.
    """
    parts = urlsplit(uri)
    prefix = parts.path.strip("/")
    is_address = parts.scheme == "s3" and parts.netloc and prefix and "//" not in prefix
    if not is_address or parts.query or parts.fragment:
        raise ConfigError(
            f"{uri}: write s3://bucket/prefix, as in s3://omni/runs/a/sft", code="s3-uri-invalid"
        )
    return Address(parts.netloc, prefix)


class Bucket:
    """Objects of one bucket; safe for threads, not for use across a fork."""

    def __init__(self, name: str) -> None:
        """Read the environment; send no request yet.

        Raises:
            ConfigError: The environment is invalid.
        """
        self.name = name
        self.endpoint = s3_connection.endpoint()
        self.keys, provider = s3_connection.credentials_from_environment()
        self._client = s3_connection.connect(self.endpoint, provider)

    @contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Raise StorageError about the address `what`, with a remedy, where the SDK fails."""
        try:
            yield
        except S3Error as error:
            failure = s3_connection.refusal(error, self.endpoint, self.name, self.keys)
            raise _about(what, failure) from error
        except (InvalidResponseError, ServerError) as error:
            raise StorageError(
                f"{what}: {self.endpoint} does not answer as S3 does: {error}; check"
                " OMNI_S3_ENDPOINT",
                code="s3-response-invalid",
                path=what,
            ) from error
        except urllib3.exceptions.HTTPError as error:
            raise _about(what, s3_connection.unreachable(error, self.endpoint)) from error

    def list(self, prefix: str) -> dict[str, ObjectStat]:
        """Return all objects whose names begin with `prefix`, by the rest of their names."""
        stats: dict[str, ObjectStat] = {}
        for item in self._client.list_objects(self.name, prefix=prefix, recursive=True):
            if not item.is_dir:
                name = str(item.object_name).removeprefix(prefix)
                stats[name] = ObjectStat(item.size or 0, (item.etag or "").strip('"'))
        return stats

    def read(self, key: str) -> bytes | None:
        """Return the content of a small object; None where there is none."""
        buffer = BytesIO()
        try:
            self._download_range(key, buffer.write, 0, MAX_SMALL_OBJECT, lambda *_: None)
        except S3Error as error:
            if error.code == "NoSuchKey":
                return None
            raise
        return buffer.getvalue()

    def write(self, key: str, data: bytes) -> str:
        """Write a small object; return its ETag."""
        return str(self._client.put_object(self.name, key, BytesIO(data), len(data)).etag)

    def remove(self, keys: Sequence[str]) -> None:
        """Delete objects; missing ones are not an error."""
        for error in self._client.remove_objects(self.name, [DeleteObject(key) for key in keys]):
            raise StorageError(
                f"s3://{self.name}/{error.name}: not removed: {self.endpoint} answered"
                f" {error.code}: {error.message}",
                code="s3-remove-failed",
                path=f"s3://{self.name}/{error.name}",
            )

    def upload(
        self,
        key: str,
        path: Path,
        size: int,
        existing: ObjectStat | None,
        pool: ThreadPoolExecutor,
        moved: ProgressCallback,
    ) -> str:
        """Make `key` hold the file; send only what the server does not have.

        Args:
            key: Name of the object.
            path: The file.
            size: Its size in bytes.
            existing: The object of that name on the server.
            pool: Threads for the parts; must not be the pool that this call runs in.
            moved: Called for each finished piece.

        Returns:
            The object's ETag.
        """
        for _ in range(TAKEOVERS):
            if existing and existing.size == size and existing.etag == _file_etag(path, size):
                moved(size, 0)
                return existing.etag
            if size <= PART:
                etag = self.write(key, _read_range(path, 0, size))
                moved(size, size)
                return etag
            uploaded = self._upload_parts(key, path, size, pool, moved)
            if uploaded is not None:
                return uploaded
            existing = self.list(key).get("")
        raise StorageError(
            f"s3://{self.name}/{key}: other writers keep ending its upload; stop them, or try"
            " again later",
            code="s3-upload-contended",
            path=f"s3://{self.name}/{key}",
        )

    def _upload_parts(
        self, key: str, path: Path, size: int, pool: ThreadPoolExecutor, moved: ProgressCallback
    ) -> str | None:
        """Upload the missing parts; return the ETag, None where another writer ended the upload.

        Another writer of the same bytes may complete or abort the upload that both continue.
        """
        upload = MultipartUpload(self._client, self.name, key)
        step = part_size(size)

        def send_part(index: int) -> Part:
            body = _read_range(path, index * step, min(step, size - index * step))
            known = existing.get(index + 1)
            if known and known == ObjectStat(len(body), _md5(body).hexdigest()):
                moved(len(body), 0)
                return Part(index + 1, known.etag)
            part = upload.send(index + 1, body)
            moved(len(body), len(body))
            return part

        try:
            existing = upload.list_parts()
            etag = upload.complete(list(pool.map(send_part, range(part_count(size)))))
        except S3Error as error:
            if upload_is_gone(error):
                return None
            raise
        if not etag:
            raise StorageError(
                f"s3://{self.name}/{key}: {self.endpoint} could not join the parts; re-run to"
                " resume",
                code="s3-upload-incomplete",
                path=f"s3://{self.name}/{key}",
            )
        return etag

    def download(
        self, key: str, path: Path, size: int, pool: ThreadPoolExecutor, moved: ProgressCallback
    ) -> str:
        """Write an object to a file; fetch the parts of a large one through `pool`.

        Returns:
            The sha256 of the received bytes. The hash follows the parts in order, out of the page
            cache, while later ones are still in flight.
        """
        step, count = part_size(size), part_count(size)
        digest = hashlib.sha256()

        def write_chunk(file: BinaryIO, chunk: bytes) -> None:
            file.write(chunk)
            # Chunks of a single part come in order: no need to read them again.
            if count == 1:
                digest.update(chunk)

        def fetch_part(index: int) -> None:
            length = min(step, size - index * step)
            with path.open("r+b") as file:
                file.seek(index * step)
                self._download_range(key, partial(write_chunk, file), index * step, length, moved)

        with storage_errors(path):
            path.write_bytes(b"")
            if count == 1:
                fetch_part(0)
                return digest.hexdigest()
            for index, _ in enumerate(pool.map(fetch_part, range(count))):
                _hash_range(path, index * step, step, digest)
        return digest.hexdigest()

    def _download_range(
        self,
        key: str,
        write: Callable[[bytes], object],
        start: int,
        length: int,
        moved: ProgressCallback,
    ) -> None:
        """Stream bytes of an object; resume a broken stream where it stopped.

        An object that is too short gives fewer bytes; its sha256 shows that.
        """
        done = breaks = 0
        while True:
            try:
                answer = self._client.get_object(
                    self.name, key, offset=start + done, length=length - done
                )
            except S3Error as error:
                if error.code == "InvalidRange":
                    return
                raise
            try:
                # As stored: decoding by Content-Encoding would change the hashed bytes, and
                # checking for it copies every chunk twice.
                for chunk in answer.stream(MIB, decode_content=False):
                    write(chunk)
                    done += len(chunk)
                    moved(len(chunk), len(chunk))
                return
            except urllib3.exceptions.HTTPError:
                breaks += 1
                if breaks > s3_connection.RETRIES:
                    raise
                if done >= length:
                    return
                time.sleep(min(0.5 * 2**breaks, 10))
            finally:
                answer.close()
                answer.release_conn()


def part_size(size: int) -> int:
    """Return the bytes of a part: PART, or more, in whole MiB, where that gives too many parts."""
    return max(PART, -(-size // MAX_PARTS // MIB) * MIB)


def part_count(size: int) -> int:
    """Return the number of requests that a file of `size` bytes takes."""
    return max(1, -(-size // part_size(size)))


def _about(what: str, failure: StorageError) -> StorageError:
    return StorageError(f"{what}: {failure}", code=failure.code, path=what)


def _read_range(path: Path, start: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(length)


def _hash_range(path: Path, start: int, length: int, digest: Any) -> None:
    """Add bytes of a file to a hash through a small buffer."""
    buffer = bytearray(MIB // 4)
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        for _ in range(-(-length // len(buffer))):
            count = file.readinto(buffer) or 0
            digest.update(memoryview(buffer)[:count])


def _md5(data: bytes) -> Any:
    return hashlib.md5(data, usedforsecurity=False)


def _file_etag(path: Path, size: int) -> str:
    """Return the ETag of the file after `upload` on a server that does not encrypt."""
    step = part_size(size)
    hashes = [_md5(_read_range(path, index * step, step)) for index in range(part_count(size))]
    if size <= PART:
        return str(hashes[0].hexdigest())
    joined = b"".join(part.digest() for part in hashes)
    return f"{_md5(joined).hexdigest()}-{len(hashes)}"
