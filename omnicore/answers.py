"""The one strict extractor of an answer from a reply, and the one verifier. Probe, reward and evaluation all call it.

Nothing is guessed: a reply either names a single answer in one of the forms below or it has no answer, which is counted
apart from a wrong one. In this order:

  1. Thinking is dropped: <think>..</think>, an unclosed <think> with all that follows, and all that precedes a </think>
     without its <think> (chat templates may open the block inside the prompt).
  2. With <answer>..</answer> tags their contents alone count: each must be an answer as a whole, and all the same one. A
     tag left open has no answer.
  3. Without tags the reply as a whole may be an answer; or its explicit statements ("The answer is X.", "Answer: X",
     "答案：X", \\boxed{X}) count, where X reaches to the end of the sentence: each must be an answer as a whole, all the same
     one, and the sentence or line after it must not name another.

"As a whole", by kind:

  choice   Style `value`: the option's text. Style `letter`: the letter of the option's place as A, (A), (a), A. or "A. text",
           where the text must be that option's own. A small letter counts in parentheses alone: "a" is a word.
  yes_no   As choice; the word counts in style `letter`, too, and opens a longer answer as in "Yes, it barks", unless another
           option occurs anywhere after it. A statement outranks the opening.
  set      Exactly the right options, in any order: part of them is incorrect. They stand in a list ("A, C", "A and C", "A、C",
           one a line), each once, or as bare capitals in rising order ("AC", "A C"; "CAB" may be a word). "A or C", "A/C" and
           "A-C" name no set; nor does a list that can be read in two ways.
  number   One number in digits, thousands marked by commas or not, or a word from zero to twenty; it may be followed by
           "times" and nothing else, since what follows can change it ("12 dozen", "12 or 13"). 12 and 12.0 are equal. Where the
           answer is published as a quotient (`native["answer"]` is "3/4" or "\\frac{3}{4}"), so may a reply be; where it is
           published with a per cent sign, so may a reply have one, and the sign is a unit: 15% and 15 are equal, as where MATH is
           scored.
  text     Any text, up to the first end of a sentence where it is stated. It is right when it is the answer, a word from
           zero to twenty and its digits being the same, and so "_" and a space. An open answer cannot be told from other words:
           what is not right is incorrect, and only a reply that is empty or contradicts itself has no answer.

  interval Two times with "-", "to", "until", "and" or a comma between, the later last, in seconds or as minutes:seconds, brackets
           around and "from" or "between" before them or not: "3.5 to 7 s", "[00:03, 00:07]". It is right when it shares half
           or more of its union with the answer (R@1 at IoU 0.5, as temporal grounding is scored; Gao et al. 2017, TALL).

A reply without an answer is one of two things. It may name something that is none of the options (`foreign`): that is an
answer, and incorrect. Only what cannot mean an option counts as such: in style `letter` a letter after the last one; in style
`value` a number where all options are other numbers, or words no more than those of the longest option that share no word with
any, nor the start of one. Anything else cannot be read, and is no evidence of anything.

Case of texts, space, markdown emphasis, quotes, dollar signs and LaTeX boxes around, a full stop at the end and full-width
forms make no difference. A reply that was cut by its length limit has no answer: callers know that, the text does not.
All is linear in the length of the reply.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from functools import partial
from itertools import chain
from typing import Literal, TypeVar

from omnicore.schema import AnswerKind, Outcome, Query

Style = Literal["value", "letter"]
T = TypeVar("T")
Reader = Callable[[str], T | None]

_THINK_TAG = re.compile(r"(</?think>)", re.IGNORECASE)
_ANSWER_TAG = re.compile(r"(</?answer>)", re.IGNORECASE)
# The head of a statement, which reaches to the end of its line or the next head.
_HEAD = re.compile(
    r"(?P<denied>\b(?:wrong|incorrect|false|no|not|another|possible) +(?:the |an )?)?"
    r"(?:\banswer\b[*_`]*\s*(?:is\b\s*:?|:)|答案[*_`]*\s*(?:是\s*:?|为\s*:?|:))[*_`]*\s*",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!](?=\s|[*_`]|$)")
_LETTER = re.compile(r"(?:[Aa]nswer: *)?(?:\((?P<a>[A-Za-z])\)[.:、]? *(?P<x>.*)|(?P<b>[A-Z])(?:[.:)、] *(?P<y>.*))?)")
_BOX = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*+)\}")
_TEX = re.compile(r"\\(?:boxed|text|textbf|mathrm|mathbf)\{([^{}]*)\}|\\[()\[\]]")
_LIST = re.compile(r"( ?(?:, ?and\b|[,;、&和]|\band\b) ?)", re.IGNORECASE)
_CAPITALS = re.compile(r"[A-Z](?: ?[A-Z])+")
# What follows the word that opens an answer. "No. 5" and "No-one" are no refusals.
_OPENED = r"(?:[,;:!]|\.(?! ?\d)| ?[–—]| - )"
_WORD = re.compile(r"\w+")
_NAME = re.compile(r"[a-z]{2,}(?: [a-z]{2,})*")  # one letter may be a place
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,3}(?:,[0-9]{3}){1,5}|[0-9]{1,18})(?:\.[0-9]{1,18})?")
_TIME = r"(?:[0-9]{1,3}:[0-5]?[0-9]|[0-9]{1,6})(?:\.[0-9]{1,6})?"
_SECONDS = r"(?: ?(?:s|sec|secs|seconds?))?"
_SPAN = re.compile(rf"(?:from |between )?[\[(]? ?({_TIME}){_SECONDS} ?(?:-|–|to|until|and|,) ?({_TIME}){_SECONDS} ?[\])]?")
ENOUGH = 0.5  # of the union of two intervals
_QUOTIENT = re.compile(rf"({_NUMBER.pattern}) ?/ ?({_NUMBER.pattern})")
_TEX_QUOTIENT = re.compile(r"(?<![\w.,)}])\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")  # 2\frac{1}{2} is no 21/2
_PLACES = 12  # decimals of a quotient
_TIMES = re.compile(r" ?(?:times?|次|个)$")
_PER_CENT = re.compile(r" ?(?:\\?%|per ?cent)$")
_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen twenty"
).split()
# Words of texts that decline, deny, repeat the instruction or count places: these name nothing.
_NAMELESS = frozenset(
    "all an another answer any both cannot choice choose correct either false first fourth idk impossible last letter maybe na "
    "neither none not nothing option other perhaps possibly question right second sorry third true uncertain unclear "
    "undetermined unknown unsure wrong".split()
)
_PAIRS = {'"': '"', "'": "'", "“": "”", "‘": "’", "「": "」", "`": "`", "*": "*", "_": "_", "$": "$"}
# Full-width ASCII, the ideographic full stop and space, the minus sign; "、" stays, since "A、B" is a list and no sentence
# ends in it.
_NARROW = {0xFF01 + i: chr(0x21 + i) for i in range(94)} | {0x3000: " ", 0x3002: ". ", 0x2212: "-"}


def judge(reply: str, query: Query, style: Style, permutation: Sequence[int] | None = None) -> tuple[str | None, Outcome]:
    """What the reply names and what that is worth. `permutation[i]` is the index of the option shown at place i.

    None and incorrect where it names something that is none of the options; None and no_answer where it cannot be read.

    A set comes back as its members in the order of the query's options, joined by ", "; a number in its shortest digits;
    an interval as seconds, "3.5-7"; an open text in small letters.
    """
    named = read(reply, query, style, permutation)
    if named is None:
        return None, Outcome.incorrect if foreign(reply, query, style) else Outcome.no_answer
    given = ", ".join(o for o in query.options if o in named) if isinstance(named, frozenset) else named
    return given, Outcome.correct if _right(named, query) else Outcome.incorrect


def read(reply: str, query: Query, style: Style, permutation: Sequence[int] | None = None) -> str | frozenset[str] | None:
    """What the reply names: a text by the query's kind, the members of a set, None where there is no single answer."""
    shown = [query.options[i] for i in permutation or range(len(query.options))]
    match query.answer_kind:
        case AnswerKind.choice:
            return extract(reply, shown, style)
        case AnswerKind.yes_no:
            return _closed(reply, partial(_yes_no, options=shown, style=style), _room(shown))
        case AnswerKind.set:
            _check_letters(shown, style)
            return _closed(reply, partial(_members, options=shown, style=style), sum(len(o) + 16 for o in shown))
        case AnswerKind.number:
            return _closed(reply, partial(number, published=query.native.get("answer", "")), 64)
        case AnswerKind.interval:
            return _closed(reply, _interval, 64)
        case AnswerKind.text:
            return _read(reply, _text, _stated_text)


