r"""Extract the one answer of a reply, by the query's kind; judging it is `verify.py`.

Nothing is guessed: a reply names a single answer in a form that a careful reader would take for
one, or it has no answer, which is counted separately from a wrong one. In this order:

1. Thinking, end tokens and invisible characters are dropped (`normalization.strip_thinking`).
2. With <answer>..</answer> tags only their contents count, and all must name the same answer. A
   tag left open has no answer. The values of the keys `answer`, `final_answer`, `choice` and the
   like of a JSON object are read in the same way.
3. The text as a whole is an answer (below); or its statements are ("The correct option is B,
   because ...", \boxed{B}), by the grammar of `statements.py`, which knows denials, alternatives,
   conditions, questions and corrections.

A whole answer, by kind:

- choice: In style `value` the option's text. In style `letter` its label as A, (A), (a), A. or
  "A. text", where the text must be that option's own, or only the text.
- yes_no: As choice. A word that opens the answer counts ("Yes, it barks") unless another option
  occurs anywhere after it.
- set: A list ("A, C", "A and C", "A、C", one a line), each option once, or bare capitals in rising
  order ("AC", "A C"; "CAB" may be a word). "A or C", "A/C" and "A-C" name no set; nor does a list
  that can be read in two ways.
- number: One number in digits, thousands marked by commas or not, or a word from zero to twenty.
  "times" or the thing that is counted may follow, but nothing that changes the number ("12 dozen",
  "12 or 13"). A reply may be a quotient where the answer is published as one (`native["answer"]`
  is "3/4" or "\frac{3}{4}"). It may have a per cent sign where the published answer has one; the
  sign is a unit: 15% and 15 are equal, as where MATH is scored.
- text: Any text, up to the first end of a sentence where it is stated. An open answer cannot be
  told from other words: only a reply that is empty or contradicts itself has no answer.
- interval: Two times with "-", "to", "until", "and" or a comma between, the later last, in seconds
  or as minutes:seconds, with or without brackets around and "from" or "between" before them:
  "3.5 to 7 s", "[00:03, 00:07]".

A reply without an answer is one of two things. It may name something that is none of the options
(`names_no_option`): that is an answer, and incorrect. Only a name that cannot mean an option
counts: in style `letter` a letter after the last one; in style `value` a number where all options
are other numbers, or words, no more than those of the longest option, that share no word with any
option, nor the start of one. Anything else cannot be read, and is not evidence.

Case of texts, space, markdown, quotes, dollar signs and LaTeX around, a full stop at the end and
full-width forms make no difference. A truncated reply has no answer: callers must check that, since
the text does not show it.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from decimal import Decimal
from functools import partial

from omnicore.schema import AnswerKind, Query
from omnicore.scoring.normalization import normalize, strip_thinking
from omnicore.scoring.numbers import (
    parse_interval,
    parse_number,
    stated_interval,
    stated_number,
)
from omnicore.scoring.open_text import read_open_text
from omnicore.scoring.options import (
    Style,
    check_letters,
    extract_option,
    stated_set,
    stated_yes_no,
    whole_option,
    whole_set,
)
from omnicore.scoring.segments import read_single, split_answer_tags

__all__ = ["Answer", "Style", "extract_option", "names_no_option", "parse_number", "read_answer"]

Answer = str | frozenset[str]

_WORD = re.compile(r"\w+")
_NAME = re.compile(r"[a-z]{2,}(?: [a-z]{2,})*")  # a single letter may be a place
# Words of texts that decline, deny, repeat the instruction or count places: these name nothing.
_NAMELESS = frozenset(
    "all an another answer any both cannot choice choose correct either false first fourth idk"
    " impossible last letter maybe na neither none not nothing option other perhaps possibly"
    " question right second sorry third true uncertain unclear undetermined unknown unsure"
    " wrong".split()
)


def read_answer(
    reply: str, query: Query, style: Style, permutation: Sequence[int] | None = None
) -> Answer | None:
    """Return the answer of a reply: a text, or the members of a set.

    Args:
        reply: The reply's text.
        query: The query that it answers.
        style: Whether options are named by their text or by letters.
        permutation: Index, in the query's own options, of the option shown at each place; None
            where they were shown in their own order.

    Returns:
        None where there is no single answer.

    Raises:
        ValueError: There are more options than letters.
    """
    shown = [query.options[i] for i in permutation or range(len(query.options))]
    match query.answer_kind:
        case AnswerKind.choice:
            return extract_option(reply, shown, style)
        case AnswerKind.yes_no:
            whole_yes_no = partial(whole_option, options=shown, style=style)
            stated = partial(stated_yes_no, options=shown, style=style)
            return read_single(reply, whole_yes_no, stated)
        case AnswerKind.set:
            check_letters(shown, style)
            whole = partial(whole_set, options=shown, style=style)
            return read_single(reply, whole, partial(stated_set, options=shown, style=style))
        case AnswerKind.number:
            published = query.native.get("answer", "")
            whole_number = partial(parse_number, published=published)
            return read_single(reply, whole_number, partial(stated_number, published=published))
        case AnswerKind.interval:
            return read_single(reply, parse_interval, stated_interval)
        case AnswerKind.text:
            return read_open_text(reply)


def names_no_option(reply: str, query: Query, style: Style) -> bool:
    """Return whether all of the reply is one name that is none of the options.

    The name stands in <answer> tags, or is the whole reply. To a yes_no question only a number
    counts, and only one that can be neither a truth value nor a place: "true" may mean yes.
    """
    if query.answer_kind not in (AnswerKind.choice, AnswerKind.yes_no):
        return False
    before, tagged = split_answer_tags(strip_thinking(reply))
    if tagged is None:
        return False
    names = {normalize(content) for content in tagged or [before]}
    if len(names) != 1:
        return False
    name = names.pop()
    if query.answer_kind is AnswerKind.yes_no:
        value = parse_number(name)
        return value is not None and Decimal(value) not in range(len(query.options) + 1)
    if style == "letter":
        return _is_letter_beyond(name, query.options)
    return _is_foreign_value(name, query.options)


def _is_letter_beyond(name: str, options: Sequence[str]) -> bool:
    """Return whether a name in small letters is a letter after the last option's."""
    letter = name.strip("().")
    if not letter or letter in "ivx":  # Roman numbers may be places
        return False
    return letter in string.ascii_lowercase[len(options) :]


def _is_foreign_value(name: str, options: Sequence[str]) -> bool:
    """Return whether a name in small letters can mean none of the options' texts."""
    value = parse_number(name)
    if value is not None:
        numbers = [parse_number(option) for option in options]
        return None not in numbers and value not in numbers  # a 2 among texts may be a place
    words = name.split()
    if _NAMELESS.intersection(words) or not _NAME.fullmatch(name):
        return False
    of_options = [_WORD.findall(normalize(option)) for option in options]
    if len(words) > max(map(len, of_options)):
        return False
    starts = {word[:3] for option in of_options for word in option}
    return starts.isdisjoint(word[:3] for word in words)
