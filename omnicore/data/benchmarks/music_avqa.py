"""MUSIC-AVQA: questions from 33 templates on musical performances.

github.com/GeWu-Lab/MUSIC-AVQA, net_grd_avst read at 36242a8; videos by request to the publisher.

`data/json_update/avqa-test.json` is a list: the publisher's corrected annotations, 9,129 items.
Where it is not there, `data/json/avqa-test.json` is read, with 9,185, among them 55 pairs that
contradict one another: both of a pair are excluded. Videos lie in `data/video/{video_id}.mp4`.
`type` and `templ_values` are lists written as text; the values fill the slots, <Object> and the
like, of `question_content` in turn. The right answer stands in `anser` (sic). Items marked
`question_deleted` are read, as the publisher's loader does.

Answers come from 42 texts that the questions do not show. Yes and no are a yes_no, the others a
text, counts included: "more than ten" is not a number, and the verifier reads "two" and "2" alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from omnicore.data.benchmarks.fields import item_id, native_fields, parse_list, with_keys
from omnicore.data.benchmarks.records import AnnotationRow, BenchmarkEntry, Refused
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.schema import AnswerKind, Query

UPDATE = "data/json_update/avqa-test.json"
ENTRY = BenchmarkEntry(
    name="music_avqa",
    title="MUSIC-AVQA",
    source="github.com/GeWu-Lab/MUSIC-AVQA",
    on_hub=False,
    licence="GPL-3.0 (its repository)",
    size=9185,
    annotations=(UPDATE, "data/json/avqa-test.json"),
    filter_policy="keep_whole",
    reason=(
        "open answers show no wrong options to test against, yes and no are right by chance in"
        " half, and the questions of type Visual ask for what is seen alone by design"
    ),
    cluster="video",
    shares=("type",),
    answer_kinds=(AnswerKind.yes_no, AnswerKind.text),
)
_SLOT = re.compile(r"<[^<>]+>")


def read_rows(source: AnnotationSource) -> Iterator[AnnotationRow]:
    """Yield the items with their ids."""
    if source.layout == UPDATE:
        source.size = 9129
    return with_keys(source.json_rows(source.layout), lambda item: item_id(item, "question_id"))


def build_query(source: AnnotationSource, row: AnnotationRow) -> Query:
    """Return an item as a query; see `adapter.py`."""
    item = row.fields
    video, answer, template = item["video_id"], item["anser"], item["question_content"]
    values = parse_list("templ_values", item["templ_values"])
    slots = len(_SLOT.findall(template))
    if len(values) != slots:
        raise Refused("templ_values", f"{len(values)} values for {slots} slots")
    filling = iter(values)
    closed = answer in ("yes", "no")
    return Query(
        benchmark=ENTRY.name,
        id=item_id(item, "question_id"),
        type=" ".join(parse_list("type", item["type"])),
        question=_SLOT.sub(lambda _: next(filling), template).strip(),
        options=("yes", "no") if closed else (),
        answer=answer,
        answer_kind=AnswerKind.yes_no if closed else AnswerKind.text,
        media=source.media.video_with_sound("video_id", f"data/video/{video}.mp4"),
        cluster=video,
        wording=template,
        native=native_fields(item, {"deleted": "question_deleted"}),
    )


def official_score(query: Query, reply: str) -> float:
    """Score a reply by the accuracy of a classifier over the 42 answers of the training file.

    The classifier always gives one of them, so a reply in words is right only if it is the answer
    letter by letter, except for space around it.

    So "Two", "2" and "two." are wrong where "two" is right. The publisher's loader also drops the
    last character of each question as its question mark, which changes no score.
    """
    return float(reply.strip() == query.answer)
