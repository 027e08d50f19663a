"""Training sources: three formats of rows, what becomes of each row, and what is refused by
name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from omnicore.config import Profile, TrainingSource
from omnicore.config.recipe import Recipe, load_recipe
from omnicore.data.benchmarks.records import Problem
from omnicore.data.r1_rows import GRADED, R1_KINDS
from omnicore.errors import ConfigError, DataError, OmniError
from omnicore.media.read import locate_media
from omnicore.runtime.keys import plan_step
from omnicore.schema import AnswerKind, Outcome, Query
from omnicore.scoring.verify import judge
from omnicore.steps import prepare
from omnicore.storage.digests import sha256_file
from omnicore.storage.files import read_jsonl, write_jsonl
from omnicore.training.rewards import GRADES, compute_reward
from tests.errors import refused
from tests.media_files import make_picture, make_tone, make_video, medium

COMMIT = "0123456789abcdef" * 2 + "01234567"
SMALL = [
    "prepare.split=dev",
    "prepare.scale=0.01",
    "profile.style=letter",
    "prepare.max_refused=0.9",
]


def recipe(training: dict[str, Any], *more: str) -> Recipe:
    return load_recipe("tiny", [*SMALL, f"prepare.training={json.dumps(training)}", *more])


def prepared(output: Path, training: dict[str, Any], *more: str) -> dict[str, Any]:
    output.mkdir(exist_ok=True)
    made = recipe(training, *more)
    return prepare.run(made, made.prepare, {}, output)


def found(output: Path, stage: str = "sft") -> dict[str, Query]:
    return {query.id: query for query in read_jsonl(output / f"{stage}.jsonl", Query)}


def problems(output: Path) -> dict[tuple[int, str], str]:
    return {
        (one["line"], one["field"]): one["message"]
        for one in read_jsonl(output / "problems.jsonl", dict)
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Media beside whatever rows a test writes."""
    where = tmp_path / "data"
    (where / "images").mkdir(parents=True)
    (where / "audios").mkdir()
    make_picture(where / "images" / "a.png", "red", (32, 24))
    make_picture(where / "images" / "b.png", "blue", (32, 24))
    make_tone(where / "audios" / "a.wav", 300, 0.5)
    make_video(where / "film.mp4", 1.0, 8, (64, 48), 400)
    return where


R1: dict[str, Any] = {
    "problem_id": 1,
    "problem": "What is it?",
    "data_type": "image",
    "problem_type": "multiple choice",
    "options": ["A. dog", "B. cat"],
    "solution": "<answer>B</answer>",
    "path": "./images/a.png",
    "data_source": "somewhere",
}


