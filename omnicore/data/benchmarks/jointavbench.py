"""JointAVBench: 15 tasks on films that need picture and sound together.

Hub: JointAVBench/JointAVBench; scorer github.com/jointavbench/JointAVBench, evaluation.py and
eval_result.py, read at 388dc4b and bda3760.

`jointavbench.json` is a list. The publisher shares links to the films, not the films. The scorer
opens a separate clip for each item, `videos/{qid}.mp4`; where there is none, the whole film
`videos/{video_name}.mp4` is cut to `segment_timestamp`, in seconds. Options have no letters; the
right one is given by its text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from omnicore.data.benchmarks.fields import item_id, native_fields, with_keys
from omnicore.data.benchmarks.options import answer_letter, option_by_text, split_labels
from omnicore.data.benchmarks.records import AnnotationRow, BenchmarkEntry
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.schema import AnswerKind, Query

ENTRY = BenchmarkEntry(
    name="jointavbench",
    title="JointAVBench",
    source="JointAVBench/JointAVBench",
    licence="Apache-2.0 (its repository); films not included",
    size=2853,
    annotations=("jointavbench.json",),
    cluster="film",
    shares=("task",),
    answer_kinds=(AnswerKind.choice,),
)
# What leads to a letter, in either case. The first keeps a bracket or a space after the letter, and
# is then ignored.
_LEADS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"answer(?:\sis)?\s*[-:=]?\s*([\"'(]?\s*[ABCD]\s*[\"')]?)",
        r"([ABCD])(?:\s*is\sthe|\)?\s*is)\s*(?:answer|correct|right)",
        r"option\s*([ABCD])\b",
        r"select(?:ed)?\s*([ABCD])\b",
        r"[\"'(]\s*([ABCD])\s*[\"')]\s*(?:as|is)\s*(?:the\s)?(?:answer|correct)",
    )
)


def read_rows(source: AnnotationSource) -> Iterator[AnnotationRow]:
    """Yield the items with their ids."""
    return with_keys(source.json_rows("jointavbench.json"), lambda item: item_id(item, "qid"))


def build_query(source: AnnotationSource, row: AnnotationRow) -> Query:
    """Return an item as a query; see `adapter.py`."""
    item = row.fields
    name, video = item_id(item, "qid"), item["video_name"]
    clip = f"videos/{name}.mp4"
    if (source.root / clip).is_file():
        media = source.media.video_with_sound("qid", clip)
    else:
        start, end = item["segment_timestamp"]
        media = source.media.video_with_sound("video_name", f"videos/{video}.mp4", start, end)
    _, options = split_labels("options", item["options"])
    return Query(
        benchmark=ENTRY.name,
        id=name,
        type=item["task"],
        question=item["question"],
        options=tuple(options),
        answer=options[
            item["options"].index(
                option_by_text("correct_answer", item["correct_answer"], item["options"])
            )
        ],
        media=media,
        cluster=video,
        native=native_fields(item, {"segment": "segment_timestamp", "video_url": "video_url"}),
    )


def official_score(query: Query, reply: str) -> float:
    """Score a reply as extract_model_answer does.

    It collects letters after "answer", "option" or "select" and before "is correct", letters with a
    full stop and a space, and options whose text occurs; the reply is right when all are the key's.
    The publisher draws an order of options; here it is the query's.

    Its bugs: "answer because" is B and "answer: Dog house" also D; "Answer: (B)" and "Answer: B
    since" are nothing, unless the option's text is there; of a single word any letter counts, so
    "Dog" is D; an option's text counts only as written or in small letters; a second option that is
    only mentioned makes the reply nothing. The publisher's mean leaves out a reply that names
    nothing (`official_figures`); here it is 0.
    """
    return float(_extract_letter(query, reply) == answer_letter(query))


def official_figures(pairs: Sequence[tuple[Query, str]]) -> dict[str, float]:
    """Return the publisher's accuracy, over replies that name an option, and their share."""
    answered = right = 0
    for query, reply in pairs:
        letter = _extract_letter(query, reply)
        answered += bool(letter)
        right += letter == answer_letter(query)
    return {
        "accuracy": right / max(1, answered),
        "answered": answered / max(1, len(pairs)),
    }


def _extract_letter(query: Query, reply: str) -> str:
    """Return the only letter that a reply names, empty for none or several."""
    text = " ".join(reply.split())
    letters = set(re.findall(r"\b([ABCD])\b(?=\.\s)", text))
    for lead in _LEADS:
        letters |= {match[1].upper() for match in lead.finditer(text)}
    for letter, option in zip("ABCD", query.options, strict=False):
        if option in text or option.lower() in text:
            letters.add(letter)
    if len(text.split()) == 1:
        letters |= set(text.upper())
    letters &= set("ABCD")
    return letters.pop() if len(letters) == 1 else ""
