"""Daily-Omni: four-way questions on daily-life videos with sound (github.com/Lliar-liar/Daily-Omni, read at fccb838).

`qa.json` is a list; the video of an item is `Videos/{id}/{id}_video.mp4`, as the published archive unpacks, or
`{id}/{id}_video.mp4`. Items have no id of their own: theirs here is the video's with the number of the question in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from omnicore.benchmarks.base import Entry, Row, Source, by_letter, labelled, letter
from omnicore.schema import AnswerKind, Query

ENTRY = Entry(
    name="daily_omni",
    title="Daily-Omni",
    source="liarliar/Daily-Omni",
    licence="code GPL-3.0; see the data set's card",
    size=1197,
    annotations=("qa.json",),
    cluster="video",
    answer_kinds=(AnswerKind.choice,),
)
_REPLY = re.compile(r"^\s*([A-D])", re.IGNORECASE)


def rows(source: Source) -> Iterator[Row]:
    return source.json_rows("qa.json")


def query(source: Source, row: Row) -> Query:
    item = row.fields
    video = str(item["video_id"])
    _, options = labelled(item["Choice"])
    folder = "Videos/" if (source.root / "Videos").is_dir() else ""
    return Query(
        benchmark=ENTRY.name,
        id=f"{video}-{source.number(video)}",
        type=item["Type"],
        question=item["Question"],
        options=tuple(options),
        answer=by_letter("Answer", item["Answer"], options),
        media=source.film("video_id", f"{folder}{video}/{video}_video.mp4"),
        cluster=video,
        native={"duration": item["video_duration"], "category": item["video_category"]},
    )


def official(query: Query, reply: str) -> float:
    """test_model: what follows the last "assistant", its first letter if that is one of A to D in either case, equal to the key.

    Its bug: a reply that begins with a word reads as that word's letter ("Because" is B, "do not know" is D). It also leaves
    items out of the mean when their media or the request failed; here they are counted.
    """
    found = _REPLY.match(reply.rpartition("assistant")[2])
    return float(found is not None and found[1].upper() == letter(query))
