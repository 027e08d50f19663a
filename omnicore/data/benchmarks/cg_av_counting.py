"""CG-AV-Counting: how often something happens, and how many there are, in long videos.

Hub, gated: CG-Bench/CG-AV-Counting; scorer github.com/AV-Reasoner/AV-Reasoner, eval/, read at
01a55c9.

`cg-av-counting.json` is a list; videos lie in `cg_videos_720p/`. Of the three protocols this is
long_acc, the whole video. ref_acc asks the same of a clip, `{stem}_{start:.2f}_{end:.2f}.mp4` for
`query_interval`, and clue_acc asks for the places of the counted things: neither is read.
`native["query_interval"]` keeps the interval. The scorer's scripts call the question `question_en`,
the file calls it `question`; both are read.

Where that file is not there, `CG-AV-Counting.tsv` is read, which VLMEvalKit makes of it
(vlmeval/dataset/CGAVCounting, read at e8e78f0): every item three times, once a protocol
(`task_mode`), of which long_acc is read; `video` with its folder, no `query_interval`, and in place
of the publisher's `index` the item's place in the list, counted from 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from omnicore.data.benchmarks.fields import item_id, native_fields, with_keys
from omnicore.data.benchmarks.records import AnnotationRow, BenchmarkEntry
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.data.benchmarks.tables import text_table_rows, without_blank_cells
from omnicore.schema import AnswerKind, Query

NATIVE, TSV = "cg-av-counting.json", "CG-AV-Counting.tsv"
ENTRY = BenchmarkEntry(
    name="cg_av_counting",
    title="CG-AV-Counting",
    source="CG-Bench/CG-AV-Counting",
    licence="gated on the hub: see its card",
    size=1027,
    annotations=(NATIVE, TSV),
    archives=("videos.zip",),
    filter_policy="keep_whole",
    reason=(
        "counts are graded by their distance (off by one, mean error), so that no single reply"
        " makes a query solved"
    ),
    cluster="video",
    shares=("type", "category"),
    answer_kinds=(AnswerKind.number,),
)
_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SCALES = {"billion": 1_000_000_000, "million": 1_000_000, "thousand": 1000}
_WORDS = {word: value for value, word in enumerate(_UNITS.split())}
_WORDS |= {word: 10 * value for value, word in enumerate(_TENS.split(), 2)}
_WORDS |= {"hundred": 100} | _SCALES


def read_rows(source: AnnotationSource) -> Iterator[AnnotationRow]:
    """Yield the items of the protocol long_acc with their ids."""
    rows = source.json_rows(NATIVE) if source.layout == NATIVE else _table_rows(source)
    return with_keys(rows, lambda item: item_id(item, "index"))


def _table_rows(source: AnnotationSource) -> Iterator[AnnotationRow]:
    for row in without_blank_cells(text_table_rows(source, TSV, "\t")):
        if row.broken or row.fields.get("task_mode") == "long_acc":
            yield row


def build_query(source: AnnotationSource, row: AnnotationRow) -> Query:
    """Return an item as a query; see `adapter.py`."""
    item = row.fields
    video = item["video"].removeprefix("cg_videos_720p/")
    return Query(
        benchmark=ENTRY.name,
        id=item_id(item, "index"),
        type=item["type"],
        question=item["question_en"] if "question_en" in item else item["question"],
        answer=str(item["answer"]),
        answer_kind=AnswerKind.number,
        media=source.media.video_with_sound(
            "video", f"{source.existing_folder('cg_videos_720p', 'videos')}{video}", named=video
        ),
        cluster=video,
        native=native_fields(item, {"category": "category", "query_interval": "query_interval"}),
    )


def official_score(query: Query, reply: str) -> float:
    """Score a reply by ACC: 1 if the count is right, within 1e-5.

    A reply is read by the package word2number, and one that it cannot read is 0.

    Its bugs: figures count only where they are the whole reply ("3 times", "3.", " 3" and "12.0"
    are 0), and a reply that is not read is right where the answer is none; number words count
    anywhere ("no one sang" is 1, "one or two" is 3, "at this point five" is 0.5), and of five or
    more the first ("one two three four five" is 1).
    """
    return float(_error(query, reply) < 1e-5)


def official_figures(pairs: Sequence[tuple[Query, str]]) -> dict[str, float]:
    """Return acc, oboa (off by one at most), mae and rmse.

    An error above 100 and above twice the count is taken as twice the count. Its bug: 99 too many
    weighs more than 101 too many.
    """
    exact = near = absolute = squared = 0.0
    for query, reply in pairs:
        error, count = _error(query, reply), float(query.answer)
        exact += error < 1e-5
        near += error <= 1
        capped = error if error <= max(2 * count, 100) else 2 * count
        absolute += capped
        squared += capped**2
    n = max(1, len(pairs))
    return {
        "acc": exact / n,
        "oboa": near / n,
        "mae": absolute / n,
        "rmse": math.sqrt(squared / n),
    }


def _error(query: Query, reply: str) -> float:
    try:
        count = _word2number(reply.replace("-", " ").lower())
    except (ValueError, IndexError):
        count = 0
    return abs(float(query.answer) - count)


def _word2number(text: str) -> float:
    """Return the number that word2number 1.1 reads in a text.

    It was the same on 400,000 random texts, except some that name a million or more.

    Raises:
        ValueError: There is none; also IndexError, where word2number raises it.
    """
    if text.isdigit():
        return int(text)
    words = [word for word in text.split() if word in _WORDS or word == "point"]
    if not words or any(words.count(word) > 1 for word in (*_SCALES, "point")):
        raise ValueError
    if "point" not in words:
        return _whole_number(words)
    at = words.index("point")
    whole = _whole_number(words[:at]) if at else 0
    digits = [_WORDS.get(word, 10) for word in words[at + 1 :]]
    if not digits or max(digits) >= 10:
        return whole
    return whole + float("0." + "".join(map(str, digits)))


def _whole_number(words: list[str]) -> int:
    if len(words) == 1:
        return _WORDS[words[0]]
    places = [words.index(scale) for scale in _SCALES if scale in words]
    if places != sorted(places):
        raise ValueError
    total = 0
    for scale, value in _SCALES.items():
        if scale in words:
            at = words.index(scale)
            total += _group_value(words[:at]) * value
            words = words[at + 1 :]
    return total + (_group_value(words) if words else 0)


def _group_value(words: list[str]) -> int:
    """Return the value of the words between two scales.

    Two are added, unless one is a hundred; of three and four the first two are multiplied.
    """
    values = [_WORDS[word] for word in words]
    if len(values) == 2 and 100 not in values:
        return sum(values)
    if len(values) in (2, 3, 4):
        return values[0] * values[1] + sum(values[2:])
    return values[0]