def foreign(reply: str, query: Query, style: Style) -> bool:
    """Return whether all that the reply says is one name, and that of none of the options.

    The name stands in <answer> tags, or is the whole reply. To a yes_no question only a number is foreign, and none that may be
    a truth value or a place: "true" may mean yes.
    """
    if query.answer_kind not in (AnswerKind.choice, AnswerKind.yes_no):
        return False
    before, *tagged = _ANSWER_TAG.split(_spoken(reply))
    closed = [tag.lower() for tag in tagged[::2]] == ["<answer>", "</answer>"] * (len(tagged) // 4)
    names = {_normal(content) for content in tagged[1::4] or [before]}
    if not closed or len(names) != 1:
        return False
    name = names.pop()
    if query.answer_kind is AnswerKind.yes_no:
        return (value := number(name)) is not None and Decimal(value) not in range(len(query.options) + 1)
    return _is_foreign(name, query.options, style)


def _is_foreign(name: str, options: Sequence[str], style: Style) -> bool:
    """Return whether no option can be meant by a name, given in small letters."""
    if style == "letter":
        beyond = string.ascii_lowercase[len(options) :]
        return (letter := name.strip("().")) != "" and letter in beyond and letter not in "ivx"  # Roman numbers are places
    if (value := number(name)) is not None:
        numbers = [number(option) for option in options]
        return None not in numbers and value not in numbers  # a 2 among texts may be a place
    words = name.split()
    of_options = [_WORD.findall(_normal(option)) for option in options]
    shared = {word[:3] for option in of_options for word in option}.intersection(word[:3] for word in words)
    short = len(words) <= max(map(len, of_options))
    return short and not shared and not _NAMELESS.intersection(words) and bool(_NAME.fullmatch(name))


def _right(named: str | frozenset[str], query: Query) -> bool:
    match query.answer_kind:
        case AnswerKind.set:
            return named == frozenset({query.answer, *query.also})
        case AnswerKind.number:
            return Decimal(str(named)) == Decimal(query.answer)
        case AnswerKind.interval:
            return overlap(str(named), query.answer) >= ENOUGH
        case AnswerKind.text:
            return named == _same(query.answer)
        case _:
            return named == query.answer


def agree(a: str, b: str, kind: AnswerKind) -> bool:
    """Whether two answers, as `judge` gives them, are the same; of intervals, whether one would be right if the other were."""
    return overlap(a, b) >= ENOUGH if kind is AnswerKind.interval else a == b


def overlap(a: str, b: str) -> float:
    """Intersection over union of two intervals in time, as `read` gives them or a query's answer has them."""
    (start, end), (other, last) = (_ends(text) for text in (a, b))
    union = max(end, last) - min(start, other)
    return float(max(Decimal(0), min(end, last) - max(start, other)) / union)


def _ends(text: str) -> tuple[Decimal, Decimal]:
    start, end = text.split("-")
    return Decimal(start), Decimal(end)


def extract(reply: str, options: Sequence[str], style: Style) -> str | None:
    """The text of the single option that `reply` names, `options` being in the order shown; None when there is none.

    Raises ValueError for more options than letters.
    """
    _check_letters(options, style)
    # After "The answer is B." another option's text names a second one, in either style.
    beside = partial(_either, options=options, style=style)
    return _closed(reply, partial(_option, options=options, style=style), _room(options), beside)


def _check_letters(options: Sequence[str], style: Style) -> None:
    if style == "letter" and len(options) > len(string.ascii_uppercase):
        raise ValueError(f"{len(options)} options but only {len(string.ascii_uppercase)} letters: use style `value`")


def _room(options: Sequence[str]) -> int:
    """The most characters that the name of one option takes."""
    return max(map(len, options)) + len("Answer: **(A).** ")


def _closed(reply: str, whole: Reader[T], longest: int, beside: Reader[T] | None = None) -> T | None:
    return _read(reply, whole, partial(_claimed, whole=whole, beside=beside or whole, longest=longest))


def _read(reply: str, whole: Reader[T], claimed: Reader[T]) -> T | None:
    """The one answer of a reply: `whole` reads a text with nothing left over, `claimed` what follows the head of a statement."""
    before, *tagged = _ANSWER_TAG.split(_spoken(reply))
    if tagged:
        if [tag.lower() for tag in tagged[::2]] != ["<answer>", "</answer>"] * (len(tagged) // 4):
            return None  # a tag left open: what it would have said is not known
        return _single(whole(content) for content in tagged[1::4])
    found = whole(before)
    return found if found is not None else _stated(before.translate(_NARROW), whole, claimed)


def _spoken(reply: str) -> str:
    """The reply without its thinking."""
    spoken: list[str] = []
    thinking = False
    for piece in _THINK_TAG.split(reply):
        if (tag := piece.lower()) == "<think>":
            thinking = True
        elif tag == "</think>":
            if not thinking:
                spoken.clear()
            thinking = False
        elif not thinking:
            spoken.append(piece)
    return " ".join(spoken)


def _single(found: Iterable[T | None]) -> T | None:
    """The one thing that all found name; None for nothing found, a miss among them, or two different. Reads no further than
    it must: a stuttering reply holds thousands."""
    rest = iter(found)
    first = next(rest, None)
    return first if first is not None and all(other == first for other in rest) else None


def _stated(text: str, whole: Reader[T], claimed: Reader[T]) -> T | None:
    """What every statement in the text names."""
    boxed = (whole(box[1]) for box in _BOX.finditer(text))
    bare = _BOX.sub(lambda box: box[1], text)
    if "\\boxed{" in bare:
        return None  # a box left open
    heads = list(_HEAD.finditer(bare))
    ends = [head.start() for head in heads[1:]] + [len(bare)]
    found = (None if h["denied"] else claimed(bare[h.end() : end]) for h, end in zip(heads, ends, strict=False))
    return _single(chain(boxed, found))


def _claimed(rest: str, whole: Reader[T], beside: Reader[T], longest: int) -> T | None:
    """What stands after a head: all of the rest of the line, or its start up to the end of a sentence; None where `beside`
    reads another answer in what follows."""
    line, _, below = rest.partition("\n")
    below = below.lstrip().partition("\n")[0]
    if line.count("**") % 2:  # opened before the head: "**Answer: B**"
        line = "".join(line.rpartition("**")[::2])
    found, after = whole(line), ""
    for end in () if found is not None else _SENTENCE_END.finditer(line):
        if end.start() > longest:
            return None
        if (found := whole(line[: end.start()])) is not None:
            after = line[end.end() :]
            break
    # "The answer is A. C." and "Answer: A", "C" on the next line, name two.
    return found if all(other in (None, found) for other in (beside(after), beside(below))) else None


def _option(content: str, options: Sequence[str], style: Style) -> str | None:
    """The option that `content` is, nothing left over."""
    if not content.strip():
        return None
    if style == "value":
        # Exact texts first: options may differ in case or marks alone.
        exact = [o for o in options if o.strip() == content.strip()]
        normal = _normal(content)
        return _single(exact or [o for o in options if _normal(o) == normal])
    match = _LETTER.fullmatch(_bare(content.replace("**", "")))
    if not match:
        return None
    place = string.ascii_uppercase.index((match["a"] or match["b"]).upper())
    text = match["x"] or match["y"]
    if place >= len(options) or (text and _normal(text) != _normal(options[place].replace("**", ""))):
        return None
    return options[place]


def _either(content: str, options: Sequence[str], style: Style) -> str | None:
    """The option that `content` is by its name in this style or by its text."""
    found = _option(content, options, style)
    return found if found is not None else _option(content, options, "value")


def _yes_no(content: str, options: Sequence[str], style: Style) -> str | None:
    if (found := _either(content, options, style)) is not None:
        return found
    if "\\boxed{" in content or _HEAD.search(content.translate(_NARROW)):
        return None  # what is stated decides, be it unreadable
    text = _bare(content.strip().replace("**", "").replace("\n", ". "))
    for option in options:
        if opened := re.match(re.escape(_bare(option)) + _OPENED, text, re.IGNORECASE):
            others = [(i, o) for i, o in enumerate(options) if o != option]
            words = [rf"(?i:(?<![a-z]){re.escape(_bare(o))}(?![a-z]))" for _, o in others]
            words += [rf"\b{string.ascii_uppercase[i]}\b" for i, _ in others if style == "letter"]
            return None if re.search("|".join(words), text[opened.end() :]) else option
    return None


def _members(content: str, options: Sequence[str], style: Style) -> frozenset[str] | None:
    """The options that `content` lists, where it can be read in one way."""
    if _HEAD.search(content):
        return None  # "Answer: A, Answer: C" states two answers
    lines = (" ".join(line.split()) for line in content.translate(_NARROW).splitlines())
    text = ";".join(line for line in lines if line)
    if len(text) > sum(len(o) + 16 for o in options):
        return None
    if style == "letter" and _CAPITALS.fullmatch(bare := _bare(text.replace("**", ""))):
        places = [string.ascii_uppercase.index(letter) for letter in bare.replace(" ", "")]
        rising = places == sorted(set(places)) and places[-1] < len(options)
        return frozenset(options[place] for place in places) if rising else None
    found = set(_readings(_LIST.split(text), options, style)) or set(_readings(_LIST.split(_bare(text)), options, style))
    return found.pop() if len(found) == 1 else None


def _readings(tokens: Sequence[str], options: Sequence[str], style: Style) -> Iterator[frozenset[str]]:
    """All sets that tokens (texts and what joins them, in turn) may name; an option's own text may hold a comma or an "and"."""
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
    """The number that a text is, in its shortest digits; None where it is none. Quotients and per cent are numbers where
    `published`, the answer as its publisher writes it, is one."""
    published = _TEX_QUOTIENT.sub(r"\1/\2", published)
    bare = _TIMES.sub("", _normal(_TEX_QUOTIENT.sub(r"\1/\2", text))) if len(text) < 200 else ""
    if _PER_CENT.search(_normal(published)):
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


def _interval(content: str) -> str | None:
    """The interval that `content` is, as seconds: "3.5-7"."""
    if len(content) > 64 or not (found := _SPAN.fullmatch(_normal(content))):
        return None
    start, end = (_seconds(time) for time in found.groups())
    return f"{start}-{end}" if start < end else None


def _seconds(time: str) -> Decimal:
    minutes, _, seconds = time.rpartition(":")
    return 60 * Decimal(minutes or 0) + Decimal(seconds)


def _text(content: str) -> str | None:
    """What `content` says, where it holds no statement or box that says it in other words."""
    narrow = content.translate(_NARROW)
    inside = _BOX.sub("", narrow, 1).strip(" $.") if "\\boxed{" in narrow else ""
    return None if inside or _HEAD.search(narrow) else _same(content) or None


def _stated_text(rest: str) -> str | None:
    line = rest.partition("\n")[0]
    end = _SENTENCE_END.search(line)
    return _same((line[: end.start()] if end else line).replace("**", "")) or None


def _same(text: str) -> str:
    """What two texts share that mean the same answer. Closed sets of answers join words by "_", as in `acoustic_guitar`."""
    normal = _normal(text.replace("_", " "))
    return str(_WORDS.index(normal)) if normal in _WORDS else normal


def _bare(text: str) -> str:
    """Narrow, single-spaced, without LaTeX, emphasis or quotes around it or a full stop at its end."""
    text = text.translate(_NARROW)
    if "\\" in text:
        text = _TEX.sub(r"\1", _TEX.sub(r"\1", text))
    text = " ".join(text.split())
    start, end = 0, len(text)
    while end - start > 1:
        if text[end - 1] == ".":
            end -= 1
        elif _PAIRS.get(text[start]) == text[end - 1]:
            start, end = start + 1, end - 1
        else:
            break
        while start < end and text[start] == " ":
            start += 1
        while end > start and text[end - 1] == " ":
            end -= 1
    return text[start:end]


def _normal(text: str) -> str:
    return _bare(text).casefold()
