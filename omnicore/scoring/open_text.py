"""Read open answers: any text, up to the first end of a sentence where it is stated."""

from __future__ import annotations

import re

from omnicore.scoring.normalization import NARROW, normalize
from omnicore.scoring.numbers import NUMBER_WORDS
from omnicore.scoring.segments import ANSWER_HEAD, BOX, read_parts, single_answer, unbox

_SENTENCE_END = re.compile(r"[.!](?=\s|[*_`]|$)")


def read_open_text(reply: str) -> str | None:
    """Return the open answer of a reply; None where it is empty or contradicts itself."""
    return read_parts(reply, inside=_whole_text, outside=_any_text)


def normalize_open_text(text: str) -> str:
    """Return the form that two texts share which mean the same answer.

    Closed sets of answers join words by "_", as in `acoustic_guitar`.
    """
    name = normalize(text.replace("_", " "))
    return str(NUMBER_WORDS.index(name)) if name in NUMBER_WORDS else name


def _any_text(text: str) -> str | None:
    return _whole_text(text) or _stated_text(text)


def _whole_text(content: str) -> str | None:
    """Return the answer that `content` is; None where a statement or a box inside names another."""
    narrow = content.translate(NARROW)
    if ANSWER_HEAD.search(narrow):
        return None
    if "\\boxed{" in narrow and BOX.sub("", narrow, 1).strip(" $."):
        return None
    return normalize_open_text(content) or None


def _stated_text(text: str) -> str | None:
    """Return the answer that every statement and every box of the text names."""
    text = text.translate(NARROW)
    answers = [_whole_text(box) for box in BOX.findall(text)]
    rest = unbox(text)
    if "\\boxed{" in rest:
        return None  # a box left open
    heads = list(ANSWER_HEAD.finditer(rest))
    for number, head in enumerate(heads):
        last = number + 1 == len(heads)
        end = len(rest) if last else heads[number + 1].start()
        answers.append(None if head["denied"] else _first_sentence(rest[head.end() : end]))
    return single_answer(answers)


def _first_sentence(text: str) -> str | None:
    """Return the first sentence of the first line as an answer; None where it is empty."""
    line = text.partition("\n")[0]
    end = _SENTENCE_END.search(line)
    if end:
        line = line[: end.start()]
    return normalize_open_text(line.replace("**", "")) or None
