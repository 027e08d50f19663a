"""OmniVideoBench: questions that need picture and sound, with the modalities of each solution step.

github.com/NJU-LINK/OmniVideoBench, read at f888445; videos on request, gated on the hub, where the
questions lie in another form.

`data.json` is a list of videos with their questions; videos lie in `videos/{video}.mp4`. In the
publisher's repository both lie in `data_example/`, the five videos that it holds in
`data_example/video/`. Options read "A.text", some "A. text". Questions have no id: here it is the
video's with the number of the question in it. `native["modalities"]` holds the gold label of needed
modalities, against which a probe that sees only the picture can be checked.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from omnicore.data.benchmarks.fields import native_fields
from omnicore.data.benchmarks.options import (
    answer_letter,
    option_by_letter,
    require_distinct,
    split_labels,
)
from omnicore.data.benchmarks.records import AnnotationRow, BenchmarkEntry, Mislabelled
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.schema import AnswerKind, Query

ENTRY = BenchmarkEntry(
    name="omnivideobench",
    title="OmniVideoBench",
    source="github.com/NJU-LINK/OmniVideoBench",
    on_hub=False,
    licence="CC-BY-NC-SA-4.0, research only",
    size=1000,
    annotations=("data.json", "data_example/data.json"),
    cluster="video",
    shares=("question_type", "audio_type", "duration"),
    answer_kinds=(AnswerKind.choice,),
)
_FOLDERS = ("videos", "video", "data_example/videos", "data_example/video")
_DISPLAYED = {name: name for name in ("video_type", "audio_type", "duration")}
_LABEL = re.compile(r"^\s*[A-D][.:)]\s*")
_BOXES = (re.compile(r"/box\{([^}]+)\}"), re.compile(r"\\boxed\{([^}]+)\}"))
_UNMARKED = str.maketrans("", "", string.punctuation)


def read_rows(source: AnnotationSource) -> Iterator[AnnotationRow]:
    """Yield one row a question, with the fields of its video.

    A video without questions is one row that lacks them.
    """
    for video in source.json_rows(source.layout):
        questions: list[AnnotationRow] = []
        if isinstance(video.fields.get("questions"), list):
            questions = list(video.member_rows("questions"))
        for number, row in enumerate(questions):
            name = f"{video.fields.get('video')}-{number}"
            yield replace(row, key=name, fields={**video.fields, **row.fields})
        if not questions:
            yield video


def build_query(source: AnnotationSource, row: AnnotationRow) -> Query:
    """Return an item as a query; see `adapter.py`."""
    item = row.fields
    video = item["video"]
    options = _options(source, item)
    answer = option_by_letter("correct_option", item["correct_option"], options)
    _compare_answers(source, item.get("answer"), item["correct_option"], answer, options)
    return Query(
        benchmark=ENTRY.name,
        id=row.key,
        type=item["question_type"],
        question=item["question"],
        options=tuple(options),
        answer=answer,
        media=source.media.video_with_sound(
            "video", f"{source.existing_folder(*_FOLDERS)}{video}.mp4"
        ),
        cluster=video,
        native={
            **native_fields(item, _DISPLAYED),
            "modalities": ",".join(sorted(_modalities(item.get("reasoning_steps")))),
        },
    )


def _options(source: AnnotationSource, item: Mapping[str, Any]) -> list[str]:
    """Return options without their labels.

    Where labels repeat, `correct_option` is taken as the place, as the publisher does, with a
    warning.
    """
    try:
        return split_labels("options", item["options"])[1]
    except Mislabelled as error:
        source.warn("options", f"{error.message}; {item['correct_option']} is taken as the place")
        return require_distinct("options", error.texts)


def _compare_answers(
    source: AnnotationSource, text: Any, key: str, answer: str, options: list[str]
) -> None:
    """Warn where the text in `answer`, which no score uses, is not the option of the key."""
    if not isinstance(text, str) or not text.strip() or _plain(text) == _plain(answer):
        return
    named = "no option"
    for place, option in enumerate(options):
        if _plain(option) == _plain(text):
            named = f"option {chr(65 + place)}"
            break
    source.warn("answer", f"{text!r} is {named}, and the key is {key}, {answer!r}")


def _plain(text: str) -> str:
    """Return a text without label, case, punctuation and space around words."""
    text = _LABEL.sub("", unicodedata.normalize("NFKC", text))
    return " ".join(re.sub(r"[^\w\s$%.+-]|[.](?!\d)", " ", text).casefold().split())


def _modalities(steps: Any) -> set[str]:
    """Return the modalities of the reasoning steps.

    One of the published steps has its modality under `nmodality`.
    """
    modalities = set()
    for step in steps if isinstance(steps, list) else []:
        if isinstance(step, Mapping):
            modality = step.get("modality", step.get("nmodality"))
            if isinstance(modality, str):
                modalities.add(modality)
    return modalities


def official_score(query: Query, reply: str) -> float:
    r"""Score a reply as utils.extract_model_answer and clean_text do.

    They take the text after the last "assistant" and the inside of /box{} or \boxed{}; then, in
    small letters, cut to the first where a full stop follows it, and without punctuation, it must
    equal the letter of the key.

    Its bugs: "The answer is B" and "B: text" are wrong, while "b" and "B! " are right, and any
    reply whose second character is a full stop is its first ("B. or C." is B). Items whose video or
    request failed were left out of its mean; here they are counted.
    """
    text = reply.rpartition("assistant")[2].strip()
    for pattern in _BOXES:
        box = pattern.search(text)
        if box:
            text = box[1].strip()
    text = text.lower()
    if text[1:2] == ".":
        text = text[0]
    return float(" ".join(text.translate(_UNMARKED).split()) == answer_letter(query).lower())
