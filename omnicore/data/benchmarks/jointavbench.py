"""JointAVBench: 15 tasks on films that need picture and sound together (hub:
JointAVBench/JointAVBench; scorer github.com/jointavbench/JointAVBench, evaluation.py and
eval_result.py, read at 388dc4b and bda3760).

`jointavbench.json` is a list. The publisher shares links to the films, not the films. The scorer
opens a clip of its own for each item, `videos/{qid}.mp4`; where there is none, the whole film
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
# What leads to a letter, in either case. The first keeps a bracket or a space after the letter, and then it is no letter.
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
    return with_keys(source.json_rows("jointavbench.json"), lambda item: item_id(item, "qid"))


def build_query(source: AnnotationSource, row: AnnotationRow) -> Query:
    item = row.fields
    name, video = item_id(item, "qid"), item["video_name"]
    if (source.root / (clip := f"videos/{name}.mp4")).is_file():
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
    """extract_model_answer: letters after "answer", "option" or "select" and before "is correct",
    letters with a full stop and a space, and options whose text occurs; right when they are all the
    key's. The publisher shows options in an order of its own draw; here it is the query's.

    Its bugs: "answer because" is B and "answer: Dog house" is D, too; "Answer: (B)" and "Answer: B since" are nothing, unless the
    option's text is there; of a single word any letter counts, so "Dog" is D; an option's text counts as written or in small
    letters alone; a second option that is only mentioned makes the reply nothing. What names nothing is left out of the
    publisher's mean (`official_figures`); here it is 0.
    """
    return float(_extracted(query, reply) == answer_letter(query))


def official_figures(pairs: Sequence[tuple[Query, str]]) -> dict[str, float]:
    """The publisher's accuracy, over replies that name an option, and their share."""
    named = [(query, given) for query, reply in pairs if (given := _extracted(query, reply))]
    right = sum(given == answer_letter(query) for query, given in named)
    return {
        "accuracy": right / len(named) if named else 0.0,
        "answered": len(named) / len(pairs) if pairs else 0.0,
    }


def _extracted(query: Query, reply: str) -> str:
    text = " ".join(reply.split())
    found = {match[1].upper() for lead in _LEADS for match in lead.finditer(text)}
    found |= set(re.findall(r"\b([ABCD])\b(?=\.\s)", text))
    found |= {
        x
        for x, option in zip("ABCD", query.options, strict=False)
        if option in text or option.lower() in text
    }
    if len(text.split()) == 1:
        found |= {x for x in "ABCD" if x in text.upper()}
    found &= set("ABCD")
    return found.pop() if len(found) == 1 else ""