WHEN: dict[str, Any] = {
    "problem_type": "temporal retrieval",
    "problem": "a door opens",
    "data_type": "video",
    "path": "film.mp4",
    "options": [],
}


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
def test_a_row_of_the_r1_sets(
    folder: Path,
    tmp_path: Path,
    item: dict[str, Any],
    options: Any,
    answers: Any,
    kind: str,
    kinds: Any,
    target: str,
) -> None:
    (folder / "rows.json").write_text(json.dumps([{**R1, **item}]))
    prepared(
        tmp_path / "out",
        {"avqa": {"format": "r1", "path": str(folder / "rows.json"), "stages": ["sft"]}},
    )
    (query,) = found(tmp_path / "out").values()
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
def test_when_something_happens_is_an_interval(
    folder: Path, tmp_path: Path, given: dict[str, Any], answer: str, lasts: str
) -> None:
    (folder / "rows.json").write_text(json.dumps([{**R1, **WHEN, **given}]))
    prepared(
        tmp_path / "out",
        {
            "when": {
                "format": "r1",
                "path": str(folder / "rows.json"),
                "stages": ["rlvr", "distill"],
            }
        },
    )
    for stage in ("rlvr", "distill"):
        (query,) = found(tmp_path / "out", stage).values()
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
def test_numbers_in_any_notation_are_numbers(
    folder: Path, tmp_path: Path, form: str, gold: str, answer: str
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
    (folder / "rows.jsonl").write_text(json.dumps(row))
    prepared(tmp_path / "out", {"sums": {**source, "path": str(folder / "rows.jsonl")}})
    (query,) = found(tmp_path / "out").values()
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
    folder: Path, tmp_path: Path, kind: str, gold: str, reply: str, score: float
) -> None:
    row = {**R1, "problem_type": kind, "options": [], "solution": f"<answer>{gold}</answer>"}
    (folder / "rows.jsonl").write_text(json.dumps(row))
    prepared(
        tmp_path / "out",
        {"x": {"format": "r1", "path": str(folder / "rows.jsonl"), "stages": ["rlvr"]}},
    )
    (query,) = found(tmp_path / "out", "rlvr").values()
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
    folder: Path, tmp_path: Path, options: Any, texts: tuple[str, ...]
) -> None:
    (folder / "r1.jsonl").write_text(json.dumps({**R1, "options": options}))
    (folder / "hub.jsonl").write_text(json.dumps({"q": "?", "o": options, "a": "B"}))
    columns = {"question": "q", "options": "o", "answer": "a"}
    training = {
        "objects": {"format": "r1", "path": str(folder / "r1.jsonl"), "stages": ["sft"]},
        "table": {
            "format": "hub",
            "path": str(folder / "hub.jsonl"),
            "stages": ["rlvr"],
            "columns": columns,
        },
    }
    prepared(tmp_path / "out", training)
    for stage in ("sft", "rlvr"):
        (query,) = found(tmp_path / "out", stage).values()
        assert (query.options, query.answer) == (texts, "cat")


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({"label": ["1", "2"], "text": ["dog", "cat"]}, "2"),
        (["A. dog", "B. cat"], "B. cat"),
        (["A. dog", "B. cat"], "cat"),
        (["A. dog", "B. cat"], "(B)"),
        (["dog", "cat"], "b)"),
        (["B", "cat"], "cat"),
    ],
)
def test_answer_may_name_an_option_in_any_form(
    folder: Path, tmp_path: Path, options: Any, answer: str
) -> None:
    (folder / "rows.jsonl").write_text(json.dumps({"q": "?", "o": options, "a": answer}))
    columns = {"question": "q", "options": "o", "answer": "a"}
    prepared(
        tmp_path / "out",
        {
            "arc": {
                "format": "hub",
                "path": str(folder / "rows.jsonl"),
                "stages": ["rlvr"],
                "columns": columns,
            }
        },
    )
    assert [query.answer for query in found(tmp_path / "out", "rlvr").values()] == ["cat"]


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
def test_options_that_are_none_are_listed(
    folder: Path, tmp_path: Path, options: Any, message: str
) -> None:
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in (R1, {**R1, "problem_id": 2, "options": options}))
    )
    prepared(
        tmp_path / "out",
        {"avqa": {"format": "r1", "path": str(folder / "rows.jsonl"), "stages": ["sft"]}},
    )
    assert message in problems(tmp_path / "out")[2, "options"]


@pytest.mark.parametrize("form", ["r1", "hub"])
def test_media_may_have_a_root_of_their_own(folder: Path, tmp_path: Path, form: str) -> None:
    rows = tmp_path / "rows"
    rows.mkdir()
    source: dict[str, Any] = {
        "format": form,
        "path": str(rows / "rows.jsonl"),
        "media": str(folder),
        "stages": ["rlvr"],
    }
    row: dict[str, Any] = {
        **R1,
        "data_type": "image_audio",
        "path": {"image": "images/a.png", "audio": "/audios/a.wav"},
    }
    if form == "hub":
        row = {
            "q": "?",
            "a": "a dog",
            "i": "images/a.png",
            "s": {"bytes": None, "path": "audios/a.wav"},
        }
        source["columns"] = {"question": "q", "answer": "a", "image": "i", "audio": "s"}
    (rows / "rows.jsonl").write_text(json.dumps(row))
    prepared(tmp_path / "out", {"x": source})
    (query,) = found(tmp_path / "out", "rlvr").values()
    for made, path in zip(query.media, ("images/a.png", "audios/a.wav"), strict=True):
        assert (
            made.sha256
            == sha256_file(folder / path)
            == sha256_file(locate_media(made, tmp_path / "out"))
        )
    before = plan_step("prepare", recipe({"x": source}), {}, tmp_path / "out").key
    make_picture(folder / "images" / "c.png", "green", (32, 24))
    assert plan_step("prepare", recipe({"x": source}), {}, tmp_path / "out").key != before


