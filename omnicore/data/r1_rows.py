"""Rows of the R1 format, which the training sets of Video-R1, EchoInk and HumanOmniV2 share.

A source is a JSON list or JSONL. Fields were read at: r1_data_eg.json and
src/r1-v/src/open_r1/sft_video.py of copies of Video-R1 (github.com/hexuan21/Video-R1 at b554698,
HarryHsing/Video-R1 at 3585689), src/make_omniInstruct_r1_dataset.py and
src/r1-v/src/open_r1/grpo.py of github.com/HarryHsing/EchoInk (72cffda, de49843),
src/open-r1-multimodal/src/open_r1/grpo_qwenomni.py of a copy of HumanOmniV2
(github.com/vhzy/HumanOmniV2 at 3c931e6):

  problem       the question
  problem_type  multiple choice, emer_ov_mc (several letters), judge (yes or no), numerical,
                regression, counting, OCR, free-form, temporal retrieval (EchoInk's: `problem` is
                what happens in the video, `duration` the video's, the answer all spans of it in
                seconds, "[12.0, 19.0]; [24.0, 29.0]"; rows with several are left out)
  options       texts with or without labels ("A. ..", "A) .."), or objects {label, text}
  solution      "<answer>B</answer>", with the thinking before it in sets for supervised training,
                or the thinking in `process`
  data_type     image, video, audio, text, or several as in image_audio
  path          a file, or one for each medium: {"image": .., "audio": ..}; `audio_path` beside it
                (HumanOmniV2); below the source's `media`, which Video-R1's trainer calls its data
                root, or else below its `path`. With `sound`, a video without a sound track is shown
                without sound (check_if_video_has_audio of HumanOmniV2)
  problem_id, data_source
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from omnicore.config import TrainingSource
from omnicore.data.benchmarks.fields import parse_list
from omnicore.data.benchmarks.options import parse_solution
from omnicore.data.benchmarks.records import AnnotationRow, Excluded, Refused
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.data.benchmarks.tables import is_blank, parse_options
from omnicore.errors import DataError
from omnicore.media.video import has_sound_track
from omnicore.schema import AnswerKind, Media, Query

R1_KINDS = {
    "multiple choice": AnswerKind.choice,
    "emer_ov_mc": AnswerKind.set,
    "judge": AnswerKind.yes_no,
    "numerical": AnswerKind.number,
    "regression": AnswerKind.number,
    "counting": AnswerKind.number,
    "OCR": AnswerKind.text,
    "free-form": AnswerKind.text,
    "temporal retrieval": AnswerKind.interval,
}
# Types whose answers Video-R1 grades, and by what: keys of `training.rewards.GRADES`.
GRADED = {"OCR": "word error rate", "free-form": "rouge", "regression": "relative error"}
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def query_from_r1(source: AnnotationSource, row: AnnotationRow, config: TrainingSource) -> Query:
    """Return a row as a query.

    Raises:
        Refused: A field is missing, or is not in the form that the format has.
        Excluded: The answer has a form that is not judged here.
        KeyError: A field is missing.
    """
    item = row.fields
    for field in ("problem_type", "solution", "data_type"):
        if is_blank(item[field]):
            raise Refused(field, "is missing")
    kind = R1_KINDS.get(item["problem_type"])
    if kind is None:
        judged = ", ".join(R1_KINDS)
        raise Excluded(
            "problem_type",
            f"{item['problem_type']!r} has no answer that is judged here: {judged} have",
        )
    answer = _tagged_answer(item["solution"])
    options = _options(kind, item)
    question = item["problem"]
    if kind is AnswerKind.interval:
        question, answer = _interval_question(question, item.get("duration")), _parse_span(answer)
    # A letter may have a full stop after it.
    solution = answer.rstrip(".") if kind is AnswerKind.choice else answer
    answers = parse_solution(kind, solution, options)
    native = {"data_source": str(item.get("data_source") or "")}
    if kind is AnswerKind.number and answers[0] != answer:
        native["answer"] = answer  # replies are read in its notation
    if item["problem_type"] in GRADED:
        native["graded"] = GRADED[item["problem_type"]]
    media = _media(source, item, config)
    return Query(
        benchmark=source.entry.name,
        id=str(item["problem_id"] if "problem_id" in item else source.next_number("rows")),
        type=item["problem_type"],
        question=question,
        options=tuple(options),
        answer=answers[0],
        also=tuple(answers[1:]),
        answer_kind=kind,
        media=media,
        cluster=media[0].uri if media else "",
        native=native,
        target="\n".join(filter(None, [item.get("process"), item["solution"]])),
    )


def _tagged_answer(solution: str) -> str:
    match = _ANSWER.search(solution)
    answer = match[1].strip() if match else ""
    if not answer:
        raise Refused("solution", "holds no <answer>")
    return answer


def _options(kind: AnswerKind, item: Mapping[str, Any]) -> list[str]:
    if kind is AnswerKind.yes_no:
        return ["Yes", "No"]
    if kind in (AnswerKind.choice, AnswerKind.set):
        return parse_options("options", item["options"])[1]
    return []


def _interval_question(event: str, duration: float | None) -> str:
    """Return a question after an event, which the row only names."""
    lasts = f" The video lasts {duration:.2f} seconds." if duration else ""
    return (
        f'During which span of time does this happen: "{event}"?{lasts} Give its start and end in'
        " seconds, as [start, end]."
    )


def _parse_span(answer: str) -> str:
    """Return the only span of an answer as `Query.answer` holds it, to the millisecond.

    Raises:
        Excluded: There are several.
        Refused: There is none.
    """
    spans = answer.split(";")
    if len(spans) > 1:
        raise Excluded(
            "solution", f"holds {len(spans)} spans of time, and an answer is judged here by one"
        )
    try:
        start, end = (round(time, 3) for time in parse_list("solution", answer))
        if not 0 <= start < end:
            raise ValueError
    except (TypeError, ValueError) as error:
        raise Refused(
            "solution", f"{answer!r} is not a span of time, as [12.0, 19.0] is"
        ) from error
    return f"{start}-{end}"


def _media(
    source: AnnotationSource, item: Mapping[str, Any], config: TrainingSource
) -> tuple[Media, ...]:
    kinds = item["data_type"].split("_")
    if kinds == ["text"]:
        return ()
    for kind in kinds:
        if kind not in ("image", "audio", "video"):
            raise Refused(
                "data_type", f"{item['data_type']!r}: {kind!r} is none of image, audio, video, text"
            )
    media = {}
    for kind, path in _paths(kinds, item, config).items():
        if path:
            # Video-R1's paths start at the folder of the data, some with a slash.
            media[kind] = source.media.find("path", kind, path.lstrip("/"))
    if config.sound and "video" in media and "audio" not in media:
        video = media["video"]
        if _has_sound(source.media.path(video), video.sha256):
            media["audio"] = video.model_copy(update={"kind": "audio"})
    return tuple(media.values())


def _paths(kinds: list[str], item: Mapping[str, Any], config: TrainingSource) -> dict[Any, Any]:
    """Return the paths of a row's media by kind, in the order of the row."""
    path = item.get("path")
    if not isinstance(path, str | Mapping):
        raise Refused("path", f"is neither a path nor one for each medium: {path!r:.60}")
    paths = dict.fromkeys(kinds, path) if isinstance(path, str) else dict(path)
    if item.get("audio_path"):
        paths["audio"] = item["audio_path"]
    elif config.sound and "audio" in kinds:
        paths.setdefault("audio", paths.get("video"))
    for kind in kinds:
        if not paths.get(kind):
            raise Refused("path", f"names no {kind}")
    return paths


# Another file may take the place of a file: the sha256 is part of the cache's key.
@lru_cache(4096)
def _has_sound(path: Path, sha256: str) -> bool:  # noqa: ARG001
    try:
        return has_sound_track(path)
    except DataError:
        # The check of its picture says what is wrong with the video.
        return False
