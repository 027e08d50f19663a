"""RLVR: the loss against a reference, groups and dynamic sampling, start-up checks, control arms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from trl import GRPOTrainer

from omnicore.config import RlvrConfig
from omnicore.config.recipe import Recipe
from omnicore.engines.transformers import PromptReader
from omnicore.errors import TrainingError
from omnicore.models import thinker
from omnicore.models.generate import _SampleOne, generate
from omnicore.models.processor import Features, Prompt, collate, media_tensors
from omnicore.schema import Outcome, View
from omnicore.steps import prepare
from omnicore.steps import rlvr as rlvr_step
from omnicore.training import rlvr, startup
from omnicore.training.groups import collect_groups, has_advantage
from omnicore.training.mixture import modality
from omnicore.training.rewards import judge_reply
from omnicore.training.rollouts import Sample, TransformersRollouts
from omnicore.training.rows import TrainingRow, read_rows

BASE = "embedded:tiny-base"


@pytest.fixture(scope="module")
def rows(prepared: Path, small_recipe: Recipe) -> list[TrainingRow]:
    reader = PromptReader(thinker.load(BASE)[1], small_recipe.profile)
    return read_rows(prepared / "rlvr.jsonl", reader, small_recipe.profile, targets=False)


def run(
    rows: Sequence[TrainingRow], recipe: Recipe, model: Any = None, **changes: Any
) -> SimpleNamespace:
    """A short training; what it logged and journaled, the model, and what the checks measured."""
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
def test_loss_is_that_of_a_reference(
    rows: list[TrainingRow], small_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    """Over a second step on the same rollouts, where ratios have left 1 and some are clipped."""
    seen: list[tuple[dict[str, Any], float]] = []
    advantages: list[tuple[list[float], list[float]]] = []
    generated, computed = (
        rlvr.OmniGRPOTrainer._generate_and_score_completions,
        rlvr.OmniGRPOTrainer._compute_loss,
    )

    def record_advantages(self: Any, inputs: Any) -> Any:
        out = generated(self, inputs)
        advantages.append(([r.reward for r in self._chosen], out["advantages"].tolist()))
        return out

    def record_loss(self: Any, model: Any, inputs: Any) -> Any:
        found = computed(self, model, inputs)
        keep = inputs["useful"]
        names = {
            "old": "old_per_token_logps",
            "start": "ref_per_token_logps",
            "mask": "completion_mask",
            "advantage": "advantages",
        }
        batch = {ours: inputs[theirs][keep].numpy().astype(float) for ours, theirs in names.items()}
        seen.append(
            (
                {**batch, "now": self._scored[0].detach().numpy().astype(float)},
                float(found.detach()),
            )
        )
        return found

    monkeypatch.setattr(rlvr.OmniGRPOTrainer, "_generate_and_score_completions", record_advantages)
    monkeypatch.setattr(rlvr.OmniGRPOTrainer, "_compute_loss", record_loss)
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
    ((paid, given),) = advantages
    groups = np.array(paid).reshape(-1, 4)
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


def test_curves_tell_each_modality_and_the_journal_each_rollout(
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


class Told:
    """Rollouts whose worth is written down."""

    def __init__(self, right: float) -> None:
        self.right, self.used = right, False


@pytest.mark.parametrize(
    ("worths", "teaches"),
    [((0.2, 0.4), True), ((0.0, 0.0), False), ((0.5, 0.5), False), ((1.0, 0.9), True)],
)
def test_graded_groups_teach_where_grades_differ(worths: Sequence[float], teaches: bool) -> None:
    assert has_advantage([Told(worth) for worth in worths]) is teaches


def test_useless_groups_are_replaced_until_the_batch_is_full() -> None:
    outcomes = {0: "11", 1: "10", 2: "00", 3: "11", 4: "01", 5: "10", 6: "10"}
    turns: list[list[int]] = []

    def roll(indices: Sequence[int], turn: int) -> Any:
        turns.append(list(indices))
        return [[Told(float(c)) for c in outcomes[i]] for i in indices]

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
def test_noise_is_drawn_a_row_at_a_time_and_is_the_same_in_any_part(
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


def test_the_form_never_decides_a_group(
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


# --- start-up checks


@pytest.fixture(scope="module")
def trainer(rows: list[TrainingRow], small_recipe: Recipe) -> Any:
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


def checked(trainer: Any, engine: Any, rows: Sequence[TrainingRow]) -> float:
    return startup.check_engine(trainer, engine, rows, 0, 1.0, 0.1)


def test_trainer_and_engine_agree_on_every_modality(trainer: Any, rows: list[TrainingRow]) -> None:
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
    ("fault", "message"),
    [
        (
            without_rope_theta,
            (
                r"differ by more than rlvr.max_logprob_gap=0.1 nats \(audio: .*, audio\+image: .*,"
                r" image: "
            ),
        ),
        (
            deaf,
            (
                r"differ by more than rlvr.max_logprob_gap=0.1 nats \(audio: [^,]*, audio\+image:"
                r" [^,]*\)"
            ),
        ),
        (other_prompt, "read different prompts"),
    ],
)
def test_an_engine_that_is_wrong_is_refused(
    trainer: Any, rows: list[TrainingRow], fault: Callable[[Any], None], message: str
) -> None:
    engine = engine_of(trainer)
    fault(engine)
    with pytest.raises(TrainingError, match=message):
        checked(trainer, engine, rows)


def test_a_stock_trainer_fails_the_check_of_log_probs(
    trainer: Any, rows: list[TrainingRow]
) -> None:
    """Its forward pass gets no sound, and says nothing of it."""

    def scored(model: Any, ids: Any, mask: Any, keep: int) -> Any:
        return GRPOTrainer._get_per_token_logps_and_entropies(trainer, model, ids, mask, keep)

    stock = SimpleNamespace(
        accelerator=trainer.accelerator,
        model=trainer.model,
        _get_per_token_logps_and_entropies=scored,
        _media=[],
    )
    speech = [row for row in rows if modality(row.query) == "audio"]
    assert checked(trainer, engine_of(trainer), speech) < 1e-4
    with pytest.raises(TrainingError, match=r"max_logprob_gap=0.1 nats \(audio: "):
        checked(stock, engine_of(trainer), speech)


def test_a_trainer_that_drops_the_sound_stops_before_its_first_step(
    rows: list[TrainingRow], small_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = lambda media, device: media_tensors([f for f in media if f.kind != "audio"], device)  # noqa: E731
    monkeypatch.setattr(rlvr, "media_tensors", deaf)
    journal: list[Any] = []
    model, encoder = thinker.load(BASE)
    config = RlvrConfig(steps=1, prompts_per_step=8, num_generations=4)
    speech = [row for row in rows if modality(row.query) == "audio"]
    with pytest.raises(TrainingError, match=r"max_logprob_gap=0.1 nats \(audio: "):
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


def test_sound_picture_and_video_in_one_batch_are_scored_as_by_a_direct_forward(
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
    found = startup.log_probs(trainer, prompts, samples, encoder.pad_id)
    for prompt, sample, ours in zip(prompts, samples, found, strict=True):
        batch = collate([prompt], [list(sample.ids)], encoder.pad_id)
        batch.pop("labels")
        with torch.no_grad():
            table = torch.log_softmax(model(**batch).logits[0, -len(sample.ids) - 1 : -1], -1)
        direct = table.gather(-1, torch.tensor(sample.ids)[:, None])[:, 0]
        assert ours == pytest.approx(direct.tolist(), abs=1e-5)
    # Not for want of effect: without the video, the same tokens are something else.
    quiet = Features("video", {**video.tensors, "pixel_values_videos": patches * 0}, 2)
    other = startup.log_probs(
        trainer,
        [encoder.prompt([quiet, heard, "Which digit is written?"])],
        samples[:1],
        encoder.pad_id,
    )
    assert max(abs(a - b) for a, b in zip(found[0], other[0], strict=True)) > 1e-3


# --- control arms


@pytest.mark.parametrize(
    ("control", "shown"),
    [("none", {"audio", "image"}), ("muted_audio", {"image"}), ("text_only", set())],
)
def test_what_a_control_arm_withholds_reaches_no_forward_pass(
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


def test_without_the_sound_omni_queries_are_answered_worse_and_picture_queries_alike(
    small_recipe: Recipe, tmp_path: Path
) -> None:
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
