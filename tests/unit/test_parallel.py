"""What ZeRO asks of a forward pass, and, where DeepSpeed is installed (`make test-zero`), two
processes under it against one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from omnicore.config import SftConfig
from omnicore.config.recipe import Recipe, load_recipe
from omnicore.errors import ConfigError
from omnicore.lineage.step_record import read_step
from omnicore.runtime.run import run_step
from omnicore.training.checkpoints import DIRECTORY
from tests.errors import refused
from tests.forks import in_a_fork
from tests.unit.test_ranks import alike
from tests.unit.test_trainable_modules import rows_of
from tests.unit.training_fixture import SMALL, data, inputs

__all__ = ["data", "inputs"]


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global collate, parallel, torch

    import torch

    from omnicore.models.processor import collate
    from omnicore.training import parallel


needs_deepspeed = pytest.mark.skipif(
    not find_spec("deepspeed"), reason="DeepSpeed is not installed: make test-zero"
)

# A row of each process at a time, one with a sound and no picture, the other with a picture and no sound.
APART = "sft.mixture={by: modality, weights: {vision: 1, audio: 1}}"
TRAINING = {
    "sft": ["sft.train_batch_size=4", "sft.per_device_train_batch_size=1", APART],
    "rlvr": ["rlvr.prompts_per_step=4", "rlvr.num_generations=4", "rlvr.beta=0.2"],
}


def test_gradients_come_in_one_order_for_all_media(
    prepared: Path, encoder: Any, random_model: Any, small_recipe: Recipe
) -> None:
    by_type = {row.query.type: row for row in rows_of(prepared, encoder, small_recipe, "sft")}
    shown = {
        "text": [(encoder.prompt(["Well?"]), encoder.reply_ids("no"))],
        **{kind: [(by_type[kind].prompt, by_type[kind].reply)] for kind in ("picture", "speech")},
        "both": [(by_type[kind].prompt, by_type[kind].reply) for kind in ("speech", "picture")],
    }
    assert [bool(by_type[kind].prompt.media) for kind in ("picture", "speech")] == [True, True]
    order: list[str] = []
    for name, parameter in random_model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: order.append(name))

    def passed(rows: list[Any]) -> tuple[list[str], dict[str, torch.Tensor], float]:
        order.clear()
        random_model.zero_grad()
        prompts, replies = zip(*rows, strict=True)
        loss = random_model(**collate(prompts, replies, encoder.pad_id)).loss
        loss.backward()
        return (
            [*order],
            {
                name: p.grad.clone()
                for name, p in random_model.named_parameters()
                if p.grad is not None
            },
            loss.item(),
        )

    before = {kind: passed(rows) for kind, rows in shown.items()}
    assert before["picture"][0] != before["speech"][0]
    parallel.run_both_encoders(random_model)
    after = {kind: passed(rows) for kind, rows in shown.items()}
    for kind, (went, gradients, loss) in after.items():
        assert went == before["both"][0]
        assert loss == before[kind][2]
        for name, gradient in gradients.items():
            expected = before[kind][1].get(name)
            assert torch.equal(
                gradient, torch.zeros_like(gradient) if expected is None else expected
            ), name


@pytest.mark.parametrize(
    ("world", "code"),
    [(1, "recipe-zero-needs-processes"), (2, "package-missing")],
)
def test_zero_that_cannot_run_is_refused(
    monkeypatch: pytest.MonkeyPatch, world: int, code: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world))
    monkeypatch.setattr(parallel, "find_spec", lambda _: None)
    with refused(ConfigError, code, field="parallel"):
        parallel.check_parallel(SftConfig(data="sft.jsonl", parallel="zero2"))
    parallel.check_parallel(SftConfig(data="sft.jsonl"))


def torchrun(
    step: str, sets: list[str], given: dict[str, Path], output: Path
) -> subprocess.Popen[bytes]:
    """As the guide shows it; DeepSpeed compiles its CPU part first, where it has not yet.

    A pipe of stderr that nobody reads would stop it.
    """
    command = [
        sys.executable,
        *"-m torch.distributed.run --standalone --nproc-per-node 2 --max-restarts 1".split(),
    ]
    command += ["-m", "omnicore", step]
    command += [word for change in [*SMALL, *sets] for word in ("--set", change)]
    command += [word for role, path in given.items() for word in ("--input", f"{role}={path}")]
    with output.with_suffix(".said").open("w") as said:
        return subprocess.Popen([*command, "--output", str(output)], stderr=said)


def ended_well(process: subprocess.Popen[bytes], output: Path) -> str:
    """What it said on stderr."""
    status, said = process.wait(timeout=900), output.with_suffix(".said").read_text()
    assert status == 0, said
    return said


@needs_deepspeed
@pytest.mark.parametrize("stage", ["zero2", "zero3"])
@pytest.mark.parametrize("step", TRAINING)
def test_two_zero_processes_equal_one(
    inputs: dict[str, dict[str, Path]], tmp_path: Path, step: str, stage: str
) -> None:
    one, two, lost = tmp_path / "one", tmp_path / "two", tmp_path / "lost"
    sets = [
        f"{step}.{change}"
        for change in ("steps=4", "warmup_steps=1", "learning_rate=1e-3", "save_steps=2")
    ] + TRAINING[step]
    assert (
        in_a_fork(lambda: run_step(step, load_recipe("tiny", [*SMALL, *sets]), inputs[step], one))
        == 0
    )
    sets.append(f"{step}.parallel={stage}")
    ended_well(torchrun(step, sets, inputs[step], two), two)
    alike(one, two)

    # A process that is lost costs the steps since the last checkpoint, and nothing else.
    process = torchrun(step, sets, inputs[step], lost)
    while not (lost / DIRECTORY / "step-000002").exists():
        assert process.poll() is None, ended_well(process, lost)
        time.sleep(0.01)
    _, second = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(second), signal.SIGKILL)
    assert ended_well(process, lost).count("step-000002: training resumes after step 2\n") == 1
    assert read_step(lost)["digest"] == read_step(two)["digest"]
