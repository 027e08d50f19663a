"""AV-Odyssey: 26 tasks on sounds with pictures or videos, interleaved with the text.

Hub: AV-Odyssey/AV_Odyssey_Bench, columns read at 37c8487; scorer github.com/AV-Odyssey/AV-Odyssey,
evaluation.py.

`av_odyssey_part1.parquet` to `part6` hold 4,555 rows with up to four images, one video and four
sounds inside, as bytes or as the hub's features. Question and options name them by [img1],
[video1], [audio1]; an option may consist of a sound.

`av_odyssey.parquet` of AV-Odyssey/AV_Odyssey_Bench_LMMs_Eval, which lmms-eval reads, is read as
well: the same rows with lists of paths (`image_path`, `video_path`, `audio_path`) in place of the
media, as its loader takes them (lmms_eval/tasks/av_odyssey at 75571cf). An archive that was
unpacked into a folder of its own name leaves `x/x/file` for the path `x/file`: both are found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from omnicore.data.benchmarks.fields import item_id, native_fields, tags_to_places, with_keys
from omnicore.data.benchmarks.options import (
    answer_letter,
    last_occurring,
    option_by_letter,
    split_labels,
)
from omnicore.data.benchmarks.records import AnnotationRow, BenchmarkEntry, MediaKind, Refused
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.data.benchmarks.tables import without_blank_cells
from omnicore.schema import AnswerKind, Media, Query

NATIVE, PATHS = "av_odyssey_part*.parquet", "av_odyssey.parquet"
ENTRY = BenchmarkEntry(
    name="av_odyssey",
    title="AV-Odyssey Bench",
    source="AV-Odyssey/AV_Odyssey_Bench",
    licence="academic research only, no redistribution (its repository); Apache-2.0 (its card)",
    size=4555,
    annotations=(NATIVE, PATHS),
    cluster="first picture or video",
    shares=("subfield", "question_type_id"),
    answer_kinds=(AnswerKind.choice,),
)
_COLUMNS: tuple[tuple[str, MediaKind, int], ...] = (
    ("img", "image", 4),
    ("video", "video", 1),
    ("audio", "audio", 4),
)
_TAG = re.compile(r"\[(?:img|video|audio)\d+\]")


def read_rows(source: AnnotationSource) -> Iterator[AnnotationRow]:
    """Yield the items with their ids."""
    return with_keys(
        without_blank_cells(source.parquet_rows(source.layout)),
        lambda item: item_id(item, "question_id"),
    )


def build_query(source: AnnotationSource, row: AnnotationRow) -> Query:
    """Return an item as a query; see `adapter.py`."""
    item = row.fields
    media: list[Media] = []
    tags: dict[str, int] = {}
    for name, kind, most in _COLUMNS:
        for number in range(1, most + 1):
            medium = _medium(source, item, kind, number)
            if medium is not None:
                media.append(medium)
                tags[f"[{name}{number}]"] = len(media)
    _, texts = split_labels("options", item["options"])
    question = tags_to_places(item["question"], tags)
    options = [tags_to_places(text, tags) for text in texts]
    _refuse_unknown_tags("question", question)
    for option in options:
        _refuse_unknown_tags("options", option)
    return Query(
        benchmark=ENTRY.name,
        id=item_id(item, "question_id"),
        type=item["subfield"],
        question=question,
        options=tuple(options),
        answer=option_by_letter("answer", item["answer"], options),
        media=tuple(media),
        cluster=media[0].sha256[:16] if media else "",
        native={
            **native_fields(item, {"task": "question_type_id", "data_type": "data_type"}),
            "options": json.dumps(item["options"], ensure_ascii=False),
        },
    )


def _refuse_unknown_tags(field: str, text: str) -> None:
    tag = _TAG.search(text)
    if tag:
        raise Refused(field, f"{tag[0]} names a medium that the row does not hold")


def _medium(
    source: AnnotationSource, item: Mapping[str, Any], kind: MediaKind, number: int
) -> Media | None:
    """Return the medium of a row by its kind and number, from 1 on; None if it has none."""
    if source.layout == NATIVE:
        column = f"{kind}_{number}"
        return source.media.embedded(column, kind, item[column]) if item.get(column) else None
    column = f"{kind}_path"
    paths = item.get(column) or []
    # The list of the other kind of picture may hold what the row does not show.
    if number > len(paths) or (kind in ("image", "video") and kind not in item["data_type"]):
        return None
    path = PurePosixPath(paths[number - 1])
    nested = f"{path.parts[0]}/{path}"
    return source.media.find(
        column, kind, nested if (source.root / nested).is_file() else str(path)
    )


def official_score(query: Query, reply: str) -> float:
    """Score a reply as evaluation.py does, after MMMU with the brackets lost.

    Any capital A, B, C or D in the reply is a candidate, and the one that is latest as "(X)" wins.
    Without any, in a reply of more than five words, an option's text with its letter is one.

    Its bugs: the letter may stand in a word ("Because" is B); of several candidates without
    brackets the first of the alphabet wins, so "B or A" and "The Answer is C" are A and "C. Both"
    is B; and a reply that names nothing is A, so a refusal is right whenever the key is A.
    """
    for mark in ",.!?;:'":
        reply = reply.strip(mark)
    text = f" {reply} "
    return float(_chosen(text, json.loads(query.native["options"])) == answer_letter(query))


def _chosen(text: str, options: list[str]) -> str:
    texts = dict(zip("ABCD", map(str.lower, options), strict=True))
    letters = [letter for letter in "ABCD" if letter in text]
    if letters:
        return last_occurring(letters, lambda letter: text.rfind(f"({letter})"))
    small = text.lower()
    if len(text.split()) > 5:
        letters = [letter for letter, option in texts.items() if option in small]
    if letters:
        return last_occurring(letters, lambda letter: small.rfind(texts[letter]))
    return "A"
