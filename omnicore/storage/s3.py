"""One bucket over the S3 protocol: sign-in, limits, resumable sends, checked takes, and errors that name their remedy.

Where the server and the keys come from, all by environment:

  OMNI_S3_ENDPOINT, AWS_ENDPOINT_URL_S3    http://host:port or https://host:port; none: Amazon's
  AWS_REGION, AWS_DEFAULT_REGION           none: us-east-1 at an endpoint of one's own, else Amazon is asked for the bucket's
  OMNI_S3_SECRET_DIR                       mounted secret with the files `accesskey` and `secretkey`; read for every request, so
                                           that keys which Kubernetes rotates are those that count
  AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN
                                           without a secret directory; without them the role of the pod or machine (IAM: web
                                           identity, pod identity, instance metadata)
  AWS_CA_BUNDLE, SSL_CERT_FILE             certificates to trust in place of the public ones

Files above `PART` go in parts. The minio SDK aborts such an upload when it fails and forgets it when it is killed; here the
parts stay and the next `send` of the same key goes on with them, by the calls beneath the SDK's `put_object`: they are private,
so the SDK's minor version is pinned. What nobody goes on with is for the bucket's lifecycle rule AbortIncompleteMultipartUpload.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import urlsplit

import certifi
import urllib3
from minio import Minio
from minio.credentials.credentials import Credentials
from minio.credentials.providers import EnvAWSProvider, IamAwsProvider, Provider
from minio.datatypes import Part
from minio.deleteobjects import DeleteObject
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from omnicore.errors import ConfigError, StorageError
from omnicore.storage.files import storage_errors

MIB = 1 << 20
PART = 8 * MIB  # a file's memory on its way, times WORKERS
MAX_PARTS = 10_000  # the protocol's own limit
WORKERS = 8
CONNECT, READ = 5.0, 30.0  # seconds for a connection, and without a byte
TRIES = 6  # after the first, 25 s in all where the server refuses; 4 minutes where it takes requests and answers none
REFUSED = {
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
}
ProgressCallback = Callable[
    [int, int], None
]  # told of each piece that is done: its bytes, and how many of them had to travel


class ObjectStat(NamedTuple):
    """What a listing tells of an object.

    `etag`: md5 of its bytes or of its parts' md5s, where the server does not encrypt.
    """

    size: int
    etag: str


class Address(NamedTuple):
    bucket: str
    prefix: str


def parse_uri(uri: str) -> Address:
    """s3://bucket/prefix in its parts. Raises ConfigError for anything else."""
    found = urlsplit(uri)
    prefix = found.path.strip("/")
    if (
        found.scheme != "s3"
        or not found.netloc
        or not prefix
        or found.query
        or found.fragment
        or "//" in prefix
    ):
        raise ConfigError(f"{uri}: write s3://bucket/prefix, as in s3://omni/runs/a/sft")
    return Address(found.netloc, prefix)


