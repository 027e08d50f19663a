"""The scripts of perf/ at their smallest: they run, and what they print is counted, not timed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from omnicore.recipe import load_recipe
from perf import training


@pytest.mark.slow
def test_training_steps_are_compared_with_trls_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load_recipe("tiny", ["prepare.scale=0.05", "threads=1", "rlvr.prompts=2", "rlvr.group=2", "sft.batch=16"])
    lines = training.table(recipe, rounds=1, steps=3, root=tmp_path)
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith(("| rlvr", "| sft"))]
    assert [row[0] for row in rows] == [
        "rlvr, pictures, verified",
        "rlvr, pictures, coin",
        "sft, batch 16",
        "sft, published padding",
    ]
    assert [row[-1] for row in rows[:2]] == ["2 and 2"] * 2
    assert all(float(ratio) > 0 for row in rows for ratio in row[3:5])
    assert re.fullmatch(r"waiting for rows after the first epoch: \d+\.\d% of a step", lines[-1])
