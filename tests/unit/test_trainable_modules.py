"""What trains and how: parts, LoRA, precision, and that what is saved answers as what was
trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from omnicore.config import MODULE_GROUPS, RlvrConfig, SftConfig
from omnicore.config.recipe import Recipe, load_recipe
from omnicore.errors import ConfigError
from tests.errors import refused


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global AutoModelForMultimodalLM, collate, generate, get_peft_model, PromptReader
    global read_rows, rlvr, sft, thinker, torch, trainable_modules, TrainingRow

    import torch
    from peft import get_peft_model
    from transformers import AutoModelForMultimodalLM

    from omnicore.engines.transformers import PromptReader
    from omnicore.models import thinker
    from omnicore.models.generate import generate
    from omnicore.models.processor import collate
    from omnicore.training import rlvr, sft, trainable_modules
    from omnicore.training.rows import TrainingRow, read_rows


BASE = "embedded:tiny-base"
LORA = {"rank": 4, "alpha": 128}
ALL = frozenset(MODULE_GROUPS)
CLOSE = 0.1  # between logits of up to 19 before and after the weights were rounded to bfloat16; 0.07 was measured


def rows_of(prepared: Path, encoder: Any, recipe: Recipe, name: str) -> list[TrainingRow]:
    from omnicore.engines.transformers import PromptReader
    from omnicore.training.rows import read_rows

    return read_rows(
        prepared / f"{name}.jsonl",
        PromptReader(encoder, recipe.profile),
        recipe.profile,
        targets=name == "sft",
    )


def config_of(kind: str, given: dict[str, Any]) -> Any:
    """One or two steps, on rewards of which each group has some."""
    if kind == "sft":
        return SftConfig(
            **{
                "data": "sft.jsonl",
                "steps": 2,
                "train_batch_size": 12,
                "learning_rate": 5e-3,
                "warmup_steps": 0,
                **given,
            }
        )
    return RlvrConfig(
        **{
            "steps": 1,
            "prompts_per_step": 6,
            "num_generations": 4,
            "learning_rate": 5e-3,
            "warmup_steps": 0,
            "control": "random_reward",
            **given,
        }
    )


def trained(prepared: Path, recipe: Recipe, config: Any) -> tuple[Any, Any, list[TrainingRow]]:
    model, encoder = thinker.load(BASE, **trainable_modules.load_options(config))
    torch.manual_seed(0)
    rows = rows_of(prepared, encoder, recipe, "sft" if isinstance(config, SftConfig) else "rlvr")
    if isinstance(config, SftConfig):
        sft.train(model, encoder, rows, config, seed=0, log=lambda _: None)
    else:
        rlvr.train(
            model,
            encoder,
            rows,
            config,
            recipe.profile,
            seed=0,
            log=lambda _: None,
            journal=lambda _: None,
        )
    return model.eval(), encoder, list({row.query.type: row for row in rows}.values())


def logits(model: Any, encoder: Any, rows: Sequence[TrainingRow]) -> Any:
    with torch.no_grad():
        batch = collate([row.prompt for row in rows], None, encoder.pad_id)
        batch.pop("labels")
        return model(**batch).logits[:, -1].float()


def short_of_best(model: Any, encoder: Any, rows: Sequence[TrainingRow], speaker: Any) -> float:
    """How far, in logits, what `speaker` says greedily is from what `model` would say; 0 where they
    say the same."""
    with torch.no_grad():
        prompts = [row.prompt for row in rows]
        replies = [
            list(g.ids)
            for g in generate(speaker, encoder, prompts, max_new_tokens=14, temperature=0)
        ]
        batch = collate(prompts, replies, encoder.pad_id)
        labels = batch.pop("labels")[:, 1:]
        table = (
            model(**batch)
            .logits[:, :-1]
            .float()
            .index_fill(-1, torch.tensor(encoder.suppressed), -torch.inf)
        )
        chosen = table.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        return float((table.max(-1).values - chosen)[labels != -100].max())


@pytest.mark.parametrize(
    ("kind", "given", "moved"),
    [
        ("sft", {"attn_implementation": "eager"}, ALL),
        ("sft", {"trainable_modules": ["projectors", "audio"]}, {"projectors", "audio"}),
        (
            "sft",
            {
                "lora": {**LORA, "target_modules": ["q_proj", "mlp.up_proj"], "dropout": 0.1},
                "trainable_modules": ["language"],
            },
            {"language"},
        ),
        ("sft", {"precision": "bfloat16", "lora": LORA, "gradient_checkpointing": True}, ALL),
        ("rlvr", {"trainable_modules": ["language"]}, {"language"}),
        ("rlvr", {"lora": LORA}, ALL),
        ("rlvr", {"precision": "bfloat16", "gradient_checkpointing": True}, ALL),
    ],
)
def test_only_trainable_modules_change_and_survive_saving(
    prepared: Path,
    small_recipe: Recipe,
    tmp_path: Path,
    kind: str,
    given: dict[str, Any],
    moved: set[str],
) -> None:
    config = config_of(kind, given)
    seen = set()

    def look(layer: Any, *_: Any) -> None:
        if layer.training:
            seen.add((torch.is_autocast_enabled("cpu"), layer.gradient_checkpointing))

    watched = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, _: (
            look(module) if type(module).__name__ == "Qwen2_5OmniDecoderLayer" else None
        )
    )
    with watched:
        model, encoder, rows = trained(prepared, small_recipe, config)
    assert seen == {(config.precision == "bfloat16", config.gradient_checkpointing)}
    assert model.config._attn_implementation == config.attn_implementation
    start = thinker.load(BASE, **trainable_modules.load_options(config))[0]
    before, now = dict(start.named_parameters()), dict(model.named_parameters())
    assert before.keys() == now.keys(), "adapters are left"
    assert {
        trainable_modules.module_group(name)
        for name in now
        if not torch.equal(before[name], now[name])
    } == moved
    assert {p.dtype for p in now.values()} == {trainable_modules.load_options(config)["dtype"]}
    thinker.save(model, encoder, tmp_path / "saved")
    saved = AutoModelForMultimodalLM.from_pretrained(
        tmp_path / "saved", dtype=torch.float32
    ).thinker
    answered = logits(model, encoder, rows)
    assert (answered - logits(saved, encoder, rows)).abs().max() < CLOSE
    assert (answered - logits(start, encoder, rows)).abs().max() > 2 * CLOSE, (
        "as if nothing was saved"
    )
    assert short_of_best(saved, encoder, rows, speaker=model) < CLOSE


def test_merged_weights_leave_the_adapter_untouched(
    encoder: Any, random_model: Any, tmp_path: Path
) -> None:
    config = config_of("sft", {"lora": LORA})
    adapted = get_peft_model(random_model, trainable_modules.freeze_modules(random_model, config))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    before = {name: weight.clone() for name, weight in adapted.state_dict().items()}
    plain, weights = trainable_modules.merged_weights(adapted)
    thinker.save(plain, encoder, tmp_path / "policy", dtype=torch.float32, weights=weights)
    assert all(torch.equal(weight, before[name]) for name, weight in adapted.state_dict().items())
    trainable_modules.merge_adapters(adapted)
    thinker.save(random_model, encoder, tmp_path / "merged", dtype=torch.float32)
    policy, merged = (
        dict(thinker.load(tmp_path / name)[0].named_parameters()) for name in ("policy", "merged")
    )
    assert all(torch.equal(policy[name], merged[name]) for name in merged)
    assert not torch.equal(
        policy["model.visual.merger.mlp.0.weight"],
        before["base_model.model.model.visual.merger.mlp.0.base_layer.weight"],
    )


def test_lora_reference_is_the_model_without_adapter(
    prepared: Path, small_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored, seen = rlvr.OmniGRPOTrainer._generate_and_score_completions, []

    def record(self: Any, inputs: Any) -> Any:
        found = scored(self, inputs)
        seen.append((found["rollout"], found["ref_per_token_logps"]))
        return found

    monkeypatch.setattr(rlvr.OmniGRPOTrainer, "_generate_and_score_completions", record)
    model, encoder, _ = trained(
        prepared, small_recipe, config_of("rlvr", {"lora": LORA, "beta": 0.1, "steps": 2})
    )
    chosen, reference = seen[-1]
    start = thinker.load(BASE)[0]
    gaps = []
    for rollout, given in zip(chosen, reference, strict=True):
        ids = torch.tensor(rollout.sample.ids)
        batch = collate([rollout.prompt], [ids.tolist()], encoder.pad_id)
        batch.pop("labels")
        with torch.no_grad():
            tables = [
                torch.log_softmax(each(**batch).logits[0, -len(ids) - 1 : -1], -1)
                for each in (start, model)
            ]
        direct, now = (table.gather(-1, ids[:, None])[:, 0] for table in tables)
        assert torch.allclose(given[: len(ids)], direct, atol=1e-4)
        gaps.append(float((direct - now).abs().max()))
    assert max(gaps) > 0.1, "the adapter says nothing of its own"


@pytest.mark.parametrize(
    ("given", "towers"),
    [
        ({}, {"audio", "image"}),
        ({"trainable_modules": ["language"]}, set()),
        ({"trainable_modules": ["language", "vision"]}, {"image"}),
        ({"trainable_modules": ["audio"], "lora": LORA}, {"audio"}),
        (
            {"trainable_modules": ["audio", "vision"], "lora": {**LORA, "target_modules": ["fc1"]}},
            {"audio"},
        ),
        (
            {"trainable_modules": ["projectors"]},
            {"audio", "image"},
        ),  # what leads from a tower has a gradient only if something comes from it
    ],
)
def test_only_trained_encoders_need_a_gradient(
    prepared: Path,
    encoder: Any,
    random_model: Any,
    small_recipe: Recipe,
    given: dict[str, Any],
    towers: set[str],
) -> None:
    adapter = trainable_modules.freeze_modules(random_model, config_of("rlvr", given))
    model = get_peft_model(random_model, adapter) if adapter else random_model
    assert (
        set(rlvr._trained_encoders(model, rows_of(prepared, encoder, small_recipe, "rlvr")))
        == towers
    )


@pytest.mark.parametrize(
    ("overrides", "code", "field"),
    [
        (
            ["sft.lora.target_modules=[q_proj, qkv]"],
            "recipe-unknown-module",
            "lora.target_modules",
        ),
        (
            ["sft.trainable_modules=[audio]", "sft.lora.target_modules=[o_proj]"],
            "recipe-unknown-module",
            "lora.target_modules",
        ),
        (
            ["sft.precision=bfloat16", "sft.attn_implementation=flash_attention_2"],
            "package-missing",
            "attn_implementation",
        ),
        (["sft.attn_implementation=flash_attention_2"], "recipe-invalid-value", "sft"),
        (["sft.trainable_modules=[]"], "recipe-invalid-value", "sft.trainable_modules"),
        (["sft.trainable_modules=[talker]"], "recipe-invalid-value", "sft.trainable_modules.0"),
    ],
)
def test_untrainable_setting_is_refused(overrides: list[str], code: str, field: str) -> None:
    def start() -> None:
        config = load_recipe("tiny", overrides).sft
        trainable_modules.freeze_modules(
            thinker.load(BASE, **trainable_modules.load_options(config))[0], config
        )

    with refused(ConfigError, code, field=field):
        start()
