"""Fields of native items: names, texts, lists, numbers and media tags."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from omnicore.data.benchmarks.records import AnnotationRow, Refused
from omnicore.schema import MEDIA_PLACEHOLDER
from omnicore.scoring.extract import parse_number

_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):\d{2}")
# Minutes below which a length has a name.
_DURATION_RANGES = ((1, "<1 min"), (5, "1-5 min"), (15, "5-15 min"))


def item_id(item: Mapping[str, Any], *fields: str) -> str:
    """Return the id of an item by its fields.

    Raises:
        KeyError: A field is absent, blank, or neither text nor whole number.
    """
    for field in fields:
        if not isinstance(item[field], str | int) or not str(item[field]).strip():
            raise KeyError(field)
    return "-".join(str(item[field]) for field in fields)


def with_keys(
    rows: Iterable[AnnotationRow], key_of: Callable[[Mapping[str, Any]], str]
) -> Iterator[AnnotationRow]:
    """Yield rows with the ids of their items, by which problems are listed, where they have one."""
    for row in rows:
        try:
            yield replace(row, key=key_of(row.fields))
        except KeyError:
            yield row


def without_nulls(row: AnnotationRow) -> AnnotationRow:
    """Return the row without its null fields.

    A field that an adapter needs is then missing by its name, and one that it only displays is
    absent.
    """
    fields = {name: value for name, value in row.fields.items() if value is not None}
    return replace(row, fields=fields, null=frozenset(row.fields.keys() - fields.keys()))


def native_fields(item: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, str]:
    """Return fields that no score depends on, as text for `Query.native`.

    An absent field, null or an object is "", a list its members: none of them may cost an item.

    Args:
        item: The item.
        names: Field of the item by name in the query.
    """
    return {name: field_text(item.get(field)) for name, field in names.items()}


def field_text(value: Any) -> str:
    """Return a value as text: a list with commas between, empty for null or an object."""
    if isinstance(value, list | tuple):
        return ",".join(filter(None, map(field_text, value)))
    return str(value) if isinstance(value, str | int | float) else ""


def duration_range(value: str) -> str:
    """Return the range of a length as a clock shows it, and any other value unchanged.

    Lengths are grouped, since there are about as many as videos.
    """
    clock = _CLOCK.fullmatch(value.strip())
    if not clock:
        return value
    minutes = 60 * int(clock[1] or 0) + int(clock[2])
    for limit, name in _DURATION_RANGES:
        if minutes < limit:
            return name
    return ">15 min"


def parse_list(field: str, value: Any) -> list[Any]:
    """Return a list, or the one that a text is as Python or JSON writes it; nothing is evaluated.

    Raises:
        Refused: The value is anything else.
    """
    parsed = value
    if isinstance(value, str):
        try:
            parsed = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            parsed = None
    if not isinstance(parsed, list):
        raise Refused(field, f"is not a list: {value!r:.60}")
    return parsed


def plain_number(answer: str) -> str:
    """Return an answer in plain digits where it is a number in another notation.

    Such notations are 1,200, $12$, 3/4 and 15%. Its query needs the text as it stands as
    `native["answer"]`, so that replies are read alike.
    """
    if not any(map(str.isdigit, answer)):
        return answer
    digits = parse_number(answer, answer)
    return answer if digits is None else digits


def tags_to_places(text: str, tags: Mapping[str, int]) -> str:
    """Replace the publisher's inline media tags by `<media_N>`; `tags` maps a tag to N.

    Raises:
        Refused: The text already holds such a place, which could not be told from ours.
    """
    place = MEDIA_PLACEHOLDER.search(text)
    if place:
        raise Refused("question", f"holds {place[0]} itself")
    for tag, number_of_medium in tags.items():
        text = text.replace(tag, f"<media_{number_of_medium}>")
    return text


def places_to_tags(text: str, tags: Mapping[str, int]) -> str:
    """Replace `<media_N>` by the publisher's tags: the inverse of `tags_to_places`."""
    names = {place: tag for tag, place in tags.items()}
    return MEDIA_PLACEHOLDER.sub(lambda match: names[int(match[1])], text)
