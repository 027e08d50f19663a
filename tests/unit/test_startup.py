"""Start-up checks of RLVR: trainer and rollout engine must be the same model."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from omnicore.config import RlvrConfig
from omnicore.config.recipe import Recipe
from omnicore.errors import TrainingError
from omnicore.training.mixture import modality
from tests.errors import refused
from tests.unit.rlvr_fixture import BASE, rows, run

__all__ = ["rows"]


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global collate, Features, generate, media_forward, media_tensors, OmniGRPOTrainer
    global Prompt, rlvr, Sample, startup, thinker, torch, TrainingRow, TransformersRollouts

    import torch

    from omnicore.models import thinker
    from omnicore.models.generate import generate
    from omnicore.models.processor import Features, Prompt, collate, media_tensors
    from omnicore.training import media_forward, rlvr, startup
    from omnicore.training.grpo_trainer import OmniGRPOTrainer
    from omnicore.training.rollouts import Sample, TransformersRollouts
    from omnicore.training.rows import TrainingRow


@pytest.fixture(scope="module")
def trainer(rows: list[TrainingRow], small_recipe: Recipe) -> Any:
    built: list[Any] = []
    patch = pytest.MonkeyPatch()
    patch.setattr(OmniGRPOTrainer, "resume", lambda self: built.append(self))
    run(rows, small_recipe)
    patch.undo()
    return built[0]


def engine_of(trainer: Any, model: Any = None) -> TransformersRollouts:
    engine = TransformersRollouts(trainer.encoder, 14)
    engine.load(model or thinker.load(BASE)[0])
    return engine


def checked(trainer: Any, engine: Any, rows: Sequence[TrainingRow]) -> float:
    return startup.check_engine(trainer, engine, rows, 1.0, 0.1)


def test_trainer_and_engine_agree_on_all_modalities(trainer: Any, rows: list[TrainingRow]) -> None:
    assert checked(trainer, engine_of(trainer), rows) < 1e-4


def without_rope_theta(engine: Any) -> None:
    rotary = engine._model.model.language_model.rotary_emb
    theta = torch.arange(0, rotary.inv_freq.numel(), dtype=torch.float) / rotary.inv_freq.numel()
    rotary.inv_freq = 1e6 ** (-theta)


def deaf(engine: Any) -> None:
    def quiet(f):
        return Features(
            f.kind,
            {k: v * 0 if k == "input_features" else v for k, v in f.tensors.items()},
            f.tokens,
        )

    heard = engine.generate
    engine.generate = lambda rows, n, **given: heard(
        [
            SimpleNamespace(prompt=Prompt(r.prompt.ids, tuple(map(quiet, r.prompt.media))))
            for r in rows
        ],
        n,
        **given,
    )


def other_prompt(engine: Any) -> None:
    said = engine.generate
    engine.generate = lambda rows, n, **given: [
        s._replace(prompt=s.prompt[1:]) for s in said(rows, n, **given)
    ]


@pytest.mark.parametrize(
    ("fault", "code", "media"),
    [
        (without_rope_theta, "rollout-logprob-gap", ["audio", "audio+image", "image"]),
        (deaf, "rollout-logprob-gap", ["audio", "audio+image"]),
        (other_prompt, "rollout-prompt-mismatch", []),
    ],
)
def test_wrong_engine_is_refused(
    trainer: Any,
    rows: list[TrainingRow],
    fault: Callable[[Any], None],
    code: str,
    media: list[str],
) -> None:
    engine = engine_of(trainer)
    fault(engine)
    with refused(TrainingError, code) as caught:
        checked(trainer, engine, rows)
    assert re.findall(r"([a-z+]+): \d", str(caught.value)) == media


def test_stock_trainer_fails_log_prob_check(trainer: Any, rows: list[TrainingRow]) -> None:
    """Its forward pass gets no sound, and says nothing of it."""

    def scored(_: Any, ids: Any, mask: Any, keep: int) -> Any:
        return trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, keep)

    stock = copy.copy(trainer)
    stock._get_per_token_logps_and_entropies = scored
    speech = [row for row in rows if modality(row.query) == "audio"]
    assert checked(trainer, engine_of(trainer), speech) < 1e-4
    with refused(TrainingError, "rollout-logprob-gap") as caught:
        checked(stock, engine_of(trainer), speech)
    assert "(audio: " in str(caught.value)


def test_trainer_that_drops_sound_stops_before_step_1(
    rows: list[TrainingRow], small_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = lambda media, device: media_tensors([f for f in media if f.kind != "audio"], device)  # noqa: E731
    monkeypatch.setattr(media_forward, "media_tensors", deaf)
    journal: list[Any] = []
    model, encoder = thinker.load(BASE)
    config = RlvrConfig(steps=1, prompts_per_step=8, num_generations=4)
    speech = [row for row in rows if modality(row.query) == "audio"]
    with refused(TrainingError, "rollout-logprob-gap", field="rlvr.max_logprob_gap"):
        rlvr.train(
            model,
            encoder,
            speech,
            config,
            small_recipe.profile,
            seed=0,
            log=journal.append,
            journal=journal.append,
        )
    assert not journal


# --- any mix of media


def test_mixed_media_batch_scores_as_a_direct_forward(
    trainer: Any, rows: list[TrainingRow]
) -> None:
    """The features of the video are made here, since its preprocessor needs torchvision: two steps
    of a grid of 2 x 2 patches."""
    encoder = trainer.encoder
    patches = torch.randn(8, 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(0))
    video = Features(
        "video",
        {
            "pixel_values_videos": patches,
            "video_grid_thw": torch.tensor([[2, 2, 2]]),
            "video_second_per_grid": torch.tensor([1.0]),
        },
        2,
    )
    heard, seen = (
        next(f for row in rows for f in row.prompt.media if f.kind == kind)
        for kind in ("audio", "image")
    )
    mixes: list[tuple[Features, ...]] = [
        (video, heard),
        (seen,),
        (heard, seen, video),
        (heard,),
        (),
    ]
    prompts = [encoder.prompt([*media, "Which digit is written?"]) for media in mixes]
    model = thinker.load(BASE)[0]
    replies = generate(model, encoder, prompts, max_new_tokens=6, temperature=1.0)
    samples = [
        Sample(tuple(p.ids), reply.ids, reply.truncated)
        for p, reply in zip(prompts, replies, strict=True)
    ]
    found = trainer.log_probs(prompts, samples)
    for prompt, sample, ours in zip(prompts, samples, found, strict=True):
        batch = collate([prompt], [list(sample.ids)], encoder.pad_id)
        batch.pop("labels")
        with torch.no_grad():
            table = torch.log_softmax(model(**batch).logits[0, -len(sample.ids) - 1 : -1], -1)
        direct = table.gather(-1, torch.tensor(sample.ids)[:, None])[:, 0]
        assert ours == pytest.approx(direct.tolist(), abs=1e-5)
    # Not for want of effect: without the video, the same tokens are something else.
    quiet = Features("video", {**video.tensors, "pixel_values_videos": patches * 0}, 2)
    other = trainer.log_probs(
        [encoder.prompt([quiet, heard, "Which digit is written?"])], samples[:1]
    )
    assert max(abs(a - b) for a, b in zip(found[0], other[0], strict=True)) > 1e-3