class Bucket:
    """Objects of one bucket.

    May be used by many threads, not across a fork.
    """

    def __init__(self, name: str) -> None:
        """Raises ConfigError when the environment says nonsense; asks the server nothing yet."""
        self.name = name
        self.endpoint = (
            os.environ.get("OMNI_S3_ENDPOINT")
            or os.environ.get("AWS_ENDPOINT_URL_S3")
            or "https://s3.amazonaws.com"
        )
        place = urlsplit(self.endpoint)
        if place.scheme not in ("http", "https") or not place.netloc or place.path.strip("/"):
            raise ConfigError(
                f"S3 endpoint {self.endpoint!r}: write http://host:port or https://host:port"
            )
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if not region and not place.netloc.endswith("amazonaws.com"):
            region = (  # else the SDK asks for it, which small stores and narrow policies refuse
                "us-east-1"
            )
        self.keys, provider = sign_in()
        self._client = Minio(
            place.netloc,
            secure=place.scheme == "https",
            region=region,
            credentials=provider,
            http_client=_pool(CONNECT, READ, TRIES),
        )

    @contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Turns what the SDK raises inside the block into a StorageError about `what`, an address,
        with its remedy."""
        try:
            yield
        except S3Error as error:
            raise StorageError(f"{what}: {self._refusal(error)}") from error
        except (InvalidResponseError, ServerError) as error:
            raise StorageError(
                f"{what}: {self.endpoint} does not answer as S3 does: {error}; check"
                " OMNI_S3_ENDPOINT"
            ) from error
        except urllib3.exceptions.HTTPError as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, urllib3.exceptions.SSLError):
                raise StorageError(
                    f"{what}: {self.endpoint} has a certificate that is not trusted ({reason});"
                    " give its CA's file in AWS_CA_BUNDLE"
                ) from error
            raise StorageError(
                f"{what}: {self.endpoint} is not to be reached ({reason}); check OMNI_S3_ENDPOINT"
                " and the network, then give the same command again, it goes on where it was"
            ) from error

    def _refusal(self, error: S3Error) -> str:
        if error.code in REFUSED:
            return (
                f"{self.endpoint} refused the key of {self.keys} ({error.code}); mend the key or"
                " what it may do with the bucket"
            )
        if error.code == "NoSuchBucket":
            return f"no bucket {self.name} at {self.endpoint}; create it, or mend the address"
        if error.code == "NoSuchKey":
            return (
                "the object has vanished; publish the result again: give the command that made it"
            )
        region = "; set AWS_REGION" if "egion" in f"{error.code}{error.message}" else ""
        return f"{self.endpoint} answered {error.code}: {error.message}{region}"

    def list(self, prefix: str) -> dict[str, ObjectStat]:
        """All objects whose names begin with `prefix`, by the rest of their names."""
        found = self._client.list_objects(self.name, prefix=prefix, recursive=True)
        return {
            str(o.object_name).removeprefix(prefix): ObjectStat(
                o.size or 0, (o.etag or "").strip('"')
            )
            for o in found
            if not o.is_dir
        }

    def read(self, key: str) -> bytes | None:
        """A small object whole, None where there is none."""
        into = BytesIO()
        try:
            self._take_piece(key, into.write, 0, 1 << 40, lambda *_: None)
        except S3Error as error:
            if error.code == "NoSuchKey":
                return None
            raise
        return into.getvalue()

    def write(self, key: str, data: bytes) -> None:
        self._client.put_object(self.name, key, BytesIO(data), len(data))

    def remove(self, keys: Sequence[str]) -> None:
        """Objects that are gone already are no error."""
        for error in self._client.remove_objects(self.name, [DeleteObject(key) for key in keys]):
            raise StorageError(
                f"s3://{self.name}/{error.name}: not removed: {self.endpoint} answered"
                f" {error.code}: {error.message}"
            )

    def send(
        self,
        key: str,
        path: Path,
        size: int,
        there: ObjectStat | None,
        pool: ThreadPoolExecutor,
        moved: ProgressCallback,
    ) -> str:
        """Makes `key` hold the file and returns its ETag.

        What is there already, object or parts of an upload, is not sent again.         Parts go
        through `pool`, which must not be the one that this call runs in.
        """
        for _ in range(3):
            if there and there.size == size and there.etag == _etag(path, size):
                moved(size, 0)
                return there.etag
            if size <= PART:
                etag = self._client.put_object(
                    self.name, key, BytesIO(_read(path, 0, size)), size
                ).etag
                moved(size, size)
                return str(etag)
            # Another writer of the same bytes may finish or drop the upload that both go on with: look again then.
            with suppress(_Gone):
                return self._send_parts(key, path, size, pool, moved)
            there = self.list(key).get("")
        raise StorageError(
            f"s3://{self.name}/{key}: other writers keep ending its upload; end them, or try again"
            " later"
        )

    def _send_parts(
        self, key: str, path: Path, size: int, pool: ThreadPoolExecutor, moved: ProgressCallback
    ) -> str:
        uploads = [
            u.upload_id
            for u in self._client._list_multipart_uploads(self.name, prefix=key).uploads
            if u.object_name == key
        ]
        upload = (
            str(uploads[0])
            if uploads
            else self._client._create_multipart_upload(self.name, key, {})
        )
        step = part_size(size)

        def part(number: int) -> Part:
            body = _read(path, number * step, min(step, size - number * step))
            there = held.get(number + 1)
            if (
                there
                and there.size == len(body)
                and there.etag == hashlib.md5(body, usedforsecurity=False).hexdigest()
            ):
                moved(len(body), 0)
                return Part(number + 1, there.etag)
            etag = self._client._upload_part(self.name, key, body, None, upload, number + 1)
            moved(len(body), len(body))
            return Part(number + 1, etag)

        try:
            held = self._parts(key, upload)
            parts = list(pool.map(part, range(pieces(size))))
            etag = self._client._complete_multipart_upload(self.name, key, upload, parts).etag
        except S3Error as error:
            if error.code == "NoSuchUpload":
                raise _Gone from error
            raise
        if not etag:  # the protocol allows an error inside a good answer here
            raise StorageError(
                f"s3://{self.name}/{key}: {self.endpoint} could not put the parts together; give"
                " the same command again"
            )
        return str(etag).strip('"')

    def _parts(self, key: str, upload: str) -> dict[int, ObjectStat]:
        found: dict[int, ObjectStat] = {}
        marker: str | None = None
        while True:
            page = self._client._list_parts(self.name, key, upload, part_number_marker=marker)
            found |= {p.part_number: ObjectStat(p.size or 0, p.etag.strip('"')) for p in page.parts}
            if not page.is_truncated or not page.parts:
                return found
            marker = str(page.next_part_number_marker)

    def take(
        self, key: str, path: Path, size: int, pool: ThreadPoolExecutor, moved: ProgressCallback
    ) -> str:
        """Writes the object to `path` and returns the sha256 of what came; of a large one the
        pieces come through `pool`.

        The hash follows the pieces in their order, out of the page cache, while later ones are
        still on their way.
        """
        step, digest, buffer = part_size(size), hashlib.sha256(), bytearray(MIB // 4)
        numbers = range(pieces(size))

        def keep(file: BinaryIO, chunk: bytes) -> None:
            file.write(chunk)
            if len(numbers) == 1:  # in its order already: no need to read it again
                digest.update(chunk)

        def piece(number: int) -> None:
            with path.open("r+b") as file:
                file.seek(number * step)
                self._take_piece(
                    key, partial(keep, file), number * step, min(step, size - number * step), moved
                )

        with storage_errors(path):
            path.write_bytes(b"")
            if len(numbers) == 1:
                piece(0)
                return digest.hexdigest()
            for number, _ in enumerate(pool.map(piece, numbers)):
                with path.open("rb", buffering=0) as file:
                    file.seek(number * step)
                    for _ in range(-(-step // len(buffer))):
                        digest.update(memoryview(buffer)[: file.readinto(buffer) or 0])
        return digest.hexdigest()

    def _take_piece(
        self,
        key: str,
        write: Callable[[bytes], object],
        start: int,
        length: int,
        moved: ProgressCallback,
    ) -> None:
        """A stream that breaks off goes on from there.

        An object that is too short gives what it has: its sha256 tells.
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
                # As stored: a server's Content-Encoding would change what is hashed, and looking for one copies every chunk twice.
                for chunk in answer.stream(MIB, decode_content=False):
                    write(chunk)
                    done += len(chunk)
                    moved(len(chunk), len(chunk))
                return
            except urllib3.exceptions.HTTPError:
                breaks += 1
                if breaks > TRIES:
                    raise
                if done >= length:
                    return
                time.sleep(min(0.5 * 2**breaks, 10))
            finally:
                answer.close()
                answer.release_conn()


