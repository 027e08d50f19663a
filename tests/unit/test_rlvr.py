"""RLVR: the loss against a reference, groups and refill, start-up checks, control arms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from trl import GRPOTrainer

from omnicore.config import Recipe, RlvrConfig
from omnicore.engines.transformers import Reader
from omnicore.errors import TrainingError
from omnicore.models import thinker
from omnicore.models.processor import Features, Prompt
from omnicore.training import rlvr, startup
from omnicore.training.groups import collect, useful
from omnicore.training.mixture import modality
from omnicore.training.rollouts import Sample, TransformersRollouts
from omnicore.training.rows import Row, read_rows

BASE = "embedded:tiny-base"


@pytest.fixture(scope="module")
def rows(prepared: Path, small_recipe: Recipe) -> list[Row]:
    reader = Reader(thinker.load(BASE)[1], small_recipe.profile)
    return read_rows(prepared / "rlvr.jsonl", reader, small_recipe.profile, targets=False)


def run(rows: Sequence[Row], recipe: Recipe, model: Any = None, **changes: Any) -> SimpleNamespace:
    """A short training; what it logged and journaled, the model, and what the checks measured."""
    model, encoder = (model, thinker.load(BASE)[1]) if model else thinker.load(BASE)
    fields = {"steps": 1, "prompts": 8, "group": 4, "warmup": 0, "rate": 1e-4, **changes}
    config = RlvrConfig.model_validate(fields)
    curve: list[dict[str, Any]] = []
    journal: list[dict[str, Any]] = []
    checked = rlvr.train(model, encoder, rows, config, recipe.profile, seed=0, log=curve.append, journal=journal.append)
    return SimpleNamespace(model=model, encoder=encoder, curve=curve, journal=journal, checked=checked, config=config)


def reference(loss: str, batch: dict[str, np.ndarray[Any, Any]], beta: float, longest: int) -> float:
    """The objectives as published, over the rollouts that are trained on. Arrays are [rollouts, tokens], advantages [rollouts].

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
    kl = (np.exp(start - now) - (start - now) - 1) * ratio  # unbiased off policy: DeepSeek-V3.2, equation 7
    token = -(gain - beta * kl) * mask
    match loss:
        case "dapo":
            return float(token.sum() / mask.sum())
        case "dr_grpo":
            return float(token.sum() / (len(token) * longest))
        case _:
            return float((token.sum(1) / lengths[:, 0]).mean())


@pytest.mark.parametrize("loss", ["grpo", "dapo", "dr_grpo", "gspo"])
def test_loss_is_that_of_a_reference(rows: list[Row], small_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, loss: str) -> None:
    """Over a second step on the same rollouts, where ratios have left 1 and some are clipped."""
    seen: list[tuple[dict[str, Any], float]] = []
    advantages: list[tuple[list[float], list[float]]] = []
    generated, computed = rlvr.OmniGRPOTrainer._generate_and_score_completions, rlvr.OmniGRPOTrainer._compute_loss

    def record_advantages(self: Any, inputs: Any) -> Any:
        out = generated(self, inputs)
        advantages.append(([r.reward for r in self._chosen], out["advantages"].tolist()))
        return out

    def record_loss(self: Any, model: Any, inputs: Any) -> Any:
        found = computed(self, model, inputs)
        keep = inputs["useful"]
        names = {"old": "old_per_token_logps", "start": "ref_per_token_logps", "mask": "completion_mask", "advantage": "advantages"}
        batch = {ours: inputs[theirs][keep].numpy().astype(float) for ours, theirs in names.items()}
        seen.append(({**batch, "now": self._scored[0].detach().numpy().astype(float)}, float(found.detach())))
        return found

    monkeypatch.setattr(rlvr.OmniGRPOTrainer, "_generate_and_score_completions", record_advantages)
    monkeypatch.setattr(rlvr.OmniGRPOTrainer, "_compute_loss", record_loss)
    run(rows, small_recipe, steps=2, iterations=2, loss=loss, beta=0.05, rate=2e-3, format_weight=0.1)
    ((paid, given),) = advantages
    groups = np.array(paid).reshape(-1, 4)
    expected = (groups - groups.mean(1, keepdims=True)) / (groups.std(1, ddof=1, keepdims=True) + 1e-4)
    assert np.allclose(expected.ravel(), given, atol=1e-5)
    (first, _), (batch, found) = seen
    assert np.allclose(first["now"], first["start"], atol=1e-5)
    assert found == pytest.approx(reference(loss, batch, 0.05, small_recipe.profile.max_new_tokens), abs=1e-6)
    apart = np.exp((batch["now"] - batch["old"]) * batch["mask"])
    assert ((apart < 0.8) | (apart > 1.2)).any(), "nothing was clipped"