def test_media_root_that_is_none_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "rows.jsonl").write_text(json.dumps(R1))
    source = {
        "format": "r1",
        "path": str(folder / "rows.jsonl"),
        "media": str(tmp_path / "gone"),
        "stages": ["rlvr"],
    }
    field = "prepare.training.x.media"
    with refused(ConfigError, "training-source-media-missing", field=field):
        prepared(tmp_path / "out", {"x": source})


@pytest.mark.parametrize("blank", [None, float("nan"), "", " \n"])
@pytest.mark.parametrize("column", ["question", "answer"])
@pytest.mark.parametrize("kept", ["parquet", "jsonl"])
def test_blank_cells_are_missing_and_never_taught(
    folder: Path, tmp_path: Path, kept: str, column: str, blank: Any
) -> None:
    """NaN is what pandas makes of null."""
    rows = [
        {"question": "Which?", "answer": "cat"},
        {"question": "Which?", "answer": "cat", column: blank},
    ]
    path = folder / f"rows.{kept}"
    if kept == "parquet":
        # The column of such a table is one of floats, where nothing else is in it.
        pq.write_table(pa.Table.from_pylist(rows[1:]), folder / "rows-2.parquet")
        pq.write_table(pa.Table.from_pylist(rows[:1]), folder / "rows-1.parquet")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"question": "question", "answer": "answer"}
    source = {
        "format": "hub",
        "path": str(folder),
        "files": f"rows*.{kept}",
        "stages": ["sft"],
        "columns": columns,
    }
    prepared(tmp_path / "out", {"x": source})
    assert [query.target for query in found(tmp_path / "out").values()] == ["cat"]
    assert [
        (p["field"], p["message"]) for p in read_jsonl(tmp_path / "out" / "problems.jsonl", dict)
    ] == [(column, "is missing")]


def test_whole_numbers_with_a_gap_stay_whole(folder: Path, tmp_path: Path) -> None:
    """Pandas keeps the column as floats."""
    table_of = {"id": [1.0, 2.0], "n": [3.0, 2.5], "question": ["How many?"] * 2}
    pq.write_table(pa.table(table_of), folder / "rows.parquet")
    columns = {"id": "id", "question": "question", "answer": "n"}
    source = {
        "format": "hub",
        "path": str(folder / "rows.parquet"),
        "stages": ["sft"],
        "columns": columns,
    }
    prepared(tmp_path / "out", {"x": source})
    assert {name: query.target for name, query in found(tmp_path / "out").items()} == {
        "1": "3",
        "2": "2.5",
    }


def test_the_sound_of_videos_is_asked_for(folder: Path, tmp_path: Path) -> None:
    (folder / "rows.jsonl").write_text(json.dumps({**R1, "data_type": "video", "path": "film.mp4"}))
    source = {"format": "r1", "path": str(folder / "rows.jsonl"), "stages": ["rlvr"], "sound": True}
    prepared(tmp_path / "out", {"human": source})
    (query,) = found(tmp_path / "out", "rlvr").values()
    assert [m.kind for m in query.media] == ["video", "audio"]
    assert len({m.sha256 for m in query.media}) == 1
    assert query.target is None  # a rollout writes its own reply


