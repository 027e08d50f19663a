"""Control arms of RLVR: what is withheld reaches no forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnicore.config.recipe import Recipe
from omnicore.schema import Outcome, View
from omnicore.steps import prepare
from omnicore.steps import rlvr as rlvr_step
from omnicore.training.rewards import judge_reply


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global generate, PromptReader, read_rows, rlvr, thinker

    from omnicore.engines.transformers import PromptReader
    from omnicore.models import thinker
    from omnicore.models.generate import generate
    from omnicore.training import rlvr
    from omnicore.training.rows import read_rows


BASE = "embedded:tiny-base"


@pytest.mark.parametrize(
    ("control", "shown"),
    [("none", {"audio", "image"}), ("muted_audio", {"image"}), ("text_only", set())],
)
def test_withheld_media_reach_no_forward_pass(
    prepared: Path,
    small_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    control: str,
    shown: set[str],
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "checkpoint").symlink_to(thinker.resolve(BASE))
    given: set[str] = set()
    train = rlvr.train

    def watched(model: Any, *args: Any, **kwargs: Any) -> Any:
        hook = model.register_forward_pre_hook(
            lambda _, __, found: given.update(k for k, v in found.items() if v is not None),
            with_kwargs=True,
        )
        try:
            return train(model, *args, **kwargs)
        finally:
            hook.remove()

    monkeypatch.setattr(rlvr, "train", watched)
    config = small_recipe.rlvr.model_copy(
        update={"steps": 1, "prompts_per_step": 8, "num_generations": 2, "control": control}
    )
    inputs = {"data": prepared, "model": tmp_path / "model"}
    summary = rlvr_step.run(small_recipe, config, inputs, tmp_path)
    assert {
        kind
        for kind, name in (("audio", "input_features"), ("image", "pixel_values"))
        if name in given
    } == shown
    assert {
        name.removeprefix("canary_") for name in summary if name in ("canary_audio", "canary_image")
    } == shown
    assert summary["logprob_gap"] < 1e-4


def test_muting_sound_hurts_only_queries_with_sound(small_recipe: Recipe, tmp_path: Path) -> None:
    """Tiny-base, which hears under this wording: of 40 sums .90 are right with the sound and .35
    without, of 50 pictures .90."""
    config = small_recipe.prepare.model_copy(
        update={"rlvr_prompts": 4000, "rlvr_mix": {"sum": 3.0, "picture": 1.0}}
    )
    prepare.run(small_recipe, config, {}, tmp_path)
    model, encoder = thinker.load(BASE)
    reader, right = PromptReader(encoder, small_recipe.profile), {}
    for view in (View.omni, View.visual_only):
        found = read_rows(
            tmp_path / "rlvr.jsonl", reader, small_recipe.profile, targets=False, view=view
        )
        heard = [
            r for r in found if r.query.wording == "What is the last digit of picture plus sound?"
        ]
        for kind, asked in (
            ("sum", heard),
            ("picture", [r for r in found if r.query.type == "picture"]),
        ):
            replies = generate(
                model, encoder, [r.prompt for r in asked], max_new_tokens=14, temperature=0
            )
            judged = [
                judge_reply(g.text, r.query, small_recipe.profile)
                for g, r in zip(replies, asked, strict=True)
            ]
            right[kind, view] = [found is Outcome.correct for found in judged]
    assert min(map(len, right.values())) >= 30
    with_sound, without = (np.mean(right["sum", view]) for view in (View.omni, View.visual_only))
    assert with_sound - without > 0.3
    assert right["picture", View.omni] == right["picture", View.visual_only]
    assert np.mean(right["picture", View.omni]) > 0.8
