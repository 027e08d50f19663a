"""Rows of the R1 format: answers of every type, options, media and sound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from omnicore.config import Profile
from omnicore.data.r1_rows import GRADED, R1_KINDS
from omnicore.media.read import locate_media
from omnicore.schema import AnswerKind, Outcome
from omnicore.scoring.verify import judge
from omnicore.storage.digests import sha256_file
from omnicore.training.rewards import GRADES, compute_reward
from tests.unit.training_rows_fixture import (
    R1,
    TEMPORAL,
    prepared,
    problems,
    training_queries,
)


@pytest.mark.parametrize(
    ("item", "options", "answers", "kind", "kinds", "target"),
    [
        ({}, ("dog", "cat"), ("cat",), "choice", ("image",), "<answer>B</answer>"),
        (
            {"options": ["A) dog", "B) cat"]},
            ("dog", "cat"),
            ("cat",),
            "choice",
            ("image",),
            "<answer>B</answer>",
        ),
        (
            {"options": ["dog", "cat"]},
            ("dog", "cat"),
            ("cat",),
            "choice",
            ("image",),
            "<answer>B</answer>",
        ),
        (
            {"process": "<think>It purrs.</think>"},
            ("dog", "cat"),
            ("cat",),
            "choice",
            ("image",),
            "<think>It purrs.</think>\n<answer>B</answer>",
        ),
        (
            {"solution": "<think>A? No.</think><answer> B </answer>"},
            ("dog", "cat"),
            ("cat",),
            "choice",
            ("image",),
            "<think>A? No.</think><answer> B </answer>",
        ),
        (
            {
                "data_type": "image_audio",
                "path": {"image": "images/a.png", "audio": "audios/a.wav"},
            },
            ("dog", "cat"),
            ("cat",),
            "choice",
            ("image", "audio"),
            "<answer>B</answer>",
        ),
        (
            {"data_type": "video", "path": "/film.mp4", "audio_path": "audios/a.wav"},
            ("dog", "cat"),
            ("cat",),
            "choice",
            ("video", "audio"),
            "<answer>B</answer>",
        ),
        (
            {"data_type": "video", "path": "film.mp4"},
            ("dog", "cat"),
            ("cat",),
            "choice",
            ("video",),
            "<answer>B</answer>",
        ),
        (
            {"data_type": "audio", "path": "audios/a.wav"},
            ("dog", "cat"),
            ("cat",),
            "choice",
            ("audio",),
            "<answer>B</answer>",
        ),
        (
            {"data_type": "text", "path": None},
            ("dog", "cat"),
            ("cat",),
            "choice",
            (),
            "<answer>B</answer>",
        ),
        (
            {
                "problem_type": "emer_ov_mc",
                "options": ["A. glad", "B. sad", "C. shy"],
                "solution": "<answer>A,C</answer>",
            },
            ("glad", "sad", "shy"),
            ("glad", "shy"),
            "set",
            ("image",),
            "<answer>A,C</answer>",
        ),
        (
            {"problem_type": "judge", "options": [], "solution": "<answer>no</answer>"},
            ("Yes", "No"),
            ("No",),
            "yes_no",
            ("image",),
            "<answer>no</answer>",
        ),
        (
            {"problem_type": "numerical", "options": [], "solution": "<answer>1,200</answer>"},
            (),
            ("1200",),
            "number",
            ("image",),
            "<answer>1,200</answer>",
        ),
        (
            {"problem_type": "regression", "options": None, "solution": "<answer>0.5</answer>"},
            (),
            ("0.5",),
            "number",
            ("image",),
            "<answer>0.5</answer>",
        ),
        (
            {"problem_type": "OCR", "options": [], "solution": "<answer>STOP</answer>"},
            (),
            ("STOP",),
            "text",
            ("image",),
            "<answer>STOP</answer>",
        ),
        (
            {"problem_type": "free-form", "options": [], "solution": "<answer>Wetsuit</answer>"},
            (),
            ("Wetsuit",),
            "text",
            ("image",),
            "<answer>Wetsuit</answer>",
        ),
    ],
)
def test_r1_row_becomes_a_query(
    source_folder: Path,
    tmp_path: Path,
    item: dict[str, Any],
    options: Any,
    answers: Any,
    kind: str,
    kinds: Any,
    target: str,
) -> None:
    (source_folder / "rows.json").write_text(json.dumps([{**R1, **item}]))
    prepared(
        tmp_path / "out",
        {"avqa": {"format": "r1", "path": str(source_folder / "rows.json"), "stages": ["sft"]}},
    )
    (query,) = training_queries(tmp_path / "out").values()
    assert (query.benchmark, query.id, query.question) == ("avqa", "1", "What is it?")
    assert query.options == options
    assert (query.answer, *query.also) == answers
    assert query.answer_kind is AnswerKind(kind)
    assert tuple(m.kind for m in query.media) == kinds
    assert all(sha256_file(locate_media(m, tmp_path / "out")) == m.sha256 for m in query.media)
    assert query.target == target


@pytest.mark.parametrize(
    ("given", "answer", "lasts"),
    [
        (
            {"solution": "<answer>[12.0, 19.5]</answer>", "duration": 31.4159},
            "12.0-19.5",
            " The video lasts 31.42 seconds.",
        ),
        ({"solution": "<think>[1, 2]?</think><answer> [12, 19] </answer>"}, "12-19", ""),
        ({"solution": "<answer>[0.33333333, 0.99999]</answer>"}, "0.333-1.0", ""),
    ],
)
def test_temporal_retrieval_is_an_interval(
    source_folder: Path, tmp_path: Path, given: dict[str, Any], answer: str, lasts: str
) -> None:
    (source_folder / "rows.json").write_text(json.dumps([{**R1, **TEMPORAL, **given}]))
    prepared(
        tmp_path / "out",
        {
            "when": {
                "format": "r1",
                "path": str(source_folder / "rows.json"),
                "stages": ["rlvr", "distill"],
            }
        },
    )
    for stage in ("rlvr", "distill"):
        (query,) = training_queries(tmp_path / "out", stage).values()
        assert (query.answer_kind, query.answer, query.options, query.type) == (
            "interval",
            answer,
            (),
            "temporal retrieval",
        )
        asked = 'During which span of time does this happen: "a door opens"?'
        assert (
            query.question == f"{asked}{lasts} Give its start and end in seconds, as [start, end]."
        )
        start, end = map(float, answer.split("-"))
        assert judge(f"<answer>[{start}, {end}]</answer>", query, "letter") == (
            f"{start}-{end}",
            Outcome.correct,
        )
        assert compute_reward(
            f"From {start} to {(start + end) / 2} s", False, query, Profile()
        ).score == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("3/4", "0.75"),
        ("15%", "15"),
        ("$12$", "12"),
        ("1,200", "1200"),
        (r"\frac{1}{3}", "0.333333333333"),
        ("-2.50", "-2.5"),
    ],
)
@pytest.mark.parametrize("form", ["r1", "hub"])
def test_numbers_are_read_in_any_notation(
    source_folder: Path, tmp_path: Path, form: str, gold: str, answer: str
) -> None:
    """A reply in the row's own notation is right, as in plain digits."""
    if form == "r1":
        row = {
            **R1,
            "problem_type": "numerical",
            "options": [],
            "solution": f"<answer>{gold}</answer>",
        }
        source = {"format": "r1", "stages": ["sft", "rlvr"]}
    else:
        row = {"q": "How much?", "a": gold}
        source = {
            "format": "hub",
            "stages": ["sft", "rlvr"],
            "columns": {"question": "q", "answer": "a"},
        }
    (source_folder / "rows.jsonl").write_text(json.dumps(row))
    prepared(tmp_path / "out", {"sums": {**source, "path": str(source_folder / "rows.jsonl")}})
    (query,) = training_queries(tmp_path / "out").values()
    assert (query.answer_kind, query.answer) == ("number", answer)
    assert query.target == (f"<answer>{gold}</answer>" if form == "r1" else gold)
    for reply in (gold, f"<answer>{gold}</answer>", answer):
        assert judge(reply, query, "letter") == (answer, Outcome.correct)


