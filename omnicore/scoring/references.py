"""Replace every reference to an option in a reply by one character, so that `statements.py` is
about words alone.

References are, with options shown by letters: labels (B, (B), [b], "option b", "B." and the like,
alone or with the option's own text beside them) and the options' texts; with options shown by their
texts: the texts. A label beside the text of another option is `UNCLEAR`, and so is a letter that no
option has. A small letter is a label in brackets, after "option" or "answer:", or where it is all
there is; "A" and "I" before a word are an article and a pronoun.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from omnicore.scoring.spelling import flat
from omnicore.scoring.statements import UNCLEAR

_FIRST = 0xE000
MOST = 0x18F0  # different references in one reply
_TEXT = 0xF0000  # texts before they are joined with their labels
_T = "[\U000f0000-\U000fffff]"
_ARTICLE = re.compile(r"(?:an?|the)\s+(?=\S)", re.IGNORECASE)
_HAN = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_VERB = (
    r"(?:is|was|are|or|and|but|because|since|as|would|could|can|might|may|must|should|seems|appears|fits|matches|describes|not|over|"
    r"than|rather|then|given|due|for|which|in|at|with|instead|to|best)\b"
)
_LABEL = re.compile(
    r"(?:\b(?i:option|choice|letter)\s+|选项\s*)[\"'(\[]{0,3}(?P<named>[A-Za-z])\b[\"')\]]{0,3}(?P<mark0>[.:、"
    rf"](?=\s|$|{_T}))?"
    r"|(?<![\w(])[(\[]\s*(?P<boxed>[A-Za-z])\s*[)\]](?P<mark1>[.:、](?=\s|$))?"
    r"|(?<![\w('])(?P<listed>[a-z])\)(?=\s|$)"
    r"|(?<=(?i:answer is |option is |choice is ))(?P<small>[b-hj-z])(?=[\s.,;!)]|$)"
    r"|^(?P<first>[a-z])[.:](?=\s)"
    r"|(?<=(?i:answer: ))(?P<small2>[a-z])(?=[.,;!)]|\s*$|\s*\n)"
    rf"|(?<![A-Za-z0-9_.])(?<!\w')(?<![A-Za-z]{{2}}-)(?!I\s(?!(?:is|or|and|because|since)\b)[A-Za-z])(?!A\s(?!{_VERB})[A-Za-z])"
    r"(?P<plain>[A-Z])(?![A-Za-z0-9_#♯♭+&]|'\w|-[a-z]|\.[A-Za-z]|\s(?:sharp|flat|major|minor)\b)(?P<mark2>[.):、"
    rf"](?=[\s\"')]|$|{_T}))?",
    re.MULTILINE,
)
# What follows a word like yes or no that is an answer: "no dog", "No. 5" and "No-one" are none.
_POLAR = ("yes", "no", "true", "false")
_CLOSED = r"(?!\.\s?\d|-\w)(?=\s*(?:[,.;:!?)\]}\"'–—-]|\n|$)|\s(?:because|since|as|it|there|he|she|they|the|is|was)\b)"
_BESIDE = re.compile(rf"[\"')\]]{{0,3}}\s?[-–—:]?\s?[\"'(\[]{{0,3}}(?P<text>{_T})[\"')\]]{{0,3}}")
_BEHIND = re.compile(rf"(?P<text>{_T})\s*[(\[](?P<letter>[A-Z])[)\]]")
_ENDS = re.compile(r"\s*(?:[.,;!]?\s*(?:\n|$)|[.;!])")
_ONLY = re.compile(r"[\"'(\[]*(?P<letter>[a-z])[\"')\].]*")


def mark(number: int) -> str:
    return chr(_FIRST + number)


def number_of(reference: str) -> int:
    return ord(reference) - _FIRST


def _shape(text: str) -> str:
    """An option's text without what may differ where it is quoted."""
    text = " ".join(flat(text).split()).rstrip(".")
    return _ARTICLE.sub("", text, count=1) if _ARTICLE.match(text) else text


@lru_cache(maxsize=4096)
def _texts(options: frozenset[str]) -> tuple[re.Pattern[str] | None, Mapping[str, frozenset[str]]]:
    """A pattern of all options' texts, longest first, and the options of each."""
    named: dict[str, set[str]] = {}
    for option in options:
        named.setdefault(_shape(option).casefold(), set()).add(option)
    shapes = sorted(filter(None, (_shape(option) for option in options)), key=len, reverse=True)
    if not shapes:
        return None, {}
    pattern = "|".join(_bounded(shape) for shape in shapes)
    return re.compile(rf"(?:\b(?:an?|the)\s+)?(?:{pattern})", re.IGNORECASE), {
        k: frozenset(v) for k, v in named.items()
    }


