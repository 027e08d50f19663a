"""What ZeRO asks of a forward pass, and, where DeepSpeed is installed (`make test-zero`), two processes under it against one."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from omnicore.config import SftConfig
from omnicore.errors import ConfigError
from omnicore.models.processor import collate
from omnicore.recipe import Recipe, load_recipe
from omnicore.run import run_step
from omnicore.training import parallel
from tests.forks import in_a_fork
from tests.unit.test_parts import rows_of
from tests.unit.test_ranks import alike
from tests.unit.training_fixture import SMALL, data, inputs

__all__ = ["data", "inputs"]

needs_deepspeed = pytest.mark.skipif(not find_spec("deepspeed"), reason="DeepSpeed is not installed: make test-zero")

# A row of each process at a time, one with a sound and no picture, the other with a picture and no sound.
APART = "sft.mixture={by: modality, weights: {vision: 1, audio: 1}}"
TRAINING = {
    "sft": ["sft.batch=4", "sft.micro_batch=1", APART],
    "rlvr": ["rlvr.prompts=4", "rlvr.group=4", "rlvr.beta=0.2"],
}


def test_gradients_come_in_one_order_whatever_a_batch_shows(
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
        return [*order], {name: p.grad.clone() for name, p in random_model.named_parameters() if p.grad is not None}, loss.item()

    before = {kind: passed(rows) for kind, rows in shown.items()}
    assert before["picture"][0] != before["speech"][0]
    parallel.both_towers(random_model)
    after = {kind: passed(rows) for kind, rows in shown.items()}
    for kind, (went, gradients, loss) in after.items():
        assert went == before["both"][0]
        assert loss == before[kind][2]
        for name, gradient in gradients.items():
            expected = before[kind][1].get(name)
            assert torch.equal(gradient, torch.zeros_like(gradient) if expected is None else expected), name


@pytest.mark.parametrize(
    ("world", "message"),
    [
        (1, "parallel=zero2 shares out among processes and there is one: start several with torchrun"),
        (2, r"parallel=zero2 needs DeepSpeed: pip install 'omnicore\[gpu\]', or set parallel=ddp"),
    ],
)
def test_zero_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, world: int, message: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world))
    monkeypatch.setattr(parallel, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=message):
        parallel.check(SftConfig(data="sft.jsonl", parallel="zero2"))
    parallel.check(SftConfig(data="sft.jsonl"))


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            ["sft.parallel=zero2", "sft.checkpoint_every=5"],
            "parallel=zero2 writes no checkpoints yet: set checkpoint_every=0, or parallel=ddp",
        ),
        (
            ["rlvr.parallel=zero3", "rlvr.checkpoint_every=0"],
            "shares out the weights that rollouts come from: set parallel=zero2, or ddp",
        ),
    ],
)
def test_what_zero_does_not_do_is_refused_with_the_recipe(sets: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("tiny", sets)


def torchrun(step: str, sets: list[str], given: dict[str, Path], output: Path) -> None:
    """As the guide shows it; DeepSpeed compiles its CPU part first, where it has not yet."""
    command = [sys.executable, *"-m torch.distributed.run --standalone --nproc-per-node 2 -m omnicore".split(), step]
    command += [word for change in [*SMALL, *sets] for word in ("--set", change)]
    command += [word for role, path in given.items() for word in ("--input", f"{role}={path}")]
    subprocess.run([*command, "--output", str(output)], check=True, timeout=900)


@needs_deepspeed
@pytest.mark.parametrize(("step", "stage"), [("sft", "zero2"), ("rlvr", "zero2"), ("sft", "zero3")])
def test_two_processes_under_zero_are_as_one(
    inputs: dict[str, dict[str, Path]],
    tmp_path: Path,
    step: str,
    stage: str,
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    common = [f"{step}.{change}" for change in ("steps=3", "warmup=1", "rate=1e-3", "checkpoint_every=0")]
    common += TRAINING[step]
    assert in_a_fork(lambda: run_step(step, load_recipe("tiny", [*SMALL, *common]), inputs[step], one)) == 0
    torchrun(step, [*common, f"{step}.parallel={stage}"], inputs[step], two)
    alike(one, two)
