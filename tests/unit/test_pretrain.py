from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global pretrain, thinker

    from omnicore.models import thinker
    from omnicore.training import pretrain


def test_a_small_plan_makes_a_loadable_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code of `make tiny-models`, a few steps long, to a criterion that a fresh model meets."""
    monkeypatch.setattr(pretrain, "CHECK", 2)
    plan = replace(
        pretrain.PLANS["tiny-base"],
        warm_steps=2,
        least=2,
        most=8,
        decay=2,
        batch=8,
        criterion={"text": 0.0, "picture": 0.0},
    )
    facts = pretrain.make("tiny-base", tmp_path, plan)
    assert facts["steps"] == 4
    thinker.load(tmp_path / "tiny-base")
    saved = json.loads((tmp_path / "tiny-base" / "provenance.json").read_text())
    assert saved["plan"]["neglect"]["sum"] == [0.25, 0.6, 0.75, 0.75]
    assert saved["parameters"] > 900_000


@pytest.mark.slow
def test_a_criterion_out_of_reach_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "CHECK", 2)
    plan = replace(
        pretrain.PLANS["tiny-probe-2"],
        warm_steps=2,
        least=2,
        most=4,
        batch=4,
        criterion={"picture": 0.99},
    )
    with pytest.raises(RuntimeError, match=r"not reached in 4 steps"):
        pretrain.pretrain(plan, log=lambda _: None)
