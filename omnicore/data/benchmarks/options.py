"""Options of questions: labels, letters and texts, and the right ones among them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from omnicore.data.benchmarks.fields import parse_list, plain_number
from omnicore.data.benchmarks.records import Mislabelled, Refused
from omnicore.schema import AnswerKind, Query

# A letter or a number of up to two digits, bare or in brackets, and a mark; a dash is one after a
# letter and before a space. Decimals, times and ratios are not labels: 1.5, 1:30.
_LABEL = re.compile(
    r"\s*[(\[（【]?\s*(?:([A-Za-zＡ-Ｚａ-ｚ])(?:\s*[.．):：、"
    r"）\]】]|\s*[-–—]\s)|([0-9０-９]{1,2})\s*[.．):：、）\]】](?![0-9０-９]))\s*"
)
# A.M., B.C.: these marks are a label only where the labels are in order.
_ABBREVIATION = re.compile(r"\s*[A-Za-z]\.[A-Za-z](?:\.|\s|$)")
# "A Kitchen"; never the name of a key, as in "A minor".
_BARE_LABEL = re.compile(r"\s*([A-Z])(?:[ \t\u00a0\u3000]+)(?=\S)(?!(?:major|minor|flat|sharp)\b)")

_Label = re.Match[str] | None


def split_labels(field: str, options: Any) -> tuple[list[str], list[str]]:
    """Split options into labels ("A. ", "(B) ") and texts, so that label + text is the option.

    Options are labelled when each has the label of its place: A, B, C or a, b, c or 1, 2, 3, in
    full width as well, with a mark after it or in brackets. Of three options or more, a capital may
    stand without its mark ("A Kitchen") where the texts after it differ: not so in "A major", "B
    major", nor in two options that begin with an article. A number needs its mark: "1 dog". Marks
    without any text after them ("A.", "B.") are texts, since a picture may show what they name.

    Args:
        field: Field of the item that holds the options, for refusals.
        options: A list of texts or numbers, or the text of one.

    Returns:
        Labels and texts; labels are empty where there are none.

    Raises:
        Mislabelled: The labels are mixed, repeated or out of order, so that a letter could name two
            options: all have a label within their number, or at least half have the one of their
            place. One "A. Lincoln" among four names is a text.
        Refused: The options are not a list of texts, or blank, or equal.
    """
    texts = _option_texts(field, options)
    marked: list[_Label] = [_LABEL.match(text) for text in texts]
    labels = marked
    if len(texts) > 2:
        labels = [
            label or _BARE_LABEL.match(text) for label, text in zip(marked, texts, strict=True)
        ]
    if _is_in_turn([_label_name(label) for label in labels]):
        ends = [label.end() if label else 0 for label in labels]
        bare = [text[end:] for text, end in zip(texts, ends, strict=True)]
        are_distinct = len({_normalize(text) for text in bare}) == len(bare)
        if any(text.strip() for text in bare) and (all(marked) or are_distinct):
            heads = [text[:end] for text, end in zip(texts, ends, strict=True)]
            return heads, require_distinct(field, bare)
    else:
        _refuse_disorder(field, texts, marked)
    return [""] * len(texts), require_distinct(field, texts)


def _option_texts(field: str, options: Any) -> list[str]:
    listed = parse_list(field, list(options) if isinstance(options, tuple) else options)
    for place, option in enumerate(listed, 1):
        if isinstance(option, bool) or not isinstance(option, str | int | float):
            raise Refused(field, f"option {place} is not a text: {option!r:.60}")
    return [str(option) for option in listed]


def _label_name(label: _Label) -> str:
    """Return the letter or number of a label, empty for none."""
    if label is None:
        return ""
    return unicodedata.normalize("NFKC", label[1] or label[label.lastindex or 1])


def _is_in_turn(names: list[str]) -> bool:
    """Return whether labels are A, B, C or a, b, c or 1, 2, 3 and so on."""
    first = names[0] if names else ""
    if first == "1":
        return names == [str(place) for place in range(1, len(names) + 1)]
    return first in ("A", "a") and names == [chr(ord(first) + place) for place in range(len(names))]


def _refuse_disorder(field: str, texts: list[str], marked: list[_Label]) -> None:
    """Raise Mislabelled where enough options have labels that these could name two options."""
    labels: list[_Label] = []
    bare = []
    for text, label in zip(texts, marked, strict=True):
        is_label = label is not None and text[label.end() :] and not _ABBREVIATION.match(text)
        labels.append(label if is_label else None)
        bare.append(text[label.end() :] if label and is_label else text)
    names = [_label_name(label).upper() for label in labels]
    places = [_label_place(name) for name in names]
    right = sum(place == number for number, place in enumerate(places))
    if texts and (2 * right >= len(texts) or all(0 <= place < len(texts) for place in places)):
        shown = ", ".join(name or "none" for name in names)
        raise Mislabelled(field, f"are not labelled in turn, but {shown}", bare)


def _label_place(name: str) -> int:
    """Return the place of a label, from 0, and -1 for none."""
    if not name:
        return -1
    return int(name) - 1 if name.isdigit() else ord(name) - 65


def _normalize(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def require_distinct(field: str, options: Sequence[str]) -> list[str]:
    """Return the options unchanged.

    Raises:
        Refused: One is blank, or two are equal but for space and Unicode's composition.
    """
    places: dict[str, int] = {}
    for place, option in enumerate(options, 1):
        normal = _normalize(option)
        # Spaces, and signs without a shape.
        if all(unicodedata.category(sign)[0] in "ZC" for sign in normal):
            raise Refused(field, f"option {place} is blank")
        if normal in places:
            raise Refused(field, f"options {places[normal]} and {place} are equal: {normal!r:.60}")
        places[normal] = place
    return list(options)


def option_by_letter(field: str, letter: str, options: Sequence[str]) -> str:
    """Return the option that a letter names.

    Raises:
        Refused: There is none, or the field holds something else.
    """
    if not isinstance(letter, str):
        raise Refused(field, f"is not a letter: {letter!r:.60}")
    letter = letter.strip()
    index = ord(letter.upper()) - 65 if len(letter) == 1 else -1
    if not 0 <= index < len(options):
        raise Refused(field, f"{letter!r} names none of the {len(options)} options")
    return options[index]


def option_by_text(field: str, text: str, options: Sequence[str]) -> str:
    """Return the option that a text is, but for space and Unicode's composition.

    Raises:
        Refused: There is none, or more than one.
    """
    matches = [option for option in options if _normalize(option) == _normalize(text)]
    if len(matches) != 1:
        count = "more than one" if matches else "none"
        raise Refused(field, f"{text!r} is {count} of the options {list(options)}")
    return matches[0]


def parse_solution(kind: AnswerKind, solution: str, options: Sequence[str]) -> list[str]:
    """Return the right answers of a row in the R1 form, first the one of `Query.answer`.

    Args:
        kind: The kind of answer.
        solution: The text inside <answer>: letters of the options, in a set several with commas
            between; yes or no; a number; or any text.
        options: The options.

    Raises:
        Refused: The solution names no option; the field is `solution`.
    """
    if kind is AnswerKind.choice:
        return [option_by_letter("solution", solution, options)]
    if kind is AnswerKind.set:
        members = [option_by_letter("solution", one, options) for one in solution.split(",")]
        return list(dict.fromkeys(members))
    if kind is AnswerKind.yes_no:
        return [option_by_text("solution", solution.capitalize(), options)]
    return [plain_number(solution) if kind is AnswerKind.number else solution]


def answer_letter(query: Query) -> str:
    """Return the letter of the right option in the query's own order, as publishers score it."""
    return chr(65 + query.options.index(query.answer))


def last_occurring(candidates: Sequence[str], place_of: Callable[[str], int]) -> str:
    """Return the candidate whose last occurrence is latest, as publishers after MMMU do.

    Where none occurs in the form that is looked for (place -1), it is the first.
    """
    return max(candidates, key=place_of)
