"""IntentBench: what people on video mean, feel and hide.

Hub: PhilipC/IntentBench; scorer github.com/HumanMLLM/HumanOmniV2, eval_humanomniv2.py, read at
d9123e6.

`qa.json` is a list; videos unpack from `videos.zip` into `videos/`. An item's kind of answer
follows from its `problem_type`. The scorer takes the right answer out of `solution`,
"<context>..</context><think>..</think><answer>X</answer>", and so does this module; the field
`answer` is not read. `options` is a list, in some items its Python text. Not all items have an id:
here it is the video's with the number of the question in it. The audit keeps sets (`emer_ov_mc`)
and open answers whole, since it tests only single right options.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from omnicore.data.benchmarks.fields import item_id, with_keys
from omnicore.data.benchmarks.options import parse_solution, split_labels
from omnicore.data.benchmarks.records import AnnotationRow, BenchmarkEntry, Refused
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.schema import AnswerKind, Query

KINDS = {
    "multiple choice": AnswerKind.choice,
    "emer_ov_mc": AnswerKind.set,
    "judge": AnswerKind.yes_no,
    "numerical": AnswerKind.number,
    "regression": AnswerKind.number,
    "free-form": AnswerKind.text,
    "OCR": AnswerKind.text,
}
ENTRY = BenchmarkEntry(
    name="intentbench",
    title="IntentBench",
    source="PhilipC/IntentBench",
    licence="self-collected videos CC BY-NC-SA 4.0, linked as BY-NC-ND (its repository)",
    size=2689,
    annotations=("qa.json",),
    archives=("videos.zip",),
    cluster="video",
    shares=("problem_type",),
    answer_kinds=tuple(dict.fromkeys(KINDS.values())),
)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def read_rows(source: AnnotationSource) -> Iterator[AnnotationRow]:
    """Yield the items with their ids."""
    return with_keys(
        source.json_rows("qa.json"), lambda item: source.numbered_name(_video_name(item))
    )


def _video_name(item: Mapping[str, Any]) -> str:
    return str(PurePosixPath(item_id(item, "video" if "video" in item else "path")).with_suffix(""))


def build_query(source: AnnotationSource, row: AnnotationRow) -> Query:
    """Return an item as a query; see `adapter.py`."""
    item = row.fields
    kind = KINDS.get(item["problem_type"])
    if kind is None:
        raise Refused("problem_type", f"{item['problem_type']!r} is none of {', '.join(KINDS)}")
    if item["data_type"] != "video":
        raise Refused("data_type", f"is {item['data_type']!r}, not 'video'")
    solution = _tagged(item["solution"])
    if not solution:
        raise Refused("solution", "holds no <answer>")
    options = ["Yes", "No"] if kind is AnswerKind.yes_no else []
    if kind in (AnswerKind.choice, AnswerKind.set):
        _, options = split_labels("options", item["options"])
    answers = parse_solution(kind, solution, options)
    field = "video" if "video" in item else "path"
    video = item[field]
    return Query(
        benchmark=ENTRY.name,
        id=row.key,
        type=item["problem_type"],
        question=item["problem"],
        options=tuple(options),
        answer=answers[0],
        also=tuple(answers[1:]),
        answer_kind=kind,
        media=source.media.video_with_sound(
            field, f"{source.existing_folder('videos')}{video}", named=video
        ),
        cluster=video,
        native={"answer": solution},
    )


def official_score(query: Query, reply: str) -> float:
    """Score the first <answer> of a reply as reward_fn does; the mean over items is published.

    By type: the exact string; F1 of the parts between commas; yes in both or no in both; equal to
    two decimals where both have a decimal mark or none; mean relative accuracy.

    Its bugs: "(A)", "A." and "a" are wrong; parts keep their spaces ("A, B" shares only "A" with
    "A,B") and a part that stands twice counts twice in the divisor; yes and no are looked for
    inside words ("I do not know" is No, "yesterday" is Yes, and "yes or no" is always right); a
    comma also counts as a decimal mark, and is then removed (where "1,200" is right, "1200" is
    wrong and "12,00" right); free-form and OCR always score 0. Without an answer between tags, the
    publisher scores the last output that its process decoded, of another item: that needs the
    publisher's order of items, so it scores 0 here.
    """
    given, right = _tagged(reply), query.native["answer"]
    if not given:
        return 0.0
    match query.type:
        case "multiple choice":
            return float(given == right)
        case "emer_ov_mc":
            given_parts, right_parts = given.split(","), right.split(",")
            shared = len({*given_parts} & {*right_parts})
            return 2 * shared / (len(given_parts) + len(right_parts))
        case "judge":
            return float(right.lower() in given.lower())
        case "numerical":
            return _equal_numbers(given, right)
        case "regression":
            return _relative_accuracy(given, right)
    return 0.0


def _tagged(text: str) -> str:
    match = _ANSWER.search(text)
    return match[1].strip() if match else ""


def _equal_numbers(given: str, right: str) -> float:
    """Return 1 for numbers equal to two decimals, both with a decimal mark or both without."""
    if _has_mark(given) != _has_mark(right):
        return 0.0
    try:
        return float(round(_number(given), 2) == round(_number(right), 2))
    except ValueError:
        return 0.0


def _has_mark(text: str) -> bool:
    return "." in text or "," in text


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _relative_accuracy(given: str, right: str) -> float:
    """Return the share of ten thresholds that the relative error is below.

    In 32 bits like the publisher's, so that an error on a threshold falls on the same side of it.
    """
    try:
        value, expected = np.float32(_number(given)), np.float32(_number(right))
    except ValueError:
        return 0.0
    error = abs(value - expected) / (abs(expected) + np.float32(1e-8))
    thresholds = np.arange(0.5, 0.975, 0.05).astype(np.float32)
    return float((error < np.float32(1) - thresholds).mean())
