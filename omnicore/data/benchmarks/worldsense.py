"""WorldSense: questions on videos whose sound is needed.

Hub: honglyhly/WorldSense; scored by VLMEvalKit, read at e8e78f0.

`worldsense_qa.json` is an object: video id -> the video's fields with its questions under task0,
task1 ... Videos are `videos/{id}.mp4`, or `{id}.mp4` where the published archives were unpacked
flat. Four options, sometimes three.

Two kits ship the same items as a table, a row a task, and both are read where `worldsense_qa.json`
is not there: `WorldSense.tsv` (VLMEvalKit, made by vlmeval/dataset/worldsense.py, lists as their
Python text) and `data/test-*.parquet` (lmms-lab/WorldSense on the hub, which lmms-eval reads). They
leave out the number in a task's name; here it is counted within a video.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from omnicore.data.benchmarks.fields import native_fields, parse_list
from omnicore.data.benchmarks.options import answer_letter, option_by_letter, split_labels
from omnicore.data.benchmarks.records import AnnotationRow, BenchmarkEntry, Refused
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.data.benchmarks.tables import text_table_rows, without_blank_cells
from omnicore.schema import AnswerKind, Query

NATIVE, TSV, PARQUET = "worldsense_qa.json", "WorldSense.tsv", "data/test-*.parquet"
ENTRY = BenchmarkEntry(
    name="worldsense",
    title="WorldSense",
    source="honglyhly/WorldSense",
    licence="not stated in what was read; see the data set's card",
    size=3172,
    annotations=(NATIVE, TSV, PARQUET),
    archives=("worldsense_videos*.zip", "videos_chunk_*.zip"),
    cluster="video",
    shares=("task_type", "duration"),
    answer_kinds=(AnswerKind.choice,),
)
_DISPLAYED = {name: name for name in ("task_domain", "domain", "sub_category", "duration")}
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


def read_rows(source: AnnotationSource) -> Iterator[AnnotationRow]:
    """Yield one row a task, with the fields of its video."""
    return _tasks(source) if source.layout == NATIVE else _numbered(source)


def _tasks(source: AnnotationSource) -> Iterator[AnnotationRow]:
    """Yield the tasks of all videos; a video without tasks is one row that lacks them."""
    for video in source.json_rows(NATIVE):
        members = () if video.broken else video.member_rows()
        tasks = [row for row in members if row.key.startswith("task")]
        for task in tasks:
            yield replace(
                task,
                key=f"{video.key}-{task.key}",
                fields={**video.fields, **task.fields, "video": video.key},
            )
        if not tasks:
            yield video


def _numbered(source: AnnotationSource) -> Iterator[AnnotationRow]:
    """Yield the rows of a table, named as in the publisher's file."""
    if source.layout == TSV:
        table = text_table_rows(source, TSV, "\t")
    else:
        table = source.parquet_rows(PARQUET)
    for row in without_blank_cells(table):
        video = row.fields.get("video", "")
        yield replace(row, key=f"{video}-task{source.next_number(video)}" if video else "")


def build_query(source: AnnotationSource, row: AnnotationRow) -> Query:
    """Return an item as a query; see `adapter.py`."""
    item = row.fields
    _, options = split_labels("candidates", item["candidates"])
    video = item["video"]
    return Query(
        benchmark=ENTRY.name,
        id=row.key,
        type=item["task_type"],
        question=item["question"],
        options=tuple(options),
        answer=option_by_letter("answer", item["answer"], options),
        media=source.media.video_with_sound(
            "video", f"{source.existing_folder('videos')}{video}.mp4"
        ),
        cluster=video,
        native={
            **native_fields(item, _DISPLAYED),
            "audio_class": _classes(item.get("audio_class")),
        },
    )


def _classes(value: Any) -> str:
    """Return the classes of sound, in a list or in its Python text, as tables have it."""
    with contextlib.suppress(Refused):
        value = parse_list("audio_class", value)
    return native_fields({"audio_class": value}, {"audio_class": "audio_class"})["audio_class"]


def official_score(query: Query, reply: str) -> float:
    """Score a reply as VLMEvalKit's extract_characters_regex does with its default, exact matching.

    Known prefixes are removed wherever they stand, then the first capital A, B, C or D counts. A
    reply without one is wrong; a judge model, where one is set, would be asked.

    Its bugs: the letter may stand in a word ("Because" is B, "Cannot tell" is C), and two missing
    commas leave four prefixes in place, so "Best answer: C" and "Best option: C" are B and "Correct
    option: D" is C. lmms-eval scores WorldSense by the rule of AV-Odyssey instead, which also fails
    for three options.
    """
    text = reply.strip()
    for prefix in _PREFIXES:
        text = text.replace(prefix, "")
    letter = re.search("[ABCD]", text)
    return float(letter is not None and letter[0] == answer_letter(query))