def _bounded(shape: str) -> str:
    """A pattern of a text that does not match inside a longer word or number."""
    before = after = ""
    if re.match(r"\w", shape):
        before = rf"(?<![^\W{_HAN}])" + (
            r"(?<!\d[.,:/])(?<![-+~<>$])" if shape[0].isdigit() else r"(?<!\w-)"
        )
    if re.search(r"\w\Z", shape):
        after = rf"(?![^\W{_HAN}])(?!-\w|'\w)" + (
            r"(?![%!+*/^]|[.,:]\d)" if shape[-1].isdigit() else ""
        )
    if len(shape) == 1 and re.match(f"[{_HAN}]", shape):  # "不是" and "但是" hold "是"
        before, after = f"(?:(?<![{_HAN}])|(?<=答案是)|(?<=答案为))", f"(?![{_HAN}])"
    if shape.casefold() in _POLAR:
        after = _CLOSED
    return before + re.escape(shape).replace(r"\ ", r"\s+") + after


def refer(text: str, options: Sequence[str], letters: bool) -> str:
    """Return the text in the grammar's form: `mark(i)` for a reference to `options[i]`.

    Args:
        options: In the order shown.
        letters: The options are shown by letters, too.
    """
    text = flat(text)
    if letters and (only := _ONLY.fullmatch(text.strip())):
        return _place(only["letter"], options)
    quoted = frozenset(
        o for o in options if not (letters and len(o.strip()) == 1 and o.strip().isalpha())
    )
    pattern, named = _texts(quoted)

    def texts(found: re.Match[str]) -> str:
        key = (
            _ARTICLE.sub("", " ".join(found[0].split()), count=1)
            if _ARTICLE.match(found[0])
            else " ".join(found[0].split())
        )
        members = named.get(key.casefold(), frozenset())
        exact = [o for o in members if _shape(o) == key]
        chosen = exact if len(exact) == 1 else list(members)
        return chr(_TEXT + options.index(chosen[0])) if len(chosen) == 1 else UNCLEAR

    text = pattern.sub(texts, text) if pattern else text
    if letters:
        text = _labels(
            _BEHIND.sub(lambda found: _both(found["letter"], found["text"], options), text), options
        )
    return re.sub(_T, lambda found: mark(ord(found[0]) - _TEXT), text)


def _place(letter: str, options: Sequence[str]) -> str:
    place = ord(letter.upper()) - ord("A")
    return mark(place) if place < len(options) else UNCLEAR


def _both(letter: str, text: str, options: Sequence[str]) -> str:
    labelled = _place(letter, options)
    return labelled if labelled == mark(ord(text) - _TEXT) else UNCLEAR


def _labels(text: str, options: Sequence[str]) -> str:
    """Replace labels.

    A mark after one ends its sentence: "B: it barks" says B, and why.
    """
    pieces: list[str] = []
    end = 0
    for label in _LABEL.finditer(text):
        if label.start() < end:
            continue
        groups = label.groupdict()
        letter = next(
            filter(
                None,
                (
                    groups[name]
                    for name in ("named", "boxed", "listed", "small", "small2", "first", "plain")
                ),
            )
        )
        reference, after = _place(letter, options), label.end()
        marked = any(groups[name] for name in ("mark0", "mark1", "mark2", "listed", "first"))
        if beside := _BESIDE.match(text, after):
            same = _both(letter, beside["text"], options)
            if same != UNCLEAR or _ENDS.match(text, beside.end()):
                reference, after = same, beside.end()
        named = groups["named"] or groups["boxed"]
        pieces += [
            text[end : label.start()],
            reference,
            "." if marked and not (named and after > label.end()) else "",
        ]
        end = after
    return "".join([*pieces, text[end:]])


def refer_by(
    text: str, pattern: re.Pattern[str], value: Callable[[re.Match[str]], str | None]
) -> tuple[str, list[str]]:
    """Replace what `pattern` finds by marks of its values; returns the text and the values.

    None is no reference.
    """
    values: dict[str, int] = {}

    def replaced(found: re.Match[str]) -> str:
        if (named := value(found)) is None:
            return found[0]
        place = values.setdefault(named, len(values))
        return mark(place) if place < MOST else UNCLEAR

    return pattern.sub(replaced, flat(text)), list(values)
