"""UNO-Bench, omni part: questions to which picture and sound each hold a half, most of them in
Chinese (hub: meituan-longcat/UNO-Bench; scorer github.com/meituan-longcat/UNO-Bench, uno-eval, read
at 53f66b2).

`validation.parquet` holds the omni part and 2,480 uni-modal items from other benchmarks. An item is
of the omni part when its subset is named so or its question shows sound beside a picture or video
(the names of the subsets are not known here); the others are excluded. `images`, `videos` and
`audios` map the tags in the question, <image_1> and the like, to paths; many are null. A video is
shown without its own sound, as the publisher's harness does.

The options of a choice (`score_type` 0) stand in the question, "A. ..", one a line or all in a
line; they become options, and what follows the last one's line goes back to the question. Multi-
step items (1) have a rubric that gives points for steps in place of an answer: only a judge can
grade them, so they are excluded, each listed in problems.jsonl.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

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
    return with_keys(
        without_blank_cells(source.parquet_rows("validation.parquet")),
        lambda item: item_id(item, "qid"),
    )


def build_query(source: AnnotationSource, row: AnnotationRow) -> Query:
    item = row.fields
    name, score, gold = item_id(item, "qid"), int(item["score_type"]), item["answer"]
    files = {
        tag: (c, k, uri)
        for c, k in _COLUMNS.items()
        for tag, uri in (item.get(c) or {}).items()
        if uri
    }
    tags = list(dict.fromkeys(_TAG.findall(item["question"])))
    kinds = {files[tag][1] for tag in tags if tag in files}
    if "omni" not in item["subset_name"].lower() and not ("audio" in kinds and len(kinds) > 1):
        raise Excluded("subset_name", f"{name} of {item['subset_name']} is uni-modal")
    if score == 1:
        raise Excluded("score_type", f"{name} is multi-step: its rubric needs a judge")
    media: list[Media] = []
    for tag in tags:
        if tag not in files:
            raise Refused("question", f"{tag} names a medium that the row does not hold")
        media.append(source.media.find(*files[tag]))
    text = tags_to_places(item["question"], {tag: number for number, tag in enumerate(tags, 1)})
    question, options = _parted(text) if score == 0 else (text, [])
    require_distinct("question", options)
    answer = gold.strip()
    if options:
        key = _KEY.match(answer)
        answer = (
            option_by_letter("answer", key[1], options)
            if key
            else option_by_text("answer", answer, options)
        )
    elif score == 4:
        answer = _SPOKEN.findall(gold)[-1]
    elif score == 2 and answer.startswith("["):
        answer = str(parse_list("answer", answer)[0])
    return Query(
        benchmark=ENTRY.name,
        id=name,
        type=item["subset_name"],
        question=question,
        options=tuple(options),
        answer=answer,
        answer_kind=AnswerKind.choice if options else AnswerKind.text,
        media=tuple(media),
        cluster=next((m.sha256[:16] for m in media if m.kind != "audio"), name),
        native={"score_type": str(score), "answer": gold},
    )


def _parted(text: str) -> tuple[str, list[str]]:
    """Question and options.

    Raises Refused where its labels are not A, B and so on, each once: which of two A begins the
    options cannot be told.
    """
    for pattern in _LABELS:
        labels = list(pattern.finditer(text))
        if len(labels) > 1 and [label[1] for label in labels] == [
            chr(65 + i) for i in range(len(labels))
        ]:
            break
    else:
        raise Refused("question", "holds no options A, B and so on, each once")
    ends = [label.start() for label in labels[1:]] + [len(text)]
    options = [text[label.end() : end].strip() for label, end in zip(labels, ends, strict=True)]
    options[-1], _, after = options[-1].partition("\n")
    return "\n".join(filter(None, (text[: labels[0].start()].strip(), after.strip()))), [
        option.strip() for option in options
    ]


def official_score(query: Query, reply: str) -> float | None:
    """None, not computable here, but for OCR-short (`score_type` 2): 1 when any of the reference's
    alternatives occurs in the reply, in small letters, with spaces for line breaks. Its bug: so it
    does in a longer word, and an empty alternative always.

    A choice, too, is judged by a model of 14 B, UNO-Scorer-Qwen3-14B, that reads question, reply
    and the reference "小问1：{answer}，总分10分，无需关注推理过程，最终答案正确即可" and ends with <score>n</score>; the
    score is n / 10, and 0 where there is no such tag. SDQA (4) is judged likewise, on the last text
    between [[[ and ]]]; OCR-long (3) is BLEU-1 on jieba's words.
    """
    if query.native["score_type"] != "2":
        return None
    gold = query.native["answer"]
    try:
        wanted = (
            parse_list("answer", gold) if gold.startswith("[") and gold.endswith("]") else [gold]
        )
    except Refused:
        wanted = [gold]
    said, *wanted = (text.strip().lower().replace("\n", " ") for text in (reply, *wanted))
    return float(any(text in said for text in wanted))
