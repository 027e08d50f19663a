"""Find the parts of a reply that hold its answer: answer tags, a JSON object, boxes, or all of it.

A reader of one kind of answer is a pair of functions: `whole` reads a text that is nothing but an
answer, `stated` reads the statements of a text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from omnicore.scoring.normalization import json_answer_values, strip_thinking

T = TypeVar("T")

_ANSWER_TAG = re.compile(r"(</?answer>)", re.IGNORECASE)
BOX = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*+)\}")
# The head of a sentence that states an open answer, which reaches to the end of the sentence.
ANSWER_HEAD = re.compile(
    r"(?P<denied>\b(?:wrong|incorrect|false|no|not|another|possible) +(?:the |an )?)?"
    r"(?:\banswer\b[*_`]*\s*(?:is\b\s*:?|:)|答案[*_`]*\s*(?:是\s*:?|为\s*:?|:))[*_`]*\s*",
    re.IGNORECASE,
)


class Statement(NamedTuple, Generic[T]):
    """What the statements of a text name.

    Attributes:
        answer: The answer; None where there is no single readable one.
        explicit: Whether an answer is stated explicitly, even if it cannot be read.
    """

    answer: T | None
    explicit: bool


WholeReader = Callable[[str], T | None]
StatementReader = Callable[[str], Statement[T]]


def read_single(reply: str, whole: WholeReader[T], stated: StatementReader[T]) -> T | None:
    """Return the one answer of a reply; None where there is none or several differ.

    Args:
        reply: The reply's text.
        whole: Reads a text that is nothing but an answer.
        stated: Reads the statements of a text.
    """
    read = partial(_read_segment, whole=whole, stated=stated)
    return read_parts(reply, inside=read, outside=read)


def read_parts(reply: str, inside: WholeReader[T], outside: WholeReader[T]) -> T | None:
    """Read the answer tags or the JSON object of a reply by `inside`, else all of it by `outside`.

    A tag left open has no answer: the text that would have followed is unknown.
    """
    before, tagged = split_answer_tags(strip_thinking(reply))
    if tagged is None:
        return None
    if tagged:
        return single_answer(inside(content) for content in tagged)
    values = json_answer_values(before)
    if values is not None:
        return single_answer(inside(value) for value in values)
    return outside(before)


def split_answer_tags(text: str) -> tuple[str, list[str] | None]:
    """Return the text before the first answer tag and the contents of all answer tags.

    The contents are None where a tag is left open or closed twice.
    """
    before, *tagged = _ANSWER_TAG.split(text)
    tags = [tag.lower() for tag in tagged[::2]]
    if tags != ["<answer>", "</answer>"] * (len(tagged) // 4):
        return before, None
    return before, tagged[1::4]


def single_answer(answers: Iterable[T | None]) -> T | None:
    """Return the one answer that all `answers` are; None for none, a miss, or two different.

    It reads no further than it must: a stuttering reply holds thousands.
    """
    rest = iter(answers)
    first = next(rest, None)
    if first is None:
        return None
    return first if all(other == first for other in rest) else None


def _read_segment(text: str, whole: WholeReader[T], stated: StatementReader[T]) -> T | None:
    answer = whole(text)
    if answer is not None:
        return answer
    boxes = BOX.findall(text)
    text = unbox(text)
    if "\\boxed{" in text:
        return None  # a box left open
    statement = stated(text)
    if not boxes:
        return statement.answer
    boxed = single_answer(whole(box) for box in boxes)
    return boxed if not statement.explicit or statement.answer == boxed else None


def unbox(text: str) -> str:
    """Replace every closed LaTeX box by its content."""
    return BOX.sub(lambda box: box[1], text)
