"""What a training is said to take of memory, against what it takes; and a dry run on a model that
is not here."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from omnicore.cli import main
from omnicore.config.recipe import Recipe, load_recipe
from tests.published import publish


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global memory, PromptReader, read_rows, sft, thinker, torch, trainable_modules
    global TrainerCallback

    import torch
    from transformers import TrainerCallback

    from omnicore.engines.transformers import PromptReader
    from omnicore.models import thinker
    from omnicore.training import memory, sft, trainable_modules
    from omnicore.training.rows import read_rows


BASE = "embedded:tiny-base"
FULL = ["sft.train_batch_size=8", "sft.steps=1"]
ALL_OF_3B = "sft --recipe qwen2.5-omni-3b --dry-run"


class Look:
    """Bytes of each process' own, when a step has been taken and its gradients are still there."""

    def on_optimizer_step(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        weights = list(model.parameters())
        moments = [
            value
            for kept in optimizer.optimizer.state.values()
            for name, value in kept.items()
            if name != "step"
        ]
        self.found = {
            "weights": sum(p.nbytes for p in weights),
            "gradients": sum(p.grad.nbytes for p in weights if p.grad is not None),
            "optimizer": sum(moment.nbytes for moment in moments),
        }


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["sft.precision=bfloat16", "sft.trainable_modules=[language, projectors]"],
        ["sft.lora={rank: 3}"],
        [
            "sft.lora={rank: 3, target_modules: [q_proj, fc1]}",
            "sft.trainable_modules=[language, audio]",
            "sft.precision=bfloat16",
        ],
    ],
)
def test_weights_gradients_and_optimizer_take_what_is_said(
    prepared: Path, small_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, overrides: list[str]
) -> None:
    recipe, look, go_on = (
        load_recipe("tiny", [*FULL, *overrides]),
        type("LookCallback", (Look, TrainerCallback), {})(),
        sft.OmniSFTTrainer.resume,
    )
    monkeypatch.setattr(
        sft.OmniSFTTrainer, "resume", lambda self: (self.add_callback(look), go_on(self))
    )
    model, encoder = thinker.load(BASE, **trainable_modules.load_options(recipe.sft))
    rows = read_rows(
        prepared / "sft.jsonl",
        PromptReader(encoder, small_recipe.profile),
        small_recipe.profile,
        targets=True,
    )
    sft.train(model, encoder, rows, recipe.sft, seed=0, log=lambda _: None)
    said = memory.estimate_memory(recipe, recipe.sft, {}).need
    # Of the audio tower, 2 embeddings of 1004160 parameters are in no forward pass, so they have no gradient.
    assert look.found == pytest.approx({name: said[name] for name in look.found}, rel=5e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_activations_of_the_language_model_are_near_what_is_said(
    attention: str, precision: str
) -> None:
    """Between .73 and 1.26 times of it, measured: which of them are kept twice depends on the
    kernel."""
    config = load_recipe(
        "tiny",
        [
            f"sft.attn_implementation={attention}",
            f"sft.precision={precision}",
            "sft.trainable_modules=[language]",
        ],
    ).sft
    model = thinker.load(BASE, **trainable_modules.load_options(config))[0].train()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}  # alive, else its address would be another's

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"),
    ):
        model.model(input_ids=torch.randint(0, 300, (8, 256)))
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    said = memory.activation_bytes(model.config, {}, config, tokens=8 * 256, length=256)
    assert 0.65 < measured / said < 1.35
    saving = config.model_copy(update={"gradient_checkpointing": True})
    assert memory.activation_bytes(model.config, {}, saving, tokens=8 * 256, length=256) < said / 2


@pytest.mark.parametrize(
    ("changes", "weights", "gradients", "optimizer"),
    [
        (["sft.parallel=ddp"], 4000, 3200, 3200),
        (["sft.parallel=zero2"], 4000, 400, 1200),
        (["sft.parallel=zero2", "sft.precision=bfloat16"], 2000, 600, 1200),
        (["sft.parallel=zero2", "sft.precision=bfloat16", "sft.lora={rank: 4}"], 2800, 600, 1200),
    ],
)
def test_zero_shards_gradients_and_optimizer(
    changes: list[str], weights: int, gradients: int, optimizer: int
) -> None:
    config = load_recipe("tiny", ["sft.save_steps=0", *changes]).sft
    assert memory.state_bytes(1000, 400, config, 4) == {
        "weights": weights,
        "gradients": gradients,
        "optimizer": optimizer,
    }


def test_dry_run_needs_neither_rows_nor_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(ALL_OF_3B.split()) == 0
    out = capsys.readouterr().out
    assert "Qwen2.5-Omni-3B does not exist yet" in out
    assert "4,703,464,448" in out  # with talker and token2wav 5.54 billion, as it is published
    assert "audio        635,053,056, frozen" in out
    assert "language     3,397,103,616, 119,734,272 of LoRA train" in out
    whole = ["--set", "rlvr.lora=null", "--set", "launcher.gpu_memory=141"]
    assert main.main([*ALL_OF_3B.replace("sft", "rlvr", 1).split(), *whole]) == 0
    out = capsys.readouterr().out
    assert "language     3,397,103,616, all train" in out
    assert "reference    17.52 GiB" in out


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        (
            ["launcher.gpu_memory=48", "sft.lora=null"],
            "recipe-exceeds-gpu-memory",
            "this cannot fit: 79.6 GiB, and a GPU has 48.0.",
        ),
        (
            ["launcher.gpus_per_node=7"],
            "recipe-batch-not-divisible",
            "train_batch_size=64 does not divide among 7 GPUs",
        ),
        (["model=nowhere", "name=other"], "checkpoint-not-found", "nowhere"),
    ],
)
def test_impossible_training_is_refused(
    capsys: pytest.CaptureFixture[str], changes: list[str], code: str, message: str
) -> None:
    assert (
        main.main([*ALL_OF_3B.split(), *(word for change in changes for word in ("--set", change))])
        == 2
    )
    error = capsys.readouterr().err
    assert message in error
    assert error.endswith(f"[{code}]\n")


def test_existing_model_gives_its_own_dimensions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path)
    assert main.main([*ALL_OF_3B.split(), "--set", f"model={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert f"dimensions     {tmp_path}" in out
    assert "parameters     1,004,160" in out
    (tmp_path / "model-00003-of-00003.safetensors").unlink()
    assert main.main([*ALL_OF_3B.split(), "--set", f"model={tmp_path}"]) == 2
    assert "[checkpoint-missing-shard]" in capsys.readouterr().err


def test_commands_of_the_guide_run(capsys: pytest.CaptureFixture[str]) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "train.md").read_text().replace("\\\n", " ")
    dry = [
        line
        for line in guide.splitlines()
        if line.startswith("omnicore ") and line.endswith("--dry-run")
    ]
    assert len(dry) == 2
    for line in dry:
        assert main.main(shlex.split(line)[1:]) == 0
        shown = capsys.readouterr().out
        assert "--recipe" not in line or shown in guide


def test_a_run_that_is_none_of_trial_needs_an_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["sft", "--input", "data=x"]) == 2
    assert "omnicore sft needs --output DIR" in capsys.readouterr().err
