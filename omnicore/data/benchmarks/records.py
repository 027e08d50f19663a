"""Records of benchmarks: registry entries, native items, and findings about items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from omnicore.data.benchmarks.formats import json_members
from omnicore.schema import AnswerKind, Record

MediaKind = Literal["image", "audio", "video"]


class BenchmarkEntry(Record):
    """One benchmark of the registry.

    `annotations` are alternatives, one for each layout that is read: a file under the root, or a
    pattern of files. The first that a copy has is read, so the publisher's own comes first.
    `archives` are patterns of the archives in which the publisher ships media; `size` is the
    published number of items, 0 where it is not known; an empty `revision` means that none is
    pinned here, so that a download must name one.
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
    but it cannot be a query. `kept`: the item is a query, and doubtful: a warning. Any other item
    was refused, and counts toward `prepare.max_refused`.
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
        """Whether the item counts toward `prepare.max_refused`."""
        return not (self.excluded or self.kept)


@dataclass(frozen=True)
class AnnotationRow:
    """One native item: its fields, or what is wrong with its line.

    Attributes:
        file: File of the item, relative to the copy.
        line: Line of a JSON file or row of a table, from 1.
        fields: The item's fields.
        broken: What is wrong with the line; empty for an item that was read.
        key: The item's name in a JSON object, by which problems are listed.
        text: The item as it stands in a JSON file.
        null: Fields that the item has without a value; an adapter finds them here and not in
            `fields`.
    """

    file: str
    line: int
    fields: Mapping[str, Any]
    broken: str = ""
    key: str = ""
    text: str = ""
    null: frozenset[str] = frozenset()

    @classmethod
    def from_json(cls, file: str, line: int, key: str, value: Any, text: str) -> AnnotationRow:
        """Return the row of a JSON value, broken unless it is an object."""
        if isinstance(value, dict):
            return cls(file, line, value, "", key, text)
        return cls(file, line, {}, f"is not an object: {value!r:.60}", key, text)

    def member_rows(self, field: str = "") -> Iterator[AnnotationRow]:
        """Yield the members of this item, or of the list in one of its fields, with their lines."""
        begin = 0
        for key, _, start, _ in json_members(self.text) if field else ():
            if key == field:
                begin = start
        for key, value, start, end in json_members(self.text, begin):
            line = self.line + self.text.count("\n", 0, start)
            yield self.from_json(self.file, line, key, value, self.text[start:end])


class Refused(Exception):
    """An item that cannot be a query: its field, and what is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message = field, message


class Excluded(Refused):
    """An item that is as published but has no answer that a reply can be compared with.

    An example is a caption to write. It is listed and counted like a refused item, but does not
    indicate a broken copy.
    """


class Mislabelled(Refused):
    """Options whose labels are mixed, repeated or out of order.

    `texts` are the options without whatever label each has.
    """

    def __init__(self, field: str, message: str, texts: list[str]) -> None:
        super().__init__(field, message)
        self.texts = texts
