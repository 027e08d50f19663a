"""Define the forms in which a reply states an answer, and the words that take a statement back.

`references.py` has replaced every reference to an option by one character (class `REFERENCE`, shown
as `~` in the examples); `statements.py` applies the tables.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

REFERENCE = "[\ue000-\uf8ff]"
REFERENCE_PATTERN = re.compile(REFERENCE)
# A reference that names no single option: a label beside another option's text, or a letter that no
# option has.
UNCLEAR = "\uf8ff"

_ADJECTIVE = (
    r"(?:final|correct|right|best|true|proper|appropriate|suitable|fitting|accurate|plausible|"
    r"probable|likely|closest|matching|overall|selected|chosen|predicted|my|only|most)"
)
_ABOUT = (  # "... to the question"
    r"(?:\s(?:to|for|of|here|among|in|from|based\son|would\sthen)\b[^.:;,\ue000-\uf8ff]{0,60}?)?"
)
_IS = (
    r"(?:\s*(?::|=|\s[-–—]|'s\b|\b(?:is|are|was|were|"
    r"(?:would|will|must|should|has\sto|have\sto|seems\sto|appears\sto)\sbe)\b))"
)
_SO = (
    r"(?:\s*(?:[:\"'(\[<-]|\b(?:therefore|thus|hence|then|so|clearly|definitely|certainly|most|"
    r"likely|"
    r"probably|indeed|simply|obviously|just|both|the|as\sfollows|option|letter|exactly|that|"
    r"I\s(?:think|believe)|it\sis|it's|it\smust\sbe|this\sis)\b)){0,5}\s*"
)
_ANSWER = (
    rf"\b(?:{_ADJECTIVE}\s){{0,4}}"
    r"(?:answers?(?:\s(?:choice|option|letter))?|ans(?=\s*:)|final_answer|prediction|result)"
)
_OPTION = (
    rf"\b(?:{_ADJECTIVE}\s){{1,4}}"
    r"(?:options?|choices?|selection|pick|guess|match|fit|one|sound|letter)"
)
_COUNT = r"\b(?:(?:total|exact|correct|final)\s){0,3}(?:number|count|total|sum)"
_I_SAY = (
    r"\b(?:I|we)(?:'d|'ll|\s(?:would|will|shall|must|have\sto|can\ssafely))?\s(?:\w+ly\s)?"
    r"(?:choose|pick|select|go\swith|go\sfor|opt\sfor|vote\sfor|settle\son|lean\stowards?|say|"
    r"guess|think|believe|conclude|answer)"
)
_RIGHT = (
    rf"(?:(?:a|my)\s)?(?:{_ADJECTIVE}\s){{0,4}}"
    rf"(?:{_ADJECTIVE}|option|choice|answer|match|fit|one|letter|it)\b"
)
_SUITS = r"(?:fits|matches|suits|describes)"
_OPENING = (
    r"\s*(?:(?:so|therefore|thus|hence|then|overall|clearly|finally|conclusion|"
    r"in\s(?:conclusion|summary)|ok(?:ay)?|well|sure|and|assistant|因此|所以|综上所述)\b[,:]?\s*)*"
    r"(?:(?:based\son|among|of|from|given|looking\sat|listening\sto|in|after|considering|with|"
    r"judging)"
    r"\b[^.;:\ue000-\uf8ff]{0,120}?,\s*)?"
)
_QUOTE = r"[\"'(\[{<]{0,3}"
_ZH_IS = r"(?:应该|应当|应|就|最终)*(?:是|为|选择|选)?\s*:?\s*(?:选项)?"


@dataclass(frozen=True)
class StatementForm:
    """One way to state an answer.

    Attributes:
        example: A sentence of this form.
        pattern: Its pattern, with the reference as group `x`.
        explicit: It states the answer explicitly.
        whole: It holds only where its sentence is the whole reply.
        bare: It is a reference and nothing else, and holds only in the first or last sentence.
        noun: The thing that is counted may follow.
    """

    example: str
    pattern: re.Pattern[str]
    explicit: bool = True
    whole: bool = False
    bare: bool = False
    noun: bool = False


def _form(example: str, pattern: str, **kind: bool) -> StatementForm:
    return StatementForm(example, re.compile(pattern, re.IGNORECASE), **kind)


FORMS = (
    _form("The answer is ~", rf"{_ANSWER}{_ABOUT}[\"']?{_IS}{_SO}(?P<x>{REFERENCE})"),
    _form("The correct option is ~", rf"{_OPTION}{_ABOUT}[\"']?{_IS}{_SO}(?P<x>{REFERENCE})"),
    _form(
        "Option: ~", rf"^\s*(?:option|choice|selection|conclusion)\s*:\s*{_QUOTE}(?P<x>{REFERENCE})"
    ),
    _form("The number of dogs is ~", rf"{_COUNT}{_ABOUT}{_IS}{_SO}(?P<x>{REFERENCE})"),
    _form("I would choose ~", rf"{_I_SAY}{_SO}(?P<x>{REFERENCE})"),
    _form(
        "I think the sound is ~",
        rf"{_I_SAY}(?:\sthat)?\s(?:the\s[\w\s]{{1,40}}?){_IS}{_SO}(?P<x>{REFERENCE})",
    ),
    _form("Choose ~", rf"^{_OPENING}(?:choose|pick|select|go\swith)\s{_SO}(?P<x>{REFERENCE})"),
    _form(
        "~ is the correct answer",
        rf"(?P<x>{REFERENCE})[\"')\]]{{0,3}}(?:{_IS}|\s(?:seems|appears|looks)\b)\s*{_SO}{_RIGHT}",
    ),
    _form(
        "~ fits best",
        rf"(?P<x>{REFERENCE})[\"')\]]{{0,3}}\s(?:{_SUITS}\s(?:the\s\w+\s)?best|"
        rf"best\s{_SUITS}\b[^,;\ue000-\uf8ff]{{0,80}})",
    ),
    _form(
        "答案是~",
        rf"(?:答案|正确的?选项|最佳选项|正确的(?=是)){_ZH_IS}\s*{_QUOTE}(?P<x>{REFERENCE})",
    ),
    _form(
        "La respuesta es ~",
        rf"(?:respuesta|antwort|réponse|risposta|resposta|ответ|答え|正解|정답)(?:\s(?:correcta|"
        rf"correcte|corretta|correta))?"
        rf"(?:\s*:|\s(?:es|ist|lautet|est|è|é)\b\s*:?|は|은|는)\s*{_QUOTE}(?P<x>{REFERENCE})",
    ),
    _form("选~", rf"选(?:择|项是|项为|项)?\s*:?\s*{_QUOTE}(?P<x>{REFERENCE})"),
    _form(
        "~是正确的",
        rf"(?P<x>{REFERENCE})\s*(?:选项)?(?:是|为)?(?:最)?(?:正确|对|合适|符合)(?:的|答案|选项)*(?=\s*(?:[.,;!]|$))",
    ),
    _form("~", rf"^{_OPENING}{_QUOTE}(?P<x>{REFERENCE})", explicit=False, bare=True),
    _form("It is ~", rf"^{_OPENING}(?:it|this|that){_IS}{_SO}(?P<x>{REFERENCE})", explicit=False),
    _form(
        "It sounds like ~",
        rf"^{_OPENING}(?:it|this|that)\s(?:sounds|looks)\slike\s(?P<x>{REFERENCE})",
        explicit=False,
    ),
    _form(
        "The sound is ~",
        rf"^{_OPENING}the\s(?:[\w'-]+\s){{0,7}}[\w'-]+{_IS}{_SO}(?P<x>{REFERENCE})",
        explicit=False,
        whole=True,
    ),
)
# Further forms for numbers.
COUNTS = (
    _form("~ dogs", rf"^{_OPENING}(?P<x>{REFERENCE})", explicit=False, noun=True),
    _form(
        "There are ~ dogs",
        rf"^{_OPENING}there\s(?:is|are|was|were)\s(?:a\stotal\sof\s|exactly\s|"
        rf"only\s)?(?P<x>{REFERENCE})",
        explicit=False,
        noun=True,
    ),
    _form(
        "I counted ~ dogs",
        rf"^{_OPENING}I\s(?:can\s)?(?:count|counted|hear|heard|see|"
        rf"saw)\s(?:exactly\s)?(?P<x>{REFERENCE})",
        explicit=False,
        noun=True,
    ),
)
# Further forms for intervals.
SPANS = (_form("It happens ~", rf"^[^\ue000-\uf8ff]{{0,200}}?(?P<x>{REFERENCE})", explicit=False),)
# An answer is announced. Where no reference follows, it names something that is not an option.
ANNOUNCED = re.compile(
    rf"{_ANSWER}{_ABOUT}[\"']?(?:\s*:|\s+(?:is|was)\b)|答案(?:是|为|:)", re.IGNORECASE
)

REASON = re.compile(
    r"\b(?:because|since|as|while|whereas|unlike|rather\sthan|instead\sof|not|over|than|given|"
    r"due\sto|without)\b|因为|由于|而不是|而非",
    re.IGNORECASE,
)
CONTINUES = re.compile(
    r"[\"')\]}>]*\s*(?:$|[.,:(}]|\s[-–—]|[–—]|(?:because|since|as|due|given|based|for|according|"
    r"where|which|when|while|whereas|with|"
    r"from|in|at|after|before|rather|instead|not|over|than|here|therefore|without)\b|因|由于|而|吧)",
    re.IGNORECASE,
)
COUNTED_NOUN = re.compile(
    r"\s(?!(?:dozen|hundred|thousand|million|billion|percent|pairs?|times|plus|more|less|or|to|of|"
    r"out|and|minus|point)\b)"
    r"[a-z]{3,}(?:\s[a-z]+){0,4}[\s.]*$"
)
# Conditions, doubts and hearsay govern the rest of the sentence, except where the sentence only
# says that the model had to decide.
BLOCKED = re.compile(
    r"\b(?:(?:if|unless)\b(?!\s(?:I|we)\s(?:had|have|must|were)\b)|whether|suppose|supposing|"
    r"assuming|imagine|"
    r"doubt|unlikely|impossible|(?:not|n't|never)\s(?:\w+\s){0,2}?(?:think|believe|say|agree|mean|"
    r"claim)\b)|n't\s(?:think|believe|say)|"
    r"^\W*(?:for\s)?example\b|\bformat\b|如果|假如|若|要是",
    re.IGNORECASE,
)
# Words that begin a clause; `BLOCKED_CLAUSE` governs only its own clause.
CLAUSE = re.compile(
    r"[,:—]|\b(?:but|so|therefore|thus|hence|and|then|because|since)\b|所以|因此|但", re.IGNORECASE
)
BLOCKED_CLAUSE = re.compile(
    r"\b(?:not|no|never|nor|neither|hardly|cannot|could|might|may|maybe|perhaps|possibly|example|"
    r"format|wrong|incorrect|false|another|possible|other|alternative|second|worst|least|weakest|poorest|opposite|(?:some|many|"
    r"most|people|others?|one|someone|you|he|she|they|speaker|narrator|man|woman)"
    r"\b[^.]{0,20}\b(?:would|says?|said|thinks?|claims?|argues?|chooses?))\b|n't\b|不|没|非|除了|"
    r"排除|可能",
    re.IGNORECASE,
)
JOINED = re.compile(
    rf"(?<!unlike )(?<!not )(?<!than ){REFERENCE}\W{{0,3}}"
    r"(?:and|or|nor|plus|和|或|与|以及)?\W{0,3}$|"
    r"\b(?:except|but)\s$",
    re.IGNORECASE,
)
DOUBTS = re.compile(
    r"\b(?:or|maybe|perhaps|possibl[ey]|might|may|could|likely|also|either|alternatively|equally|"
    r"plausible|same|as\swell|too|unless|otherwise|else|both)\b|或|也|可能",
    re.IGNORECASE,
)
CONTRASTS = re.compile(
    r"\s*(?:but|or|however|alternatively|actually|unless|otherwise|then\sagain)\b", re.IGNORECASE
)
TAKEN_BACK = re.compile(
    r"^\W*(?:no|wait|actually|hold\son|scratch\sthat|correction|on\ssecond\sthought|hmm+|sorry|不对|"
    r"不)\s*(?:[,.!—-]|$)|"
    r"\b(?:that|this|which|it|I|answer)(?:\s(?:is|was|am)|'s|'m)?\s(?:wrong|incorrect|mistaken|"
    r"false|not\s(?:the\s)?(?:right|correct|answer))|\bI\s(?:disagree|do\snot\sagree)\b",
    re.IGNORECASE,
)
DECLINES = re.compile(
    r"\b(?:cannot|can't|could\snot|couldn't|unable\sto|not\spossible\sto|impossible\sto|"
    r"don't)\s(?:\w+\s)?(?:tell|determine|say|know|answer|decide|be\ssure)\b|"
    r"无法|不能确定|不知道",
    re.IGNORECASE,
)
DENIED = (
    re.compile(
        rf"(?:\b(?:not|never|except|unlike|neither|nor|anything\sbut|rather\sthan|instead\sof|"
        rf"(?:ruled?|rules|ruling)\sout|eliminat\w+|"
        rf"exclud\w+|reject\w*)|不是|不选|排除|而非)\s*(?:the\s|option\s)?{_QUOTE}(?P<x>{REFERENCE})",
        re.IGNORECASE,
    ),
    re.compile(
        rf"(?P<x>{REFERENCE})[\"')\]]{{0,3}}\.?\s?(?:(?:is|was|are|does|do|did|can|could|would|"
        rf"seems)(?:\s\w+)?(?:\snot\b|n't\b|\s(?:wrong|incorrect|"
        rf"false|unlikely|impossible|out)\b)|(?:isn't|doesn't|can't|cannot|wasn't|couldn't|"
        rf"wouldn't|aren't)\b|选项?是?(?:不|错)|(?:是)?(?:不|错))",
        re.IGNORECASE,
    ),
)
# Words that make a label with a mark an item of a list: "A: no strings", "A. wrong".
REJECTS = re.compile(
    r"\s*(?:no|not|never|none|nothing|wrong|incorrect|false|isn't|doesn't|cannot|can't|likely|"
    r"possible|maybe)\b",
    re.IGNORECASE,
)
HEADING = re.compile(
    r"((?:\b(?:final|correct|best|right|my|the)\s){0,3}\b(?:answer|option|choice)|答案)"
    r"(?:\s(?:is|would\sbe))?\s*:?[ \t]*\n\s*",
    re.IGNORECASE,
)
# "1. ~ 2. ~"
RANKED = re.compile(rf"\d[.)]\s?{REFERENCE}[^\ue000-\uf8ff]{{0,40}}?\d[.)]\s?{REFERENCE}")
SENTENCE_END = re.compile(r"([.!?;](?=[\"')\]]*(?:\s|$))|\n)")
MAX_STATEMENTS = 6  # of one sentence; a stutter of more states nothing
