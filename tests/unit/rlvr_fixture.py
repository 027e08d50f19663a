"""A short RLVR training on the embedded benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from omnicore.config import RlvrConfig
from omnicore.config.recipe import Recipe

if TYPE_CHECKING:
    from omnicore.training.rows import TrainingRow

BASE = "embedded:tiny-base"


@pytest.fixture(scope="module")
def rows(prepared: Path, small_recipe: Recipe) -> list[TrainingRow]:
    from omnicore.engines.transformers import PromptReader
    from omnicore.models import thinker
    from omnicore.training.rows import read_rows

    reader = PromptReader(thinker.load(BASE)[1], small_recipe.profile)
    return read_rows(prepared / "rlvr.jsonl", reader, small_recipe.profile, targets=False)


def run(
    rows: Sequence[TrainingRow], recipe: Recipe, model: Any = None, **changes: Any
) -> SimpleNamespace:
    """A short training; what it logged and journaled, the model, and what the checks measured."""
    from omnicore.models import thinker
    from omnicore.training import rlvr

    model, encoder = (model, thinker.load(BASE)[1]) if model else thinker.load(BASE)
    fields = {
        "steps": 1,
        "prompts_per_step": 8,
        "num_generations": 4,
        "warmup_steps": 0,
        "learning_rate": 1e-4,
        **changes,
    }
    config = RlvrConfig.model_validate(fields)
    curve: list[dict[str, Any]] = []
    journal: list[dict[str, Any]] = []
    checked = rlvr.train(
        model,
        encoder,
        rows,
        config,
        recipe.profile,
        seed=0,
        log=curve.append,
        journal=journal.append,
    )
    return SimpleNamespace(
        model=model, encoder=encoder, curve=curve, journal=journal, checked=checked, config=config
    )
