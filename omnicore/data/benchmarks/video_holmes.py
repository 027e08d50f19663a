"""Video-Holmes: six-way questions on suspense short films.

Hub and github.com/TencentARC/Video-Holmes, read at 7745c87.

`test_Video-Holmes.json` is a list; the film of an item is `videos/{video ID}.mp4` (`videos_cropped`
where videos.zip unpacks so, `video` where VLMEvalKit did). The publisher's download.py puts all of
it into `Benchmark/`, beside its scripts. Without the list, `Video_Holmes.tsv` is read, which
VLMEvalKit makes of it (vlmeval/dataset/video_holmes.py, e8e78f0): options lose their apostrophes.
"Question ID" counts inside a film, so an id here is the film's with that number. The publisher
shows only the picture; here sound is a second medium, and view `visual_only` is the publisher's
setting.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from omnicore.data.benchmarks.fields import item_id, with_keys
from omnicore.data.benchmarks.options import answer_letter, option_by_letter
from omnicore.data.benchmarks.records import AnnotationRow, BenchmarkEntry
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.data.benchmarks.tables import parse_options, text_table_rows, without_blank_cells
from omnicore.schema import AnswerKind, Query

TSV = "Video_Holmes.tsv"
ENTRY = BenchmarkEntry(
    name="video_holmes",
    title="Video-Holmes",
    source="TencentARC/Video-Holmes",
    licence="Apache-2.0, for academic purposes only",
    size=1837,
    annotations=("test_Video-Holmes.json", "Benchmark/test_Video-Holmes.json", TSV),
    archives=("videos.zip", "Benchmark/videos.zip"),
    cluster="film",
    shares=("Question Type",),
    answer_kinds=(AnswerKind.choice,),
)
_FOLDERS = (
    "videos",
    "videos_cropped",
    "video",
    "Benchmark/videos",
    "Benchmark/videos_cropped",
    "Benchmark/video",
)
_COLUMNS = {
    "video": "video ID",
    "question_id": "Question ID",
    "question_type": "Question Type",
    "question": "Question",
    "candidates": "Options",
    "answer": "Answer",
}
_LETTERS = "ABCDEF"
_ANSWER = re.compile(r"<answer>\s*(.*?)\s*</answer>", re.DOTALL)


def read_rows(source: AnnotationSource) -> Iterator[AnnotationRow]:
    """Yield the items with their ids."""
    return with_keys(_items(source), lambda item: item_id(item, "video ID", "Question ID"))


def _items(source: AnnotationSource) -> Iterator[AnnotationRow]:
    if source.layout != TSV:
        yield from source.json_rows(source.layout)
        return
    for row in without_blank_cells(text_table_rows(source, TSV, "\t")):
        yield replace(
            row, fields={_COLUMNS.get(name, name): value for name, value in row.fields.items()}
        )


def build_query(source: AnnotationSource, row: AnnotationRow) -> Query:
    """Return an item as a query; see `adapter.py`."""
    item = row.fields
    film = item["video ID"]
    _, options = parse_options("Options", item["Options"])
    return Query(
        benchmark=ENTRY.name,
        id=item_id(item, "video ID", "Question ID"),
        type=item["Question Type"],
        question=item["Question"],
        options=tuple(options),
        answer=option_by_letter("Answer", item["Answer"], options),
        media=source.media.video_with_sound(
            "video ID", f"{source.existing_folder(*_FOLDERS)}{film}.mp4"
        ),
        cluster=film,
    )


def official_score(query: Query, reply: str) -> float:
    """Score a reply as evaluate.py does: by the last <answer>, or the whole reply without one.

    The first letter of A to F that stands in it before a space or a colon or after "[" counts, else
    the first that stands in it at all.

    Its bugs: letters are tried in the order of the alphabet, so "Answer: C" is A, as is "B: A man"
    and, without tags, any reasoning with the article "A "; a letter may stand in a word ("Because"
    is B). VLMEvalKit differs: without <answer> a reply is wrong.
    """
    tagged = _ANSWER.findall(reply)
    return float(_first_letter(tagged[-1] if tagged else reply) == answer_letter(query))


def _first_letter(text: str) -> str:
    for letter in _LETTERS:
        if f"{letter} " in text or f"{letter}:" in text or f"[{letter}" in text:
            return letter
    for letter in _LETTERS:
        if letter in text:
            return letter
    return ""
