"""The trainers: what they teach, what reaches the towers, and the check that a stock trainer
fails."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from omnicore.config import SftConfig
from omnicore.config.recipe import Recipe
from omnicore.errors import DataError, TrainingError
from omnicore.telemetry import live
from omnicore.training.rewards import RandomReward
from tests.errors import refused


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global collate, COMMON_ARGUMENTS, CurveCallback, GradientCheck, PromptReader, read_rows
    global rlvr, sft, thinker, tiny, torch, TrainingRow

    import torch

    from omnicore.engines.transformers import PromptReader
    from omnicore.models import thinker, tiny
    from omnicore.models.processor import collate
    from omnicore.training import rlvr, sft
    from omnicore.training.curves import CurveCallback, GradientCheck
    from omnicore.training.rows import TrainingRow, read_rows
    from omnicore.training.sft import COMMON_ARGUMENTS


WEIGHTS = {"picture": 3, "speech_text": 1, "speech": 0, "picture_text": 0}


def rows_of(
    prepared: Path, encoder: Any, recipe: Recipe, name: str, *, targets: bool
) -> list[TrainingRow]:
    return read_rows(
        prepared / f"{name}.jsonl",
        PromptReader(encoder, recipe.profile),
        recipe.profile,
        targets=targets,
    )


@pytest.fixture(scope="module")
def base() -> Any:
    return thinker.load("embedded:tiny-base")


def test_sft_lowers_the_loss_of_every_type(
    prepared: Path, encoder: Any, random_model: Any, small_recipe: Recipe
) -> None:
    rows = rows_of(prepared, encoder, small_recipe, "sft", targets=True)
    curve: list[dict[str, Any]] = []
    config = small_recipe.sft.model_copy(
        update={"steps": 12, "learning_rate": 3e-3, "warmup_steps": 2, "train_batch_size": 16}
    )
    sft.train(random_model, encoder, rows, config, seed=0, log=curve.append)
    assert [r["step"] for r in curve] == list(range(1, 13))
    assert curve[-1]["loss"] < 0.6 * curve[0]["loss"]
    assert set(curve[-1]["by_type"]) <= {"picture", "speech", "picture_text", "speech_text"}
    for kind, value in curve[-1]["by_type"].items():
        assert value["loss"] < 0.8 * curve[0]["by_type"].get(kind, curve[0])["loss"]


def test_sft_mixture_is_the_same_with_workers(
    prepared: Path, encoder: Any, small_recipe: Recipe
) -> None:
    rows = rows_of(prepared, encoder, small_recipe, "sft", targets=True)
    curves = []
    for workers in (0, 1):
        given = {
            "steps": 3,
            "train_batch_size": 8,
            "dataloader_num_workers": workers,
            "mixture": {"by": "type", "weights": WEIGHTS, "window": 3},
        }
        config = SftConfig.model_validate({"data": "sft.jsonl", **given})
        curve: list[dict[str, Any]] = []
        epochs = sft.train(
            tiny.build_model(encoder.tokenizer, seed=0),
            encoder,
            rows,
            config,
            seed=0,
            log=curve.append,
        )
        assert all(record.pop("data_seconds") > 0 for record in curve)
        assert set(epochs) == {"picture", "speech_text"}
        assert all(set(record["by_type"]) == {"picture", "speech_text"} for record in curve)
        curves.append(curve)
    assert curves[0] == curves[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_medium_that_breaks_while_training_names_its_row(
    prepared: Path, encoder: Any, random_model: Any, small_recipe: Recipe, workers: int
) -> None:
    rows = rows_of(prepared, encoder, small_recipe, "sft", targets=True)[:4]
    lost = next(part for part in rows[2].request.parts if not isinstance(part, str)).model_copy(
        update={"uri": "media/lost.png"}
    )
    rows[2] = replace(rows[2], request=replace(rows[2].request, parts=(lost, "?")))
    config = SftConfig(
        data="sft.jsonl", steps=4, train_batch_size=2, dataloader_num_workers=workers
    )
    with pytest.raises(
        DataError, match=rf"^sft/{rows[2].query.id}: \S+media/lost\.png is missing: .*there$"
    ):
        sft.train(random_model, encoder, rows, config, seed=0, log=lambda record: None)


def test_rlvr_journals_rollouts_and_moves_both_encoders(
    prepared: Path, small_recipe: Recipe
) -> None:
    model, encoder = thinker.load("embedded:tiny-base")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    rows = rows_of(prepared, encoder, small_recipe, "rlvr", targets=False)
    config = small_recipe.rlvr.model_copy(
        update={"steps": 4, "prompts_per_step": 8, "num_generations": 4, "warmup_steps": 0}
    )
    curve: list[dict[str, Any]] = []
    journal: list[dict[str, Any]] = []
    rlvr.train(
        model,
        encoder,
        rows,
        config,
        small_recipe.profile,
        seed=0,
        log=curve.append,
        journal=journal.append,
    )
    assert len(journal) == 4 * 8 * 4
    assert [r["step"] for r in curve] == [1, 2, 3, 4]
    by_step = [r for r in journal if r["step"] == 0]
    assert curve[0]["reward"] == pytest.approx(
        sum(r["reward"] for r in by_step) / len(by_step), abs=1e-5
    )
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    for tower in ("audio_tower", "visual", "model.layers"):
        assert any(tower in name for name in moved), tower


def test_log_probs_equal_a_direct_forward(prepared: Path, base: Any, small_recipe: Recipe) -> None:
    """The trainer's log-probs of mixed-modality rollouts against a plain forward pass with the same
    media."""
    model, encoder = base
    rows = rows_of(prepared, encoder, small_recipe, "rlvr", targets=False)
    rows = list(
        {row.query.type: row for row in rows}.values()
    )  # one of each type: one modality, and both
    seen: dict[str, Any] = {}

    class Spy(rlvr.OmniGRPOTrainer):
        def _measure(self, inputs: Any, rollouts: Any, log_probs: Any, entropy: Any) -> None:
            super()._measure(inputs, rollouts, log_probs, entropy)
            ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
            mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
            media = [rollout.prompt.media for rollout in rollouts]
            keep = inputs["completion_ids"].size(1)
            seen.update(ids=ids, mask=mask, keep=keep, logps=log_probs, media=media)

    original, rlvr.OmniGRPOTrainer = rlvr.OmniGRPOTrainer, Spy  # type: ignore[misc]
    try:
        config = small_recipe.rlvr.model_copy(
            update={
                "steps": 1,
                "prompts_per_step": len(rows),
                "num_generations": 4,
                "learning_rate": 1e-9,
                "warmup_steps": 0,
                "control": "random_reward",
            }
        )
        rlvr.train(
            model,
            encoder,
            rows,
            config,
            small_recipe.profile,
            seed=0,
            log=lambda _: None,
            journal=lambda _: None,
        )
    finally:
        rlvr.OmniGRPOTrainer = original  # type: ignore[misc]
    assert {len(media) for media in seen["media"]} == {1, 2}
    tensors: dict[str, list[torch.Tensor]] = {}
    for media in seen["media"]:
        for feature in media:
            for name, tensor in feature.tensors.items():
                if (
                    feature.kind == "audio"
                ):  # as upstream pads: to one second, which the embedded models hear
                    tensor = torch.nn.functional.pad(tensor, (0, 100 - tensor.shape[-1]))
                tensors.setdefault(name, []).append(tensor)
    with torch.no_grad():
        logits = model(
            input_ids=seen["ids"],
            attention_mask=seen["mask"],
            **{k: torch.cat(v) for k, v in tensors.items()},
        ).logits
    reply = seen["ids"][:, -seen["keep"] :]
    direct = (
        torch.log_softmax(logits[:, -seen["keep"] - 1 : -1], -1)
        .gather(-1, reply.unsqueeze(-1))
        .squeeze(-1)
    )
    scored = seen["mask"][:, -seen["keep"] :].bool()
    assert float((seen["logps"].detach() - direct)[scored].abs().max()) < 1e-5


def test_groups_without_a_difference_move_nothing(
    prepared: Path, encoder: Any, random_model: Any, small_recipe: Recipe
) -> None:
    """A random model is never right: every group is all wrong, and no weight may change."""
    before = {name: p.detach().clone() for name, p in random_model.named_parameters()}
    rows = rows_of(prepared, encoder, small_recipe, "rlvr", targets=False)
    config = small_recipe.rlvr.model_copy(
        update={"steps": 2, "prompts_per_step": 4, "num_generations": 2, "warmup_steps": 0}
    )
    curve: list[dict[str, Any]] = []
    rlvr.train(
        random_model,
        encoder,
        rows,
        config,
        small_recipe.profile,
        seed=0,
        log=curve.append,
        journal=lambda _: None,
    )
    assert all(r["all_wrong"] == 1 for r in curve)
    assert all(torch.equal(p, before[name]) for name, p in random_model.named_parameters())


def test_random_reward_ignores_the_reply(
    prepared: Path, encoder: Any, random_model: Any, small_recipe: Recipe
) -> None:
    rows = rows_of(prepared, encoder, small_recipe, "rlvr", targets=False)
    config = small_recipe.rlvr.model_copy(
        update={"steps": 1, "prompts_per_step": 8, "num_generations": 8, "control": "random_reward"}
    )
    journal: list[dict[str, Any]] = []
    rlvr.train(
        random_model,
        encoder,
        rows,
        config,
        small_recipe.profile,
        seed=0,
        log=lambda _: None,
        journal=journal.append,
    )
    assert all(r["outcome"] != "correct" for r in journal)
    assert 0.25 < sum(r["reward"] for r in journal) / len(journal) < 0.75
    coins = [RandomReward(3) for _ in range(2)]
    assert [coins[0].draw() for _ in range(50)] == [coins[1].draw() for _ in range(50)]


def test_stock_grpo_trainer_fails_the_gradient_check(
    prepared: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    """Sound reaches generation, but not the stock trainer's forward pass: no error of its own, and
    no gradient."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    model, encoder = thinker.load("embedded:tiny-base")
    rows = [
        r
        for r in rows_of(prepared, encoder, small_recipe, "rlvr", targets=False)
        if r.query.type == "speech"
    ]

    class Stock(GRPOTrainer):  # type: ignore[misc]
        """As a user would feed it: prompts with sound are tokenised for generation; training is
        TRL's own."""

        def _set_signature_columns_if_needed(self) -> None:
            self._signature_columns = ["prompt", "index"]

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            self._indices = [row["index"] for row in inputs]
            return super()._generate_and_score_completions(inputs)

        def _tokenize_prompts(self, prompts: Any) -> Any:
            chosen = [rows[i].prompt for i in self._indices]
            batch = collate(chosen, None, encoder.pad_id)
            return (
                [p.ids for p in chosen],
                None,
                {k: batch[k] for k in ("input_features", "feature_attention_mask")},
            )

    args = GRPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=8,
        num_generations=8,
        max_completion_length=14,
        max_steps=6,
        learning_rate=1e-5,
        use_cpu=True,
        generation_kwargs={"suppress_tokens": encoder.suppressed},
        **(COMMON_ARGUMENTS | {"logging_steps": 100}),
    )
    coin = RandomReward(0)
    trainer = Stock(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(
            [{"prompt": [{"role": "user", "content": "?"}], "index": i} for i in range(len(rows))]
        ),
        processing_class=encoder.tokenizer,
        reward_funcs=lambda completions, **_: [coin.draw() for _ in completions],
        callbacks=[GradientCheck({"audio": "audio_tower"})],
    )
    with refused(TrainingError, "training-no-encoder-gradient") as caught:
        trainer.train()
    assert "audio (`audio_tower`)" in str(caught.value)


def test_nan_loss_stops_the_run() -> None:
    class State:
        global_step = 3

    with live.active_step("sft", "sft"):
        with refused(TrainingError, "training-loss-not-finite"):
            CurveCallback(lambda _: None, lambda r: r).on_log(
                None, State(), None, {"loss": math.nan}
            )
        assert live._active
        (loss,) = next(
            f for f in live._active.metrics.registry.collect() if f.name == "omni_training_loss"
        ).samples
    assert math.isnan(loss.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", "", "holds no rows"),
        ("broken.jsonl", "{\n", r"broken\.jsonl:1"),
        ("gone.jsonl", None, r"gone\.jsonl: no such file"),
    ],
)
def test_bad_rows_are_named(
    encoder: Any, small_recipe: Recipe, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_rows(
            tmp_path / name,
            PromptReader(encoder, small_recipe.profile),
            small_recipe.profile,
            targets=True,
        )


def test_rows_without_target_cannot_be_supervised(
    prepared: Path, encoder: Any, small_recipe: Recipe
) -> None:
    path = prepared / "rlvr.jsonl"
    with refused(DataError, "training-row-without-target", path=path, line=1, field="target"):
        rows_of(prepared, encoder, small_recipe, "rlvr", targets=True)