def test_mute_video_is_shown_alone_and_counted(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_video(folder / "mute.mp4", 1.0, 8, (64, 48), None)
    film = {**R1, "data_type": "video", "path": "film.mp4"}
    mute = {**film, "path": "mute.mp4"}
    rows = [
        film,
        mute,
        {**mute, "path": {"video": "/mute.mp4"}},
        {**mute, "audio_path": "film.mp4"},
        R1,
    ]
    (folder / "rows.jsonl").write_text(
        "\n".join(json.dumps({**row, "problem_id": i}) for i, row in enumerate(rows))
    )
    source = {"format": "r1", "path": str(folder / "rows.jsonl"), "stages": ["rlvr"], "sound": True}
    summary = prepared(tmp_path / "out", {"human": source})
    shown = {
        name: [m.kind for m in query.media]
        for name, query in found(tmp_path / "out", "rlvr").items()
    }
    both = ["video", "audio"]
    assert shown == {"0": both, "1": ["video"], "2": ["video"], "3": both, "4": ["image"]}
    assert (summary["rlvr"], summary["training_refused"], summary["training_mute"]) == (5, 0, 2)
    assert "prepare.training.human: 2 of 5 rows show a video" in caplog.text


@pytest.mark.parametrize(
    ("spoil", "change", "message"),
    [
        (
            lambda path: make_video(path, 1.0, 8, (64, 48), None),
            {"audio_path": "film.mp4"},
            "audio film.mp4 has no audio track",
        ),
        (
            lambda path: make_video(path, 1.0, 8, (64, 48), None),
            {"data_type": "video_audio"},
            "audio film.mp4 has no audio track",
        ),
        (
            lambda path: path.write_bytes(b""),
            {},
            "video film.mp4 is not a readable video: it is empty",
        ),
        (lambda path: path.write_text("no film"), {}, "video film.mp4 is not a readable video"),
    ],
    ids=["sound named", "sound in the type", "empty", "text"],
)
def test_unreadable_media_of_rows_are_listed(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], Any], change: dict[str, Any], message: str
) -> None:
    spoil(folder / "film.mp4")
    rows = [
        {**R1, "problem_id": 1},
        {**R1, "problem_id": 2, "data_type": "video", "path": "film.mp4", **change},
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = {"format": "r1", "path": str(folder / "rows.jsonl"), "stages": ["rlvr"], "sound": True}
    assert (
        prepared(tmp_path / "out", {"human": source}, "prepare.max_refused=0.5")["training_refused"]
        == 1
    )
    (problem,) = read_jsonl(tmp_path / "out" / "problems.jsonl", Problem)
    assert (problem.benchmark, problem.line, problem.id, problem.field) == (
        "human",
        2,
        "2",
        "media",
    )
    assert message in problem.message
    assert list(found(tmp_path / "out", "rlvr")) == ["1"]


@pytest.mark.parametrize(
    ("item", "field", "message"),
    [
        ({"solution": "B"}, "solution", "holds no <answer>"),
        ({"solution": "<answer>E</answer>"}, "solution", "'E' names none of the 2 options"),
        ({"path": "images/gone.png"}, "path", "image images/gone.png is missing"),
        ({"path": "../out.png"}, "path", "../out.png lies outside"),
        ({"data_type": "image_audio", "path": {"image": "images/a.png"}}, "path", "names no audio"),
        ({"data_type": "hologram"}, "data_type", "'hologram' is none of image, audio, video, text"),
        ({"problem_type": "captioning"}, "problem_type", "has no answer that is judged here"),
        (
            {**WHEN, "solution": "<answer>[1.0, 2.0]; [4.0, 5.0]</answer>"},
            "solution",
            "holds 2 spans of time",
        ),
        (
            {**WHEN, "solution": "<answer>[3.0, 2.0]</answer>"},
            "solution",
            "'[3.0, 2.0]' is not a span of time, as [12.0, 19.0] is",
        ),
        ({**WHEN, "solution": "<answer>[-1.0, 2.0]</answer>"}, "solution", "is not a span of time"),
        ({**WHEN, "solution": "<answer>['a', 'b']</answer>"}, "solution", "is not a span of time"),
        ({**WHEN, "solution": "<answer>soon</answer>"}, "solution", "is not a list"),
        (
            {
                "problem_type": "numerical",
                "options": [],
                "solution": "<answer>two to three</answer>",
            },
            "answer",
            "could not convert",
        ),
        (
            {"problem_type": "numerical", "options": [], "solution": "<answer>12,5</answer>"},
            "answer",
            "could not convert",
        ),
        (
            {
                "problem_type": "numerical",
                "options": [],
                "solution": "<answer>2\\frac{1}{2}</answer>",
            },
            "answer",
            "could not convert",
        ),
        (
            {"problem_type": "numerical", "options": [], "solution": "<answer>inf</answer>"},
            "answer",
            "is not a number",
        ),
        ({"problem": ""}, "question", "at least 1 character"),
        ({"problem": " \n"}, "question", "is blank"),
        ({"problem": None}, "problem", "is missing"),
        ({"solution": None}, "solution", "is missing"),
        ({"problem_type": None}, "problem_type", "is missing"),
        ({"data_type": None}, "data_type", "is missing"),
        (
            {"problem_type": "free-form", "solution": "<answer> </answer>"},
            "solution",
            "holds no <answer>",
        ),
        ({"options": "dog or cat"}, "options", "is not a list"),
        (
            {"solution": "<answer>B</answer> I mean <answer>A</answer>"},
            "target",
            "answers None, not 'cat', as profile.style=letter reads it",
        ),
    ],
)
def test_what_becomes_no_query_is_listed(
    folder: Path, tmp_path: Path, item: dict[str, Any], field: str, message: str
) -> None:
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps(one) + "\n" for one in (R1, {**R1, "problem_id": 2, **item})) + "{\n"
    )
    summary = prepared(
        tmp_path / "out",
        {"avqa": {"format": "r1", "path": str(folder / "rows.jsonl"), "stages": ["sft"]}},
    )
    assert (summary["sft"], summary["training_refused"]) == (1, 2)
    listed = problems(tmp_path / "out")
    assert listed.keys() == {(2, field), (3, "line")}
    assert message in listed[2, field]