@pytest.mark.parametrize(
    ("kind", "gold", "reply", "score"),
    [
        ("OCR", "NO ENTRY AFTER DARK", "NO ENTRY AFTER DAWN", 3 / 4),
        ("free-form", "the red door opens", "opens door red the", 5 / 12),
        ("regression", "40", "30", 3 / 4),
        ("numerical", "40", "30", 0),
        ("counting", "40", "39", 1 / 2),
    ],
)
def test_graded_types_have_the_publishers_reward(
    source_folder: Path, tmp_path: Path, kind: str, gold: str, reply: str, score: float
) -> None:
    row = {**R1, "problem_type": kind, "options": [], "solution": f"<answer>{gold}</answer>"}
    (source_folder / "rows.jsonl").write_text(json.dumps(row))
    prepared(
        tmp_path / "out",
        {"x": {"format": "r1", "path": str(source_folder / "rows.jsonl"), "stages": ["rlvr"]}},
    )
    (query,) = training_queries(tmp_path / "out", "rlvr").values()
    assert compute_reward(
        f"<think>so</think><answer>{reply}</answer>", False, query, Profile()
    ).score == pytest.approx(score)


def test_each_grade_has_its_reward() -> None:
    assert set(GRADED.values()) == GRADES.keys()
    assert GRADED.keys() <= R1_KINDS.keys()


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ([{"label": "A", "text": "dog"}, {"label": "B", "text": "cat"}], ("dog", "cat")),
        ([{"label": "A.", "text": "A. dog"}, {"label": "B.", "text": "B. cat"}], ("dog", "cat")),
        ([{"text": "dog"}, {"text": "cat"}], ("dog", "cat")),
        ([{"label": "(a)", "text": "dog"}, {"label": "(b)", "text": "cat"}], ("dog", "cat")),
        ([{"label": 0, "text": "dog"}, {"label": 1, "text": "cat"}], ("dog", "cat")),
        ({"label": ["A", "B"], "text": ["dog", "cat"]}, ("dog", "cat")),
        ({"A": "dog", "B": "cat", "C": None}, ("dog", "cat")),
        ("[{'label': 'A', 'text': 'dog'}, {'label': 'B', 'text': 'cat'}]", ("dog", "cat")),
        (
            '[{"label": "A", "text": "dog", "image": null}, {"label": "B", "text": "cat"}]',
            ("dog", "cat"),
        ),
        ('["dog", "cat"]', ("dog", "cat")),
    ],
)
def test_options_as_objects_are_texts(
    source_folder: Path, tmp_path: Path, options: Any, texts: tuple[str, ...]
) -> None:
    (source_folder / "r1.jsonl").write_text(json.dumps({**R1, "options": options}))
    (source_folder / "hub.jsonl").write_text(json.dumps({"q": "?", "o": options, "a": "B"}))
    columns = {"question": "q", "options": "o", "answer": "a"}
    training = {
        "objects": {"format": "r1", "path": str(source_folder / "r1.jsonl"), "stages": ["sft"]},
        "table": {
            "format": "hub",
            "path": str(source_folder / "hub.jsonl"),
            "stages": ["rlvr"],
            "columns": columns,
        },
    }
    prepared(tmp_path / "out", training)
    for stage in ("sft", "rlvr"):
        (query,) = training_queries(tmp_path / "out", stage).values()
        assert (query.options, query.answer) == (texts, "cat")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [{"label": "B", "text": "dog"}, {"label": "A", "text": "cat"}],
            "are not labelled A, B or 1, 2 in turn",
        ),
        (
            [{"label": "A", "text": "dog"}, {"label": "A", "text": "cat"}],
            "are not labelled A, B or 1, 2 in turn",
        ),
        ([{"label": "A", "text": "dog"}, {"label": "B", "text": " "}], "option 2 is blank"),
        ([{"label": "A", "text": "dog"}, {"label": "B", "text": None}], "option 2 is blank"),
        (["dog", None], "option 2 is blank"),
        ([["dog"], ["cat"]], "option 1 is not a text"),
        ([{"label": "A", "answer": "dog"}, {"label": "B", "answer": "cat"}], "option 1 is blank"),
    ],
)
def test_invalid_options_are_listed(
    source_folder: Path, tmp_path: Path, options: Any, message: str
) -> None:
    (source_folder / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in (R1, {**R1, "problem_id": 2, "options": options}))
    )
    prepared(
        tmp_path / "out",
        {"avqa": {"format": "r1", "path": str(source_folder / "rows.jsonl"), "stages": ["sft"]}},
    )
    assert message in problems(tmp_path / "out")[2, "options"]
