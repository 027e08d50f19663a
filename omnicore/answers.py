"""The one strict extractor of an answer from a reply, and the one verifier. Probe, reward and evaluation all call it.

Nothing is guessed: a reply either names a single option in one of the forms below or it has no answer, which is counted
apart from a wrong one. In this order:

  1. Thinking is dropped: <think>..</think>, an unclosed <think> with all that follows, and all that precedes a </think>
     without its <think> (chat templates may open the block inside the prompt).
  2. With <answer>..</answer> tags their contents alone count: each must be an option as a whole, and all the same one.
  3. Without tags the reply as a whole may be an option; or its explicit statements ("The answer is X.", "Answer: X",
     "答案：X") count, where X reaches to the end of the sentence: each must be an option as a whole, and all the same one.

"As a whole" means: style `value`, the option's text; style `letter`, the capital letter of the option's place as A, (A),
A. or "A. text", where the text must be that option's own. Case of texts, space, markdown emphasis, quotes around, a full
stop at the end and full-width forms make no difference. Small letters do not count: "a" is a word.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Literal

from omnicore.schema import Outcome, Query

Style = Literal["value", "letter"]

_THINK_TAG = re.compile(r"(</?think>)", re.IGNORECASE)
_ANSWER_TAG = re.compile(r"(</?answer>)", re.IGNORECASE)
# The head of a statement, which reaches to the end of its line or the next head.
_HEAD = re.compile(
    r"(?P<denied>\b(?:wrong|incorrect|false|no|not|another|possible) +(?:the |an )?)?"
    r"(?:\banswer\b[*_`]*\s*(?:is\b\s*:?|:)|答案[*_`]*\s*(?:是\s*:?|为\s*:?|:))[*_`]*\s*",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!](?=\s|[*_`]|$)")
_LETTER = re.compile(r"(?:[Aa]nswer: *)?(?:\((?P<a>[A-Z])\)[.:、]? *(?P<x>.*)|(?P<b>[A-Z])(?:[.:)、] *(?P<y>.*))?)")
_PAIRS = {'"': '"', "'": "'", "“": "”", "‘": "’", "「": "」", "`": "`", "*": "*", "_": "_"}
# Full-width ASCII and the ideographic full stop and space; "、" stays, since "A、B" is a list and no sentence ends in it.
_NARROW = {0xFF01 + i: chr(0x21 + i) for i in range(94)} | {0x3000: " ", 0x3002: ". "}


def extract(reply: str, options: Sequence[str], style: Style) -> str | None:
    """The text of the single option that `reply` names, `options` being in the order shown; None when there is none.

    Raises ValueError for more options than letters.
    """
    if style == "letter" and len(options) > len(string.ascii_uppercase):
        raise ValueError(f"{len(options)} options but only {len(string.ascii_uppercase)} letters: use style `value`")
    before, *tagged = _ANSWER_TAG.split(_spoken(reply))
    if tagged:
        if [tag.lower() for tag in tagged[::2]] != ["<answer>", "</answer>"] * (len(tagged) // 4):
            return None  # a tag left open: what it would have said is not known
        return _single([_whole(content, options, style) for content in tagged[1::4]])
    whole = _whole(before, options, style)
    return whole if whole is not None else _stated(before.translate(_NARROW), options, style)


def judge(reply: str, query: Query, style: Style, permutation: Sequence[int] | None = None) -> tuple[str | None, Outcome]:
    """What the reply names and what that is worth. `permutation[i]` is the index of the option shown at place i."""
    shown = [query.options[i] for i in permutation or range(len(query.options))]
    given = extract(reply, shown, style)
    if given is None:
        return None, Outcome.no_answer
    return given, Outcome.correct if given == query.answer else Outcome.incorrect


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


def _single(found: Sequence[str | None]) -> str | None:
    """The one thing that all found name; None for nothing found, a miss among them, or two different."""
    return found[0] if len(set(found)) == 1 else None


def _whole(content: str, options: Sequence[str], style: Style) -> str | None:
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
    place = string.ascii_uppercase.index(match["a"] or match["b"])
    text = match["x"] or match["y"]
    if place >= len(options) or (text and _normal(text) != _normal(options[place].replace("**", ""))):
        return None
    return options[place]


def _stated(text: str, options: Sequence[str], style: Style) -> str | None:
    """The option that every statement in the text names."""
    heads = list(_HEAD.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    found = [
        None if head["denied"] else _claimed(text[head.end() : end].partition("\n")[0], options, style)
        for head, end in zip(heads, ends, strict=False)
    ]
    return _single(found)


def _claimed(rest: str, options: Sequence[str], style: Style) -> str | None:
    """The option that stands after a head: all of the rest of the line, or its start up to the end of a sentence."""
    if rest.count("**") % 2:  # opened before the head: "**Answer: B**"
        rest = "".join(rest.rpartition("**")[::2])
    whole = _whole(rest, options, style)
    if whole is not None:
        return whole
    longest = max(map(len, options)) + len("Answer: **(A).** ")
    for end in _SENTENCE_END.finditer(rest):
        if end.start() > longest:
            break
        found, after = _whole(rest[: end.start()], options, style), rest[end.end() :]
        if found is not None:
            # "The answer is A. dog" with another option's text names two.
            two = style == "letter" and any(_normal(after) == _normal(o) for o in options if o != found)
            return None if two else found
    return None


def _bare(text: str) -> str:
    """Narrow, single-spaced, without emphasis or quotes around it or a full stop at its end."""
    text = " ".join(text.translate(_NARROW).split())
    while len(text) > 1:
        if text[-1] == ".":
            text = text[:-1].rstrip()
        elif _PAIRS.get(text[0]) == text[-1]:
            text = text[1:-1].strip()
        else:
            break
    return text


def _normal(text: str) -> str:
    return _bare(text).casefold()