def test_replies_in_the_wrong_style_are_refused_with_the_remedy(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "rows.json").write_text(json.dumps([R1]))
    source = {"avqa": {"format": "r1", "path": str(folder / "rows.json"), "stages": ["sft"]}}
    with refused(DataError, "benchmark-too-many-refused") as caught:
        prepared(tmp_path / "out", source, "profile.style=value")
    assert "target: answers None" in str(caught.value)
    assert "profile.style=value" in str(caught.value)


def own(folder: Path, **given: Any) -> Query:
    values = {
        "benchmark": "x",
        "id": "1",
        "type": "t",
        "question": "?",
        "options": ("dog", "cat"),
        "answer": "cat",
        "cluster": "c",
    }
    return Query.model_validate(
        {**values, "media": (medium(folder / "images" / "a.png", "image"),), **given}
    )


def test_rows_in_our_own_schema(folder: Path, tmp_path: Path) -> None:
    """Media are relative to their file; what the row says that they are is held to."""
    mistaken = medium(folder / "images" / "b.png", "image").model_copy(update={"uri": "a.png"})
    rows = [
        own(folder),
        own(folder, id="2", target="B"),
        own(folder, id="3", target="A"),
        own(folder, id="4", media=(mistaken,)),
    ]
    write_jsonl(folder / "images" / "rows.jsonl", rows)
    source = {
        "format": "queries",
        "path": str(folder),
        "files": "images/*.jsonl",
        "stages": ["sft", "distill"],
    }
    summary = prepared(tmp_path / "out", {"mine": source})
    assert {query.id: query.target for query in found(tmp_path / "out").values()} == {
        "1": "B",
        "2": "B",
    }
    assert {query.target for query in found(tmp_path / "out", "distill").values()} == {None}
    assert {query.benchmark for query in found(tmp_path / "out").values()} == {"mine"}
    listed = problems(tmp_path / "out")
    assert listed.keys() == {(3, "target"), (4, "media.0")}
    assert "is another file than the row names" in listed[4, "media.0"]
    assert summary["sft"] == summary["distill"] == 2


COLUMNS = {
    "question": "question",
    "answer": "answer",
    "options": "options",
    "image": "image",
    "audio": "audio",
}


def table(folder: Path, path: Path) -> None:
    """As OmniInstruct_v1 has its columns: media inside the table."""
    picture, sound = (
        (folder / "images" / "a.png").read_bytes(),
        (folder / "audios" / "a.wav").read_bytes(),
    )
    rows = [
        {
            "question": "Which?",
            "options": ["dog", "cat"],
            "answer": "cat",
            "image": {"bytes": picture, "path": None},
        },
        {
            "question": "Which?",
            "options": ["dog", "cat"],
            "answer": "A",
            "audio": {"bytes": sound, "path": "a.wav"},
        },
        {
            "question": "How many?",
            "options": None,
            "answer": "3",
            "image": {"bytes": picture, "path": None},
        },
        {
            "question": "What is said?",
            "options": [],
            "answer": "good day",
            "audio": {"bytes": sound, "path": "a.wav"},
        },
        {
            "question": "Which?",
            "options": ["dog", "cat"],
            "answer": "cow",
            "audio": {"bytes": sound, "path": "a.wav"},
        },
    ]
    whole = [{"image": None, "audio": None, **row} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(whole), path)


