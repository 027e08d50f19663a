"""Replace every reference to an option by one character, so that `statements.py` sees only words.

Where options are shown by letters, references are labels (B, (B), [b], "option b", "B." and the
like, with or without the option's own text beside them) and the options' texts. Where options are
shown by their texts, references are the texts. A label beside the text of another option is
`UNCLEAR`, and so is a letter that no option has. A small letter is a label in brackets, after
"option" or "answer:", or as the whole reply; "A" and "I" before a word are an article and a
pronoun.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial

from omnicore.scoring.normalization import plain_lines
from omnicore.scoring.statement_forms import UNCLEAR

_FIRST = 0xE000
MAX_REFERENCES = 0x18F0  # most different references in one reply
_TEXT = 0xF0000  # first mark of texts, before they are joined with their labels
_T = "[\U000f0000-\U000fffff]"
_ARTICLE = re.compile(r"(?:an?|the)\s+(?=\S)", re.IGNORECASE)
_HAN = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_VERB = (
    r"(?:is|was|are|or|and|but|because|since|as|would|could|can|might|may|must|should|seems|"
    r"appears|"
    r"fits|matches|describes|not|over|than|rather|then|given|due|for|which|in|at|with|instead|to|"
    r"best)\b"
)
_LABEL = re.compile(
    r"(?:\b(?i:option|choice|letter)\s+|选项\s*)[\"'(\[]{0,3}(?P<named>[A-Za-z])\b[\"')\]]{0,3}"
    rf"(?P<mark0>[.:、](?=\s|$|{_T}))?"
    r"|(?<![\w(])[(\[]\s*(?P<boxed>[A-Za-z])\s*[)\]](?P<mark1>[.:、](?=\s|$))?"
    r"|(?<![\w('])(?P<listed>[a-z])\)(?=\s|$)"
    r"|(?<=(?i:answer is |option is |choice is ))(?P<small>[b-hj-z])(?=[\s.,;!)]|$)"
    r"|^(?P<first>[a-z])[.:](?=\s)"
    r"|(?<=(?i:answer: ))(?P<small2>[a-z])(?=[.,;!)]|\s*$|\s*\n)"
    r"|(?<![A-Za-z0-9_.])(?<!\w')(?<![A-Za-z]{2}-)"
    rf"(?!I\s(?!(?:is|or|and|because|since)\b)[A-Za-z])(?!A\s(?!{_VERB})[A-Za-z])"
    r"(?P<plain>[A-Z])"
    r"(?![A-Za-z0-9_#♯♭+&]|'\w|-[a-z]|\.[A-Za-z]|\s(?:sharp|flat|major|minor)\b)"
    rf"(?P<mark2>[.):、](?=[\s\"')]|$|{_T}))?",
    re.MULTILINE,
)
# Text that may follow a word like yes or no where it is an answer: "no dog", "No. 5" and "No-one"
# are not answers.
_POLAR = ("yes", "no", "true", "false")
_CLOSED = (
    r"(?!\.\s?\d|-\w)(?=\s*(?:[,.;:!?)\]}\"'–—-]|\n|$)"
    r"|\s(?:because|since|as|it|there|he|she|they|the|is|was)\b)"
)
_BESIDE = re.compile(rf"[\"')\]]{{0,3}}\s?[-–—:]?\s?[\"'(\[]{{0,3}}(?P<text>{_T})[\"')\]]{{0,3}}")
_BEHIND = re.compile(rf"(?P<text>{_T})\s*[(\[](?P<letter>[A-Z])[)\]]")
_ENDS = re.compile(r"\s*(?:[.,;!]?\s*(?:\n|$)|[.;!])")
_LETTER_GROUPS = ("named", "boxed", "listed", "small", "small2", "first", "plain")
_MARK_GROUPS = ("mark0", "mark1", "mark2", "listed", "first")
_ONLY = re.compile(r"[\"'(\[]*(?P<letter>[a-z])[\"')\].]*")


def reference_mark(number: int) -> str:
    """Return the character that stands for reference `number`, from 0."""
    return chr(_FIRST + number)


def reference_index(reference: str) -> int:
    """Return the number of a reference."""
    return ord(reference) - _FIRST


def _shape(text: str) -> str:
    """Return an option's text without the parts that may differ where it is quoted."""
    text = " ".join(plain_lines(text).split()).rstrip(".")
    return _ARTICLE.sub("", text, count=1) if _ARTICLE.match(text) else text


@lru_cache(maxsize=4096)
def _texts(options: frozenset[str]) -> tuple[re.Pattern[str] | None, Mapping[str, frozenset[str]]]:
    """Return a pattern of all options' texts, longest first, and the options of each text."""
    named: dict[str, set[str]] = {}
    for option in options:
        named.setdefault(_shape(option).casefold(), set()).add(option)
    shapes = [shape for shape in map(_shape, options) if shape]
    if not shapes:
        return None, {}
    shapes.sort(key=len, reverse=True)
    alternatives = "|".join(_bounded(shape) for shape in shapes)
    pattern = re.compile(rf"(?:\b(?:an?|the)\s+)?(?:{alternatives})", re.IGNORECASE)
    return pattern, {name: frozenset(members) for name, members in named.items()}


