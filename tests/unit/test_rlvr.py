"""RLVR: the loss against a reference, groups and dynamic sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from omnicore.config.recipe import Recipe
from tests.unit.rlvr_fixture import rows, run

__all__ = ["rows"]


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global _SampleOne, collect_groups, grpo_trainer, has_advantage, rlvr, Sample, torch
    global TorchDispatchMode, TrainingRow, TransformersRollouts

    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from omnicore.models.generate import _SampleOne
    from omnicore.training import grpo_trainer, rlvr
    from omnicore.training.groups import collect_groups, has_advantage
    from omnicore.training.rollouts import Sample, TransformersRollouts
    from omnicore.training.rows import TrainingRow


def reference(
    loss: str, batch: dict[str, np.ndarray[Any, Any]], beta: float, longest: int
) -> float:
    """The objectives as published, over the rollouts that are trained on.

    Arrays are [rollouts, tokens], advantages [rollouts].
        grpo: Shao et al. 2024, equations 3 and 4; dr_grpo: Liu et al. 2025; dapo: Yu et al. 2025, equation 8 (with one epsilon);
        gspo: Zheng et al. 2025, equations 5 and 7.
    """
    now, old, start, mask = (batch[name] for name in ("now", "old", "start", "mask"))
    advantage = batch["advantage"][:, None]
    lengths = mask.sum(1, keepdims=True)
    ratio = np.exp(now - old)
    if loss == "gspo":
        ratio = np.exp(((now - old) * mask).sum(1, keepdims=True) / lengths) * np.ones_like(mask)
    clipped = np.clip(ratio, 0.8, 1.2)
    gain = np.minimum(ratio * advantage, clipped * advantage)
    kl = (
        np.exp(start - now) - (start - now) - 1
    ) * ratio  # unbiased off policy: DeepSeek-V3.2, equation 7
    token = -(gain - beta * kl) * mask
    match loss:
        case "dapo":
            return float(token.sum() / mask.sum())
        case "dr_grpo":
            return float(token.sum() / (len(token) * longest))
        case _:
            return float((token.sum(1) / lengths[:, 0]).mean())


@pytest.mark.parametrize("loss", ["grpo", "dapo", "dr_grpo", "gspo"])
def test_loss_equals_published_objectives(
    rows: list[TrainingRow], small_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    """Over a second step on the same rollouts, where ratios have left 1 and some are clipped."""
    seen: list[tuple[dict[str, Any], float]] = []
    advantages: list[tuple[list[float], list[float]]] = []
    scored: list[torch.Tensor] = []
    trainer = grpo_trainer.OmniGRPOTrainer
    generate, compute, measure = (
        trainer._generate_and_score_completions,
        trainer.compute_loss,
        trainer._measure,
    )

    def record_advantages(self: Any, inputs: Any) -> Any:
        batch = generate(self, inputs)
        rewards = [rollout.reward for rollout in batch["rollout"]]
        advantages.append((rewards, batch["advantages"].tolist()))
        return batch

    def record_log_probs(
        self: Any, inputs: Any, rollouts: Any, log_probs: Any, entropy: Any
    ) -> None:
        scored.append(log_probs)
        measure(self, inputs, rollouts, log_probs, entropy)

    def record_loss(self: Any, model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
        value = compute(self, model, inputs, *args, **more)
        keep = inputs["useful"]
        names = {
            "old": "old_per_token_logps",
            "start": "ref_per_token_logps",
            "mask": "completion_mask",
            "advantage": "advantages",
        }
        batch = {ours: inputs[theirs][keep].numpy().astype(float) for ours, theirs in names.items()}
        batch["now"] = scored[-1].numpy().astype(float)
        seen.append((batch, float(value.detach())))
        return value

    monkeypatch.setattr(trainer, "_generate_and_score_completions", record_advantages)
    monkeypatch.setattr(trainer, "_measure", record_log_probs)
    monkeypatch.setattr(trainer, "compute_loss", record_loss)
    run(
        rows,
        small_recipe,
        steps=2,
        num_iterations=2,
        loss_type=loss,
        beta=0.05,
        learning_rate=2e-3,
        format_reward_weight=0.1,
    )
    ((rewards, given),) = advantages
    groups = np.array(rewards).reshape(-1, 4)
    expected = (groups - groups.mean(1, keepdims=True)) / (
        groups.std(1, ddof=1, keepdims=True) + 1e-4
    )
    assert np.allclose(expected.ravel(), given, atol=1e-5)
    (first, _), (batch, found) = seen
    assert np.allclose(first["now"], first["start"], atol=1e-5)
    assert found == pytest.approx(
        reference(loss, batch, 0.05, small_recipe.profile.max_new_tokens), abs=1e-6
    )
    apart = np.exp((batch["now"] - batch["old"]) * batch["mask"])
    assert ((apart < 0.8) | (apart > 1.2)).any(), "nothing was clipped"


def test_curves_have_modalities_and_journal_rollouts(
    rows: list[TrainingRow], small_recipe: Recipe
) -> None:
    done = run(rows, small_recipe, steps=2, beta=0.01, dynamic_sampling=1, format_reward_weight=0.1)
    for record, step in zip(done.curve, (0, 1), strict=True):
        rollouts = [r for r in done.journal if r["step"] == step]
        assert record["reward"] == pytest.approx(np.mean([r["reward"] for r in rollouts]), abs=1e-4)
        assert record["length"] == pytest.approx(
            np.mean([len(r["tokens"]) for r in rollouts]), abs=1e-4
        )
        assert record["groups"] * 4 == len(rollouts) >= 32
        assert sum(r["used"] for r in rollouts) == record["useful"] * 32
        for name, part in record["by_modality"].items():
            mine = [r for r in rollouts if r["modality"] == name]
            assert part["groups"] * 4 == len(mine)
            assert part["reward_std"] == pytest.approx(
                np.std([r["reward"] for r in mine]), abs=1e-4
            )
            assert (part.keys() >= {"entropy", "kl"}) == any(r["used"] for r in mine)
    assert {r["modality"] for r in done.journal} == {"vision", "audio", "omni"}
    for r in done.journal:
        assert r["reward"] == pytest.approx(r["score"] + 0.1 * r["format"])
        assert r["used"] or r["advantage"] == 0
        assert done.encoder.text([r["tokens"]]) == [r["reply"]]


class ScoredRollout:
    """A rollout with a given score."""

    def __init__(self, right: float) -> None:
        self.right, self.used = right, False


@pytest.mark.parametrize(
    ("scores", "expected"),
    [((0.2, 0.4), True), ((0.0, 0.0), False), ((0.5, 0.5), False), ((1.0, 0.9), True)],
)
def test_graded_group_has_advantage_if_scores_differ(
    scores: Sequence[float], expected: bool
) -> None:
    assert has_advantage([ScoredRollout(score) for score in scores]) is expected


def test_groups_without_advantage_are_replaced() -> None:
    outcomes = {0: "11", 1: "10", 2: "00", 3: "11", 4: "01", 5: "10", 6: "10"}
    turns: list[list[int]] = []

    def roll(indices: Sequence[int], turn: int) -> Any:
        turns.append(list(indices))
        return [[ScoredRollout(float(c)) for c in outcomes[i]] for i in indices]

    def draw(missing: int, turn: int) -> list[int] | None:
        return {1: [3, 4], 2: [5, 6]}[turn][:missing] if missing else None

    groups = collect_groups([0, 1, 2], 5, roll, draw)
    assert turns == [[0, 1, 2], [3, 4], [5]]
    assert [all(r.used for r in g) for g in groups] == [False, True, False, False, True, True]
    turns.clear()
    groups = collect_groups([0, 1, 2], 1, roll, draw)
    assert turns == [[0, 1, 2], [3, 4]]
    assert [has_advantage(g) for g in groups] == [any(r.used for r in g) for g in groups]


def test_dynamic_sampling_keeps_the_mixture(rows: list[TrainingRow], small_recipe: Recipe) -> None:
    mixture = {"by": "modality", "weights": {"vision": 0, "audio": 0, "omni": 1}}
    done = run(rows, small_recipe, steps=2, dynamic_sampling=2, mixture=mixture)
    assert {r["modality"] for r in done.journal} == {"omni"}
    for step in (0, 1):
        seen = [r["id"] for r in done.journal if r["step"] == step][:: done.config.num_generations]
        assert len(seen) > done.config.prompts_per_step, (
            "nothing was drawn in place of useless groups"
        )
        assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("parts", [[(0, 5)], [(0, 2), (2, 5)], [(0, 1), (1, 4), (4, 5)]])
def test_sampling_is_the_same_in_any_batch_slice(
    parts: list[tuple[int, int]],
) -> None:
    class Largest(TorchDispatchMode):
        """Notes how many numbers of noise are drawn at once."""

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if "exponential" in str(func):
                drawn.append(args[0].numel())
            return func(*args, **(kwargs or {}))

    scores, drawn, found = (
        torch.randn(5, 40, generator=torch.Generator().manual_seed(1)),
        list[int](),
        [],
    )
    torch.manual_seed(3)
    whole = torch.multinomial(torch.softmax(scores / 1.3, -1), 1).squeeze(1).tolist()
    for first, end in parts:
        torch.manual_seed(3)
        with Largest():
            left = _SampleOne(1.3, (first, 5))(None, scores[first:end])
        assert (left > -torch.inf).sum(1).tolist() == [1] * (end - first)
        found += left.argmax(1).tolist()
    assert found == whole
    assert set(drawn) == {40}


def test_format_reward_never_decides_a_group(
    random_model: Any, rows: list[TrainingRow], small_recipe: Recipe
) -> None:
    """All wrong, some with an answer that can be read: rewards differ, and nothing may move."""
    before = [p.detach().clone() for p in random_model.parameters()]
    heard = ["nothing", rows[0].query.options[0]]

    class Engine(TransformersRollouts):
        def generate(self, rows: Sequence[TrainingRow], n: int, **given: Any) -> list[Sample]:
            found = super().generate(rows, n, **given)
            wrong = [
                next(o for o in row.query.options if o != row.query.answer)
                for row in rows
                for _ in range(n)
            ]
            told = [heard[0] if i % 2 else word for i, word in enumerate(wrong)]
            return (
                found
                if given.get("logprobs")
                else [
                    s._replace(ids=tuple(self._encoder.reply_ids(t)), truncated=False)
                    for s, t in zip(found, told, strict=True)
                ]
            )

    original, rlvr.TransformersRollouts = rlvr.TransformersRollouts, Engine  # type: ignore[misc]
    try:
        done = run(rows, small_recipe, random_model, prompts_per_step=4, format_reward_weight=0.2)
    finally:
        rlvr.TransformersRollouts = original  # type: ignore[misc]
    assert {r["format"] for r in done.journal} == {0, 1}
    assert done.curve[0]["all_wrong"] == 1
    assert done.curve[0]["useful"] == 0
    assert all(torch.equal(a, b) for a, b in zip(before, random_model.parameters(), strict=True))
