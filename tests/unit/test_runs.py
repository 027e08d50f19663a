"""Steps of a run on disk: found, named by stage, removed and pruned."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

from omnicore.errors import ConfigError, DataError, StepBusy
from omnicore.lineage.runs import differing_settings, find_steps, prune, remove
from omnicore.lineage.step_record import write_step
from omnicore.storage.digests import KEY_FILE
from tests.errors import refused


def finish(folder: Path, section: str, key: str, step: str = "", **fields: Any) -> Path:
    """Write a finished output as `run_step` does."""
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(key))
    config = fields.pop("config", {})
    record = {
        "step": step or section,
        "section": section,
        "key": key,
        "config": config,
        "decides": {"section": section, "config": config, "seed": 0},
        "input_keys": {},
        "started": "2026-01-01T00:00:00+00:00",
        "seconds": 2.0,
        "summary": {"queries": 3},
    }
    write_step(folder, record | fields)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose outputs are linked from its cache, with one superseded entry and one interrupted."""
    root = tmp_path / "demo"
    finish(root / "cache" / "sft-a", "sft", "a", config={"steps": 45, "mixture": {"by": "type"}})
    finish(root / "outputs" / "x" / "sft", "sft", "a", config={"steps": 45})
    finish(root / "cache" / "rlvr-b", "rlvr", "b", config={"control": "random"})
    finish(root / "outputs" / "x" / "rlvr", "rlvr", "b", config={"control": "random"})
    for number, key in enumerate("ab"):
        place = root / "outputs" / "x" / f"evaluate-{number}"
        finish(place, "evaluate", f"e{key}", input_keys={"model": key})
    finish(root / "outputs" / "x" / "evaluate", "evaluate", "e0", input_keys={"queries": "q"})
    finish(root / "cache" / "sft-old", "sft", "old", config={"steps": 4})
    begun = root / "cache" / "distill-c"
    begun.mkdir()
    decides = {"step": "distill", "section": "distill", "config": {"samples": 2}, "seed": 0}
    (begun / KEY_FILE).write_text(f"c\n{json.dumps(decides)}")
    (begun / "replies.journal").write_text("[]\n")
    (root / "cache" / "sft-a.lock").touch()
    return root


def hold(path: Path) -> Any:
    lock = path.with_name(path.name + ".lock").open("a")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def test_steps_are_named_by_section_and_stage(run: Path) -> None:
    found = {step.name: step for step in find_steps(run)}
    assert set(found) == {
        "sft-a",
        "sft-old",
        "rlvr-random",
        "evaluate-base",
        "evaluate-sft",
        "evaluate-rlvr-random",
        "distill",
    }
    assert found["sft-a"].path == run / "outputs" / "x" / "sft"
    assert found["evaluate-sft"].figures == {"queries": 3}
    assert found["sft-a"].seconds == 2.0


def test_unfinished_work_is_interrupted_or_running(run: Path) -> None:
    assert find_steps(run)[-1].state == "interrupted"
    assert find_steps(run)[-1].settings == {"samples": 2, "seed": 0}
    with hold(run / "cache" / "distill-c"):
        assert find_steps(run)[-1].state == "running"


def test_only_settings_that_differ_are_shown(run: Path) -> None:
    differing = differing_settings(find_steps(run))
    assert differing["sft-a"] == {"steps": 45}
    assert differing["sft-old"] == {"steps": 4}
    assert differing["rlvr-random"] == {}


def test_a_removed_step_leaves_no_link(run: Path) -> None:
    gone = remove(run, ["sft-a"])
    assert sorted(gone) == [run / "cache" / "sft-a", run / "outputs" / "x" / "sft"]
    assert not any(path.exists() for path in gone)
    assert not (run / "cache" / "sft-a.lock").exists()
    assert "rlvr-random" in {step.name for step in find_steps(run)}


def test_a_step_at_work_is_not_removed(run: Path) -> None:
    with hold(run / "outputs" / "x" / "rlvr"), refused(StepBusy, "runs-step-busy"):
        remove(run, ["sft-a", "rlvr-random"])
    assert (run / "cache" / "sft-a").is_dir()


def test_an_unknown_step_names_those_that_exist(run: Path) -> None:
    with refused(ConfigError, "runs-unknown-step", field="evaluate-final") as caught:
        remove(run, ["evaluate-final"])
    assert "evaluate-rlvr-random" in str(caught.value)


def test_prune_keeps_what_outputs_and_resumes_need(run: Path) -> None:
    gone = prune(run)
    assert sorted(gone) == [run / "cache" / "sft-a.lock", run / "cache" / "sft-old"]
    assert {step.name for step in find_steps(run)} >= {"sft", "rlvr-random", "distill"}


def test_prune_keeps_a_lock_that_is_held(run: Path) -> None:
    with hold(run / "cache" / "sft-a"):
        assert run / "cache" / "sft-a.lock" not in prune(run)


def test_a_missing_run_is_named(tmp_path: Path) -> None:
    with refused(DataError, "runs-missing", path=tmp_path / "absent"):
        find_steps(tmp_path / "absent")


def test_a_damaged_step_file_is_left_out(run: Path) -> None:
    broken = run / "outputs" / "x" / "evaluate" / "step.json"
    os.truncate(broken, 20)
    assert "evaluate-base" not in {step.name for step in find_steps(run)}


def test_inputs_come_before_what_used_them(tmp_path: Path) -> None:
    """All begin within the same second, and the folder's order is the reverse."""
    finish(tmp_path / "a", "clean", "c", input_keys={"draws": "p"})
    finish(tmp_path / "b", "probe", "p", input_keys={"queries": "q"})
    finish(tmp_path / "c", "prepare", "q")
    assert [step.name for step in find_steps(tmp_path)] == ["prepare", "probe", "clean"]
