"""Read numbers and intervals in time, as a whole text and inside sentences."""

from __future__ import annotations

import re
from decimal import Decimal
from functools import partial

from omnicore.scoring.normalization import normalize
from omnicore.scoring.references import mark_values, reference_index
from omnicore.scoring.segments import Statement
from omnicore.scoring.statement_forms import COUNTS, SPANS
from omnicore.scoring.statements import read_statements

_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,3}(?:,[0-9]{3}){1,5}|[0-9]{1,18})(?:\.[0-9]{1,18})?")
_QUOTIENT = re.compile(rf"({_NUMBER.pattern}) ?/ ?({_NUMBER.pattern})")
# After a number, \frac is not read as a quotient: 2\frac{1}{2} is not 21/2.
_TEX_QUOTIENT = re.compile(r"(?<![\w.,)}])\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_PLACES = 12  # decimals of a quotient
_TIMES = re.compile(r" ?(?:times?|次|个)$")
_PER_CENT = re.compile(r" ?(?:\\?%|per ?cent)$")
NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen twenty"
).split()
_TIME = r"(?:[0-9]{1,3}:[0-5]?[0-9]|[0-9]{1,6})(?:\.[0-9]{1,6})?"
_SECONDS = r"(?: ?(?:s|sec|secs|seconds?)\b)?"
_SPAN = re.compile(
    rf"(?:from |between )?[\[(]? ?({_TIME}){_SECONDS} ?(?:-|–|to|until|and|,) ?({_TIME}){_SECONDS}"
    r" ?[\])]?"
)
# Numbers and times inside sentences, with nothing beside them that would change their value.
_NUMBER_WITHIN = re.compile(
    r"(?<![A-Za-z0-9_.,:$~<>=+/*^%-])(?<![=<>~+*/]"
    rf" )(?:\b(?:{'|'.join(NUMBER_WORDS)})\b|{_NUMBER.pattern}(?: ?/ ?{_NUMBER.pattern})?)"
    r"(?: ?(?:times?\b|次|个))?(?: ?(?:\\?%|per ?cent\b))?(?![A-Za-z0-9_^*+:%/\\]|[.,]\d|"
    r" ?[–+*/=<>^-] ?\d)",
    re.IGNORECASE,
)
_UNIT = r"\s?(?:s|sec|secs|seconds?)\b"
_SPAN_WITHIN = re.compile(
    rf"(?<![\w.:-])(?:(?:from|between)\s)?[\[(]?\s?(?P<start>{_TIME})(?:{_UNIT})?\s?"
    r"(?:-|–|to|until|till|through|and(?:\s(?:ends|stops|ending|finishes)\sat)?|,)\s?"
    rf"(?P<end>{_TIME})(?:{_UNIT})?\s?[\])]?(?![\w:]|\.\d)",
    re.IGNORECASE,
)
_TIMED = re.compile(rf":|{_UNIT}|\b(?:from|between)\b", re.IGNORECASE)
_MAX_NUMBER_LENGTH = 200  # characters; a longer text is not a number
_MAX_INTERVAL_LENGTH = 64


def parse_number(text: str, published: str = "") -> str | None:
    """Return the number that a text is, in its shortest digits; None where it is not a number.

    Args:
        text: The text.
        published: The answer as its publisher writes it. Quotients and per cent are numbers only
            where it is one.
    """
    if len(text) >= _MAX_NUMBER_LENGTH:
        return None
    published = _plain_quotients(published)
    digits = _TIMES.sub("", normalize(_plain_quotients(text)))
    if _PER_CENT.search(normalize(published)):
        digits = _PER_CENT.sub("", digits)
    if digits in NUMBER_WORDS:
        return str(NUMBER_WORDS.index(digits))
    quotient = _QUOTIENT.fullmatch(digits) if "/" in published else None
    if quotient:
        over, under = (Decimal(part.replace(",", "")) for part in quotient.groups())
        return _shortest(round(over / under, _PLACES)) if under else None
    return _shortest(Decimal(digits.replace(",", ""))) if _NUMBER.fullmatch(digits) else None


def _plain_quotients(text: str) -> str:
    return _TEX_QUOTIENT.sub(r"\1/\2", text)


def _shortest(value: Decimal) -> str:
    digits = format(value, "f")
    if "." in digits:
        digits = digits.rstrip("0").rstrip(".")
    return "0" if digits == "-0" else digits


def stated_number(text: str, published: str) -> Statement[str]:
    """Return the number that the statements of a text name; arguments as in `parse_number`."""

    def value(match: re.Match[str]) -> str | None:
        return parse_number(match[0], published)

    marked, values = mark_values(_plain_quotients(text), _NUMBER_WITHIN, value)
    stated = read_statements(marked, COUNTS)
    answer = values[reference_index(stated.single)] if stated.single else None
    return Statement(answer, stated.announced)


def parse_interval(text: str) -> str | None:
    """Return the interval that a text is, in seconds as "3.5-7"; None where it is not one."""
    if len(text) > _MAX_INTERVAL_LENGTH:
        return None
    match = _SPAN.fullmatch(normalize(text))
    return _format_interval(*match.groups()) if match else None


def _format_interval(start: str, end: str) -> str | None:
    first, last = _to_seconds(start), _to_seconds(end)
    return f"{first}-{last}" if first < last else None


def _to_seconds(time: str) -> Decimal:
    minutes, _, seconds = time.rpartition(":")
    return 60 * Decimal(minutes or 0) + Decimal(seconds)


def stated_interval(text: str) -> Statement[str]:
    """Return the interval that the statements of a text name.

    Two bare numbers are an interval only where they are stated explicitly.
    """
    marked, values = mark_values(text, _SPAN_WITHIN, partial(_interval_within, timed=False))
    stated = read_statements(marked)
    if not stated.announced:
        marked, values = mark_values(text, _SPAN_WITHIN, partial(_interval_within, timed=True))
        stated = read_statements(marked, SPANS)
    answer = values[reference_index(stated.single)] if stated.single else None
    return Statement(answer, stated.announced)


def _interval_within(match: re.Match[str], *, timed: bool) -> str | None:
    """Return the interval of a match; None where `timed` and nothing marks it as times."""
    if timed and not _TIMED.search(match[0]):
        return None
    return _format_interval(match["start"], match["end"])
