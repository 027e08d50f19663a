"""Daily-Omni: four-way questions on daily-life videos with sound.

github.com/Lliar-liar/Daily-Omni, read at fccb838.

`qa.json` is a list; the video of an item is `Videos/{id}/{id}_video.mp4`, as the published
Videos.tar unpacks, or `{id}/{id}_video.mp4`. Items have no id: here it is the video's with the
number of the question in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from omnicore.data.benchmarks.fields import item_id, native_fields, with_keys
from omnicore.data.benchmarks.options import answer_letter, option_by_letter, split_labels
from omnicore.data.benchmarks.records import AnnotationRow, BenchmarkEntry
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.schema import AnswerKind, Query

ENTRY = BenchmarkEntry(
    name="daily_omni",
    title="Daily-Omni",
    source="liarliar/Daily-Omni",
    licence="code GPL-3.0; see the data set's card",
    size=1197,
    annotations=("qa.json",),
    archives=("Videos.tar",),
    cluster="video",
    shares=("Type", "video_duration"),
    answer_kinds=(AnswerKind.choice,),
)
_CONTENT = {name: name for name in ("content_parent_category", "content_fine_category")}
_REPLY = re.compile(r"\s*([A-D])", re.IGNORECASE)


def read_rows(source: AnnotationSource) -> Iterator[AnnotationRow]:
    """Yield the items with their ids."""
    return with_keys(
        source.json_rows("qa.json"), lambda item: source.numbered_name(item_id(item, "video_id"))
    )


def build_query(source: AnnotationSource, row: AnnotationRow) -> Query:
    """Return an item as a query; see `adapter.py`."""
    item = row.fields
    video = str(item["video_id"])
    _, options = split_labels("Choice", item["Choice"])
    return Query(
        benchmark=ENTRY.name,
        id=row.key,
        type=item["Type"],
        question=item["Question"],
        options=tuple(options),
        answer=option_by_letter("Answer", item["Answer"], options),
        media=source.media.video_with_sound(
            "video_id", f"{source.existing_folder('Videos')}{video}/{video}_video.mp4"
        ),
        cluster=video,
        native={
            **native_fields(item, {"duration": "video_duration", "category": "video_category"}),
            "content": " / ".join(filter(None, native_fields(item, _CONTENT).values())),
        },
    )


def official_score(query: Query, reply: str) -> float:
    """Score a reply as test_model/Qwen2.5-Omni/testmodel.py does.

    The text after the first "assistant", or the whole reply without one, must begin with the key's
    letter, in either case.

    Its bug: a reply that begins with a word reads as that word's letter ("Because" is B, "do not
    know" is D). It also leaves items out of the mean when their media or the request failed; here
    they are counted. The repository's script for Qwen3-Omni has another rule, with tags, phrases
    and the last letter that stands alone.
    """
    before, mark, after = reply.partition("assistant")
    match = _REPLY.match(after if mark else before)
    return float(match is not None and match[1].upper() == answer_letter(query))
