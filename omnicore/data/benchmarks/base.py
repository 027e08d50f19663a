"""What adapters share: from a publisher's files to queries, and an account of every item that could not become one.

An adapter is a module with four names:

  ENTRY                         the benchmark's record in the registry
  read_rows(source)             the native items with the place where each stands
  build_query(source, row)      one item as a Query; raises Refused, or lets KeyError and the Query's own ValidationError through
  official_score(query, reply)  the publisher's score of one reply, 0..1, with the publisher's bugs, named in its docstring; None
                                where only a judge that is not here can tell

and may have `official_figures(pairs)`, the publisher's figures over all (query, reply) that are no mean of `official_score`.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

from pydantic import Field, ValidationError

from omnicore.data.benchmarks.archives import missing_file_remedy
from omnicore.data.benchmarks.files import check_shards, json_members, media_suffix
from omnicore.errors import ConfigError, DataError
from omnicore.schema import MEDIA_PLACEHOLDER, AnswerKind, Media, Query, Record
from omnicore.scoring.extract import parse_number

MediaKind = Literal["image", "audio", "video"]


class BenchmarkEntry(Record):
    """One benchmark of the registry.

    `annotations` are alternatives, one for each layout that is read: a file under the root, or a
    pattern of files; the first that a copy has is read, so the publisher's own comes first.
    `archives` are patterns of what the publisher ships its media packed in; `size` is the published
    number of items, 0 where it is not known; an empty `revision` means that none has been pinned
    here, so a download must name one.
    """

    name: str
    title: str
    source: str = Field(
        description="repository on the Hugging Face hub, or where the publisher has the files"
    )
    on_hub: bool = True
    revision: str = ""
    licence: str
    size: int = 0
    annotations: tuple[str, ...]
    archives: tuple[str, ...] = ()
    filter_policy: Literal["filtered", "keep_whole"] = "filtered"
    reason: str = ""
    cluster: str = Field(description="what a query's errors are shared with, as in `video`")
    answer_kinds: tuple[AnswerKind, ...]
    shares: tuple[str, ...] = Field(
        (), description="native fields by whose values a loss may be skewed: type, length"
    )


class Problem(Record):
    """One finding about an item, and where the item stands.

    `line` counts lines of a JSON file, rows of a table. `excluded`: nothing is wrong with the item,
    but it is no query. `kept`: the item is a query, and doubtful: a warning. Anything else was
    refused, and counts toward `prepare.max_refused`.
    """

    benchmark: str
    file: str
    line: int
    id: str
    field: str
    message: str
    excluded: bool = False
    kept: bool = False

    @property
    def refused(self) -> bool:
        return not (self.excluded or self.kept)


@dataclass(frozen=True)
class AnnotationRow:
    """One native item: its fields, or, where its line is broken, what is wrong with it.

    `key` is its name in a JSON object and goes into the list of problems; `text` is the item as it
    stands in a JSON file. `null` are fields that it has without a value, which an adapter finds
    there and not in `fields`.
    """

    file: str
    line: int
    fields: Mapping[str, Any]
    broken: str = ""
    key: str = ""
    text: str = ""
    null: frozenset[str] = frozenset()

    def member_rows(self, field: str = "") -> Iterator[AnnotationRow]:
        """The members of this item, or of the list in one of its fields, as rows of their own,
        where they stand."""
        starts = {key: start for key, _, start, _ in json_members(self.text)} if field else {}
        for key, value, start, end in json_members(self.text, starts.get(field, 0)):
            yield _json_row(
                self.file,
                self.line + self.text.count("\n", 0, start),
                key,
                value,
                self.text[start:end],
            )


class Refused(Exception):
    """An item that cannot be a query: its field, and what is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message = field, message


class Excluded(Refused):
    """An item that is as published but has no answer that a reply can be compared with, as a
    caption to write: listed and counted like what is refused, but no sign of a broken copy."""


