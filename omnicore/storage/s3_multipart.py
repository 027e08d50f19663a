"""Multipart uploads that survive a kill: the parts stay on the server for the next upload.

The minio SDK aborts a multipart upload that fails and forgets one whose process is killed. Here the
next upload of the same key continues with the parts that the server has. This needs five calls
beneath `Minio.put_object`, which are private in minio 7.2 (docs/architecture.md, "Private parts of
libraries"); all of them are made in this file. The bucket's lifecycle rule
AbortIncompleteMultipartUpload removes uploads that nobody resumes.
"""

from __future__ import annotations

from typing import NamedTuple

from minio import Minio
from minio.datatypes import Part
from minio.error import S3Error


class ObjectStat(NamedTuple):
    """Size in bytes and ETag of an object or a part.

    The ETag is the md5 of the bytes, or of the parts' md5s, unless the server encrypts.
    """

    size: int
    etag: str


class MultipartUpload:
    """An unfinished upload of one key, created or resumed."""

    def __init__(self, client: Minio, bucket: str, key: str) -> None:
        """Resume the first unfinished upload of the key, or create one."""
        self._client, self._bucket, self._key = client, bucket, key
        listing = client._list_multipart_uploads(bucket, prefix=key)
        unfinished = [upload for upload in listing.uploads if upload.object_name == key]
        if unfinished:
            self._upload_id = str(unfinished[0].upload_id)
        else:
            self._upload_id = str(client._create_multipart_upload(bucket, key, {}))

    def list_parts(self) -> dict[int, ObjectStat]:
        """Return the parts on the server by number, counted from 1."""
        parts: dict[int, ObjectStat] = {}
        marker: str | None = None
        while True:
            page = self._client._list_parts(
                self._bucket, self._key, self._upload_id, part_number_marker=marker
            )
            for part in page.parts:
                parts[part.part_number] = ObjectStat(part.size or 0, part.etag.strip('"'))
            if not page.is_truncated or not page.parts:
                return parts
            marker = str(page.next_part_number_marker)

    def send(self, number: int, body: bytes) -> Part:
        """Upload one part; return its number and ETag."""
        etag = self._client._upload_part(
            self._bucket, self._key, body, None, self._upload_id, number
        )
        return Part(number, etag)

    def complete(self, parts: list[Part]) -> str:
        """Join the parts; return the object's ETag, empty where the server failed to join them.

        The protocol allows an error inside a successful answer here.
        """
        done = self._client._complete_multipart_upload(
            self._bucket, self._key, self._upload_id, parts
        )
        return str(done.etag or "").strip('"')


def upload_is_gone(error: S3Error) -> bool:
    """Return whether another writer completed or aborted the upload."""
    return bool(error.code == "NoSuchUpload")
