"""A small set of training rows, and what each training begins from."""

from __future__ import annotations

from pathlib import Path

import pytest

from omnicore.config.recipe import load_recipe
from omnicore.runtime.run import run_step
from tests.forks import in_a_fork

SMALL = ["prepare.split=dev", "prepare.scale=0.02", "threads=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("training") / "prepare"
    run_step("prepare", load_recipe("tiny", SMALL), {}, output)
    return output


@pytest.fixture(scope="module")
def inputs(data: Path) -> dict[str, dict[str, Path]]:
    """Of each step; RLVR starts from a model that SFT has taught for one step."""
    start, recipe = (
        data.with_name("start"),
        load_recipe("tiny", [*SMALL, "sft.steps=1", "sft.train_batch_size=2"]),
    )
    assert in_a_fork(lambda: run_step("sft", recipe, {"data": data}, start)) == 0
    return {"sft": {"data": data}, "rlvr": {"data": data, "model": start}}
