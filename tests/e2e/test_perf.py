"""The scripts of perf/ at their smallest: they run, and what they print is counted, not timed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from omnicore.recipe import load_recipe
from omnicore.training.parts import part_of
from perf import training
from perf.gpu import training as gpu


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


@pytest.mark.slow
def test_training_on_a_device_is_measured_part_by_part(tmp_path: Path) -> None:
    small = ["sft.batch=4", "sft.steps=4", "rlvr.prompts=2", "rlvr.group=2", "rlvr.steps=2", "rlvr.beta=0.1", "threads=1"]
    head, *lines = gpu.table("tiny", load_recipe("tiny", small), tmp_path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d, .+, size tiny, ceiling \d+\.\d\d TFLOP/s", head)
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in lines if line.startswith(("| sft", "| rlvr"))}
    assert list(rows) == ["sft, all weights, float32, batch 4", "sft, LoRA, float32, batch 4", "rlvr, transformers, 2 x 2"]
    step, rollouts, logprobs, update = (float(cell.split()[0]) for cell in rows["rlvr, transformers, 2 x 2"][:4])
    assert min(rollouts, logprobs, update) > 0
    assert step == pytest.approx(rollouts + logprobs + update, abs=0.002)


def test_true_dimensions_are_those_of_a_3b_thinker() -> None:
    model, encoder = gpu.build("3b", torch.bfloat16, "meta")  # shapes without memory
    weights = {name: p.numel() for name, p in model.named_parameters()}
    language = sum(count for name, count in weights.items() if part_of(name) == "language")
    assert language == 3_085_938_688 + 151_936 * 2_048  # those of Qwen2.5-3B, and a head that is not tied
    assert len(encoder.suppressed) > 151_000
