"""Archives in which publishers ship media: found, joined where they come in parts, unpacked
once."""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from omnicore.errors import DataError
from omnicore.storage.files import storage_errors

UNPACKED = ".unpacked"
_WHOLE = (".zip", ".tar", ".tar.gz", ".tgz")
# x.zip.part00, x.zip.partaa, x.zip.001, x.tar.gz.aa, x.tar.part-01: pieces of one file, cut by split or by hand.
_PIECE = re.compile(
    r"(?P<whole>.+\.(?:zip|tar|tar\.gz|tgz))[._-]?(?:part|split)?[._-]?(?P<number>\d{1,3}|[a-z]{2})"
)


def find_archives(root: Path, patterns: Iterable[str]) -> dict[Path, list[Path]]:
    """The archives below `root` that the patterns name, by the path of the whole, each with the
    files that it consists of, in order."""
    found: dict[Path, list[Path]] = {}
    for pattern in patterns:
        for path in sorted(
            {*root.glob(pattern), *root.glob(f"{pattern}.*"), *root.glob(f"{pattern}[-_]*")}
        ):
            whole = path.name.endswith(_WHOLE)
            piece = None if whole else _PIECE.fullmatch(path.name)
            if (
                not (whole or piece) or not path.is_file()
            ):  # a mark of ours, a checksum, an unfinished download
                continue
            pieces = found.setdefault(path.with_name(piece["whole"]) if piece else path, [])
            if path not in pieces:
                pieces.append(path)
    # Where both lie there, somebody has joined the pieces.
    return {
        whole: [whole] if whole in pieces else sorted(pieces, key=_place)
        for whole, pieces in sorted(found.items())
    }


def unpack_archives(root: Path, patterns: Sequence[str]) -> None:
    """Unpacks archives where they lie and once: each leaves `<archive>.unpacked` when it is done.

    Pieces are read as one file, and are not joined on the disk. Raises DataError for a broken or
    incomplete one, StorageError for a full disk.
    """
    for archive, pieces in find_archives(root, patterns).items():
        if _done(archive).exists():
            continue
        _check_whole(archive, pieces)
        try:
            with storage_errors(root), ExitStack() as files:
                whole = files.enter_context(io.BufferedReader(_Joined(pieces), 1 << 20))
                if archive.suffix == ".zip":
                    files.enter_context(zipfile.ZipFile(whole)).extractall(archive.parent)
                else:
                    files.enter_context(tarfile.open(fileobj=whole)).extractall(
                        archive.parent, filter="data"
                    )
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
            told = str(error).partition("\n")[0]
            raise DataError(
                f"{pieces[0]} is no whole archive: {told}; remove it and download it again"
            ) from error
        _done(archive).touch()


def missing_file_remedy(root: Path, patterns: Sequence[str]) -> str:
    """What is to be done where a medium is not there: download, join, or unpack.

    Empty where media are not packed.
    """
    found = find_archives(root, patterns)
    packed = [
        (archive.name, pieces) for archive, pieces in found.items() if not _done(archive).exists()
    ]
    if not patterns:
        return ""
    if not found:
        return f"; download {patterns[0]} and unpack it here"
    if not packed:
        return "; it is not in the archives that were unpacked: download them again"
    name, pieces = packed[0]
    more = f" (and {len(packed) - 1} more)" if len(packed) > 1 else ""
    if pieces[0].name != name:
        return f"; join the pieces and unpack them here: cat {name}?* > {name}{more}"
    return f"; unpack {name}{more} here if that has not been done"


def _done(archive: Path) -> Path:
    return archive.with_name(archive.name + UNPACKED)


def _check_whole(archive: Path, pieces: Sequence[Path]) -> None:
    """Raises DataError where a piece is missing before or between others, and for volumes, which
    are no plain pieces."""
    if pieces[0].with_suffix(".z01").exists():
        raise DataError(
            f"{pieces[0]} is the last of several volumes (.z01 ...): join them, `zip -s 0"
            f" {archive.name} --out whole.zip`"
        )
    places = [_place(path) for path in pieces if path != archive]
    if places and (
        places[0] > 1 or any(later != earlier + 1 for earlier, later in pairwise(places))
    ):
        there = ", ".join(path.name for path in pieces)
        raise DataError(
            f"{pieces[0].parent} holds {there}, and pieces of {archive.name} before or between them"
            " are missing: download them"
        )


def _place(piece: Path) -> int:
    """The place of a piece by its number, 00, 01 ...

    or aa, ab ...; part10 comes after part2.
    """
    found = _PIECE.fullmatch(piece.name)
    number = found["number"] if found else "0"
    return int(number) if number.isdigit() else 26 * (ord(number[0]) - 97) + ord(number[1]) - 97


class _Joined(io.RawIOBase):
    """Pieces of a file as one that can be read and sought in."""

    def __init__(self, pieces: Sequence[Path]) -> None:
        self._files = [path.open("rb") for path in pieces]
        sizes = [path.stat().st_size for path in pieces]
        self._starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = (
            offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._starts[-1]}[whence]
        )
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        for file, start, end in zip(self._files, self._starts, self._starts[1:], strict=False):
            if start <= self._at < end:
                file.seek(self._at - start)
                data = file.read(min(len(buffer), end - self._at))
                buffer[: len(data)] = data
                self._at += len(data)
                return len(data)
        return 0

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()
