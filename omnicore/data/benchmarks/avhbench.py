"""AVHBench: does sight make a model hear what is not there, and sound make it see
(github.com/kaist-ami/AVHBench, README read at 5ccee40; files on Google Drive).

`QA.json` is a list; videos lie in `videos/{video_id}.mp4`. Both names are ours to guess: the README
calls the file {QA}.json and the first release had `video/`, which is read, too. Questions are
answered by Yes or No, but for AV Captioning: a caption to write, scored by likeness to a reference.
Captions are excluded, each listed in problems.jsonl. Items have no id: theirs here is the video's
with the number of the question in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from omnicore.data.benchmarks.fields import item_id, with_keys
from omnicore.data.benchmarks.options import option_by_text
from omnicore.data.benchmarks.records import AnnotationRow, BenchmarkEntry, Excluded
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.schema import AnswerKind, Query

ENTRY = BenchmarkEntry(
    name="avhbench",
    title="AVHBench",
    source="github.com/kaist-ami/AVHBench",
    on_hub=False,
    licence="none stated; videos from VALOR and AudioCaps",
    annotations=("QA.json",),
    filter_policy="keep_whole",
    reason=(
        "questions are of yes and no, so that half are right by chance, and a third ask for what is"
        " seen alone by design"
    ),
    cluster="video",
    shares=("task",),
    answer_kinds=(AnswerKind.yes_no,),
)
_WORD = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


def read_rows(source: AnnotationSource) -> Iterator[AnnotationRow]:
    return with_keys(
        source.json_rows("QA.json"), lambda item: source.numbered_name(item_id(item, "video_id"))
    )


def build_query(source: AnnotationSource, row: AnnotationRow) -> Query:
    item = row.fields
    video, task = item["video_id"], item["task"]
    if task == "AV Captioning":
        raise Excluded("task", f"{row.key} asks for a caption, which has no answer to compare with")
    return Query(
        benchmark=ENTRY.name,
        id=row.key,
        type=task,
        question=item["text"],
        options=("Yes", "No"),
        answer=option_by_text("label", item["label"].capitalize(), ("Yes", "No")),
        answer_kind=AnswerKind.yes_no,
        media=source.media.video_with_sound(
            "video_id", f"{source.existing_folder('videos', 'video')}{video}.mp4"
        ),
        cluster=video,
    )


def official_score(query: Query, reply: str) -> float:
    """Accuracy.

    The publisher gives its figures without a scorer; here a reply says Yes or No by its first word,
    in either case, and neither otherwise. Neither is wrong: the published table has models whose
    accuracy lies far below the half that guessing gets (18.1 % with 46.9 % Yes).

    Its bug is this reading's: "The answer is Yes" says nothing.
    """
    return float(_said(reply) == query.answer)


def official_figures(pairs: Sequence[tuple[Query, str]]) -> dict[str, float]:
    """By task, as "{task}/{figure}": accuracy; precision, recall and f1 of Yes; and the share of
    replies that say Yes.

    A figure over nothing is 0.
    """
    figures: dict[str, float] = {}
    for task in sorted({query.type for query, _ in pairs}):
        part = [(query.answer, _said(reply)) for query, reply in pairs if query.type == task]
        hit = sum(right == given == "Yes" for right, given in part)
        said, due = (sum(pair[i] == "Yes" for pair in part) for i in (1, 0))
        found = {
            "accuracy": sum(right == given for right, given in part) / len(part),
            "precision": hit / said if said else 0.0,
            "recall": hit / due if due else 0.0,
            "f1": 2 * hit / (said + due) if said + due else 0.0,
            "yes": said / len(part),
        }
        figures |= {f"{task}/{name}": value for name, value in found.items()}
    return figures


def _said(reply: str) -> str:
    found = _WORD.match(reply)
    return found[1].capitalize() if found else ""
