"""Read the one answer of a reply, by the query's kind. Judging it is `verify.py`.

Nothing is guessed: a reply names a single answer in a form that a careful reader would take for one, or it has no answer, which
is counted apart from a wrong one. In this order:

  1. Thinking, end tokens and invisible characters are dropped (`spelling.spoken`).
  2. With <answer>..</answer> tags their contents alone count, and all must name the same answer. A tag left open has no answer.
     So with a JSON object: the values of its keys `answer`, `final_answer`, `choice` and the like.
  3. The text as a whole is an answer (below); or its statements are ("The correct option is B, because ...", \\boxed{B}), by the
     grammar of `statements.py`, which knows denials, alternatives, conditions, questions and corrections.

"As a whole", by kind:

  choice   Style `value`: the option's text. Style `letter`: its label as A, (A), (a), A. or "A. text", where the text must be that
           option's own, or the text alone.
  yes_no   As choice. A word that opens the answer counts ("Yes, it barks") unless another option occurs anywhere after it.
  set      A list ("A, C", "A and C", "A、C", one a line), each option once, or bare capitals in rising order ("AC", "A C"; "CAB"
           may be a word). "A or C", "A/C" and "A-C" name no set; nor does a list that can be read in two ways.
  number   One number in digits, thousands marked by commas or not, or a word from zero to twenty; "times" or the thing that is
           counted may follow, but nothing that changes it ("12 dozen", "12 or 13"). Where the answer is published as a quotient
           (`native["answer"]` is "3/4" or "\\frac{3}{4}"), so may a reply be; where it is published with a per cent sign, so may
           a reply have one, and the sign is a unit: 15% and 15 are equal, as where MATH is scored.
  text     Any text, up to the first end of a sentence where it is stated. An open answer cannot be told from other words: only a
           reply that is empty or contradicts itself has no answer.
  interval Two times with "-", "to", "until", "and" or a comma between, the later last, in seconds or as minutes:seconds, brackets
           around and "from" or "between" before them or not: "3.5 to 7 s", "[00:03, 00:07]".

A reply without an answer is one of two things. It may name something that is none of the options (`foreign`): that is an
answer, and incorrect. Only what cannot mean an option counts as such: in style `letter` a letter after the last one; in style
`value` a number where all options are other numbers, or words no more than those of the longest option that share no word with
any, nor the start of one. Anything else cannot be read, and is no evidence of anything.

Case of texts, space, markdown, quotes, dollar signs and LaTeX around, a full stop at the end and full-width forms make no
difference. A reply that was cut by its length limit has no answer: callers know that, the text does not.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from functools import partial
from typing import Literal, TypeVar

from omnicore.schema import AnswerKind, Query
from omnicore.scoring.references import mark, number_of, refer, refer_by
from omnicore.scoring.spelling import NARROW, bare, json_answers, normal, spoken
from omnicore.scoring.statements import COUNTS, SPANS, UNCLEAR, X, statements

Style = Literal["value", "letter"]
Named = str | frozenset[str]
T = TypeVar("T")
Reader = Callable[[str], T | None]
Claim = tuple[
    T | None, bool
]  # what is stated, and whether it is stated outright, be it readable or not

_ANSWER_TAG = re.compile(r"(</?answer>)", re.IGNORECASE)
_BOX = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*+)\}")
_LABELLED = re.compile(
    r"(?:[Aa]nswer: *)?(?:\((?P<a>[A-Za-z])\)[.:、]? *(?P<x>.*)|(?P<b>[A-Z])(?:[.:)、]"
    r" *(?P<y>.*))?)"
)
_LIST = re.compile(r"( ?(?:, ?and\b|[,;、&和]|\band\b) ?)", re.IGNORECASE)
_LISTED = re.compile(rf"{X}(?:\s*(?:,\s*and\b|[,;、&和]|\band\b|以及)\s*{X})+", re.IGNORECASE)
_CAPITALS = re.compile(r"[A-Z](?: ?[A-Z])+")
_STATED_CAPITALS = re.compile(
    r"((?:(?i:answer)|答案)[*_]*\s*(?:is|:|是|为|选)+[ *_]*|选)([A-Z](?: ?[A-Z])+)(?![A-Za-z])"
)
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,3}(?:,[0-9]{3}){1,5}|[0-9]{1,18})(?:\.[0-9]{1,18})?")
_TIME = r"(?:[0-9]{1,3}:[0-5]?[0-9]|[0-9]{1,6})(?:\.[0-9]{1,6})?"
_SECONDS = r"(?: ?(?:s|sec|secs|seconds?)\b)?"
_SPAN = re.compile(
    rf"(?:from |between )?[\[(]? ?({_TIME}){_SECONDS} ?(?:-|–|to|until|and|,) ?({_TIME}){_SECONDS}"
    r" ?[\])]?"
)
_QUOTIENT = re.compile(rf"({_NUMBER.pattern}) ?/ ?({_NUMBER.pattern})")
_TEX_QUOTIENT = re.compile(
    r"(?<![\w.,)}])\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}"
)  # 2\frac{1}{2} is no 21/2
_PLACES = 12  # decimals of a quotient
_TIMES = re.compile(r" ?(?:times?|次|个)$")
_PER_CENT = re.compile(r" ?(?:\\?%|per ?cent)$")
_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen twenty"
).split()
_WORD = re.compile(r"\w+")
_NAME = re.compile(r"[a-z]{2,}(?: [a-z]{2,})*")  # one letter may be a place
# Words of texts that decline, deny, repeat the instruction or count places: these name nothing.
_NAMELESS = frozenset(
    "all an another answer any both cannot choice choose correct either false first fourth idk"
    " impossible last letter maybe na neither none not nothing option other perhaps possibly"
    " question right second sorry third true uncertain unclear undetermined unknown unsure wrong".split()
)
# Numbers and times as they stand in sentences, with nothing beside them that would change them.
_NUMBER_WITHIN = re.compile(
    r"(?<![A-Za-z0-9_.,:$~<>=+/*^%-])(?<![=<>~+*/]"
    rf" )(?:\b(?:{'|'.join(_WORDS)})\b|{_NUMBER.pattern}(?: ?/ ?{_NUMBER.pattern})?)"
    r"(?: ?(?:times?\b|次|个))?(?: ?(?:\\?%|per ?cent\b))?(?![A-Za-z0-9_^*+:%/\\]|[.,]\d|"
    r" ?[–+*/=<>^-] ?\d)",
    re.IGNORECASE,
)
_UNIT = r"\s?(?:s|sec|secs|seconds?)\b"
_SPAN_WITHIN = re.compile(
    rf"(?<![\w.:-])(?:(?:from|between)\s)?[\[(]?\s?(?P<start>{_TIME})(?:{_UNIT})?\s?"
    rf"(?:-|–|to|until|till|through|and(?:\s(?:ends|stops|ending|finishes)\sat)?|,)\s?(?P<end>{_TIME})(?:{_UNIT})?\s?[\])]?(?![\w:]|\.\d)",
    re.IGNORECASE,
)
_TIMED = re.compile(rf":|{_UNIT}|\b(?:from|between)\b", re.IGNORECASE)
# Where an open answer is stated: it reaches to the end of the sentence.
_HEAD = re.compile(
    r"(?P<denied>\b(?:wrong|incorrect|false|no|not|another|possible) +(?:the |an )?)?"
    r"(?:\banswer\b[*_`]*\s*(?:is\b\s*:?|:)|答案[*_`]*\s*(?:是\s*:?|为\s*:?|:))[*_`]*\s*",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!](?=\s|[*_`]|$)")


def read(
    reply: str, query: Query, style: Style, permutation: Sequence[int] | None = None
) -> Named | None:
    """Return what the reply names: a text by the query's kind, the members of a set, None where
    there is no single answer."""
    shown = [query.options[i] for i in permutation or range(len(query.options))]
    published = query.native.get("answer", "")
    match query.answer_kind:
        case AnswerKind.choice:
            return extract(reply, shown, style)
        case AnswerKind.yes_no:
            return _read(
                reply,
                partial(_option, options=shown, style=style),
                partial(_yes_no_stated, options=shown, style=style),
            )
        case AnswerKind.set:
            _check_letters(shown, style)
            return _read(
                reply,
                partial(_members, options=shown, style=style),
                partial(_members_stated, options=shown, style=style),
            )
        case AnswerKind.number:
            return _read(
                reply,
                partial(number, published=published),
                partial(_number_stated, published=published),
            )
        case AnswerKind.interval:
            return _read(reply, _interval, _interval_stated)
        case AnswerKind.text:
            return _read_open(reply)


def foreign(reply: str, query: Query, style: Style) -> bool:
    """Return whether all that the reply says is one name, and that of none of the options.

    The name stands in <answer> tags, or is the whole reply. To a yes_no question only a number is foreign, and none that may be
    a truth value or a place: "true" may mean yes.
    """
    if query.answer_kind not in (AnswerKind.choice, AnswerKind.yes_no):
        return False
    before, *tagged = _ANSWER_TAG.split(spoken(reply))
    closed = [tag.lower() for tag in tagged[::2]] == ["<answer>", "</answer>"] * (len(tagged) // 4)
    names = {normal(content) for content in tagged[1::4] or [before]}
    if not closed or len(names) != 1:
        return False
    name = names.pop()
    if query.answer_kind is AnswerKind.yes_no:
        return (value := number(name)) is not None and Decimal(value) not in range(
            len(query.options) + 1
        )
    return _is_foreign(name, query.options, style)


def _is_foreign(name: str, options: Sequence[str], style: Style) -> bool:
    """Return whether no option can be meant by a name, given in small letters."""
    if style == "letter":
        beyond = string.ascii_lowercase[len(options) :]
        return (
            (letter := name.strip("().")) != "" and letter in beyond and letter not in "ivx"
        )  # Roman numbers are places
    if (value := number(name)) is not None:
        numbers = [number(option) for option in options]
        return None not in numbers and value not in numbers  # a 2 among texts may be a place
    words = name.split()
    of_options = [_WORD.findall(normal(option)) for option in options]
    shared = {word[:3] for option in of_options for word in option}.intersection(
        word[:3] for word in words
    )
    short = len(words) <= max(map(len, of_options))
    return (
        short and not shared and not _NAMELESS.intersection(words) and bool(_NAME.fullmatch(name))
    )


def extract(reply: str, options: Sequence[str], style: Style) -> str | None:
    """Return the single option that `reply` names, `options` being in the order shown; None when
    there is none.

    Raises ValueError for more options than letters.
    """
    _check_letters(options, style)
    return _read(
        reply,
        partial(_option, options=options, style=style),
        partial(_option_stated, options=options, style=style),
    )


def _check_letters(options: Sequence[str], style: Style) -> None:
    if style == "letter" and len(options) > len(string.ascii_uppercase):
        raise ValueError(
            f"{len(options)} options but only {len(string.ascii_uppercase)} letters: use style"
            " `value`"
        )


def _read(reply: str, whole: Reader[T], stated: Callable[[str], Claim[T]]) -> T | None:
    """Return the one answer: `whole` reads a text with nothing left over, `stated` the statements
    of one."""
    return _in_parts(
        reply,
        partial(_segment, whole=whole, stated=stated),
        partial(_segment, whole=whole, stated=stated),
    )


def _in_parts(reply: str, inside: Reader[T], outside: Reader[T]) -> T | None:
    """Read the answer tags or the JSON object of a reply by `inside`, else all of it by
    `outside`."""
    before, *tagged = _ANSWER_TAG.split(spoken(reply))
    if tagged:
        if [tag.lower() for tag in tagged[::2]] != ["<answer>", "</answer>"] * (len(tagged) // 4):
            return None  # a tag left open: what it would have said is not known
        return _single(inside(content) for content in tagged[1::4])
    if (values := json_answers(before)) is not None:
        return _single(inside(value) for value in values)
    return outside(before)


def _single(found: Iterable[T | None]) -> T | None:
    """Return the one thing that all found name; None for nothing found, a miss among them, or two
    different.

    Reads no further
    than it must: a stuttering reply holds thousands.
    """
    rest = iter(found)
    first = next(rest, None)
    return first if first is not None and all(other == first for other in rest) else None


def _segment(text: str, whole: Reader[T], stated: Callable[[str], Claim[T]]) -> T | None:
    if (found := whole(text)) is not None:
        return found
    boxes = _BOX.findall(text)
    text = _BOX.sub(lambda box: box[1], text)
    if "\\boxed{" in text:
        return None  # a box left open
    claimed, outright = stated(text)
    if not boxes:
        return claimed
    boxed = _single(whole(box) for box in boxes)
    return boxed if not outright or claimed == boxed else None


def _option(content: str, options: Sequence[str], style: Style) -> str | None:
    """Return the option that `content` is, nothing left over."""
    if not content.strip():
        return None
    if style == "letter" and (match := _LABELLED.fullmatch(bare(content.replace("**", "")))):
        place = string.ascii_uppercase.index((match["a"] or match["b"]).upper())
        text = match["x"] or match["y"]
        if place < len(options) and (
            not text or normal(text) == normal(options[place].replace("**", ""))
        ):
            return options[place]
        return None
    # Exact texts first: options may differ in case or marks alone.
    exact = [o for o in options if o.strip() == content.strip()]
    named = normal(content)
    return _single(exact or [o for o in options if normal(o) == named])


def _option_stated(text: str, options: Sequence[str], style: Style) -> Claim[str]:
    stated = statements(refer(text, options, letters=style == "letter"))
    return options[number_of(stated.one)] if stated.one else None, stated.announced


def _yes_no_stated(text: str, options: Sequence[str], style: Style) -> Claim[str]:
    found, outright = _option_stated(text, options, style)
    if found is None or outright:
        return found, outright
    # An opening word counts where no other word of the options follows: "Yes, I hear no dog" may mean either.
    others = "|".join(rf"(?<![a-z]){re.escape(bare(o))}(?![a-z])" for o in options if o != found)
    return (None if re.search(others, text, re.IGNORECASE) else found), False


def _members(content: str, options: Sequence[str], style: Style) -> frozenset[str] | None:
    """Return the options that `content` lists, where it can be read in one way."""
    if _HEAD.search(content):
        return None  # "Answer: A, Answer: C" states two answers
    lines = (" ".join(line.split()) for line in content.translate(NARROW).splitlines())
    text = ";".join(line for line in lines if line)
    if len(text) > sum(len(o) + 16 for o in options):
        return None
    if style == "letter" and _CAPITALS.fullmatch(capitals := bare(text.replace("**", ""))):
        return _rising(capitals, options)
    found = set(_readings(_LIST.split(text), options, style)) or set(
        _readings(_LIST.split(bare(text)), options, style)
    )
    return found.pop() if len(found) == 1 else None


def _rising(capitals: str, options: Sequence[str]) -> frozenset[str] | None:
    places = [string.ascii_uppercase.index(letter) for letter in capitals.replace(" ", "").upper()]
    rising = places == sorted(set(places)) and places[-1] < len(options)
    return frozenset(options[place] for place in places) if rising else None


def _members_stated(text: str, options: Sequence[str], style: Style) -> Claim[frozenset[str]]:
    """Lists in sentences become references to sets.

    Options that are lists themselves are read as a whole alone.
    """
    if style == "value" and any(len(_LIST.split(option)) > 1 for option in options):
        return None, False
    if style == "letter":
        text = _STATED_CAPITALS.sub(
            lambda found: found[1] + ", ".join(found[2].replace(" ", "")), text
        )
    sets: dict[frozenset[str], int] = {}

    def listed(found: re.Match[str]) -> str:
        references = re.findall(X, found[0])
        if UNCLEAR in references or len(set(references)) < len(references):
            return UNCLEAR
        return mark(
            sets.setdefault(frozenset(options[number_of(r)] for r in references), len(sets))
        )

    referred = refer(text, options, letters=style == "letter")
    stated = statements(re.sub(rf"{_LISTED.pattern}|{X}", listed, referred, flags=re.IGNORECASE))
    return list(sets)[number_of(stated.one)] if stated.one else None, stated.announced


def _readings(
    tokens: Sequence[str], options: Sequence[str], style: Style
) -> Iterator[frozenset[str]]:
    """All sets that tokens (texts and what joins them, in turn) may name; an option's own text may
    hold a comma or an "and"."""
    widest = max(len(_LIST.split(option)) for option in options)

    def read(start: int, named: frozenset[str]) -> Iterator[frozenset[str]]:
        if start > len(tokens):
            yield named
        for end in range(start + 1, min(start + widest, len(tokens)) + 1, 2):
            one = _option("".join(tokens[start:end]), options, style)
            if one is not None and one not in named:
                yield from read(end + 1, named | {one})

    return read(0, frozenset())


def number(text: str, published: str = "") -> str | None:
    """The number that a text is, in its shortest digits; None where it is none.

    Quotients and per cent are numbers where
    `published`, the answer as its publisher writes it, is one.
    """
    published = _TEX_QUOTIENT.sub(r"\1/\2", published)
    bare = _TIMES.sub("", normal(_TEX_QUOTIENT.sub(r"\1/\2", text))) if len(text) < 200 else ""
    if _PER_CENT.search(normal(published)):
        bare = _PER_CENT.sub("", bare)
    if bare in _WORDS:
        return str(_WORDS.index(bare))
    if "/" in published and (quotient := _QUOTIENT.fullmatch(bare)):
        over, under = (Decimal(part.replace(",", "")) for part in quotient.groups())
        return _shortest(round(over / under, _PLACES)) if under else None
    return _shortest(Decimal(bare.replace(",", ""))) if _NUMBER.fullmatch(bare) else None


def _shortest(value: Decimal) -> str:
    digits = format(value, "f")
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    return "0" if digits == "-0" else digits


def _number_stated(text: str, published: str) -> Claim[str]:
    referred, values = refer_by(
        _TEX_QUOTIENT.sub(r"\1/\2", text), _NUMBER_WITHIN, lambda found: number(found[0], published)
    )
    stated = statements(referred, COUNTS)
    return values[number_of(stated.one)] if stated.one else None, stated.announced


def _interval(content: str) -> str | None:
    """The interval that `content` is, as seconds: "3.5-7"."""
    if len(content) > 64 or not (found := _SPAN.fullmatch(normal(content))):
        return None
    start, end = (_seconds(time) for time in found.groups())
    return f"{start}-{end}" if start < end else None


def _seconds(time: str) -> Decimal:
    minutes, _, seconds = time.rpartition(":")
    return 60 * Decimal(minutes or 0) + Decimal(seconds)


def _interval_stated(text: str) -> Claim[str]:
    """Two bare numbers are an interval only where they are stated outright."""

    def span(found: re.Match[str], timed: bool) -> str | None:
        start, end = _seconds(found["start"]), _seconds(found["end"])
        return f"{start}-{end}" if start < end and (not timed or _TIMED.search(found[0])) else None

    referred, values = refer_by(text, _SPAN_WITHIN, partial(span, timed=False))
    if not (stated := statements(referred)).announced:
        referred, values = refer_by(text, _SPAN_WITHIN, partial(span, timed=True))
        stated = statements(referred, SPANS)
    return values[number_of(stated.one)] if stated.one else None, stated.announced


def _read_open(reply: str) -> str | None:
    return _in_parts(reply, _text, lambda text: _text(text) or _text_stated(text))


def _text(content: str) -> str | None:
    """Return what `content` says, where it holds no statement or box that says it in other
    words."""
    narrow = content.translate(NARROW)
    inside = _BOX.sub("", narrow, 1).strip(" $.") if "\\boxed{" in narrow else ""
    return None if inside or _HEAD.search(narrow) else open_text(content) or None


def _text_stated(text: str) -> str | None:
    """Return what every statement and box of the text says."""
    text = text.translate(NARROW)
    said = [_text(box) for box in _BOX.findall(text)]
    rest = _BOX.sub(lambda box: box[1], text)
    if "\\boxed{" in rest:
        return None  # a box left open
    heads = list(_HEAD.finditer(rest))
    ends = [head.start() for head in heads[1:]] + [len(rest)]
    said += [
        None if head["denied"] else _claimed(rest[head.end() : end])
        for head, end in zip(heads, ends, strict=False)
    ]
    return _single(said)


def _claimed(rest: str) -> str | None:
    line = rest.partition("\n")[0]
    end = _SENTENCE_END.search(line)
    return open_text((line[: end.start()] if end else line).replace("**", "")) or None


def open_text(text: str) -> str:
    """What two texts share that mean the same answer.

    Closed sets of answers join words by "_", as in `acoustic_guitar`.
    """
    named = normal(text.replace("_", " "))
    return str(_WORDS.index(named)) if named in _WORDS else named