class Mislabelled(Refused):
    """Options whose labels are mixed, repeated or out of order.

    `texts` are the options without whatever label each has.
    """

    def __init__(self, field: str, message: str, texts: list[str]) -> None:
        super().__init__(field, message)
        self.texts = texts


class Adapter(Protocol):
    @property
    def ENTRY(self) -> BenchmarkEntry: ...  # noqa: N802 - a constant of a module

    def read_rows(self, source: AnnotationSource) -> Iterator[AnnotationRow]: ...
    def build_query(self, source: AnnotationSource, row: AnnotationRow) -> Query: ...
    def official_score(self, query: Query, reply: str) -> float | None: ...


def _json_row(file: str, line: int, key: str, value: Any, text: str) -> AnnotationRow:
    broken = "" if isinstance(value, dict) else f"is no object: {value!r:.60}"
    return AnnotationRow(file, line, {} if broken else value, broken, key, text)


class AnnotationSource:
    """A local copy of a benchmark.

    Media that lie inside its tables are written to `scratch`, never into the copy. `layout` is the
    one of `entry.annotations` that the copy has. Paths of media are relative to `media_root`, which
    is `root` unless given.

    Raises ConfigError when it has none of them.
    """

    def __init__(
        self,
        entry: BenchmarkEntry,
        root: Path,
        scratch: Path | None = None,
        media_root: Path | None = None,
    ) -> None:
        self.entry, self.root, self.scratch, self.media_root = (
            entry,
            root,
            scratch,
            media_root or root,
        )
        self._digests: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._embedded: dict[str, Path] = {}
        self.size = entry.size
        self.losses: dict[
            tuple[str, str], tuple[int, int]
        ] = {}  # by field and value of `entry.shares`: items, and those lost
        self.columns: dict[str, None] = {}  # all fields that items have had
        self._warnings: list[Refused] = []
        layout = next(
            (name for name in entry.annotations if next(root.glob(name), None) is not None), None
        )
        if layout is None:
            own, *others = entry.annotations
            besides = (
                f", and so is each other layout that is read: {', '.join(others)}" if others else ""
            )
            raise ConfigError(
                f"{root} is no copy of {entry.title}: {own} is missing{besides}. Give the folder as"
                f" {entry.source} lays it out"
                + (", or download it with --hub" if entry.on_hub else "")
            )
        self.layout = layout
        check_shards(path for name in entry.annotations for path in root.glob(name))

    def json_rows(self, name: str) -> Iterator[AnnotationRow]:
        """Items of a JSON list or members of a JSON object, with the line that each starts on.

        Raises DataError where the file is broken, which leaves no way to tell its items apart.
        """
        try:
            text = (self.root / name).read_text(encoding="utf-8-sig")
            line, counted = 1, 0
            for key, value, start, end in json_members(text):
                line, counted = line + text.count("\n", counted, start), start
                yield _json_row(name, line, key, value, text[start:end])
        except json.JSONDecodeError as error:
            raise DataError(
                f"{self.root / name}:{error.lineno}: broken JSON, {error.msg}; copy the file again"
                f" from {self.entry.source}"
            ) from error
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.root / name} is not UTF-8: {error}; copy the file again from"
                f" {self.entry.source}"
            ) from error

    def jsonl_rows(self, name: str) -> Iterator[AnnotationRow]:
        """Items of a JSONL file; a broken line is an item that says so."""
        with (self.root / name).open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    yield _json_row(name, number, "", json.loads(line.decode("utf-8-sig")), "")
                except ValueError as error:
                    yield AnnotationRow(name, number, {}, f"broken JSON, {error}")

    def parquet_rows(self, name: str) -> Iterator[AnnotationRow]:
        """Rows of a Parquet file, or of all that match a pattern, a few at a time: a row may hold
        megabytes of media.

        Memory does not grow with the number of row groups, but holds the largest of them. Raises
        DataError for a broken file.
        """
        import pyarrow.parquet as pq

        for path in sorted(self.root.glob(name)):
            file, number = str(path.relative_to(self.root)), 0
            try:
                # With pre_buffer, or without a buffer of its own, pyarrow holds whole row groups: 1.3 GB for 1.2 GB of media.
                for batch in pq.ParquetFile(
                    path, buffer_size=1 << 20, pre_buffer=False
                ).iter_batches(8, use_threads=False):
                    for fields in batch.to_pylist():
                        number += 1
                        yield AnnotationRow(file, number, fields)
            except (OSError, ValueError) as error:
                raise DataError(
                    f"{path}: broken Parquet after row {number}, {error}; copy it again"
                ) from error

    def numbered_name(self, group: str) -> str:
        """A name for an item that has none: its group with the item's number in it."""
        return f"{group}-{self.next_number(group)}"

    def next_number(self, group: str) -> int:
        """0, 1, 2 ...

        for each call with the same group: ids for items that have none.
        """
        self._counts[group] = self._counts.get(group, -1) + 1
        return self._counts[group]

    def warn(self, field: str, message: str) -> None:
        """Say that the item at hand is kept although one of its fields is doubtful."""
        self._warnings.append(Refused(field, message))

    def take_warnings(self) -> list[Refused]:
        """The warnings since the last call."""
        given, self._warnings = self._warnings, []
        return given

    def existing_folder(self, *names: str) -> str:
        """The first of these that is a folder of the copy, ready to be put before a file's name;
        none of them: the root."""
        return next((f"{name}/" for name in names if (self.root / name).is_dir()), "")

    def find_media(
        self,
        field: str,
        kind: MediaKind,
        uri: str,
        start: float | None = None,
        end: float | None = None,
        *,
        named: str = "",
    ) -> Media:
        """A medium under `media_root`; if it is not there, the one file below it whose path ends
        with `named`, the path as the annotation has it, which is `uri` unless given.

        Raises Refused when the file is missing or lies outside.
        """
        # By its name alone: in the hub's cache, and in many a copy, what lies under the root is a link to elsewhere.
        if Path(uri).is_absolute() or ".." in Path(uri).parts:
            raise Refused(field, f"{uri} lies outside {self.media_root}")
        if not (self.media_root / uri).is_file():
            uri = self._elsewhere(field, kind, uri, named or uri)
        path = self.media_root / uri
        if uri not in self._digests:
            with path.open("rb") as file:
                self._digests[uri] = hashlib.file_digest(file, "sha256").hexdigest()
        return Media(kind=kind, uri=uri, sha256=self._digests[uri], start=start, end=end)

    def count_item(self, row: AnnotationRow, *, items: int, lost: int) -> None:
        """Add to `losses` and `columns`."""
        self.columns |= dict.fromkeys(row.fields)
        for field in self.entry.shares:
            if value := _span(_noted(row.fields.get(field))):
                all_items, all_lost = self.losses.get((field, value), (0, 0))
                self.losses[field, value] = all_items + items, all_lost + lost

    def _elsewhere(self, field: str, kind: MediaKind, uri: str, named: str) -> str:
        """The one file of this name in another folder, since archives unpack into folders of their
        own.

        Folders that the annotation names must be there: `b/001.mp4` is another film than `a/001.mp4`. Raises Refused where there is none, or several, of
        which the right one cannot be told.
        """
        name = PurePosixPath(named)
        match [
            found for found in self._by_name.get(name.name, []) if f"/{found}".endswith(f"/{name}")
        ]:
            case [found]:
                return found
            case []:
                raise Refused(
                    field,
                    f"{kind} {uri} is missing{missing_file_remedy(self.media_root, self.entry.archives)}",
                )
            case several:
                raise Refused(
                    field,
                    f"{kind} {uri} is missing, and which of {', '.join(several[:3])} it is cannot"
                    " be told",
                )

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """All files below `media_root` by base name, through links to folders as well."""
        found: dict[str, list[str]] = {}
        seen: set[str] = set()
        for folder, folders, names in os.walk(self.media_root, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders.sort()
            for name in names:
                found.setdefault(name, []).append(
                    Path(folder, name).relative_to(self.media_root).as_posix()
                )
        return found

    def embedded_media(
        self, field: str, kind: MediaKind, value: bytes | str | Mapping[str, Any] | None
    ) -> Media:
        """A medium that a table holds: bytes, the hub's features Image and Audio ({"bytes",
        "path"}), or the path of a file of the copy.

        Bytes become a file of `scratch` named by its content. Raises Refused when there is nothing,
        or no medium.
        """
        data, path = (
            (value.get("bytes"), value.get("path")) if isinstance(value, Mapping) else (value, None)
        )
        if isinstance(data, str):
            data, path = None, data
        if not data:
            if not path:
                raise Refused(field, f"holds no {kind}")
            return self.find_media(field, kind, path)
        suffix = media_suffix(data) or Path(path or "").suffix.lower()
        if not suffix:
            raise Refused(field, f"{len(data)} bytes that are no {kind} of a known format")
        if self.scratch is None:
            raise ValueError("a source with media inside its tables needs a scratch folder")
        sha = hashlib.sha256(data).hexdigest()
        file = self.scratch / f"{sha[:16]}{suffix}"
        if not file.exists():
            self.scratch.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        uri = f"embedded:{file.name}"
        self._embedded[uri] = file
        return Media(kind=kind, uri=uri, sha256=sha)

    def media_path(self, media: Media) -> Path:
        """The file of a medium; of a link, what it points to."""
        return self._embedded.get(media.uri) or (self.media_root / media.uri).resolve()

    def video_with_sound(
        self,
        field: str,
        uri: str,
        start: float | None = None,
        end: float | None = None,
        *,
        named: str = "",
    ) -> tuple[Media, Media]:
        """Picture and sound of one video file.

        Its name is its base name unless the annotation has a path (`named`).
        """
        named = named or PurePosixPath(uri).name
        return self.find_media(field, "video", uri, start, end, named=named), self.find_media(
            field, "audio", uri, start, end, named=named
        )


def read_queries(
    adapter: Adapter, source: AnnotationSource, faults: MediaCheck = lambda _: {}
) -> tuple[list[Query], list[Problem], int]:
    """All queries, all problems, and the number of native items: the queries and the problems that
    are not `kept` add up to it.

    Of items with one id, the first is kept, unless two of them ask the same question and differ in the answer: neither is a
    query then, since the annotation alone cannot tell which is right. `faults` gives what is wrong with the media of queries, by
    their id: these are refused.
    """
    queries: dict[str, tuple[Query, AnnotationRow]] = {}
    problems: list[Problem] = []
    contradicted: dict[str, str] = {}
    native = 0

    def note(row: AnnotationRow, name: str, error: Exception, *, kept: bool = False) -> None:
        field, message = _reason(source, error)
        where = {"benchmark": source.entry.name, "file": row.file, "line": row.line, "id": name}
        excluded = isinstance(error, Excluded)
        problems.append(
            Problem(**where, field=field, message=message, excluded=excluded, kept=kept)
        )
        source.count_item(row, items=0, lost=int(problems[-1].refused))

    for native, row in enumerate(adapter.read_rows(source), 1):  # noqa: B007 - the last number is the count
        name = row.key
        source.take_warnings()
        source.count_item(row, items=1, lost=0)
        try:
            if row.broken:
                raise Refused("line", row.broken)
            query = adapter.build_query(source, _present(row))
            name = query.id
            if name in queries:
                first, place = queries[name]
                if (query.question, query.options) == (
                    first.question,
                    first.options,
                ) and query.answer != first.answer:
                    contradicted[name] = query.answer
                    raise Excluded(
                        "answer",
                        f"is {query.answer!r}, and {first.answer!r} at {place.file}:{place.line}:"
                        f" {_EITHER}",
                    )
                raise Refused("id", f"{name} occurs twice")
            queries[name] = query, row
        except (
            Refused,
            KeyError,
            ValidationError,
            TypeError,
            ValueError,
            AttributeError,
            IndexError,
        ) as error:
            note(row, name, error)
            continue
        for warning in source.take_warnings():
            note(row, name, warning, kept=True)
    dropped: dict[str, Refused] = {}
    for name, answer in contradicted.items():
        given = queries[name][0].answer
        dropped[name] = Excluded(
            "answer", f"is {given!r}, and {answer!r} in another item with this id: {_EITHER}"
        )
    shown = [query for query, _ in queries.values() if query.id not in dropped]
    dropped |= {name: Refused("media", message) for name, message in faults(shown).items()}
    for name, reason in dropped.items():
        _, row = queries.pop(name)
        problems = [problem for problem in problems if not (problem.kept and problem.id == name)]
        note(row, name, reason)
    return [query for query, _ in queries.values()], problems, native


def _present(row: AnnotationRow) -> AnnotationRow:
    """The row without its null fields: what an adapter needs is then missing by its name, and what
    it only displays is absent."""
    fields = {name: value for name, value in row.fields.items() if value is not None}
    return replace(row, fields=fields, null=frozenset(row.fields.keys() - fields.keys()))


MediaCheck = Callable[[Sequence[Query]], Mapping[str, str]]
_EITHER = "the annotation cannot tell which is right"


def _reason(source: AnnotationSource, error: Exception) -> tuple[str, str]:
    """The field of an item that an exception is about, and what is wrong with it."""
    match error:
        case Refused():
            return error.field, error.message
        case KeyError():
            return str(error.args[0]), "is missing"
        case ValidationError():
            first = error.errors(include_url=False)[0]
            return ".".join(map(str, first["loc"])) or "answer", first["msg"]
    return "item", f"has another form than {source.entry.title} publishes: {error}"


_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):\d{2}")