def test_curves_tell_each_modality_and_the_journal_each_rollout(rows: list[Row], small_recipe: Recipe) -> None:
    done = run(rows, small_recipe, steps=2, beta=0.01, refill=1, format_weight=0.1)
    for record, step in zip(done.curve, (0, 1), strict=True):
        rollouts = [r for r in done.journal if r["step"] == step]
        assert record["reward"] == pytest.approx(np.mean([r["reward"] for r in rollouts]), abs=1e-4)
        assert record["length"] == pytest.approx(np.mean([len(r["tokens"]) for r in rollouts]), abs=1e-4)
        assert record["groups"] * 4 == len(rollouts) >= 32
        assert sum(r["used"] for r in rollouts) == record["useful"] * 32
        for name, part in record["by_modality"].items():
            mine = [r for r in rollouts if r["modality"] == name]
            assert part["groups"] * 4 == len(mine)
            assert part["reward_std"] == pytest.approx(np.std([r["reward"] for r in mine]), abs=1e-4)
            assert (part.keys() >= {"entropy", "kl"}) == any(r["used"] for r in mine)
    assert {r["modality"] for r in done.journal} == {"vision", "audio", "omni"}
    for r in done.journal:
        assert r["reward"] == pytest.approx(r["worth"] + 0.1 * r["form"])
        assert r["used"] or r["advantage"] == 0
        assert done.encoder.text([r["tokens"]]) == [r["reply"]]


class Told:
    """Rollouts whose worth is written down."""

    def __init__(self, right: bool) -> None:
        self.right, self.used = right, False


def test_useless_groups_are_replaced_until_the_batch_is_full() -> None:
    outcomes = {0: "11", 1: "10", 2: "00", 3: "11", 4: "01", 5: "10", 6: "10"}
    turns: list[list[int]] = []

    def roll(indices: Sequence[int], turn: int) -> Any:
        turns.append(list(indices))
        return [[Told(c == "1") for c in outcomes[i]] for i in indices]

    def draw(missing: int, turn: int) -> list[int]:
        return {1: [3, 4], 2: [5, 6]}[turn][:missing] if missing else []

    groups = collect([0, 1, 2], 5, roll, draw)
    assert turns == [[0, 1, 2], [3, 4], [5]]
    assert [all(r.used for r in g) for g in groups] == [False, True, False, False, True, True]
    turns.clear()
    groups = collect([0, 1, 2], 1, roll, draw)
    assert turns == [[0, 1, 2], [3, 4]]
    assert [useful(g) for g in groups] == [any(r.used for r in g) for g in groups]


def test_the_form_never_decides_a_group(random_model: Any, rows: list[Row], small_recipe: Recipe) -> None:
    """All wrong, some with an answer that can be read: rewards differ, and nothing may move."""
    before = [p.detach().clone() for p in random_model.parameters()]
    heard = ["nothing", rows[0].query.options[0]]

    class Engine(TransformersRollouts):
        def generate(self, rows: Sequence[Row], n: int, **given: Any) -> list[Sample]:
            found = super().generate(rows, n, **given)
            wrong = [next(o for o in row.query.options if o != row.query.answer) for row in rows for _ in range(n)]
            told = [heard[0] if i % 2 else word for i, word in enumerate(wrong)]
            return (
                found
                if given.get("logprobs")
                else [s._replace(ids=tuple(self._encoder.reply_ids(t)), truncated=False) for s, t in zip(found, told, strict=True)]
            )

    original, rlvr.TransformersRollouts = rlvr.TransformersRollouts, Engine  # type: ignore[misc]
    try:
        done = run(rows, small_recipe, random_model, prompts=4, format_weight=0.2)
    finally:
        rlvr.TransformersRollouts = original  # type: ignore[misc]
    assert {r["form"] for r in done.journal} == {0, 1}
    assert done.curve[0]["all_wrong"] == 1
    assert done.curve[0]["useful"] == 0
    assert all(torch.equal(a, b) for a, b in zip(before, random_model.parameters(), strict=True))


