"""Remove from a reply everything that changes its look but not its answer: thinking, end tokens,
markdown, LaTeX, wide forms."""

from __future__ import annotations

import json
import re
from typing import Any

_THINK_TAG = re.compile(r"(</?think>)", re.IGNORECASE)
# Tokens that end a turn. A server that does not skip special tokens, or a base model, shows them in the reply.
_END_TOKEN = re.compile(
    r"<\|(?:im_end|endoftext|end|eot_id|end_of_text|eom_id|return|END_OF_TURN_TOKEN)\|>|</s>|<(?:end_of_turn|eos)>"
)
_GLM_BOX = re.compile(r"<\|begin_of_box\|>([^<{}]*)<\|end_of_box\|>")
# Zero-width and direction marks, the byte order mark, soft hyphens.
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
_PRIVATE = re.compile(
    "[\ue000-\uf8ff\U000f0000-\U0010ffff]"
)  # the grammar writes references to options as such characters
_FENCE = re.compile(r"```\w*\s")
_ANSWER_KEY = re.compile(
    r"(?:(?:final|correct|predicted|selected)[ _]?)?(?:answer|choice|option|prediction)|答案",
    re.IGNORECASE,
)
_TEX = re.compile(r"\\(?:boxed|text|textbf|mathrm|mathbf)\{([^{}]*)\}|\\[()\[\]]")
_PAIRS = {
    '"': '"',
    "'": "'",
    "“": "”",
    "‘": "’",
    "「": "」",
    "`": "`",
    "*": "*",
    "_": "_",
    "$": "$",
}
# Full-width ASCII, the ideographic full stop and space, the minus sign; "、" stays, since "A、B" is a list and no sentence
# ends in it.
NARROW = {0xFF01 + i: chr(0x21 + i) for i in range(94)} | {0x3000: " ", 0x3002: ". ", 0x2212: "-"}
# Marks that end or divide a sentence have no space after them in Chinese, typographic quotes are plain ones.
_SPACED = NARROW | {
    0xFF1A: ": ",
    0xFF0C: ", ",
    0xFF1B: "; ",
    0xFF1F: "? ",
    0xFF01: "! ",
    0x2019: "'",
    0x2018: "'",
    0x201C: '"',
    0x201D: '"',
}
_LINE_START = re.compile(
    r"^[ \t]*(?:(?:#+|>+|[-*•+])[ \t]+)*", re.MULTILINE
)  # headings, quotations, bullets
_EMPHASIS = re.compile(r"(?<![*_`])(?:(?<!\w)[*_`]++|[*_`]++(?!\w))")  # not that of 2**3
_SPACES = re.compile(r"[^\S\n]+")
_BREAKS = re.compile(r" ?\n[ \n]*")
_MATHS = re.compile(r"\$([^$\n]{1,200})\$")


def spoken(reply: str) -> str:
    """Return the reply without its thinking, end tokens and invisible characters; GLM's box marks
    become LaTeX boxes.

    Dropped are <think>..</think>, an unclosed <think> with all that follows, and everything before
    a </think> without its <think>: chat templates may open the block inside the prompt.
    """
    kept: list[str] = []
    thinking = False
    for piece in _THINK_TAG.split(reply):
        if (tag := piece.lower()) == "<think>":
            thinking = True
        elif tag == "</think>":
            if not thinking:
                kept.clear()
            thinking = False
        elif not thinking:
            kept.append(piece)
    text = _PRIVATE.sub("\ufffd", _INVISIBLE.sub("", _END_TOKEN.sub("", " ".join(kept))))
    return _GLM_BOX.sub(r"\\boxed{\1}", text)


def json_answers(text: str) -> list[str] | None:
    """Return the values under the keys of a JSON object that name an answer; None where the text is
    not a JSON object."""
    text = text.strip()
    if (fence := _FENCE.match(text)) and text.endswith("```"):
        text = text[fence.end() : -3].strip()
    if not (text.startswith("{") and text.endswith("}")):
        return None
    pairs: list[tuple[str, Any]] = []

    def keep(found: list[tuple[str, Any]]) -> dict[str, Any]:
        pairs[:] = (
            found  # the outermost object is read last; a dict would hide a key that occurs twice
        )
        return dict(found)

    try:
        json.loads(text, object_pairs_hook=keep, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return None
    return [_json_text(value) for key, value in pairs if _ANSWER_KEY.fullmatch(key)]


def _json_text(value: Any) -> str:
    parts = value if isinstance(value, list) else [value]
    return ", ".join(parts) if all(isinstance(part, str) for part in parts) else ""


def flat(text: str) -> str:
    """Return text for the grammar: narrow forms, single-spaced, without emphasis, headings, bullets
    and LaTeX commands.

    Lines are kept.
    """
    text = text.translate(_SPACED)
    if "\\" in text:
        text = _TEX.sub(r"\1", _TEX.sub(r"\1", text))
    text = _EMPHASIS.sub("", _MATHS.sub(r"\1", _LINE_START.sub("", text)))
    return _BREAKS.sub("\n", _SPACES.sub(" ", text)).strip()


def bare(text: str) -> str:
    """Narrow, single-spaced, without LaTeX, emphasis or quotes around it or a full stop at its
    end."""
    text = text.translate(NARROW)
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


def normal(text: str) -> str:
    return bare(text).casefold()
