"""The grammar of statements: which option a reply says is the answer.

`references.py` has replaced every reference to an option by one character (class `X`, called `~` in the examples here), so the
tables below are about words alone and hold for letters, texts, numbers and sets. A sentence states an answer where one form of
`FORMS` matches and neither what stands before nor what stands after takes it back:

  before  no question, condition, negation, hearsay or "could be" governs it (`_BLOCKED`, `_BLOCKED_CLAUSE`)
  after   the sentence ends, or goes on with a mark or a word of `_GOES_ON`. Another option may follow only in a reason
          ("~, because ~ is silent") or a contrast ("~ rather than ~").

A form is `explicit` ("The answer is ~", "I would choose ~") or `implicit` ("It is ~", "~ ... explanation"). All explicit
statements must name the same option; implicit ones count only without them. Nothing is read where an option is named and denied,
where a later sentence takes the answer back, or names another option as possible. All is linear in the length of the reply.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

X = "[\ue000-\uf8ff]"
_REFERENCE = re.compile(X)
UNCLEAR = (  # a reference that names no single option: a label with another option's text, a letter without an option
    "\uf8ff"
)

_ADJECTIVE = (
    r"(?:final|correct|right|best|true|proper|appropriate|suitable|fitting|accurate|plausible|probable|likely|closest|matching|"
    r"overall|selected|chosen|predicted|my|only|most)"
)
_ABOUT = (  # "... to the question"
    r"(?:\s(?:to|for|of|here|among|in|from|based\son|would\sthen)\b[^.:;,\ue000-\uf8ff]{0,60}?)?"
)
_IS = r"(?:\s*(?::|=|\s[-–—]|'s\b|\b(?:is|are|was|were|(?:would|will|must|should|has\sto|have\sto|seems\sto|appears\sto)\sbe)\b))"
_SO = (
    r"(?:\s*(?:[:\"'(\[<-]|\b(?:therefore|thus|hence|then|so|clearly|definitely|certainly|most|likely|probably|indeed|simply|"
    r"obviously|just|both|the|as\sfollows|option|letter|exactly|that|I\s(?:think|believe)|it\sis|it's|it\smust\sbe|this\sis)\b))"
    r"{0,5}\s*"
)
_ANSWER = rf"\b(?:{_ADJECTIVE}\s){{0,4}}(?:answers?(?:\s(?:choice|option|letter))?|ans(?=\s*:)|final_answer|prediction|result)"
_OPTION = rf"\b(?:{_ADJECTIVE}\s){{1,4}}(?:options?|choices?|selection|pick|guess|match|fit|one|sound|letter)"
_COUNT = r"\b(?:(?:total|exact|correct|final)\s){0,3}(?:number|count|total|sum)"
_I_SAY = (
    r"\b(?:I|we)(?:'d|'ll|\s(?:would|will|shall|must|have\sto|can\ssafely))?\s(?:\w+ly\s)?"
    r"(?:choose|pick|select|go\swith|go\sfor|opt\sfor|vote\sfor|settle\son|lean\stowards?|say|guess|think|believe|conclude|answer)"
)
_RIGHT = rf"(?:(?:a|my)\s)?(?:{_ADJECTIVE}\s){{0,4}}(?:{_ADJECTIVE}|option|choice|answer|match|fit|one|letter|it)\b"
_SUITS = r"(?:fits|matches|suits|describes)"
_OPENING = (
    r"\s*(?:(?:so|therefore|thus|hence|then|overall|clearly|finally|conclusion|in\s(?:conclusion|summary)|ok(?:ay)?|well|sure|and|assistant|"
    r"因此|所以|综上所述)\b[,:]?\s*)*"
    r"(?:(?:based\son|among|of|from|given|looking\sat|listening\sto|in|after|considering|with|judging)\b[^.;:\ue000-\uf8ff]{0,120}?,\s*)?"
)
_QUOTE = r"[\"'(\[{<]{0,3}"
_ZH_IS = r"(?:应该|应当|应|就|最终)*(?:是|为|选择|选)?\s*:?\s*(?:选项)?"


@dataclass(frozen=True)
class Form:
    """One way to state an answer.

    `whole` forms hold only where their sentence is the whole reply, `bare` ones, which are a
    reference and nothing else, only in its first or last sentence.
    """

    example: str
    pattern: re.Pattern[str]
    explicit: bool = True
    heads: bool = (
        False  # whatever follows is the answer: where it cannot be read, the reply has none
    )
    whole: bool = False
    bare: bool = False
    noun: bool = False  # the thing that is counted may follow


def _form(example: str, pattern: str, **kind: bool) -> Form:
    return Form(example, re.compile(pattern, re.IGNORECASE), **kind)


FORMS = (
    _form("The answer is ~", rf"{_ANSWER}{_ABOUT}[\"']?{_IS}{_SO}(?P<x>{X})", heads=True),
    _form("The correct option is ~", rf"{_OPTION}{_ABOUT}[\"']?{_IS}{_SO}(?P<x>{X})"),
    _form("Option: ~", rf"^\s*(?:option|choice|selection|conclusion)\s*:\s*{_QUOTE}(?P<x>{X})"),
    _form("The number of dogs is ~", rf"{_COUNT}{_ABOUT}{_IS}{_SO}(?P<x>{X})"),
    _form("I would choose ~", rf"{_I_SAY}{_SO}(?P<x>{X})"),
    _form(
        "I think the sound is ~",
        rf"{_I_SAY}(?:\sthat)?\s(?:the\s[\w\s]{{1,40}}?){_IS}{_SO}(?P<x>{X})",
    ),
    _form("Choose ~", rf"^{_OPENING}(?:choose|pick|select|go\swith)\s{_SO}(?P<x>{X})"),
    _form(
        "~ is the correct answer",
        rf"(?P<x>{X})[\"')\]]{{0,3}}(?:{_IS}|\s(?:seems|appears|looks)\b)\s*{_SO}{_RIGHT}",
    ),
    _form(
        "~ fits best",
        rf"(?P<x>{X})[\"')\]]{{0,3}}\s(?:{_SUITS}\s(?:the\s\w+\s)?best|best\s{_SUITS}\b[^,;\ue000-\uf8ff]{{0,80}})",
    ),
    _form(
        "答案是~",
        rf"(?:答案|正确的?选项|最佳选项|正确的(?=是)){_ZH_IS}\s*{_QUOTE}(?P<x>{X})",
        heads=True,
    ),
    _form(
        "La respuesta es ~",
        rf"(?:respuesta|antwort|réponse|risposta|resposta|ответ|答え|正解|정답)(?:\s(?:correcta|correcte|corretta|correta))?"
        rf"(?:\s*:|\s(?:es|ist|lautet|est|è|é)\b\s*:?|は|은|는)\s*{_QUOTE}(?P<x>{X})",
        heads=True,
    ),
    _form("选~", rf"选(?:择|项是|项为|项)?\s*:?\s*{_QUOTE}(?P<x>{X})"),
    _form(
        "~是正确的",
        rf"(?P<x>{X})\s*(?:选项)?(?:是|为)?(?:最)?(?:正确|对|合适|符合)(?:的|答案|选项)*(?=\s*(?:[.,;!]|$))",
    ),
    _form("~", rf"^{_OPENING}{_QUOTE}(?P<x>{X})", explicit=False, bare=True),
    _form("It is ~", rf"^{_OPENING}(?:it|this|that){_IS}{_SO}(?P<x>{X})", explicit=False),
    _form(
        "It sounds like ~",
        rf"^{_OPENING}(?:it|this|that)\s(?:sounds|looks)\slike\s(?P<x>{X})",
        explicit=False,
    ),
    _form(
        "The sound is ~",
        rf"^{_OPENING}the\s(?:[\w'-]+\s){{0,7}}[\w'-]+{_IS}{_SO}(?P<x>{X})",
        explicit=False,
        whole=True,
    ),
)
# Of numbers, besides.
COUNTS = (
    _form("~ dogs", rf"^{_OPENING}(?P<x>{X})", explicit=False, noun=True),
    _form(
        "There are ~ dogs",
        rf"^{_OPENING}there\s(?:is|are|was|were)\s(?:a\stotal\sof\s|exactly\s|only\s)?(?P<x>{X})",
        explicit=False,
        noun=True,
    ),
    _form(
        "I counted ~ dogs",
        rf"^{_OPENING}I\s(?:can\s)?(?:count|counted|hear|heard|see|saw)\s(?:exactly\s)?(?P<x>{X})",
        explicit=False,
        noun=True,
    ),
)
# Of intervals, besides.
SPANS = (_form("It happens ~", rf"^[^\ue000-\uf8ff]{{0,200}}?(?P<x>{X})", explicit=False),)
# An answer is announced; followed by no reference, it names something that is not an option.
_ANNOUNCED = re.compile(
    rf"{_ANSWER}{_ABOUT}[\"']?(?:\s*:|\s+(?:is|was)\b)|答案(?:是|为|:)", re.IGNORECASE
)

_REASON = re.compile(
    r"\b(?:because|since|as|while|whereas|unlike|rather\sthan|instead\sof|not|over|than|given|due\sto|without)\b|因为|由于|而不是|而非",
    re.IGNORECASE,
)
_GOES_ON = re.compile(
    r"[\"')\]}>]*\s*(?:$|[.,:(}]|\s[-–—]|[–—]|(?:because|since|as|due|given|based|for|according|where|which|when|while|whereas|with|"
    r"from|in|at|after|before|rather|instead|not|over|than|here|therefore|without)\b|因|由于|而|吧)",
    re.IGNORECASE,
)
_NOUN = re.compile(
    r"\s(?!(?:dozen|hundred|thousand|million|billion|percent|pairs?|times|plus|more|less|or|to|of|out|and|minus|point)\b)"
    r"[a-z]{3,}(?:\s[a-z]+){0,4}[\s.]*$"
)
# Conditions, doubts and hearsay hold for the rest of the sentence, unless it says only that the model had to decide.
_BLOCKED = re.compile(
    r"\b(?:(?:if|unless)\b(?!\s(?:I|we)\s(?:had|have|must|were)\b)|whether|suppose|supposing|assuming|imagine|"
    r"doubt|unlikely|impossible|(?:not|n't|never)\s(?:\w+\s){0,2}?(?:think|believe|say|agree|mean|claim)\b)|n't\s(?:think|believe|say)|"
    r"^\W*(?:for\s)?example\b|\bformat\b|如果|假如|若|要是",
    re.IGNORECASE,
)
# What holds for its clause alone.
_CLAUSE = re.compile(
    r"[,:—]|\b(?:but|so|therefore|thus|hence|and|then|because|since)\b|所以|因此|但", re.IGNORECASE
)
_BLOCKED_CLAUSE = re.compile(
    r"\b(?:not|no|never|nor|neither|hardly|cannot|could|might|may|maybe|perhaps|possibly|example|format|wrong|incorrect|false|"
    r"another|possible|other|alternative|second|worst|least|weakest|poorest|opposite|(?:some|many|most|people|others?|one|someone|you|he|she|they|speaker|narrator|man|woman)"
    r"\b[^.]{0,20}\b(?:would|says?|said|thinks?|claims?|argues?|chooses?))\b|n't\b|不|没|非|除了|排除|可能",
    re.IGNORECASE,
)
_JOINED = re.compile(
    r"(?<!unlike )(?<!not )(?<!than"
    rf" ){X}\W{{0,3}}(?:and|or|nor|plus|和|或|与|以及)?\W{{0,3}}$|\b(?:except|but)\s$",
    re.IGNORECASE,
)
_MAYBE = re.compile(
    r"\b(?:or|maybe|perhaps|possibl[ey]|might|may|could|likely|also|either|alternatively|equally|plausible|same|as\swell|too|unless|"
    r"otherwise|else|both)\b|或|也|可能",
    re.IGNORECASE,
)
_TURNS = re.compile(
    r"\s*(?:but|or|however|alternatively|actually|unless|otherwise|then\sagain)\b", re.IGNORECASE
)
_TAKEN_BACK = re.compile(
    r"^\W*(?:no|wait|actually|hold\son|scratch\sthat|correction|on\ssecond\sthought|hmm+|sorry|不对|不)\s*(?:[,.!—-]|$)|"
    r"\b(?:that|this|which|it|I|answer)(?:\s(?:is|was|am)|'s|'m)?\s(?:wrong|incorrect|mistaken|false|not\s(?:the\s)?(?:right|correct|answer))|\bI\s(?:disagree|do\snot\sagree)\b",
    re.IGNORECASE,
)
_REFUSED = re.compile(
    r"\b(?:cannot|can't|could\snot|couldn't|unable\sto|not\spossible\sto|impossible\sto|don't)\s(?:\w+\s)?(?:tell|determine|say|know|answer|decide|be\ssure)\b|"
    r"无法|不能确定|不知道",
    re.IGNORECASE,
)
_DENIED = (
    re.compile(
        rf"(?:\b(?:not|never|except|unlike|neither|nor|anything\sbut|rather\sthan|instead\sof|(?:ruled?|rules|ruling)\sout|eliminat\w+|"
        rf"exclud\w+|reject\w*)|不是|不选|排除|而非)\s*(?:the\s|option\s)?{_QUOTE}(?P<x>{X})",
        re.IGNORECASE,
    ),
    re.compile(
        rf"(?P<x>{X})[\"')\]]{{0,3}}\.?\s?(?:(?:is|was|are|does|do|did|can|could|would|seems)(?:\s\w+)?(?:\snot\b|n't\b|\s(?:wrong|incorrect|"
        rf"false|unlikely|impossible|out)\b)|(?:isn't|doesn't|can't|cannot|wasn't|couldn't|wouldn't|aren't)\b|选项?是?(?:不|错)|(?:是)?(?:不|错))",
        re.IGNORECASE,
    ),
)
# What makes a label with a mark an item of a list: "A: no strings", "A. wrong".
_REJECTED = re.compile(
    r"\s*(?:no|not|never|none|nothing|wrong|incorrect|false|isn't|doesn't|cannot|can't|likely|possible|maybe)\b",
    re.IGNORECASE,
)
_HEADING = re.compile(
    r"((?:\b(?:final|correct|best|right|my|the)\s){0,3}\b(?:answer|option|choice)|答案)(?:\s(?:is|would\sbe))?\s*:?["
    r" \t]*\n\s*",
    re.IGNORECASE,
)
_RANKED = re.compile(rf"\d[.)]\s?{X}[^\ue000-\uf8ff]{{0,40}}?\d[.)]\s?{X}")  # "1. ~ 2. ~"
_SENTENCE = re.compile(r"([.!?;](?=[\"')\]]*(?:\s|$))|\n)")
_MOST = 6  # statements of one sentence; who stutters more than that states nothing


@dataclass
class Stated:
    """What the statements of a text name, as marks of `references.py`."""

    explicit: set[str] = field(default_factory=set)
    implicit: set[str] = field(default_factory=set)
    inner: set[str] = field(
        default_factory=set
    )  # bare references that neither open nor close the text
    announced: bool = False  # an explicit statement, read or not
    missed: bool = False  # an explicit statement that names nothing readable
    unclear: bool = False  # an implicit one that does not

    @property
    def one(self) -> str | None:
        if self.missed or UNCLEAR in self.explicit or len(self.explicit) > 1:
            return None
        if not self.explicit and (self.unclear or self.announced or self.inner - self.implicit):
            return None
        found = self.explicit or self.implicit
        return next(iter(found)) if len(found) == 1 and UNCLEAR not in found else None


def statements(text: str, extra: Sequence[Form] = ()) -> Stated:
    """Read all statements of a text whose references are marks.

    Args:
        extra: Forms of a kind of answer beside those of all.
    """
    sentences = list(_sentences(_HEADING.sub(r"\1: ", text)))
    stated = Stated(unclear=bool(_RANKED.search(text)))
    denied: set[str] = set()
    for number, (sentence, mark) in enumerate(sentences):
        if mark == "?":
            continue
        if _REFERENCE.search(sentence):
            denied.update(found["x"] for pattern in _DENIED for found in pattern.finditer(sentence))
        ends = number in (0, len(sentences) - 1)
        if _MOST < number < len(sentences) - 1 and len(sentence) < 4:
            stated.unclear = True  # a stutter
        _sentence(sentence, stated, alone=len(sentences) == 1, at_end=ends, forms=(*FORMS, *extra))
    one = stated.one
    if one is not None and (
        one in denied or _doubted(one, sentences, explicit=bool(stated.explicit))
    ):
        return Stated(announced=True, missed=True)
    return stated


def _sentences(text: str) -> Iterator[tuple[str, str]]:
    """Sentences and what ends them; an empty one is none."""
    pieces = _SENTENCE.split(text)
    marks = [*pieces[1::2], ""]
    return (
        (piece.strip(), mark)
        for piece, mark in zip(pieces[::2], marks, strict=True)
        if piece.strip(" \t\"')]")
    )


def _sentence(
    sentence: str, stated: Stated, *, alone: bool, at_end: bool, forms: Sequence[Form]
) -> None:
    found = _claims(sentence, forms)
    if len(found) > _MOST:
        stated.missed = stated.unclear = True
        return
    blocked = match.start() if (match := _BLOCKED.search(sentence)) else len(sentence)
    announced = _ANNOUNCED.search(sentence)
    read: set[str] = set()
    for form, claim in found:
        if (form.whole and not alone) or claim.start() > blocked or _is_blocked(claim):
            if announced and announced.start() >= claim.start():
                announced = None
            continue
        holds = _holds(claim, form)
        if form.explicit and holds is not False:
            stated.explicit.add(claim["x"] if holds else UNCLEAR)
            read.add(claim["x"])
        elif holds and not form.explicit:
            (stated.inner if form.bare and not at_end else stated.implicit).add(claim["x"])
        elif holds is None:
            stated.unclear = True
    if read:
        stated.announced = True
    elif announced and announced.start() < blocked and not _governed(sentence[: announced.start()]):
        stated.announced = True
        stated.missed |= not any(pattern.search(sentence, announced.start()) for pattern in _DENIED)


def _claims(sentence: str, forms: Sequence[Form] = FORMS) -> list[tuple[Form, re.Match[str]]]:
    """All matches of all forms, of one form at most one more than may be."""
    found: list[tuple[Form, re.Match[str]]] = []
    for form in forms if _REFERENCE.search(sentence) else ():  # most sentences hold none
        for claim in form.pattern.finditer(sentence):
            found.append((form, claim))
            if len(found) > _MOST:
                return found
    return found


def _is_blocked(claim: re.Match[str]) -> bool:
    """Whether what stands before a claim in its clause, or inside it, denies it, doubts it, or
    makes it someone else's."""
    before = claim.string[max(0, claim.start() - 100) : claim.start()]
    first = claim.start() == claim.start("x")
    inside = claim.string[claim.start() : claim.start("x")]
    return bool(
        _governed(before)
        or _BLOCKED_CLAUSE.search(inside)
        or (first and _JOINED.search(before[-40:]))
    )


