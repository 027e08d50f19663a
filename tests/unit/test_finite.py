"""A training whose numbers are not finite ends red, before anything is published."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from omnicore.config.recipe import Recipe, load_recipe
from omnicore.errors import CheckpointError, TrainingError
from omnicore.runtime.run import run_step
from omnicore.telemetry import live
from tests.errors import refused
from tests.unit.audit_fixture import make_queries
from tests.unit.training_fixture import SMALL, data, inputs

__all__ = ["data", "inputs"]


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global check_rows, FiniteCheck, thinker, torch

    import torch

    from omnicore.models import thinker
    from omnicore.training.finite import FiniteCheck, check_rows


NOT_FINITE = {
    "training-loss-not-finite",
    "training-gradient-not-finite",
    "training-weight-not-finite",
}


def wild(step: str, rate: float, *overrides: str) -> Recipe:
    """A recipe whose learning rate no user can give."""
    recipe = load_recipe("tiny", [*SMALL, f"{step}.warmup_steps=0", *overrides])
    return recipe.model_copy(
        update={step: getattr(recipe, step).model_copy(update={"learning_rate": rate})}
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "rate", "overrides", "codes"),
    [
        (
            "sft",
            1e30,
            ["sft.steps=4", "sft.train_batch_size=8"],
            {"training-loss-not-finite", "training-weight-not-finite"},
        ),
        (
            "sft",
            1e38,
            ["sft.steps=1", "sft.train_batch_size=8"],
            {"training-weight-not-finite"},
        ),
        ("sft", 1e38, ["sft.steps=3", "sft.train_batch_size=8", "sft.save_steps=1"], NOT_FINITE),
        (
            "rlvr",
            1e38,
            [
                "rlvr.steps=3",
                "rlvr.prompts_per_step=2",
                "rlvr.num_generations=8",
                "rlvr.save_steps=1",
            ],
            NOT_FINITE,
        ),
    ],
)
def test_diverging_training_publishes_nothing(
    inputs: dict[str, dict[str, Path]],
    tmp_path: Path,
    step: str,
    rate: float,
    overrides: list[str],
    codes: set[str],
) -> None:
    with pytest.raises(TrainingError) as caught:
        run_step(step, wild(step, rate, *overrides), inputs[step], tmp_path / "out")
    assert caught.value.code in codes
    assert not (tmp_path / "out" / "checkpoint").exists()
    assert not (tmp_path / "out" / "step.json").exists()
    assert not list((tmp_path / "out").rglob("step-*/weights.safetensors"))


def test_rows_with_infinite_loss_are_named() -> None:
    rows = make_queries("b", 3)
    check_rows([0.1, 0.2, 0.3], rows, 4)
    with live.active_step("sft", "sft"):
        with refused(TrainingError, "training-loss-not-finite"):
            check_rows([math.inf] * 3, rows, 4)
        assert live._active
        (loss,) = next(
            f for f in live._active.metrics.registry.collect() if f.name == "omni_training_loss"
        ).samples
        assert math.isnan(loss.value)  # what the alert NaNLoss looks for
    with refused(TrainingError, "training-loss-not-finite") as caught:
        check_rows([0.1, math.nan, 0.3], rows, 4)
    message = str(caught.value)
    assert message.startswith("step 5: the loss of 1 of 3 rows is not finite")
    assert f": b {rows[1].id}. " in message


def test_gradients_are_checked_before_the_step() -> None:
    class State:
        global_step = 2

    model = torch.nn.Linear(2, 1)
    model(torch.ones(1, 2)).sum().backward()
    FiniteCheck().on_pre_optimizer_step(None, State(), None, model=model)
    model.weight.grad[0, 0] = math.inf
    with refused(TrainingError, "training-gradient-not-finite") as caught:
        FiniteCheck().on_pre_optimizer_step(None, State(), None, model=model)
    assert str(caught.value).startswith("step 3: ")


@pytest.mark.parametrize(
    ("value", "name"), [(math.nan, "1.bias"), (-math.inf, "1.bias"), (3e38, "")]
)
def test_large_finite_numbers_pass(value: float, name: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    with torch.no_grad():
        model[1].bias.fill_(value)  # the sum of two of 3e38 is infinite
    assert thinker.first_not_finite(model.named_parameters()) == name


def test_infinite_weights_are_neither_saved_nor_loaded(
    random_model: Any, encoder: Any, tmp_path: Path
) -> None:
    thinker.save(random_model, encoder, tmp_path / "good")
    with torch.no_grad():
        next(random_model.parameters()).view(-1)[3] = math.nan
    first = next(name for name, _ in random_model.named_parameters())
    with refused(CheckpointError, "checkpoint-not-finite", field=first):
        thinker.save(random_model, encoder, tmp_path / "bad")
    assert not (tmp_path / "bad").exists()

    from safetensors.torch import load_file, save_file

    path = tmp_path / "good" / "model.safetensors"
    held = load_file(path)
    name = min(held)
    held[name].view(-1)[0] = math.inf
    save_file(held, path, metadata={"format": "pt"})
    with refused(CheckpointError, "checkpoint-not-finite", path=tmp_path / "good"):
        thinker.load(tmp_path / "good")
