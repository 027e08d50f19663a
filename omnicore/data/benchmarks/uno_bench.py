"""UNO-Bench, omni part: questions whose halves are a picture and a sound, most of them in Chinese.

Hub: meituan-longcat/UNO-Bench; scorer github.com/meituan-longcat/UNO-Bench, uno-eval, read at
53f66b2.

`validation.parquet` holds the omni part and 2,480 uni-modal items from other benchmarks. An item is
of the omni part when its subset is named so or its question shows sound beside a picture or video
(the names of the subsets are not known here); the others are excluded. `images`, `videos` and
`audios` map the tags in the question, <image_1> and the like, to paths; many are null. A video is
shown without its sound, as the publisher's harness does.

The options of a choice (`score_type` 0) stand in the question, "A. ..", one a line or all in a
line; they become options, and text after the last one's line goes back to the question. Multi-step
items (1) have a rubric that gives points for steps in place of an answer: only a judge can grade
them, so they are excluded, each listed in problems.jsonl.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from omnicore.data.benchmarks.fields import item_id, parse_list, tags_to_places, with_keys
from omnicore.data.benchmarks.options import option_by_letter, option_by_text, require_distinct
from omnicore.data.benchmarks.records import (
    AnnotationRow,
    BenchmarkEntry,
    Excluded,
    MediaKind,
    Refused,
)
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.data.benchmarks.tables import without_blank_cells
from omnicore.schema import AnswerKind, Media, Query

ENTRY = BenchmarkEntry(
    name="uno_bench",
    title="UNO-Bench (omni)",
    source="meituan-longcat/UNO-Bench",
    licence="MIT",
    size=3730,  # rows of the table: 1,250 of the omni part and 2,480 others
    annotations=("validation.parquet",),
    cluster="first picture or video",
    shares=("subset_name",),
    answer_kinds=(AnswerKind.choice, AnswerKind.text),
)
_COLUMNS: dict[str, MediaKind] = {"images": "image", "videos": "video", "audios": "audio"}
_TAG = re.compile(r"<(?:image|video|audio)_\d+>")
# Labels of options: at the start of a line, or else anywhere but after a letter or figure.
_LABELS = tuple(
    re.compile(before + r"([A-Z])[.．、:：]\s*") for before in (r"(?m:^)[ \t]*", "(?<![A-Za-z0-9])")
)
_KEY = re.compile(r"([A-Z])(?:[.．、:：]|$)")
_SPOKEN = re.compile(r"\[\[\[(.*?)\]\]\]")


def read_rows(source: AnnotationSource) -> Iterator[AnnotationRow]:
    """Yield the items with their ids."""
    return with_keys(
        without_blank_cells(source.parquet_rows("validation.parquet")),
        lambda item: item_id(item, "qid"),
    )


def build_query(source: AnnotationSource, row: AnnotationRow) -> Query:
    """Return an item as a query; see `adapter.py`."""
    item = row.fields
    name, score_type = item_id(item, "qid"), int(item["score_type"])
    gold = item["answer"]
    files = _files(item)
    tags = list(dict.fromkeys(_TAG.findall(item["question"])))
    kinds = {files[tag][1] for tag in tags if tag in files}
    shows_sound_and_picture = "audio" in kinds and len(kinds) > 1
    if "omni" not in item["subset_name"].lower() and not shows_sound_and_picture:
        raise Excluded("subset_name", f"{name} of {item['subset_name']} is uni-modal")
    if score_type == 1:
        raise Excluded("score_type", f"{name} is multi-step: its rubric needs a judge")
    media: list[Media] = []
    for tag in tags:
        if tag not in files:
            raise Refused("question", f"{tag} names a medium that the row does not hold")
        media.append(source.media.find(*files[tag]))
    question = tags_to_places(item["question"], {tag: n for n, tag in enumerate(tags, 1)})
    options: list[str] = []
    if score_type == 0:
        question, options = _split_options(question)
    require_distinct("question", options)
    pictures = [medium for medium in media if medium.kind != "audio"]
    return Query(
        benchmark=ENTRY.name,
        id=name,
        type=item["subset_name"],
        question=question,
        options=tuple(options),
        answer=_right_answer(gold, score_type, options),
        answer_kind=AnswerKind.choice if options else AnswerKind.text,
        media=tuple(media),
        cluster=pictures[0].sha256[:16] if pictures else name,
        native={"score_type": str(score_type), "answer": gold},
    )


def _files(item: Mapping[str, Any]) -> dict[str, tuple[str, MediaKind, str]]:
    """Return column, kind and path of the media of an item, by their tags."""
    files = {}
    for column, kind in _COLUMNS.items():
        for tag, path in (item.get(column) or {}).items():
            if path:
                files[tag] = column, kind, path
    return files


def _right_answer(gold: str, score_type: int, options: list[str]) -> str:
    answer = gold.strip()
    if options:
        key = _KEY.match(answer)
        if key:
            return option_by_letter("answer", key[1], options)
        return option_by_text("answer", answer, options)
    if score_type == 4:
        return str(_SPOKEN.findall(gold)[-1])
    if score_type == 2 and answer.startswith("["):
        return str(parse_list("answer", answer)[0])
    return answer


def _split_options(text: str) -> tuple[str, list[str]]:
    """Return question and options of a text.

    Raises:
        Refused: The labels are not A, B and so on, each once: which of two A begins the options
            cannot be told.
    """
    labels = _option_labels(text)
    ends = [label.start() for label in labels[1:]] + [len(text)]
    options = [text[label.end() : end].strip() for label, end in zip(labels, ends, strict=True)]
    last, _, after = options[-1].partition("\n")
    options[-1] = last.strip()
    before = text[: labels[0].start()].strip()
    return "\n".join(filter(None, (before, after.strip()))), options


def _option_labels(text: str) -> list[re.Match[str]]:
    for pattern in _LABELS:
        labels = list(pattern.finditer(text))
        letters = "".join(label[1] for label in labels)
        if len(labels) > 1 and string.ascii_uppercase.startswith(letters):
            return labels
    raise Refused("question", "holds no options A, B and so on, each once")


def official_score(query: Query, reply: str) -> float | None:
    """Score OCR-short (`score_type` 2); return None for the other types, which need a judge.

    1 when any of the reference's alternatives occurs in the reply, in small letters, with spaces
    for line breaks. Its bug: an alternative also counts in a longer word, and an empty one always.

    A choice is also judged by a model of 14 B, UNO-Scorer-Qwen3-14B, that reads question, reply and
    the reference "小问1：{answer}，总分10分，无需关注推理过程，最终答案正确即可" and ends with
    <score>n</score>; the score is n / 10, and 0 where there is no such tag. SDQA (4) is judged
    likewise, on the last text between [[[ and ]]]; OCR-long (3) is BLEU-1 on jieba's words.
    """
    if query.native["score_type"] != "2":
        return None
    gold = query.native["answer"]
    alternatives = [gold]
    if gold.startswith("[") and gold.endswith("]"):
        with suppress(Refused):
            alternatives = parse_list("answer", gold)
    text = _flat(reply)
    return float(any(_flat(alternative) in text for alternative in alternatives))


def _flat(text: str) -> str:
    return text.strip().lower().replace("\n", " ")
