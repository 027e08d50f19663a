"""A small set of training rows, and the inputs of each training."""

from __future__ import annotations

from pathlib import Path

import pytest

from omnicore.config.recipe import load_recipe
from omnicore.runtime.run import run_step
from tests.forks import in_a_fork
from tests.shared import shared

SMALL = ["prepare.split=dev", "prepare.scale=0.02", "threads=1"]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished output of prepare."""
    recipe = load_recipe("tiny", SMALL)
    return shared(
        tmp_path_factory,
        "training-prepare",
        lambda output: run_step("prepare", recipe, {}, output),
    )


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, dict[str, Path]]:
    """The inputs of each training; RLVR starts from a model after one step of SFT."""
    recipe = load_recipe("tiny", [*SMALL, "sft.steps=1", "sft.train_batch_size=2"])

    def train(output: Path) -> None:
        assert in_a_fork(lambda: run_step("sft", recipe, {"data": data}, output)) == 0

    start = shared(tmp_path_factory, "training-start", train)
    return {"sft": {"data": data}, "rlvr": {"data": data, "model": start}}
