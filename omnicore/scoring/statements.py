"""Find the statements of a reply: which option it says is the answer.

`references.py` has replaced every reference to an option by one character (class `REFERENCE`, shown
as `~` in the examples here), so the tables below are only about words and hold for letters, texts,
numbers and sets. A sentence states an answer where one form of `FORMS` matches and neither the text
before it nor the text after it takes it back:

- Before: no question, condition, negation, hearsay or "could be" governs it (`_BLOCKED`,
  `_BLOCKED_CLAUSE`).
- After: the sentence ends, or continues with a mark or a word of `_CONTINUES`. Another option may
  follow only in a reason ("~, because ~ is silent") or a contrast ("~ rather than ~").

A form is `explicit` ("The answer is ~", "I would choose ~") or implicit ("It is ~",
"~ ... explanation"). All explicit statements must name the same option; implicit ones count only
without them. Nothing is read where an option is named and denied, or where a later sentence takes
the answer back or names another option as possible. The time is linear in the length of the reply.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from omnicore.scoring.statement_forms import (
    ANNOUNCED,
    BLOCKED,
    BLOCKED_CLAUSE,
    CLAUSE,
    CONTINUES,
    CONTRASTS,
    COUNTED_NOUN,
    DECLINES,
    DENIED,
    DOUBTS,
    FORMS,
    HEADING,
    JOINED,
    MAX_STATEMENTS,
    RANKED,
    REASON,
    REFERENCE,
    REFERENCE_PATTERN,
    REJECTS,
    SENTENCE_END,
    TAKEN_BACK,
    UNCLEAR,
    StatementForm,
)

# Characters before a claim that may govern it.
_REACH = 100
_JOINED_REACH = 40

Claim = tuple[StatementForm, re.Match[str]]


@dataclass
class StatedAnswers:
    """References that the statements of a text name.

    Attributes:
        explicit: References of explicit statements.
        implicit: References of implicit statements.
        inner: Bare references that neither open nor close the text.
        announced: There is an explicit statement, readable or not.
        missed: An explicit statement names nothing readable.
        unclear: An implicit statement names nothing readable.
    """

    explicit: set[str] = field(default_factory=set)
    implicit: set[str] = field(default_factory=set)
    inner: set[str] = field(default_factory=set)
    announced: bool = False
    missed: bool = False
    unclear: bool = False

    @property
    def single(self) -> str | None:
        """Return the one reference that is stated; None where there is none, or several."""
        if self.missed or UNCLEAR in self.explicit or len(self.explicit) > 1:
            return None
        if not self.explicit and (self.unclear or self.announced or self.inner - self.implicit):
            return None
        references = self.explicit or self.implicit
        if len(references) != 1 or UNCLEAR in references:
            return None
        return next(iter(references))


def read_statements(text: str, extra: Sequence[StatementForm] = ()) -> StatedAnswers:
    """Read all statements of a text whose references are marks.

    Args:
        text: The text, as `references.mark_options` or `mark_values` returns it.
        extra: Further forms for one kind of answer, beside those for all kinds.
    """
    sentences = list(_split_sentences(HEADING.sub(r"\1: ", text)))
    stated = StatedAnswers(unclear=bool(RANKED.search(text)))
    denied: set[str] = set()
    forms = (*FORMS, *extra)
    last = len(sentences) - 1
    for number, (sentence, mark) in enumerate(sentences):
        if mark == "?":
            continue
        denied |= _denied_references(sentence)
        if MAX_STATEMENTS < number < last and len(sentence) < 4:
            stated.unclear = True  # a stutter
        _read_sentence(sentence, stated, alone=last == 0, at_end=number in (0, last), forms=forms)
    single = stated.single
    if single is None:
        return stated
    if single in denied or _is_doubted(single, sentences, explicit=bool(stated.explicit)):
        return StatedAnswers(announced=True, missed=True)
    return stated


def _split_sentences(text: str) -> Iterator[tuple[str, str]]:
    """Yield the sentences and the mark that ends each, without empty ones."""
    pieces = SENTENCE_END.split(text)
    marks = [*pieces[1::2], ""]
    for piece, mark in zip(pieces[::2], marks, strict=True):
        if piece.strip(" \t\"')]"):
            yield piece.strip(), mark


def _denied_references(sentence: str) -> set[str]:
    denied: set[str] = set()
    if REFERENCE_PATTERN.search(sentence):
        for pattern in DENIED:
            denied.update(match["x"] for match in pattern.finditer(sentence))
    return denied


def _read_sentence(
    sentence: str,
    stated: StatedAnswers,
    *,
    alone: bool,
    at_end: bool,
    forms: Sequence[StatementForm],
) -> None:
    """Add the statements of one sentence to `stated`.

    Args:
        sentence: The sentence.
        stated: The statements so far.
        alone: It is the only sentence.
        at_end: It is the first or the last sentence.
        forms: Forms to look for.
    """
    claims = _find_claims(sentence, forms)
    if len(claims) > MAX_STATEMENTS:
        stated.missed = stated.unclear = True
        return
    block = BLOCKED.search(sentence)
    blocked = block.start() if block else len(sentence)
    announced = ANNOUNCED.search(sentence)
    explicit = False
    for form, claim in claims:
        if (form.whole and not alone) or claim.start() > blocked or _is_blocked(claim):
            if announced and announced.start() >= claim.start():
                announced = None
            continue
        holds = _holds(claim, form)
        if form.explicit and holds is not False:
            explicit = True
            stated.explicit.add(claim["x"] if holds else UNCLEAR)
        elif not form.explicit:
            _add_implicit(claim["x"], holds, stated, inner=form.bare and not at_end)
    if explicit:
        stated.announced = True
    elif announced and announced.start() < blocked and not _governed(sentence[: announced.start()]):
        stated.announced = True
        if not any(pattern.search(sentence, announced.start()) for pattern in DENIED):
            stated.missed = True


def _add_implicit(reference: str, holds: bool | None, stated: StatedAnswers, inner: bool) -> None:
    if holds is None:
        stated.unclear = True
    elif holds:
        (stated.inner if inner else stated.implicit).add(reference)


def _find_claims(sentence: str, forms: Sequence[StatementForm] = FORMS) -> list[Claim]:
    """Return all matches of all forms, at most one more than a sentence may hold."""
    if not REFERENCE_PATTERN.search(sentence):  # most sentences hold none
        return []
    claims: list[Claim] = []
    for form in forms:
        for match in form.pattern.finditer(sentence):
            claims.append((form, match))
            if len(claims) > MAX_STATEMENTS:
                return claims
    return claims


def _is_blocked(claim: re.Match[str]) -> bool:
    """Return whether the text before a claim denies it, doubts it, or makes it someone else's.

    This is the text before it in its clause, and the text inside it before its reference.
    """
    before = claim.string[max(0, claim.start() - _REACH) : claim.start()]
    inside = claim.string[claim.start() : claim.start("x")]
    if _governed(before) or BLOCKED_CLAUSE.search(inside):
        return True
    return not inside and bool(JOINED.search(before[-_JOINED_REACH:]))


def _governed(before: str) -> bool:
    return bool(BLOCKED_CLAUSE.search(CLAUSE.split(before[-_REACH:])[-1]))


def _holds(claim: re.Match[str], form: StatementForm) -> bool | None:
    """Return whether the text after a claim leaves it as it is.

    Returns:
        None where the text names another option.
    """
    after = claim.string[claim.end() :]
    # "A, A" states nothing explicitly.
    other = re.search(rf"(?!{claim['x']}){REFERENCE}" if form.explicit else REFERENCE, after)
    if other:
        reason = REASON.search(after)
        in_reason = reason and reason.start() < other.start()
        if not in_reason or DOUBTS.search(after):
            return None
    if re.match(r"\W*(?:or|and/or|或)\b", after, re.IGNORECASE) or TAKEN_BACK.search(after):
        return False
    if form.bare and after.startswith(".") and REJECTS.match(after, 1):
        return False
    noun = form.noun and COUNTED_NOUN.match(after)
    return bool(noun or CONTINUES.match(after))


def _is_doubted(reference: str, sentences: Sequence[tuple[str, str]], explicit: bool) -> bool:
    """Return whether a later sentence takes `reference` back or names another as possible."""
    naming = [i for i, (sentence, _) in enumerate(sentences) if reference in sentence]
    stating = [i for i in naming if explicit and _find_claims(sentences[i][0])]
    # The text before the last explicit statement may have weighed other options.
    start = stating[-1] if stating else naming[0]
    for sentence, mark in sentences[start + 1 :]:
        if TAKEN_BACK.search(sentence) or (not explicit and DECLINES.search(sentence)):
            return True
        other = re.search(rf"(?!{reference}){REFERENCE}", sentence)
        if other and mark != "?" and _offers_another(sentence):
            return True
    return False


def _offers_another(sentence: str) -> bool:
    """Return whether a sentence with another reference says that it may be the answer."""
    bare = len(sentence.strip(" \"'()[].")) == 1
    return bool(bare or DOUBTS.search(sentence) or CONTRASTS.match(sentence))
