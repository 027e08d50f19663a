"""What adapters share: from a publisher's files to queries, and an account of every item that could not become one.

An adapter is a module with four names:

  ENTRY                  what the registry knows of the benchmark
  rows(source)           the native items with the place where each stands
  query(source, row)     one item as a Query; raises Refused, or lets KeyError and the Query's own ValidationError through
  official(query, reply) the publisher's score of one reply, 0..1, with the publisher's bugs; named in its docstring

and may have `aggregate(pairs)`, the publisher's figures over all (query, reply) that are no mean of `official`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field, ValidationError

from omnicore.errors import ConfigError, DataError
from omnicore.schema import PLACE, AnswerKind, Media, Query, Record


class Entry(Record):
    """One benchmark of the registry. `annotations` are files under the root, `size` the published number of items, 0 where it
    is not known; an empty `revision` means that none has been pinned here, so a download must name one."""

    name: str
    title: str
    source: str = Field(description="repository on the Hugging Face hub, or where the publisher has the files")
    on_hub: bool = True
    revision: str = ""
    licence: str
    size: int = 0
    annotations: tuple[str, ...]
    filter_policy: Literal["filtered", "keep_whole"] = "filtered"
    reason: str = ""
    cluster: str = Field(description="what a query's errors are shared with, as in `video`")
    answer_kinds: tuple[AnswerKind, ...]


class Problem(Record):
    """One item that did not become a query, and where it stands. `line` counts lines of a JSON file, rows of a table."""

    benchmark: str
    file: str
    line: int
    id: str
    field: str
    message: str


@dataclass(frozen=True)
class Row:
    """One native item: its fields, or, where its line is broken, what is wrong with it."""

    file: str
    line: int
    fields: Mapping[str, Any]
    broken: str = ""


class Refused(Exception):
    """An item that cannot be a query: its field, and what is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message = field, message


class Adapter(Protocol):
    ENTRY: Entry

    def rows(self, source: Source) -> Iterator[Row]: ...
    def query(self, source: Source, row: Row) -> Query: ...
    def official(self, query: Query, reply: str) -> float: ...


class Source:
    """A local copy of a benchmark. Raises ConfigError when its annotation files are not there."""

    def __init__(self, entry: Entry, root: Path) -> None:
        self.entry, self.root = entry, root
        self._digests: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        if missing := [name for name in entry.annotations if not (root / name).exists()]:
            raise ConfigError(
                f"{root} is no copy of {entry.title}: {', '.join(missing)} is missing. Give the folder as {entry.source} lays it "
                "out" + (", or download it with --hub" if entry.on_hub else "")
            )

    def json_rows(self, name: str) -> Iterator[Row]:
        """Items of a JSON list, with the line that each starts on. Raises DataError where the list is broken."""
        text = (self.root / name).read_text(encoding="utf-8-sig")
        decoder, blank = json.JSONDecoder(), re.compile(r"[\s,]*")
        at = text.find("[") + 1
        if not at:
            raise DataError(f"{self.root / name}: no JSON list; copy the file again from {self.entry.source}")
        line, counted = 1, 0
        while True:
            at = blank.match(text, at).end()  # type: ignore[union-attr]
            line, counted = line + text.count("\n", counted, at), at
            if text[at : at + 1] == "]":
                return
            try:
                value, end = decoder.raw_decode(text, at)
            except ValueError as error:
                raise DataError(f"{self.root / name}:{line}: broken JSON, {error}; copy the file again") from error
            yield Row(name, line, value) if isinstance(value, dict) else Row(name, line, {}, f"is no object: {value!r:.60}")
            at = end

    def jsonl_rows(self, name: str) -> Iterator[Row]:
        """Items of a JSONL file; a broken line is an item that says so."""
        with (self.root / name).open(encoding="utf-8-sig") as file:
            for number, text in enumerate(file, 1):
                if not text.strip():
                    continue
                try:
                    value = json.loads(text)
                    yield Row(name, number, value) if isinstance(value, dict) else Row(name, number, {}, "is no object")
                except ValueError as error:
                    yield Row(name, number, {}, f"broken JSON, {error}")

    def parquet_rows(self, name: str) -> Iterator[Row]:
        """Rows of a Parquet file, or of all that match a pattern. Raises DataError for a broken file."""
        import pyarrow.parquet as pq  # type: ignore[import-untyped]

        for path in sorted(self.root.glob(name)):
            try:
                table = pq.ParquetFile(path)
                number = 0
                for batch in table.iter_batches(256):
                    for fields in batch.to_pylist():
                        number += 1
                        yield Row(str(path.relative_to(self.root)), number, fields)
            except (OSError, ValueError) as error:
                raise DataError(f"{path} is no readable Parquet file: {error}; copy it again") from error

    def number(self, group: str) -> int:
        """0, 1, 2 ... for each call with the same group: ids for items that have none."""
        self._counts[group] = self._counts.get(group, -1) + 1
        return self._counts[group]

    def media(
        self, field: str, kind: Literal["image", "audio", "video"], uri: str, start: float | None = None, end: float | None = None
    ) -> Media:
        """A medium under the root. Raises Refused when the file is missing or lies outside."""
        path = self.root / uri
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise Refused(field, f"{uri} lies outside {self.root}")
        if not path.is_file():
            raise Refused(field, f"{kind} {uri} is missing")
        if uri not in self._digests:
            with path.open("rb") as file:
                self._digests[uri] = hashlib.file_digest(file, "sha256").hexdigest()
        return Media(kind=kind, uri=uri, sha256=self._digests[uri], start=start, end=end)

    def film(self, field: str, uri: str, start: float | None = None, end: float | None = None) -> tuple[Media, Media]:
        """Picture and sound of one video file."""
        return self.media(field, "video", uri, start, end), self.media(field, "audio", uri, start, end)