def test_a_data_set_of_the_hub_at_its_commit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The download alone is not real: links into a cache of blobs, as the hub's client lays them
    out."""
    snapshot = tmp_path / "cache" / "snapshots" / COMMIT
    table(folder, tmp_path / "cache" / "blobs" / "1")
    (snapshot / "data").mkdir(parents=True)
    (snapshot / "data" / "train-00000-of-00001.parquet").symlink_to(
        tmp_path / "cache" / "blobs" / "1"
    )
    asked: list[tuple[str, str]] = []

    def download(repo: str, *, repo_type: str, revision: str) -> str:
        asked.append((repo, revision))
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    source = {
        "format": "hub",
        "path": "m-a-p/OmniInstruct_v1",
        "revision": COMMIT,
        "files": "data/train-*.parquet",
        "stages": ["sft"],
        "columns": COLUMNS,
    }
    summary = prepared(tmp_path / "out", {"omni": source})
    assert asked == [("m-a-p/OmniInstruct_v1", COMMIT)]
    rows = found(tmp_path / "out")
    told = {
        name: (q.answer_kind.value, q.answer, q.target, tuple(Path(m.uri).suffix for m in q.media))
        for name, q in rows.items()
    }
    assert told == {
        "0": ("choice", "cat", "B", (".png",)),
        "1": ("choice", "dog", "A", (".wav",)),
        "2": ("number", "3", "3", (".png",)),
        "3": ("text", "good day", "good day", (".wav",)),
    }
    assert problems(tmp_path / "out") == {(5, "answer"): "'cow' names none of the 2 options"}
    assert summary["training_refused"] == 1
    assert all(
        sha256_file(locate_media(m, tmp_path / "out")) == m.sha256
        for q in rows.values()
        for m in q.media
    )
    assert not (tmp_path / "out" / "scratch").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"revision": "main"}, "revision"),
        ({"revision": COMMIT[:12]}, "revision"),
        ({"columns": {"question": "q"}}, "format hub needs columns"),
        ({"columns": {**COLUMNS, "picture": "x"}}, "names picture, which is none of"),
        ({"format": "r1"}, "columns are for format hub"),
        ({"stages": []}, "stages"),
        (
            {"format": "queries", "columns": {}, "media": "media"},
            "format queries has its media relative to the file",
        ),
    ],
)
def test_a_source_that_is_not_pinned_or_not_described(given: dict[str, Any], message: str) -> None:
    source = {
        "format": "hub",
        "path": "a/b",
        "revision": COMMIT,
        "files": "*.parquet",
        "stages": ["sft"],
        "columns": COLUMNS,
    }
    with pytest.raises(ValueError, match=message):
        TrainingSource.model_validate({**source, **given})


@pytest.mark.parametrize(
    ("given", "error", "code"),
    [
        ({"path": "a/b"}, ConfigError, "training-source-not-found"),
        ({"path": "{}"}, ConfigError, "training-source-files-missing"),
        ({"path": "{}", "files": "*.json"}, ConfigError, "training-source-files-missing"),
        ({"path": "{}/empty.jsonl"}, DataError, "training-source-empty"),
        ({"path": "{}/broken.json"}, DataError, "annotations-broken-json"),
    ],
)
def test_places_that_hold_no_rows(
    folder: Path, tmp_path: Path, given: dict[str, str], error: type[OmniError], code: str
) -> None:
    (folder / "empty.jsonl").write_text("\n")
    if "broken" in given["path"]:
        (folder / "broken.json").write_text("[{")
    source = {
        "files": "*.jsonl" if given["path"] == "a/b" else "",
        **given,
        "path": given["path"].format(folder),
    }
    with refused(error, code):
        prepared(tmp_path / "out", {"x": {"format": "r1", "stages": ["sft"], **source}})


def test_the_other_stages_keep_their_rows_and_order_follows_the_seed(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "rows.json").write_text(json.dumps([{**R1, "problem_id": i} for i in range(20)]))
    source = {"avqa": {"format": "r1", "path": str(folder / "rows.json"), "stages": ["rlvr"]}}
    orders = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepared(tmp_path / name, source, f"seed={seed}")
        orders.append(list(found(tmp_path / name, "rlvr")))
        assert {query.benchmark for query in found(tmp_path / name, "sft").values()} == {"sft"}
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_a_changed_file_is_another_result(folder: Path, tmp_path: Path) -> None:
    path = folder / "rows.json"
    path.write_text(json.dumps([R1]))
    made = recipe({"avqa": {"format": "r1", "path": str(path), "stages": ["sft"]}})
    before = plan_step("prepare", made, {}, tmp_path / "out").key
    assert plan_step("prepare", made, {}, tmp_path / "out").key == before
    path.write_text(json.dumps([R1, {**R1, "problem_id": 2}]))
    assert plan_step("prepare", made, {}, tmp_path / "out").key != before
