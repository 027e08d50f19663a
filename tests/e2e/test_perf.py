"""The scripts of perf/ at their smallest: they run, and what they print is counted, not timed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from omnicore.config.recipe import load_recipe


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global gpu, module_group, swift, torch, training

    import torch

    from omnicore.training.trainable_modules import module_group
    from perf import swift, training
    from perf.gpu import training as gpu


@pytest.mark.slow
def test_training_steps_are_compared_with_trls_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(
        "tiny",
        [
            "prepare.scale=0.05",
            "threads=1",
            "rlvr.prompts_per_step=2",
            "rlvr.num_generations=2",
            "sft.train_batch_size=4",
        ],
    )
    lines = training.table(recipe, rounds=1, steps=3, root=tmp_path)
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith(("| rlvr", "| sft"))]
    assert [row[0] for row in rows] == [
        "rlvr, pictures, verified",
        "rlvr, pictures, random",
        "sft, batch 4",
        "sft, published padding",
    ]
    assert [row[-1] for row in rows[:2]] == ["2 and 2"] * 2
    for _, ours, theirs, ratio, *_ in rows:
        seconds = [float(cell.split()[0]) for cell in (ours, theirs)]
        assert float(ratio) == pytest.approx(seconds[1] / seconds[0], rel=0.1)
    assert re.fullmatch(r"waiting for rows after the first epoch: \d+\.\d% of a step", lines[-1])


@pytest.mark.slow
def test_training_on_a_device_is_measured_part_by_part(tmp_path: Path) -> None:
    small = [
        "sft.train_batch_size=4",
        "sft.steps=4",
        "rlvr.prompts_per_step=2",
        "rlvr.num_generations=2",
        "rlvr.steps=2",
        "rlvr.beta=0.1",
        "threads=1",
    ]
    head, *lines = gpu.table("tiny", load_recipe("tiny", small), tmp_path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d, .+, size tiny, ceiling \d+\.\d\d TFLOP/s", head)
    rows = {
        line.split(" | ")[0].strip("| "): line.split(" | ")[1:]
        for line in lines
        if line.startswith(("| sft", "| rlvr"))
    }
    assert list(rows) == [
        "sft, all weights, float32, batch 4",
        "sft, LoRA, float32, batch 4",
        "rlvr, transformers, 2 x 2",
    ]
    step, rollouts, logprobs, update = (
        float(cell.split()[0]) for cell in rows["rlvr, transformers, 2 x 2"][:4]
    )
    assert min(rollouts, logprobs, update) > 0
    assert step == pytest.approx(rollouts + logprobs + update, abs=0.002)


def test_true_dimensions_are_those_of_a_3b_thinker() -> None:
    model, encoder = gpu.build("3b", torch.bfloat16, "meta")  # shapes without memory
    weights = {name: p.numel() for name, p in model.named_parameters()}
    language = sum(count for name, count in weights.items() if module_group(name) == "language")
    assert (
        language == 3_085_938_688 + 151_936 * 2_048
    )  # those of Qwen2.5-3B, and a head that is not tied
    assert len(encoder.suppressed) > 151_000


SWIFT = """#!{python}
import json, sys
given = dict(zip(sys.argv[2::2], sys.argv[3::2]))
rows = [json.loads(line) for line in open(given["--dataset"])]
assert all(row["messages"][0]["content"].count("<audio>") == len(row["audios"]) == len(row["images"]) == 1 for row in rows)
assert all(open(name, "rb").read() for row in rows for name in row["audios"] + row["images"])
assert open(given["--model"] + "/config.json").read() and "class Exact(ORM)" in open(given["--external_plugins"]).read()
import pathlib
out = pathlib.Path(given["--output_dir"]) / "v0"
out.mkdir(parents=True)
steps = [json.dumps({{"step_time": 100.0 * number}}) for number in range(int(given["--max_steps"]))]
(out / "logging.jsonl").write_text("\\n".join([*steps, json.dumps({{"train_runtime": 1}})]))
"""


@pytest.mark.slow
def test_ms_swift_is_given_the_same_rows_and_its_steps_are_read(tmp_path: Path) -> None:
    """A stand-in for `swift`, which lives in an environment of its own."""
    program = tmp_path / "swift"
    program.write_text(SWIFT.format(python=sys.executable))
    program.chmod(0o755)
    rows = [
        line.strip("| ").split(" | ")
        for line in swift.table(program, rounds=1, steps=2, scale=0.05)[2:]
    ]
    assert [(row[0], row[3]) for row in rows] == [
        ("verified", "1"),
        ("random", "1"),
        ("ms-swift", "1"),
    ]
    assert rows[2][1:3] == ["100.00 s", "1.00"]