def _span(value: str) -> str:
    """A length as a clock shows it, by its span, since there are as many lengths as films; any
    other value as it is."""
    if not (found := _CLOCK.fullmatch(value.strip())):
        return value
    minutes = 60 * int(found[1] or 0) + int(found[2])
    return next(
        (
            name
            for limit, name in ((1, "<1 min"), (5, "1-5 min"), (15, "5-15 min"))
            if minutes < limit
        ),
        ">15 min",
    )


def item_id(item: Mapping[str, Any], *fields: str) -> str:
    """The name of an item by fields of its own.

    Raises KeyError for one that is absent, blank, or neither text nor whole number.
    """
    for field in fields:
        if not isinstance(item[field], str | int) or not str(item[field]).strip():
            raise KeyError(field)
    return "-".join(str(item[field]) for field in fields)


def with_keys(
    rows: Iterable[AnnotationRow], name: Callable[[Mapping[str, Any]], str]
) -> Iterator[AnnotationRow]:
    """Rows with the names of their items, by which problems are listed; without one where the item
    has none."""
    for row in rows:
        try:
            yield replace(row, key=name(row.fields))
        except KeyError:
            yield row


def native_fields(item: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, str]:
    """Fields that no score depends on, as text for `Query.native`: name in the query -> field of
    the item.

    An absent one, null or an object is "", a list its members: none of them may cost an item.
    """
    return {name: _noted(item.get(field)) for name, field in names.items()}