def _bounded(shape: str) -> str:
    """Return a pattern of a text that does not match inside a longer word or number."""
    before = after = ""
    if re.match(r"\w", shape):
        longer = r"(?<!\d[.,:/])(?<![-+~<>$])" if shape[0].isdigit() else r"(?<!\w-)"
        before = rf"(?<![^\W{_HAN}])" + longer
    if re.search(r"\w\Z", shape):
        longer = r"(?![%!+*/^]|[.,:]\d)" if shape[-1].isdigit() else ""
        after = rf"(?![^\W{_HAN}])(?!-\w|'\w)" + longer
    if len(shape) == 1 and re.match(f"[{_HAN}]", shape):  # "不是" and "但是" hold "是"
        before, after = f"(?:(?<![{_HAN}])|(?<=答案是)|(?<=答案为))", f"(?![{_HAN}])"
    if shape.casefold() in _POLAR:
        after = _CLOSED
    return before + re.escape(shape).replace(r"\ ", r"\s+") + after


def mark_options(text: str, options: Sequence[str], letters: bool) -> str:
    """Return the text with `reference_mark(i)` for each reference to `options[i]`.

    Args:
        text: The text.
        options: The options, in the order shown.
        letters: Whether the options are also shown by letters.
    """
    text = plain_lines(text)
    only = _ONLY.fullmatch(text.strip()) if letters else None
    if only:
        return _mark_letter(only["letter"], options)
    text = _mark_texts(text, options, letters)
    if letters:
        text = _BEHIND.sub(partial(_mark_labelled_text, options=options), text)
        text = _mark_labels(text, options)
    return re.sub(_T, lambda match: reference_mark(ord(match[0]) - _TEXT), text)


def _mark_texts(text: str, options: Sequence[str], letters: bool) -> str:
    """Replace the options' texts; where options have letters, a text of one letter is a label."""
    quoted = set(options)
    if letters:
        quoted = {o for o in options if not (len(o.strip()) == 1 and o.strip().isalpha())}
    pattern, named = _texts(frozenset(quoted))
    if pattern is None:
        return text

    def mark_text(match: re.Match[str]) -> str:
        name = " ".join(match[0].split())
        if _ARTICLE.match(match[0]):
            name = _ARTICLE.sub("", name, count=1)
        members = named.get(name.casefold(), frozenset())
        exact = [o for o in members if _shape(o) == name]
        chosen = exact if len(exact) == 1 else list(members)
        return chr(_TEXT + options.index(chosen[0])) if len(chosen) == 1 else UNCLEAR

    return pattern.sub(mark_text, text)


def _mark_letter(letter: str, options: Sequence[str]) -> str:
    place = ord(letter.upper()) - ord("A")
    return reference_mark(place) if place < len(options) else UNCLEAR


def _mark_labelled_text(match: re.Match[str], options: Sequence[str]) -> str:
    return _mark_both(match["letter"], match["text"], options)


def _mark_both(letter: str, text: str, options: Sequence[str]) -> str:
    """Return the mark of a label with a text beside it; UNCLEAR where they differ."""
    labelled = _mark_letter(letter, options)
    return labelled if labelled == reference_mark(ord(text) - _TEXT) else UNCLEAR


def _mark_labels(text: str, options: Sequence[str]) -> str:
    """Replace labels.

    A punctuation mark after a label ends its sentence: "B: it barks" states B, and then a reason.
    """
    pieces: list[str] = []
    end = 0
    for label in _LABEL.finditer(text):
        if label.start() < end:
            continue
        letter = next(label[name] for name in _LETTER_GROUPS if label[name])
        reference, after = _mark_letter(letter, options), label.end()
        marked = any(label[name] for name in _MARK_GROUPS)
        beside = _BESIDE.match(text, after)
        if beside:
            same = _mark_both(letter, beside["text"], options)
            if same != UNCLEAR or _ENDS.match(text, beside.end()):
                reference, after = same, beside.end()
        named = label["named"] or label["boxed"]
        with_text = named and after > label.end()
        pieces += [text[end : label.start()], reference, "." if marked and not with_text else ""]
        end = after
    return "".join([*pieces, text[end:]])


def mark_values(
    text: str, pattern: re.Pattern[str], value: Callable[[re.Match[str]], str | None]
) -> tuple[str, list[str]]:
    """Replace the matches of `pattern` by marks of their values.

    Args:
        text: The text.
        pattern: Pattern of the references.
        value: Returns the value of a match; None where it is not a reference.

    Returns:
        The text, and the values in the order of their marks.
    """
    values: dict[str, int] = {}

    def mark_value(match: re.Match[str]) -> str:
        name = value(match)
        if name is None:
            return match[0]
        place = values.setdefault(name, len(values))
        return reference_mark(place) if place < MAX_REFERENCES else UNCLEAR

    return pattern.sub(mark_value, plain_lines(text)), list(values)
