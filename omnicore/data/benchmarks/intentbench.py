"""IntentBench: what people on video mean, feel and hide (hub: PhilipC/IntentBench; scorer
github.com/HumanMLLM/HumanOmniV2, eval_humanomniv2.py, read at d9123e6).

`qa.json` is a list; videos unpack from `videos.zip` into `videos/`. An item's kind of answer follows from its `problem_type`. The
scorer takes the right answer out of `solution`, "<context>..</context><think>..</think><answer>X</answer>", and so does this file;
the field `answer` is not read. `options` is a list, in some items its Python text. Items have no id that all share: theirs here
is the video's with the number of the question in it. Sets (`emer_ov_mc`) and open answers are kept whole by the audit, which
tests single right options alone.
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
    return with_keys(source.json_rows("qa.json"), lambda item: source.numbered_name(_name(item)))


def _name(item: Mapping[str, Any]) -> str:
    return str(PurePosixPath(item_id(item, "video" if "video" in item else "path")).with_suffix(""))


def build_query(source: AnnotationSource, row: AnnotationRow) -> Query:
    item = row.fields
    kind = KINDS.get(item["problem_type"])
    if kind is None:
        raise Refused("problem_type", f"{item['problem_type']!r} is none of {', '.join(KINDS)}")
    if item["data_type"] != "video":
        raise Refused("data_type", f"is {item['data_type']!r}, not 'video'")
    gold = _tagged(item["solution"])
    if not gold:
        raise Refused("solution", "holds no <answer>")
    options = ["Yes", "No"] if kind is AnswerKind.yes_no else []
    if kind in (AnswerKind.choice, AnswerKind.set):
        _, options = split_labels("options", item["options"])
    answers = parse_solution(kind, gold, options)
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
        native={"answer": gold},
    )


def official_score(query: Query, reply: str) -> float:
    """reward_fn on the first <answer>: by type the exact string; F1 of the parts between commas;
    yes in both or no in both; equal to two decimals where both have a decimal mark or none; mean
    relative accuracy. Its mean over items is the publisher's score.

    Its bugs: "(A)", "A." and "a" are wrong; parts keep their spaces ("A, B" shares "A" alone with "A,B") and a part said twice
    counts twice in what it is divided by; yes and no are looked for inside words ("I do not know" is No, "yesterday" is Yes, and
    "yes or no" is whatever is right); a comma is a decimal mark, too, and then goes (where "1,200" is right, "1200" is wrong and
    "12,00" right); free-form and OCR score 0 whatever is said. Without an answer between tags the last output that the scorer's
    own process decoded, of another item, is scored: that needs the publisher's order of items, so it scores 0 here.
    """
    said, gold = _tagged(reply), query.native["answer"]
    if not said:
        return 0.0
    match query.type:
        case "multiple choice":
            return float(said == gold)
        case "emer_ov_mc":
            given, right = said.split(","), gold.split(",")
            return 2 * len({*given} & {*right}) / (len(given) + len(right))
        case "judge":
            return float(gold.lower() in said.lower())
        case "numerical" | "regression":
            return _near(said, gold, query.type)
    return 0.0


def _tagged(text: str) -> str:
    found = _ANSWER.search(text)
    return found[1].strip() if found else ""


def _near(said: str, gold: str, rule: str) -> float:
    try:
        given, right = (float(text.replace(",", "")) for text in (said, gold))
    except ValueError:
        return 0.0
    if rule == "numerical":
        marked = [any(mark in text for mark in ".,") for text in (said, gold)]
        return float(marked[0] == marked[1] and round(given, 2) == round(right, 2))
    # In 32 bits like the publisher's: an error that lies on a threshold falls on the same side of it.
    error = abs(np.float32(given) - np.float32(right)) / (abs(np.float32(right)) + np.float32(1e-8))
    thresholds = np.arange(0.5, 0.975, 0.05).astype(np.float32)
    return float((error < np.float32(1) - thresholds).mean())