# --- start-up checks


@pytest.fixture(scope="module")
def trainer(rows: list[Row], small_recipe: Recipe) -> Any:
    built: list[Any] = []
    patch = pytest.MonkeyPatch()
    patch.setattr(rlvr.OmniGRPOTrainer, "go_on", lambda self: built.append(self))
    run(rows, small_recipe)
    patch.undo()
    return built[0]


def engine_of(trainer: Any, model: Any = None) -> TransformersRollouts:
    engine = TransformersRollouts(trainer.encoder, 14)
    engine.load(model or thinker.load(BASE)[0])
    return engine


def checked(trainer: Any, engine: Any, rows: Sequence[Row]) -> float:
    return startup.check(trainer, engine, rows, 0, 1.0, 0.1)


def test_trainer_and_engine_agree_on_every_modality(trainer: Any, rows: list[Row]) -> None:
    assert checked(trainer, engine_of(trainer), rows) < 1e-4


def without_rope_theta(engine: Any) -> None:
    rotary = engine._model.model.language_model.rotary_emb
    theta = torch.arange(0, rotary.inv_freq.numel(), dtype=torch.float) / rotary.inv_freq.numel()
    rotary.inv_freq = 1e6 ** (-theta)


def deaf(engine: Any) -> None:
    quiet = lambda f: Features(f.kind, {k: v * 0 if k == "input_features" else v for k, v in f.tensors.items()}, f.tokens)  # noqa: E731
    heard = engine.generate
    engine.generate = lambda rows, n, **given: heard(
        [SimpleNamespace(prompt=Prompt(r.prompt.ids, tuple(map(quiet, r.prompt.media)))) for r in rows], n, **given
    )


def other_prompt(engine: Any) -> None:
    said = engine.generate
    engine.generate = lambda rows, n, **given: [s._replace(prompt=s.prompt[1:]) for s in said(rows, n, **given)]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (without_rope_theta, r"differ by more than rlvr.max_logprob_gap=0.1 nats \(audio: .*, audio\+image: .*, image: "),
        (deaf, r"differ by more than rlvr.max_logprob_gap=0.1 nats \(audio: [^,]*, audio\+image: [^,]*\)"),
        (other_prompt, "read different prompts"),
    ],
)
def test_an_engine_that_is_wrong_is_refused(trainer: Any, rows: list[Row], fault: Callable[[Any], None], message: str) -> None:
    engine = engine_of(trainer)
    fault(engine)
    with pytest.raises(TrainingError, match=message):
        checked(trainer, engine, rows)


def test_a_stock_trainer_fails_the_check_of_log_probs(trainer: Any, rows: list[Row]) -> None:
    """Its forward pass gets no sound, and says nothing of it."""

    def scored(model: Any, ids: Any, mask: Any, keep: int) -> Any:
        return GRPOTrainer._get_per_token_logps_and_entropies(trainer, model, ids, mask, keep)

    stock = SimpleNamespace(
        accelerator=trainer.accelerator, model=trainer.model, _get_per_token_logps_and_entropies=scored, _media=[]
    )
    speech = [row for row in rows if modality(row.query) == "audio"]
    assert checked(trainer, engine_of(trainer), speech) < 1e-4
    with pytest.raises(TrainingError, match=r"max_logprob_gap=0.1 nats \(audio: "):
        checked(stock, engine_of(trainer), speech)