class _Gone(Exception):
    """The upload that was gone on with has been ended by somebody else."""


class _SecretDirectory(Provider):  # type: ignore[misc]
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def retrieve(self) -> Credentials:
        try:
            access, secret = (
                (self._folder / name).read_text().strip() for name in ("accesskey", "secretkey")
            )
        except OSError as error:
            raise ConfigError(
                f"OMNI_S3_SECRET_DIR: cannot read {error.filename}: {error.strerror}; mount the"
                " secret there"
            ) from error
        return Credentials(access, secret)


class _Role(Provider):  # type: ignore[misc]
    def __init__(self) -> None:
        self._iam = IamAwsProvider(http_client=_pool(2, 10, 1))

    def retrieve(self) -> Credentials:
        try:
            return self._iam.retrieve()
        except (
            ValueError,
            KeyError,
            OSError,
            MinioException,
            urllib3.exceptions.HTTPError,
        ) as error:
            raise StorageError(
                "no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or"
                f" OMNI_S3_SECRET_DIR, or give the pod a role; asked for a role: {error}"
            ) from error


def sign_in() -> tuple[str, Provider]:
    """Where the keys come from, in words, and who gives them."""
    if folder := os.environ.get("OMNI_S3_SECRET_DIR"):
        return f"the secret in {folder}", _SecretDirectory(Path(folder))
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        if not os.environ.get("AWS_SECRET_ACCESS_KEY"):
            raise ConfigError("AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not; set both")
        return "AWS_ACCESS_KEY_ID", EnvAWSProvider()
    return "the pod's or machine's role", _Role()


def _pool(connect: float, read: float, tries: int) -> urllib3.PoolManager:
    bundle = os.environ.get("AWS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
    if bundle and not Path(bundle).is_file():
        raise ConfigError(f"AWS_CA_BUNDLE or SSL_CERT_FILE={bundle}: no such file")
    return urllib3.PoolManager(
        maxsize=2 * WORKERS,
        timeout=urllib3.Timeout(connect=connect, read=read),
        cert_reqs="CERT_REQUIRED",
        ca_certs=bundle or certifi.where(),
        retries=urllib3.Retry(
            total=tries,
            other=0,  # a certificate is not trusted the second time either
            allowed_methods=None,
            status_forcelist=(408, 429, 500, 502, 503, 504),
            raise_on_status=False,
            backoff_factor=0.5,
            backoff_max=10,
            backoff_jitter=0.2,
            respect_retry_after_header=False,  # a server could ask for hours
        ),
    )


def part_size(size: int) -> int:
    """Of a file of `size` bytes: PART, or more, in whole MiB, where that would make too many."""
    return max(PART, -(-size // MAX_PARTS // MIB) * MIB)


def pieces(size: int) -> int:
    """How many requests a file takes."""
    return max(1, -(-size // part_size(size)))


def _read(path: Path, start: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(length)


def _etag(path: Path, size: int) -> str:
    """What a server that does not encrypt answers for the file as `send` sends it."""
    step = part_size(size)
    parts: Sequence[bytes] = [
        hashlib.md5(_read(path, i * step, step), usedforsecurity=False).digest()
        for i in range(pieces(size))
    ]
    if size <= PART:
        return parts[0].hex()
    return f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"
