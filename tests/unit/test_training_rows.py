"""Training sources: places, media roots, replies, stages and refused rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omnicore.data.benchmarks.records import Problem
from omnicore.errors import ConfigError, DataError, OmniError
from omnicore.media.read import locate_media
from omnicore.runtime.keys import plan_step
from omnicore.schema import Query
from omnicore.storage.digests import sha256_file
from omnicore.storage.files import read_jsonl, write_jsonl
from tests.errors import refused
from tests.media_files import make_picture, make_video, medium
from tests.unit.training_rows_fixture import (
    R1,
    TEMPORAL,
    prepared,
    problems,
    recipe,
    training_queries,
)


@pytest.mark.parametrize("form", ["r1", "hub"])
def test_media_may_have_another_root(source_folder: Path, tmp_path: Path, form: str) -> None:
    rows = tmp_path / "rows"
    rows.mkdir()
    source: dict[str, Any] = {
        "format": form,
        "path": str(rows / "rows.jsonl"),
        "media": str(source_folder),
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
    (query,) = training_queries(tmp_path / "out", "rlvr").values()
    for made, path in zip(query.media, ("images/a.png", "audios/a.wav"), strict=True):
        assert (
            made.sha256
            == sha256_file(source_folder / path)
            == sha256_file(locate_media(made, tmp_path / "out"))
        )
    before = plan_step("prepare", recipe({"x": source}), {}, tmp_path / "out").key
    make_picture(source_folder / "images" / "c.png", "green", (32, 24))
    assert plan_step("prepare", recipe({"x": source}), {}, tmp_path / "out").key != before


def test_missing_media_root_is_refused(source_folder: Path, tmp_path: Path) -> None:
    (source_folder / "rows.jsonl").write_text(json.dumps(R1))
    source = {
        "format": "r1",
        "path": str(source_folder / "rows.jsonl"),
        "media": str(tmp_path / "gone"),
        "stages": ["rlvr"],
    }
    field = "prepare.training.x.media"
    with refused(ConfigError, "training-source-media-missing", field=field):
        prepared(tmp_path / "out", {"x": source})


def test_sound_of_videos_is_shown_if_requested(source_folder: Path, tmp_path: Path) -> None:
    (source_folder / "rows.jsonl").write_text(
        json.dumps({**R1, "data_type": "video", "path": "film.mp4"})
    )
    source = {
        "format": "r1",
        "path": str(source_folder / "rows.jsonl"),
        "stages": ["rlvr"],
        "sound": True,
    }
    prepared(tmp_path / "out", {"human": source})
    (query,) = training_queries(tmp_path / "out", "rlvr").values()
    assert [m.kind for m in query.media] == ["video", "audio"]
    assert len({m.sha256 for m in query.media}) == 1
    assert query.target is None  # a rollout writes its own reply


def test_video_without_sound_is_counted(
    source_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_video(source_folder / "mute.mp4", 1.0, 8, (64, 48), None)
    film = {**R1, "data_type": "video", "path": "film.mp4"}
    mute = {**film, "path": "mute.mp4"}
    rows = [
        film,
        mute,
        {**mute, "path": {"video": "/mute.mp4"}},
        {**mute, "audio_path": "film.mp4"},
        R1,
    ]
    (source_folder / "rows.jsonl").write_text(
        "\n".join(json.dumps({**row, "problem_id": i}) for i, row in enumerate(rows))
    )
    source = {
        "format": "r1",
        "path": str(source_folder / "rows.jsonl"),
        "stages": ["rlvr"],
        "sound": True,
    }
    summary = prepared(tmp_path / "out", {"human": source})
    shown = {
        name: [m.kind for m in query.media]
        for name, query in training_queries(tmp_path / "out", "rlvr").items()
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
    source_folder: Path,
    tmp_path: Path,
    spoil: Callable[[Path], Any],
    change: dict[str, Any],
    message: str,
) -> None:
    spoil(source_folder / "film.mp4")
    rows = [
        {**R1, "problem_id": 1},
        {**R1, "problem_id": 2, "data_type": "video", "path": "film.mp4", **change},
    ]
    (source_folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = {
        "format": "r1",
        "path": str(source_folder / "rows.jsonl"),
        "stages": ["rlvr"],
        "sound": True,
    }
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
    assert list(training_queries(tmp_path / "out", "rlvr")) == ["1"]


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
            {**TEMPORAL, "solution": "<answer>[1.0, 2.0]; [4.0, 5.0]</answer>"},
            "solution",
            "holds 2 spans of time",
        ),
        (
            {**TEMPORAL, "solution": "<answer>[3.0, 2.0]</answer>"},
            "solution",
            "'[3.0, 2.0]' is not a span of time, as [12.0, 19.0] is",
        ),
        (
            {**TEMPORAL, "solution": "<answer>[-1.0, 2.0]</answer>"},
            "solution",
            "is not a span of time",
        ),
        (
            {**TEMPORAL, "solution": "<answer>['a', 'b']</answer>"},
            "solution",
            "is not a span of time",
        ),
        ({**TEMPORAL, "solution": "<answer>soon</answer>"}, "solution", "is not a list"),
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
def test_refused_rows_are_listed(
    source_folder: Path, tmp_path: Path, item: dict[str, Any], field: str, message: str
) -> None:
    (source_folder / "rows.jsonl").write_text(
        "".join(json.dumps(one) + "\n" for one in (R1, {**R1, "problem_id": 2, **item})) + "{\n"
    )
    summary = prepared(
        tmp_path / "out",
        {"avqa": {"format": "r1", "path": str(source_folder / "rows.jsonl"), "stages": ["sft"]}},
    )
    assert (summary["sft"], summary["training_refused"]) == (1, 2)
    listed = problems(tmp_path / "out")
    assert listed.keys() == {(2, field), (3, "line")}
    assert message in listed[2, field]


def test_replies_in_another_style_are_refused(source_folder: Path, tmp_path: Path) -> None:
    (source_folder / "rows.json").write_text(json.dumps([R1]))
    source = {"avqa": {"format": "r1", "path": str(source_folder / "rows.json"), "stages": ["sft"]}}
    with refused(DataError, "benchmark-too-many-refused") as caught:
        prepared(tmp_path / "out", source, "profile.style=value")
    assert "target: answers None" in str(caught.value)
    assert "profile.style=value" in str(caught.value)


def own(source_folder: Path, **given: Any) -> Query:
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
        {**values, "media": (medium(source_folder / "images" / "a.png", "image"),), **given}
    )


def test_rows_in_our_own_schema(source_folder: Path, tmp_path: Path) -> None:
    """Media are relative to their file; what the row says that they are is held to."""
    mistaken = medium(source_folder / "images" / "b.png", "image").model_copy(
        update={"uri": "a.png"}
    )
    rows = [
        own(source_folder),
        own(source_folder, id="2", target="B"),
        own(source_folder, id="3", target="A"),
        own(source_folder, id="4", media=(mistaken,)),
    ]
    write_jsonl(source_folder / "images" / "rows.jsonl", rows)
    source = {
        "format": "queries",
        "path": str(source_folder),
        "files": "images/*.jsonl",
        "stages": ["sft", "distill"],
    }
    summary = prepared(tmp_path / "out", {"mine": source})
    assert {query.id: query.target for query in training_queries(tmp_path / "out").values()} == {
        "1": "B",
        "2": "B",
    }
    assert {query.target for query in training_queries(tmp_path / "out", "distill").values()} == {
        None
    }
    assert {query.benchmark for query in training_queries(tmp_path / "out").values()} == {"mine"}
    listed = problems(tmp_path / "out")
    assert listed.keys() == {(3, "target"), (4, "media.0")}
    assert "is another file than the row names" in listed[4, "media.0"]
    assert summary["sft"] == summary["distill"] == 2


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
def test_sources_without_rows_are_refused(
    source_folder: Path, tmp_path: Path, given: dict[str, str], error: type[OmniError], code: str
) -> None:
    (source_folder / "empty.jsonl").write_text("\n")
    if "broken" in given["path"]:
        (source_folder / "broken.json").write_text("[{")
    source = {
        "files": "*.jsonl" if given["path"] == "a/b" else "",
        **given,
        "path": given["path"].format(source_folder),
    }
    with refused(error, code):
        prepared(tmp_path / "out", {"x": {"format": "r1", "stages": ["sft"], **source}})


def test_other_stages_keep_rows_in_seeded_order(source_folder: Path, tmp_path: Path) -> None:
    (source_folder / "rows.json").write_text(
        json.dumps([{**R1, "problem_id": i} for i in range(20)])
    )
    source = {
        "avqa": {"format": "r1", "path": str(source_folder / "rows.json"), "stages": ["rlvr"]}
    }
    orders = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepared(tmp_path / name, source, f"seed={seed}")
        orders.append(list(training_queries(tmp_path / name, "rlvr")))
        assert {query.benchmark for query in training_queries(tmp_path / name, "sft").values()} == {
            "sft"
        }
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_changed_file_changes_the_key(source_folder: Path, tmp_path: Path) -> None:
    path = source_folder / "rows.json"
    path.write_text(json.dumps([R1]))
    made = recipe({"avqa": {"format": "r1", "path": str(path), "stages": ["sft"]}})
    before = plan_step("prepare", made, {}, tmp_path / "out").key
    assert plan_step("prepare", made, {}, tmp_path / "out").key == before
    path.write_text(json.dumps([R1, {**R1, "problem_id": 2}]))
    assert plan_step("prepare", made, {}, tmp_path / "out").key != before
