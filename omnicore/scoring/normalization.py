"""Remove from a reply the parts that do not change its answer.

These are thinking, end tokens, invisible characters, markdown, LaTeX and wide forms.
"""

from __future__ import annotations

import json
import re
from typing import Any

_THINK_TAG = re.compile(r"(</?think>)", re.IGNORECASE)
# Tokens that end a turn. They stand in the reply of a base model, and where a server does not skip
# special tokens.
_END_TOKEN = re.compile(
    r"<\|(?:im_end|endoftext|end|eot_id|end_of_text|eom_id|return|END_OF_TURN_TOKEN)\|>"
    r"|</s>|<(?:end_of_turn|eos)>"
)
_GLM_BOX = re.compile(r"<\|begin_of_box\|>([^<{}]*)<\|end_of_box\|>")
# Zero-width and direction marks, the byte order mark, soft hyphens.
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
# The grammar writes references to options as these characters.
_PRIVATE = re.compile("[\ue000-\uf8ff\U000f0000-\U0010ffff]")
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
# Full-width ASCII, the ideographic full stop and space, the minus sign. "、" is kept, since it
# separates the members of a list and ends no sentence.
NARROW = {0xFF01 + i: chr(0x21 + i) for i in range(94)} | {0x3000: " ", 0x3002: ". ", 0x2212: "-"}
# In Chinese no space follows the marks that end or divide a sentence. Typographic quotes become
# plain ones.
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
# Headings, quotations, bullets.
_LINE_START = re.compile(r"^[ \t]*(?:(?:#+|>+|[-*•+])[ \t]+)*", re.MULTILINE)
_EMPHASIS = re.compile(r"(?<![*_`])(?:(?<!\w)[*_`]++|[*_`]++(?!\w))")  # not that of 2**3
_SPACES = re.compile(r"[^\S\n]+")
_BREAKS = re.compile(r" ?\n[ \n]*")
_MATHS = re.compile(r"\$([^$\n]{1,200})\$")


def strip_thinking(reply: str) -> str:
    """Return the reply without its thinking, end tokens and invisible characters.

    Thinking is <think>..</think>, an unclosed <think> with all that follows, and everything before
    a </think> without its <think>, since chat templates may open the block inside the prompt. GLM's
    box marks become LaTeX boxes.
    """
    kept: list[str] = []
    thinking = False
    for piece in _THINK_TAG.split(reply):
        tag = piece.lower()
        if tag == "<think>":
            thinking = True
        elif tag == "</think>":
            if not thinking:
                kept.clear()
            thinking = False
        elif not thinking:
            kept.append(piece)
    text = _END_TOKEN.sub("", " ".join(kept))
    text = _PRIVATE.sub("\ufffd", _INVISIBLE.sub("", text))
    return _GLM_BOX.sub(r"\\boxed{\1}", text)


def json_answer_values(text: str) -> list[str] | None:
    """Return the values of a JSON object under the keys that name an answer.

    Returns:
        None where the text is not a JSON object.
    """
    text = text.strip()
    fence = _FENCE.match(text)
    if fence and text.endswith("```"):
        text = text[fence.end() : -3].strip()
    if not (text.startswith("{") and text.endswith("}")):
        return None
    pairs: list[tuple[str, Any]] = []

    def keep_pairs(members: list[tuple[str, Any]]) -> dict[str, Any]:
        # The outermost object is read last. A dict would hide a key that occurs twice.
        pairs[:] = members
        return dict(members)

    try:
        json.loads(text, object_pairs_hook=keep_pairs, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return None
    return [_json_text(value) for key, value in pairs if _ANSWER_KEY.fullmatch(key)]


def _json_text(value: Any) -> str:
    members = value if isinstance(value, list) else [value]
    if not all(isinstance(member, str) for member in members):
        return ""
    return ", ".join(members)


def plain_lines(text: str) -> str:
    """Return the text for the grammar: narrow, single-spaced, without markdown and LaTeX commands.

    Lines are kept.
    """
    text = _without_tex(text.translate(_SPACED))
    text = _EMPHASIS.sub("", _MATHS.sub(r"\1", _LINE_START.sub("", text)))
    return _BREAKS.sub("\n", _SPACES.sub(" ", text)).strip()


def strip_marks(text: str) -> str:
    """Return the text without LaTeX, emphasis, surrounding quotes and the full stop at its end.

    Wide forms become narrow and white space becomes single spaces.
    """
    text = " ".join(_without_tex(text.translate(NARROW)).split())
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


def _without_tex(text: str) -> str:
    """Remove LaTeX commands, nested to a depth of two."""
    if "\\" not in text:
        return text
    return _TEX.sub(r"\1", _TEX.sub(r"\1", text))


def normalize(text: str) -> str:
    """Return `strip_marks` of the text in small letters."""
    return strip_marks(text).casefold()
