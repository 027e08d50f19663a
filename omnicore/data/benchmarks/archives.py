"""Files that publishers ship in parts: archives of media and shards of annotations."""

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

UNPACKED = ".unpacked"  # suffix of the mark beside an archive that was unpacked
_ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
# x.zip.part00, x.zip.partaa, x.zip.001, x.tar.gz.aa, x.tar.part-01: pieces of one file, made by
# split or by hand.
_PIECE = re.compile(
    r"(?P<whole>.+\.(?:zip|tar|tar\.gz|tgz))[._-]?(?:part|split)?[._-]?(?P<number>\d{1,3}|[a-z]{2})"
)
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\..*)")  # x-00000-of-00002.parquet
_PART = re.compile(r"(.*_part)(\d+)(\..*)")  # x_part1.parquet
_SHOWN_SHARDS = 5


def check_shards(paths: Iterable[Path]) -> None:
    """Check that all shards of a file in several are there (`x-00000-of-00002`, `x_part1`).

    Raises:
        DataError: Shards are missing; the message names them.
    """
    names = {path.name: path.parent for path in paths}
    required: dict[str, Path] = {}
    for name, folder in names.items():
        for shard in _sibling_shards(name):
            required[shard] = folder
    missing = sorted(name for name, folder in required.items() if not (folder / name).is_file())
    if missing:
        shown = ", ".join(missing[:_SHOWN_SHARDS])
        if len(missing) > _SHOWN_SHARDS:
            shown += f" and {len(missing) - _SHOWN_SHARDS} more"
        folder = required[missing[0]]
        raise DataError(
            f"{folder} lacks {shown}: copy all shards of the file",
            code="annotations-missing-shards",
            path=folder,
        )


def _sibling_shards(name: str) -> list[str]:
    """Return the names of all shards that a file's name tells of, none for a whole file."""
    match = _SHARD.fullmatch(name)
    if match:
        before, _, total, after = match.groups()
        return [f"{before}-{number:05d}-of-{total}{after}" for number in range(int(total))]
    match = _PART.fullmatch(name)
    if match:
        before, last, after = match.groups()
        return [f"{before}{number}{after}" for number in range(1, int(last) + 1)]
    return []


def find_archives(root: Path, patterns: Iterable[str]) -> dict[Path, list[Path]]:
    """Return the archives below `root` that the patterns name.

    Returns:
        By the path of each whole archive: the files that it consists of, in order.
    """
    found: dict[Path, list[Path]] = {}
    for pattern in patterns:
        globs = (pattern, f"{pattern}.*", f"{pattern}[-_]*")
        for path in sorted({path for glob in globs for path in root.glob(glob)}):
            whole = _archive_of(path)
            if whole is None:
                continue
            pieces = found.setdefault(whole, [])
            if path not in pieces:
                pieces.append(path)
    archives = {}
    for whole, pieces in sorted(found.items()):
        # A whole archive beside its pieces was joined of them.
        archives[whole] = [whole] if whole in pieces else sorted(pieces, key=_piece_number)
    return archives


def _archive_of(path: Path) -> Path | None:
    """Return the whole archive that a file is, or is a piece of.

    None for other files: our mark, a checksum, an unfinished download.
    """
    if not path.is_file():
        return None
    if path.name.endswith(_ARCHIVE_SUFFIXES):
        return path
    piece = _PIECE.fullmatch(path.name)
    return path.with_name(piece["whole"]) if piece else None


def unpack_archives(root: Path, patterns: Sequence[str]) -> None:
    """Unpack archives where they lie, each once: `<archive>.unpacked` marks one that is done.

    Pieces are read as one file, and are not joined on the disk.

    Raises:
        DataError: An archive is broken or incomplete.
        StorageError: The disk is full.
    """
    for archive, pieces in find_archives(root, patterns).items():
        if _mark_of(archive).exists():
            continue
        _check_complete(archive, pieces)
        try:
            with storage_errors(root), ExitStack() as files:
                whole = files.enter_context(io.BufferedReader(_JoinedFile(pieces), 1 << 20))
                if archive.suffix == ".zip":
                    files.enter_context(zipfile.ZipFile(whole)).extractall(archive.parent)
                else:
                    tar = files.enter_context(tarfile.open(fileobj=whole))
                    tar.extractall(archive.parent, filter="data")
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
            reason = str(error).partition("\n")[0]
            raise DataError(
                f"{pieces[0]} is not a complete archive: {reason}; remove it and download it again",
                code="archive-broken",
                path=pieces[0],
            ) from error
        _mark_of(archive).touch()


def missing_file_remedy(root: Path, patterns: Sequence[str]) -> str:
    """Return what to do about a missing medium: download, join or unpack an archive.

    Empty where media are not packed.
    """
    if not patterns:
        return ""
    archives = find_archives(root, patterns)
    if not archives:
        return f"; download {patterns[0]} and unpack it here"
    packed = [
        (path.name, pieces) for path, pieces in archives.items() if not _mark_of(path).exists()
    ]
    if not packed:
        return "; it is not in the archives that were unpacked: download them again"
    name, pieces = packed[0]
    more = f" (and {len(packed) - 1} more)" if len(packed) > 1 else ""
    if pieces[0].name != name:
        return f"; join the pieces and unpack them here: cat {name}?* > {name}{more}"
    return f"; unpack {name}{more} here if that has not been done"


def _mark_of(archive: Path) -> Path:
    return archive.with_name(archive.name + UNPACKED)


def _check_complete(archive: Path, pieces: Sequence[Path]) -> None:
    """Raise DataError where a piece is missing before or between others, and for zip volumes.

    Volumes cannot be joined by reading one after another.
    """
    if pieces[0].with_suffix(".z01").exists():
        raise DataError(
            f"{pieces[0]} is the last of several volumes (.z01 ...): join them, `zip -s 0"
            f" {archive.name} --out whole.zip`",
            code="archive-in-volumes",
            path=pieces[0],
        )
    numbers = [_piece_number(path) for path in pieces if path != archive]
    has_gap = any(later != earlier + 1 for earlier, later in pairwise(numbers))
    if numbers and (numbers[0] > 1 or has_gap):
        present = ", ".join(path.name for path in pieces)
        raise DataError(
            f"{pieces[0].parent} holds {present}, and pieces of {archive.name} before or between"
            " them are missing: download them",
            code="archive-missing-pieces",
            path=archive,
        )


def _piece_number(piece: Path) -> int:
    """Return the place of a piece by its number (00, 01 or aa, ab): part10 comes after part2."""
    match = _PIECE.fullmatch(piece.name)
    number = match["number"] if match else "0"
    if number.isdigit():
        return int(number)
    return 26 * (ord(number[0]) - 97) + ord(number[1]) - 97


class _JoinedFile(io.RawIOBase):
    """Pieces of a file as one that can be read and sought in."""

    def __init__(self, pieces: Sequence[Path]) -> None:
        self._files = [path.open("rb") for path in pieces]
        self._starts = [0]
        for path in pieces:
            self._starts.append(self._starts[-1] + path.stat().st_size)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        bases = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._starts[-1]}
        self._at = offset + bases[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        for file, (start, end) in zip(self._files, pairwise(self._starts), strict=True):
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
