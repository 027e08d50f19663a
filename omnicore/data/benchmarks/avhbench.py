"""AVHBench: whether sight makes a model hear, and sound makes it see, what is not there.

github.com/kaist-ami/AVHBench, README read at 5ccee40; files on Google Drive.

`QA.json` is a list; videos lie in `videos/{video_id}.mp4`. Both names are guesses: the README calls
the file {QA}.json and the first release had `video/`, which is read as well. Questions are answered
by Yes or No, except AV Captioning: a caption to write, scored by likeness to a reference. Captions
are excluded, each listed in problems.jsonl. Items have no id: here it is the video's with the
number of the question in it.
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
    """Yield the items with their ids."""
    return with_keys(
        source.json_rows("QA.json"), lambda item: source.numbered_name(item_id(item, "video_id"))
    )


def build_query(source: AnnotationSource, row: AnnotationRow) -> Query:
    """Return an item as a query; see `adapter.py`."""
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
    """Score a reply by accuracy.

    The publisher gives its figures without a scorer; here a reply says Yes or No by its first word,
    in either case, and neither otherwise. Neither is wrong: the published table has models whose
    accuracy lies far below the half that guessing gets (18.1 % with 46.9 % Yes).

    Its bug is this reading's: "The answer is Yes" says nothing.
    """
    return float(_first_word(reply) == query.answer)


def official_figures(pairs: Sequence[tuple[Query, str]]) -> dict[str, float]:
    """Return figures by task, as "{task}/{figure}": accuracy; precision, recall and f1 of Yes.

    A further figure `yes` is the share of replies that say Yes. A figure over nothing is 0.
    """
    figures: dict[str, float] = {}
    for task in sorted({query.type for query, _ in pairs}):
        answers = [
            (query.answer, _first_word(reply)) for query, reply in pairs if query.type == task
        ]
        for name, value in _task_figures(answers).items():
            figures[f"{task}/{name}"] = value
    return figures


def _task_figures(answers: list[tuple[str, str]]) -> dict[str, float]:
    """Return the figures of one task over pairs of right and given answer."""
    true_yes = sum(right == given == "Yes" for right, given in answers)
    given_yes = sum(given == "Yes" for _, given in answers)
    right_yes = sum(right == "Yes" for right, _ in answers)
    return {
        "accuracy": sum(right == given for right, given in answers) / len(answers),
        "precision": _ratio(true_yes, given_yes),
        "recall": _ratio(true_yes, right_yes),
        "f1": _ratio(2 * true_yes, given_yes + right_yes),
        "yes": given_yes / len(answers),
    }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _first_word(reply: str) -> str:
    match = _WORD.match(reply)
    return match[1].capitalize() if match else ""
