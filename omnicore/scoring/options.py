"""Read which options a text names: one, or a set of them."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

from omnicore.scoring.normalization import NARROW, normalize, strip_marks
from omnicore.scoring.references import mark_options, reference_index, reference_mark
from omnicore.scoring.segments import ANSWER_HEAD, Statement, read_single, single_answer
from omnicore.scoring.statement_forms import REFERENCE, UNCLEAR
from omnicore.scoring.statements import read_statements

Style = Literal["value", "letter"]

_LABELLED = re.compile(
    r"(?:[Aa]nswer: *)?(?:\((?P<a>[A-Za-z])\)[.:、]? *(?P<x>.*)|(?P<b>[A-Z])(?:[.:)、]"
    r" *(?P<y>.*))?)"
)
_LIST = re.compile(r"( ?(?:, ?and\b|[,;、&和]|\band\b) ?)", re.IGNORECASE)
_LISTED = re.compile(
    rf"{REFERENCE}(?:\s*(?:,\s*and\b|[,;、&和]|\band\b|以及)\s*{REFERENCE})+", re.IGNORECASE
)
_CAPITALS = re.compile(r"[A-Z](?: ?[A-Z])+")
_STATED_CAPITALS = re.compile(
    r"((?:(?i:answer)|答案)[*_]*\s*(?:is|:|是|为|选)+[ *_]*|选)([A-Z](?: ?[A-Z])+)(?![A-Za-z])"
)


def extract_option(reply: str, options: Sequence[str], style: Style) -> str | None:
    """Return the single option that `reply` names; None where it names none or several.

    Args:
        reply: The reply's text.
        options: The options, in the order shown.
        style: Whether options are named by their text or by letters.

    Raises:
        ValueError: There are more options than letters.
    """
    check_letters(options, style)
    return read_single(
        reply,
        partial(whole_option, options=options, style=style),
        partial(stated_option, options=options, style=style),
    )


def check_letters(options: Sequence[str], style: Style) -> None:
    """Raise ValueError where there are more options than letters."""
    if style == "letter" and len(options) > len(string.ascii_uppercase):
        raise ValueError(
            f"{len(options)} options but only {len(string.ascii_uppercase)} letters: use style"
            " `value`"
        )


def whole_option(content: str, options: Sequence[str], style: Style) -> str | None:
    """Return the option that `content` is, with nothing left over."""
    if not content.strip():
        return None
    if style == "letter":
        label = _LABELLED.fullmatch(strip_marks(_without_bold(content)))
        if label:
            return _labelled_option(label, options)
    # Exact texts first: options may differ only in case or marks.
    exact = [o for o in options if o.strip() == content.strip()]
    name = normalize(content)
    return single_answer(exact or [o for o in options if normalize(o) == name])


def _labelled_option(label: re.Match[str], options: Sequence[str]) -> str | None:
    """Return the option of a label; None where the text beside it is another option's."""
    place = string.ascii_uppercase.index((label["a"] or label["b"]).upper())
    if place >= len(options):
        return None
    text = label["x"] or label["y"]
    if text and normalize(text) != normalize(_without_bold(options[place])):
        return None
    return options[place]


def _without_bold(text: str) -> str:
    return text.replace("**", "")


def stated_option(text: str, options: Sequence[str], style: Style) -> Statement[str]:
    """Return the option that the statements of a text name."""
    stated = read_statements(mark_options(text, options, letters=style == "letter"))
    answer = options[reference_index(stated.single)] if stated.single else None
    return Statement(answer, stated.announced)


def stated_yes_no(text: str, options: Sequence[str], style: Style) -> Statement[str]:
    """Return the option that the statements of a text name, by the rule for yes and no.

    An opening word counts where no other option follows: "Yes, I hear no dog" may mean either.
    """
    statement = stated_option(text, options, style)
    if statement.answer is None or statement.explicit:
        return statement
    words = [re.escape(strip_marks(o)) for o in options if o != statement.answer]
    others = "|".join(rf"(?<![a-z]){word}(?![a-z])" for word in words)
    if re.search(others, text, re.IGNORECASE):
        return Statement(None, False)
    return statement


def whole_set(content: str, options: Sequence[str], style: Style) -> frozenset[str] | None:
    """Return the options that `content` lists; None where it can be read in more ways than one."""
    if ANSWER_HEAD.search(content):
        return None  # "Answer: A, Answer: C" states two answers
    lines = [" ".join(line.split()) for line in content.translate(NARROW).splitlines()]
    text = ";".join(line for line in lines if line)
    if len(text) > sum(len(o) + 16 for o in options):
        return None
    if style == "letter":
        capitals = strip_marks(_without_bold(text))
        if _CAPITALS.fullmatch(capitals):
            return _rising_letters(capitals, options)
    readings = _list_readings(text, options, style)
    if not readings:
        readings = _list_readings(strip_marks(text), options, style)
    return readings.pop() if len(readings) == 1 else None


def _rising_letters(capitals: str, options: Sequence[str]) -> frozenset[str] | None:
    places = [string.ascii_uppercase.index(letter) for letter in capitals.replace(" ", "").upper()]
    if places != sorted(set(places)) or places[-1] >= len(options):
        return None
    return frozenset(options[place] for place in places)


def stated_set(text: str, options: Sequence[str], style: Style) -> Statement[frozenset[str]]:
    """Return the set of options that the statements of a text name.

    A list of options becomes a reference to a set. Options that are lists themselves are not read
    from sentences.
    """
    if style == "value" and any(len(_LIST.split(option)) > 1 for option in options):
        return Statement(None, False)
    if style == "letter":
        text = _STATED_CAPITALS.sub(_separate_capitals, text)
    sets: dict[frozenset[str], int] = {}

    def mark_set(match: re.Match[str]) -> str:
        references = re.findall(REFERENCE, match[0])
        if UNCLEAR in references or len(set(references)) < len(references):
            return UNCLEAR
        members = frozenset(options[reference_index(r)] for r in references)
        return reference_mark(sets.setdefault(members, len(sets)))

    marked = mark_options(text, options, letters=style == "letter")
    marked = re.sub(rf"{_LISTED.pattern}|{REFERENCE}", mark_set, marked, flags=re.IGNORECASE)
    stated = read_statements(marked)
    answer = list(sets)[reference_index(stated.single)] if stated.single else None
    return Statement(answer, stated.announced)


def _separate_capitals(match: re.Match[str]) -> str:
    return match[1] + ", ".join(match[2].replace(" ", ""))


def _list_readings(text: str, options: Sequence[str], style: Style) -> set[frozenset[str]]:
    """Return all sets that a list may name.

    An option's own text may hold a comma or an "and", so several pieces may form one option.
    """
    pieces = _LIST.split(text)  # texts and separators, in turn
    widest = max(len(_LIST.split(option)) for option in options)
    return set(_extend_reading(pieces, 0, frozenset(), widest, options, style))


def _extend_reading(
    pieces: Sequence[str],
    start: int,
    named: frozenset[str],
    widest: int,
    options: Sequence[str],
    style: Style,
) -> Iterator[frozenset[str]]:
    """Yield the sets that `named` and the pieces from `start` on may form."""
    if start > len(pieces):
        yield named
    for end in range(start + 1, min(start + widest, len(pieces)) + 1, 2):
        option = whole_option("".join(pieces[start:end]), options, style)
        if option is not None and option not in named:
            yield from _extend_reading(pieces, end + 1, named | {option}, widest, options, style)
