"""WorldSense: questions on videos whose sound is needed (hub: honglyhly/WorldSense; scored by VLMEvalKit, read at e8e78f0).

`worldsense_qa.json` is an object: video id -> the video's fields with its questions under task0, task1 ... Videos are
`videos/{id}.mp4`, or `{id}.mp4` where the published archives were unpacked flat. Four options, sometimes three.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from omnicore.benchmarks.base import Entry, Row, Source, by_letter, labelled, letter
from omnicore.schema import AnswerKind, Query

ENTRY = Entry(
    name="worldsense",
    title="WorldSense",
    source="honglyhly/WorldSense",
    licence="not stated in what was read; see the data set's card",
    size=3172,
    annotations=("worldsense_qa.json",),
    archives=("worldsense_videos*.zip",),
    cluster="video",
    answer_kinds=(AnswerKind.choice,),
)
# Two commas are missing in the publisher's list, so four prefixes became two that no reply holds.
_PREFIXES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
    "Answer:",
    "Option:",
)


def rows(source: Source) -> Iterator[Row]:
    """One a task, with the fields of its video; a video without tasks is one row that lacks them."""
    for video in source.json_rows("worldsense_qa.json"):
        tasks = [] if video.broken else [row for row in video.inner() if row.key.startswith("task")]
        for task in tasks:
            yield replace(task, key=f"{video.key}-{task.key}", fields={**video.fields, **task.fields, "video": video.key})
        if not tasks:
            yield video


def query(source: Source, row: Row) -> Query:
    item = row.fields
    _, options = labelled(item["candidates"])
    video = item["video"]
    return Query(
        benchmark=ENTRY.name,
        id=row.key,
        type=item["task_type"],
        question=item["question"],
        options=tuple(options),
        answer=by_letter("answer", item["answer"], options),
        media=source.film("video", f"{source.folder('videos')}{video}.mp4"),
        cluster=video,
        native={
            "task_domain": item["task_domain"],
            "domain": item["domain"],
            "sub_category": item["sub_category"],
            "duration": item["duration"],
            "audio_class": ",".join(item["audio_class"]),
        },
    )


def official(query: Query, reply: str) -> float:
    """VLMEvalKit's extract_characters_regex with its default, exact matching: known prefixes are taken out wherever they stand,
    then the first capital A, B, C or D counts. Nothing found is wrong; a judge model, where one is set, would be asked.

    Its bugs: the letter may stand in a word ("Because" is B, "Cannot tell" is C), and two missing commas leave four prefixes
    in place, so "Best answer: C" and "Best option: C" are B and "Correct option: D" is C. lmms-eval scores WorldSense by the
    rule of AV-Odyssey instead, which also fails for three options.
    """
    text = reply.strip()
    for prefix in _PREFIXES:
        text = text.replace(prefix, "")
    found = re.search("[ABCD]", text)
    return float(found is not None and found[0] == letter(query))
