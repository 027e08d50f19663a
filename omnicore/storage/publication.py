"""Manifest of a directory in S3: `published.json` with its files and their digest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from omnicore.schema import Record
from omnicore.storage.digests import digest_contents

PUBLISHED = "published.json"
FOLDER_DIGITS = 32  # digits of the digest in the name of its folder
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _check_relative(name: str) -> str:
    """Refuse a name that would place a file outside the directory that is filled."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or name == ".":
        raise ValueError(f"{name!r} is not a path inside a directory")
    return name


class PublishedFile(Record):
    """One file of a published directory.

    `etag` is the server's ETag of the object when it was written.
    """

    name: Annotated[str, AfterValidator(_check_relative)]
    size: int = Field(ge=0)
    sha256: Sha256
    etag: str


class Publication(Record):
    """Content of `published.json`.

    `digest` is over sorted names and sha256, as `digests.digest_directory` computes it.
    """

    digest: Sha256
    files: tuple[PublishedFile, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_digest(self) -> Self:
        if self.digest != digest_files({file.name: file.sha256 for file in self.files}):
            raise ValueError("the digest is not that of the files")
        return self

    @property
    def folder(self) -> str:
        """Folder below the prefix that holds the files under their own names."""
        return self.digest[:FOLDER_DIGITS]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def names(self) -> set[str]:
        """Relative names of all files."""
        return {file.name for file in self.files}


def digest_files(sha256_by_name: Mapping[str, str]) -> str:
    """Return the sha256 over sorted names and the sha256 of their contents."""
    return digest_contents(dict(sorted(sha256_by_name.items())))