def read(adapter: Adapter, source: Source) -> tuple[list[Query], list[Problem], int]:
    """All queries, all problems, and the number of native items; the first two add up to the third."""
    queries: dict[str, Query] = {}
    problems: list[Problem] = []
    native = 0
    for native, row in enumerate(adapter.rows(source), 1):  # noqa: B007 - the last number is the count
        name = ""
        try:
            if row.broken:
                raise Refused("line", row.broken)
            query = adapter.query(source, row)
            name = query.id
            if name in queries:
                raise Refused("id", f"{name} occurs twice")
            queries[name] = query
        except Refused as error:
            field, message = error.field, error.message
        except KeyError as error:
            field, message = str(error.args[0]), "is missing"
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field, message = ".".join(map(str, first["loc"])) or "answer", first["msg"]
        except (TypeError, ValueError, AttributeError) as error:
            field, message = "item", f"has another form than {source.entry.title} publishes: {error}"
        else:
            continue
        problems.append(Problem(benchmark=source.entry.name, file=row.file, line=row.line, id=name, field=field, message=message))
    return list(queries.values()), problems, native


_LABEL = re.compile(r"\s*[(\[]?([A-Z])(?:[.):、\]]|\s*[.):：、])\s*")


def labelled(options: Sequence[str]) -> tuple[list[str], list[str]]:
    """Labels ("A. ", "(B) ") and texts of options, so that label + text is what was given; labels are empty unless all
    options have one, A, B, C in turn: an option may well begin with "A. "."""
    found = [_LABEL.match(option) for option in options]
    letters = [match[1] if match else "" for match in found]
    if letters != [chr(65 + i) for i in range(len(options))]:
        return [""] * len(options), list(options)
    ends = [match.end() if match else 0 for match in found]
    return [o[:n] for o, n in zip(options, ends, strict=True)], [o[n:] for o, n in zip(options, ends, strict=True)]


def by_letter(field: str, letter: str, options: Sequence[str]) -> str:
    """The option that a letter names. Raises Refused when there is none."""
    letter = letter.strip()
    if len(letter) != 1 or not 0 <= (index := ord(letter.upper()) - 65) < len(options):
        raise Refused(field, f"{letter!r} names none of the {len(options)} options")
    return options[index]


def letter(query: Query) -> str:
    """The letter of the right option, in the query's own order: what publishers' rules compare with."""
    return chr(65 + query.options.index(query.answer))


def placed(text: str, tags: Mapping[str, int]) -> str:
    """Text with the publisher's inline media tags as `<media_N>`; `tags` maps a tag to N. Raises Refused for text that holds
    such a place already, which could not be told from ours."""
    if PLACE.search(text):
        raise Refused("question", f"holds {PLACE.search(text)[0]} itself")  # type: ignore[index]
    for tag, number in tags.items():
        text = text.replace(tag, f"<media_{number}>")
    return text


def unplaced(text: str, tags: Mapping[str, int]) -> str:
    """The inverse of `placed`."""
    names = {number: tag for tag, number in tags.items()}
    return PLACE.sub(lambda match: names[int(match[1])], text)