def _noted(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(filter(None, map(_noted, value)))
    return str(value) if isinstance(value, str | int | float) else ""


# A letter or a number of up to two digits, bare or in brackets, and a mark; a dash is one after a letter and before a space. No
# decimal, time or ratio: 1.5, 1:30.
_LABEL = re.compile(
    r"\s*[(\[（【]?\s*(?:([A-Za-zＡ-Ｚａ-ｚ])(?:\s*[.．):：、"
    r"）\]】]|\s*[-–—]\s)|([0-9０-９]{1,2})\s*[.．):：、）\]】](?![0-9０-９]))\s*"
)
# Marks alone do not make a label where the order does not: A.M., B.C.
_ABBREVIATION = re.compile(r"\s*[A-Za-z]\.[A-Za-z](?:\.|\s|$)")
# "A Kitchen"; never the name of a key, as in "A minor".
_BARE = re.compile(r"\s*([A-Z])(?:[ \t\u00a0\u3000]+)(?=\S)(?!(?:major|minor|flat|sharp)\b)")


def split_labels(field: str, options: Any) -> tuple[list[str], list[str]]:
    """Labels ("A.

    ", "(B) ") and texts of options, so that label + text is the option; labels are empty where there are none.
        Options are labelled when each has the label of its place: A, B, C or a, b, c or 1, 2, 3, in full width as well, with a mark
        after it or in brackets. Of three options or more, a capital may stand without its mark ("A Kitchen"), where the texts after it
        differ: not so in "A major", "B major", nor in two options that begin with an article. A number needs its mark: "1 dog". Marks
        without any text after them ("A.", "B.") are texts, since a picture may show what they name.

        Raises Mislabelled where the labels are mixed, repeated or out of order, so that a letter could name two options: all have a
        label within their number, or at least half have the one of their place. One "A. Lincoln" among four names is a text. Raises
        Refused for options that are no list of texts, blank, or equal.
    """
    given = _texts(field, options)
    marked = [_LABEL.match(option) for option in given]
    either = [
        found or (_BARE.match(option) if len(given) > 2 else None)
        for found, option in zip(marked, given, strict=True)
    ]
    if _in_turn([_name(found) for found in either]):
        ends = [found.end() if found else 0 for found in either]
        texts = [option[end:] for option, end in zip(given, ends, strict=True)]
        distinct = len({_normal(text) for text in texts}) == len(texts)
        if any(text.strip() for text in texts) and (all(marked) or distinct):
            return [
                option[:end] for option, end in zip(given, ends, strict=True)
            ], require_distinct(field, texts)
    else:
        _refuse_disorder(field, given, marked)
    return [""] * len(given), require_distinct(field, given)


def _texts(field: str, options: Any) -> list[str]:
    given = parse_list(field, list(options) if isinstance(options, tuple) else options)
    for place, option in enumerate(given, 1):
        if isinstance(option, bool) or not isinstance(option, str | int | float):
            raise Refused(field, f"option {place} is no text: {option!r:.60}")
    return [str(option) for option in given]


def _name(found: re.Match[str] | None) -> str:
    return unicodedata.normalize("NFKC", next(filter(None, found.groups()))) if found else ""


def _in_turn(names: list[str]) -> bool:
    first = names[0] if names else ""
    if first == "1":
        return names == [str(place) for place in range(1, len(names) + 1)]
    return first in ("A", "a") and names == [chr(ord(first) + place) for place in range(len(names))]


def _refuse_disorder(field: str, given: list[str], marked: list[re.Match[str] | None]) -> None:
    strict = [
        found if found and option[found.end() :] and not _ABBREVIATION.match(option) else None
        for found, option in zip(marked, given, strict=True)
    ]
    names = [_name(found).upper() for found in strict]
    places = [int(name) - 1 if name.isdigit() else ord(name) - 65 if name else -1 for name in names]
    right = sum(place == number for number, place in enumerate(places))
    if given and (2 * right >= len(given) or all(0 <= place < len(given) for place in places)):
        shown = ", ".join(name or "none" for name in names)
        texts = [
            option[found.end() :] if found else option
            for found, option in zip(strict, given, strict=True)
        ]
        raise Mislabelled(field, f"are not labelled in turn, but {shown}", texts)


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def require_distinct(field: str, options: Sequence[str]) -> list[str]:
    """The options as they are.

    Raises Refused where one is blank, or two are equal but for space and Unicode's composition.
    """
    places: dict[str, int] = {}
    for place, option in enumerate(options, 1):
        normal = _normal(option)
        if all(
            unicodedata.category(sign)[0] in "ZC" for sign in normal
        ):  # spaces, and signs without a shape
            raise Refused(field, f"option {place} is blank")
        if normal in places:
            raise Refused(field, f"options {places[normal]} and {place} are equal: {normal!r:.60}")
        places[normal] = place
    return list(options)


def option_by_letter(field: str, letter: str, options: Sequence[str]) -> str:
    """The option that a letter names.

    Raises Refused when there is none, or the field holds something else.
    """
    if not isinstance(letter, str):
        raise Refused(field, f"is no letter: {letter!r:.60}")
    letter = letter.strip()
    if len(letter) != 1 or not 0 <= (index := ord(letter.upper()) - 65) < len(options):
        raise Refused(field, f"{letter!r} names none of the {len(options)} options")
    return options[index]


def option_by_text(field: str, text: str, options: Sequence[str]) -> str:
    """The option that a text is, but for space and Unicode's composition.

    Raises Refused when there is none, or more than one.
    """
    found = [option for option in options if _normal(option) == _normal(text)]
    if len(found) != 1:
        raise Refused(
            field,
            f"{text!r} is {'none' if not found else 'more than one'} of the options"
            f" {list(options)}",
        )
    return found[0]


def parse_solution(kind: AnswerKind, gold: str, options: Sequence[str]) -> list[str]:
    """The right answers, first the one that `Query.answer` holds, as rows in the R1 form write them
    inside <answer>: letters of the options, in a set several with commas between; yes or no; a
    number; a text as it stands.

    Raises Refused (field `solution`).
    """
    if kind is AnswerKind.choice:
        return [option_by_letter("solution", gold, options)]
    if kind is AnswerKind.set:
        return list(
            dict.fromkeys(
                option_by_letter("solution", letter, options) for letter in gold.split(",")
            )
        )
    if kind is AnswerKind.yes_no:
        return [option_by_text("solution", gold.capitalize(), options)]
    return [plain_number(gold) if kind is AnswerKind.number else gold]


def plain_number(gold: str) -> str:
    """An answer in plain digits where it is a number in another notation: 1,200, $12$, 3/4, 15%.

    A query of it needs the text as it stands as `native["answer"]`, so that replies are read alike.
    """
    found = parse_number(gold, gold) if any(map(str.isdigit, gold)) else None
    return gold if found is None else found


def parse_list(field: str, value: Any) -> list[Any]:
    """A list, or the text of one as Python or JSON writes it.

    Raises Refused for anything else; nothing is evaluated.
    """
    try:
        found = ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise Refused(field, f"is no list: {value!r:.60}")
    return found


def answer_letter(query: Query) -> str:
    """The letter of the right option, in the query's own order: what publishers' rules compare
    with."""
    return chr(65 + query.options.index(query.answer))


def tags_to_places(text: str, tags: Mapping[str, int]) -> str:
    """Text with the publisher's inline media tags as `<media_N>`; `tags` maps a tag to N.

    Raises Refused for text that holds such a place already, which could not be told from ours.
    """
    if MEDIA_PLACEHOLDER.search(text):
        raise Refused("question", f"holds {MEDIA_PLACEHOLDER.search(text)[0]} itself")  # type: ignore[index]
    for tag, place in tags.items():
        text = text.replace(tag, f"<media_{place}>")
    return text


def places_to_tags(text: str, tags: Mapping[str, int]) -> str:
    """The inverse of `placed`."""
    names = {number: tag for tag, number in tags.items()}
    return MEDIA_PLACEHOLDER.sub(lambda match: names[int(match[1])], text)


def last_occurring(found: Sequence[str], place: Callable[[str], int]) -> str:
    """Of several candidates the one whose last occurrence is latest, as publishers after MMMU take
    it: where none occurs in the form that is looked for (place -1), the first."""
    return max(found, key=place)