def _governed(before: str) -> bool:
    return bool(_BLOCKED_CLAUSE.search(_CLAUSE.split(before[-100:])[-1]))


def _holds(claim: re.Match[str], form: Form) -> bool | None:
    """Whether what follows leaves the claim as it is; None where it names another option."""
    after = claim.string[claim.end() :]
    # "A, A" says nothing outright.
    other = re.search(rf"(?!{claim['x']}){X}" if form.explicit else X, after)
    reason = _REASON.search(after)
    if other and not (reason and reason.start() < other.start() and not _MAYBE.search(after)):
        return None
    if re.match(r"\W*(?:or|and/or|或)\b", after, re.IGNORECASE) or _TAKEN_BACK.search(after):
        return False
    if form.bare and after.startswith(".") and _REJECTED.match(after, 1):
        return False
    noun = form.noun and _NOUN.match(after)
    return bool(noun or _GOES_ON.match(after))


def _doubted(one: str, sentences: Sequence[tuple[str, str]], explicit: bool) -> bool:
    """Whether a sentence after the first that names `one` takes it back or says that another may be
    right, too."""
    first = next(i for i, (sentence, _) in enumerate(sentences) if one in sentence)
    if explicit:  # what led to the statement may have weighed others
        first = max(
            (
                i
                for i, (sentence, _) in enumerate(sentences)
                if one in sentence and _claims(sentence)
            ),
            default=first,
        )
    for sentence, mark in sentences[first + 1 :]:
        if _TAKEN_BACK.search(sentence) or (not explicit and _REFUSED.search(sentence)):
            return True
        other = re.search(rf"(?!{one}){X}", sentence)
        if (
            other
            and mark != "?"
            and (
                _MAYBE.search(sentence)
                or _TURNS.match(sentence)
                or len(sentence.strip(" \"'()[].")) == 1
            )
        ):
            return True
    return False
