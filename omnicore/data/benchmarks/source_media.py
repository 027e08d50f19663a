"""Media of a local copy: found under its root, or taken out of its tables."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from omnicore.data.benchmarks.archives import missing_file_remedy
from omnicore.data.benchmarks.formats import media_suffix
from omnicore.data.benchmarks.records import MediaKind, Refused
from omnicore.schema import Media


class SourceMedia:
    """The media of a local copy.

    Args:
        root: Folder to which paths of media are relative.
        archives: Patterns of the archives in which the publisher ships media.
        scratch: Folder for media that lie inside tables; nothing is written into the copy.
    """

    def __init__(self, root: Path, archives: Sequence[str], scratch: Path | None) -> None:
        self.root, self._archives, self._scratch = root, archives, scratch
        self._digests: dict[str, str] = {}
        self._embedded: dict[str, Path] = {}

    def find(
        self,
        field: str,
        kind: MediaKind,
        uri: str,
        start: float | None = None,
        end: float | None = None,
        *,
        named: str = "",
    ) -> Media:
        """Return the record of a medium.

        Args:
            field: Field of the item that names it, for refusals.
            kind: What it is.
            uri: Its path below the root.
            start: Start of the clip in seconds.
            end: End of the clip in seconds.
            named: The path as the annotation has it, `uri` unless given. If there is no file `uri`,
                the only file below the root whose path ends with this one is taken.

        Raises:
            Refused: The file is missing or lies outside of the root.
        """
        # Links are not resolved: in the hub's cache, and in many copies, files under the root are
        # links to elsewhere.
        if Path(uri).is_absolute() or ".." in Path(uri).parts:
            raise Refused(field, f"{uri} lies outside of {self.root}")
        if not (self.root / uri).is_file():
            uri = self._find_by_name(field, kind, uri, named or uri)
        if uri not in self._digests:
            with (self.root / uri).open("rb") as file:
                self._digests[uri] = hashlib.file_digest(file, "sha256").hexdigest()
        return Media(kind=kind, uri=uri, sha256=self._digests[uri], start=start, end=end)

    def video_with_sound(
        self,
        field: str,
        uri: str,
        start: float | None = None,
        end: float | None = None,
        *,
        named: str = "",
    ) -> tuple[Media, Media]:
        """Return picture and sound of one video file; arguments and refusals as in `find`.

        `named` is the file's base name unless the annotation has a path.
        """
        named = named or PurePosixPath(uri).name
        picture = self.find(field, "video", uri, start, end, named=named)
        return picture, self.find(field, "audio", uri, start, end, named=named)

    def embedded(
        self, field: str, kind: MediaKind, value: bytes | str | Mapping[str, Any] | None
    ) -> Media:
        """Return the record of a medium in a cell of a table.

        The cell holds bytes, the hub's features Image and Audio ({"bytes", "path"}), or the path of
        a file of the copy. Bytes become a file of the scratch folder named by its content.

        Raises:
            Refused: The cell holds nothing, or bytes of no known format.
        """
        data: Any = value
        path = None
        if isinstance(value, Mapping):
            data, path = value.get("bytes"), value.get("path")
        if isinstance(data, str):
            data, path = None, data
        if not data:
            if not path:
                raise Refused(field, f"holds no {kind}")
            return self.find(field, kind, path)
        suffix = media_suffix(data) or Path(path or "").suffix.lower()
        if not suffix:
            raise Refused(field, f"{len(data)} bytes that are no {kind} of a known format")
        if self._scratch is None:
            raise ValueError("a source with media inside its tables needs a scratch folder")
        sha256 = hashlib.sha256(data).hexdigest()
        file = self._scratch / f"{sha256[:16]}{suffix}"
        if not file.exists():
            self._scratch.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        uri = f"embedded:{file.name}"
        self._embedded[uri] = file
        return Media(kind=kind, uri=uri, sha256=sha256)

    def path(self, media: Media) -> Path:
        """Return the file of a medium; of a link, its target."""
        return self._embedded.get(media.uri) or (self.root / media.uri).resolve()

    def _find_by_name(self, field: str, kind: MediaKind, uri: str, named: str) -> str:
        """Return the only file of this name in another folder, since archives have own folders.

        Folders that the annotation names must be there: `b/001.mp4` is not the video `a/001.mp4`.

        Raises:
            Refused: There is none, or several, of which the right one cannot be told.
        """
        name = PurePosixPath(named)
        same_name = self._files_by_name.get(name.name, [])
        matches = [file for file in same_name if f"/{file}".endswith(f"/{name}")]
        if not matches:
            remedy = missing_file_remedy(self.root, self._archives)
            raise Refused(field, f"{kind} {uri} is missing{remedy}")
        if len(matches) > 1:
            shown = ", ".join(matches[:3])
            raise Refused(
                field, f"{kind} {uri} is missing, and which of {shown} it is cannot be told"
            )
        return matches[0]

    @cached_property
    def _files_by_name(self) -> dict[str, list[str]]:
        """All files below the root by base name, through links to folders as well."""
        files: dict[str, list[str]] = {}
        seen: set[str] = set()
        for folder, folders, names in os.walk(self.root, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders.sort()
            for name in names:
                relative = Path(folder, name).relative_to(self.root).as_posix()
                files.setdefault(name, []).append(relative)
        return files
