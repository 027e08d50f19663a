"""Results of a run as data frames: right rows, documented columns."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import pytest

from omnicore.errors import ConfigError, DataError
from omnicore.evaluation.frames import Run, load_run
from omnicore.lineage.step_record import write_step
from omnicore.schema import Draw
from omnicore.storage.files import read_json, write_json, write_jsonl
from tests.errors import refused
from tests.unit.evaluate_fixture import evaluated, inputs


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Two evaluations of 13 queries, four of them right in one and five in the other."""
    given = inputs(tmp_path)
    worse = evaluated(tmp_path / "worse", {"daily_omni 02": "A"}, given, monkeypatch)
    # The stub's replies do not enter the key; an evaluation of another model has another key.
    write_json(worse / "step.json", read_json(worse / "step.json") | {"key": "another"})
    evaluated(tmp_path / "better", {}, given, monkeypatch)
    probe = tmp_path / "probe"
    draw = {
        "benchmark": "elm",
        "id": "00",
        "view": "visual_only",
        "draw": 0,
        "permutation": [1, 0, 2],
        "reply": "A",
        "answer": "cat",
        "outcome": "correct",
    }
    probe.mkdir()
    write_jsonl(probe / "draws.jsonl", [Draw.model_validate(draw)])
    record = {"step": "probe", "section": "probe", "key": "p", "seconds": 0, "summary": {}}
    write_step(probe, record)
    trained = tmp_path / "rlvr"
    trained.mkdir()
    curve = {"step": 1, "loss": 0.5, "by_modality": {"omni": {"reward": 0.25}}}
    write_jsonl(trained / "curves.jsonl", [curve])
    write_step(trained, record | {"step": "rlvr", "section": "rlvr", "key": "r"})
    return load_run(tmp_path)


def test_scores_equal_the_share_of_right_items(run: Run) -> None:
    scores = run.scores()
    items = run.items()
    shown = items[items["view"] == "omni"]
    for name in ("raw", "clean"):
        chosen = shown if name == "raw" else shown[shown["kept"].astype(bool)]
        for step, group in chosen.groupby("step"):
            overall = scores[(scores["view"] == name) & (scores["level"] == "micro")]
            figure = overall[overall["step"] == step]
            assert figure["value"].item() == pytest.approx(group["correct"].mean())
            assert figure["n"].item() == len(group)
    assert shown.groupby("step")["correct"].sum().nunique() == 2


def test_verdicts_carry_the_policy_and_what_is_kept(run: Run) -> None:
    verdicts = run.verdicts()
    removed = verdicts[~verdicts["kept"]]
    assert set(zip(removed["benchmark"], removed["id"], strict=True)) == {
        ("daily_omni", "00"),
        ("daily_omni", "01"),
        ("elm", "00"),
    }
    assert set(verdicts["policy"]) == {"repeated"}


def test_draws_and_curves_are_one_row_each(run: Run) -> None:
    assert run.draws()[["step", "reply", "correct"]].to_dict("records") == [
        {"step": "probe", "reply": "A", "correct": True}
    ]
    curves = run.curves()
    assert curves["by_modality.omni.reward"].tolist() == [0.25]
    assert curves["training"].tolist() == ["rlvr"]


def test_queries_have_the_columns_of_the_schema(run: Run) -> None:
    assert len(run.queries()) == 13
    assert run.queries()["question"].iloc[0] == "daily_omni 00?"


@pytest.mark.parametrize("name", ["scores", "items", "verdicts"])
def test_documented_columns_exist(run: Run, name: str) -> None:
    documented = inspect.getdoc(getattr(Run, name)) or ""
    lines = documented.split("Columns:")[1].splitlines()
    listed = [re.match(r"\s+([\w, ]+):", line) for line in lines]
    names = {one for match in listed if match for one in match[1].split(", ")}
    assert names <= set(getattr(run, name)().columns)
    assert len(names) >= 7


def test_an_empty_frame_keeps_its_columns(tmp_path: Path) -> None:
    (tmp_path / "prepare").mkdir()
    record = {"step": "prepare", "section": "prepare", "key": "k", "seconds": 0, "summary": {}}
    write_step(tmp_path / "prepare", record)
    assert "value" in load_run(tmp_path).scores().columns


def test_a_folder_without_a_step_is_refused(tmp_path: Path) -> None:
    with refused(DataError, "runs-no-finished-step", path=tmp_path):
        load_run(tmp_path)


def test_missing_pandas_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with refused(ConfigError, "pandas-missing"):
        run.scores()
