"""Which parts of a thinker train, in full or by adapters of low rank (LoRA, arXiv 2106.09685,
through peft), and in what precision.

Adapters lie on linear layers, but not on `lm_head`: TRL takes log-probs from its weight directly.
The convolutions that the towers begin with train in full or not at all.

What trains is kept in float32 whatever the precision: a bfloat16 weight has 8 bits, and a step of
less than a thousandth of it is rounded away. `precision=bfloat16` computes in bfloat16 (autocast),
and holds there what stands still under an adapter.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn

from omnicore.config import ModuleGroup, TrainingConfig
from omnicore.errors import ConfigError

ADAPTER = "default"  # peft's name for the only one


def module_group(name: str) -> ModuleGroup:
    """The part that a weight or module belongs to, by its name in memory or in a checkpoint."""
    if "audio_tower.proj" in name or "visual.merger" in name:
        return "projectors"
    return "audio" if "audio_tower" in name else "vision" if "visual" in name else "language"


def load_options(config: TrainingConfig) -> dict[str, Any]:
    """How `thinker.load` loads what is trained."""
    stands_still = config.lora is not None and config.precision == "bfloat16"
    return {
        "dtype": torch.bfloat16 if stands_still else torch.float32,
        "attention": config.attn_implementation,
    }


def precision_arguments(config: TrainingConfig) -> dict[str, Any]:
    """Of a Trainer."""
    return {
        "bf16": config.precision == "bfloat16",
        "gradient_checkpointing": config.gradient_checkpointing,
    }


def freeze_modules(model: nn.Module, config: TrainingConfig) -> LoraConfig | None:
    """Lets the parts of `model` train that shall, and no others; under LoRA none of its own
    weights, but the adapters of what is returned, which the trainer adds.

    Raises ConfigError where `lora.target_modules` names no layer of them.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(
            config.lora is None and module_group(name) in config.trainable_modules
        )
    if config.lora is None:
        return None
    return LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=lora_target_modules(
            [name for name, module in model.named_modules() if isinstance(module, nn.Linear)],
            config,
        ),
    )


def lora_target_modules(linear: Iterable[str], config: TrainingConfig) -> list[str]:
    """Which of these linear layers get an adapter.

    Raises ConfigError naming a target that is none of them.
    """
    assert config.lora
    within = [
        name
        for name in linear
        if module_group(name) in config.trainable_modules and name != "lm_head"
    ]
    for target in config.lora.target_modules:
        if not any(f".{name}".endswith(f".{target}") for name in within):
            ends = sorted({name.rsplit(".", 1)[-1] for name in within})
            raise ConfigError(
                f"lora.target_modules: no linear layer of {', '.join(config.trainable_modules)} is called {target}:"
                f" there are {', '.join(ends)}"
            )
    return [
        n
        for n in within
        if not config.lora.target_modules
        or any(f".{n}".endswith(f".{target}") for target in config.lora.target_modules)
    ]


def merge_adapters(model: Any) -> None:
    """Merges the adapters, where there are any, into the model that they were added to, which is a
    plain one again."""
    if isinstance(model, PeftModel):
        model.merge_and_unload()


def merged_weights(model: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """The plain model, and the weights that it would have if the adapters were merged now; they
    stay as they are.

    To merge them and take them out again would round the weights beneath another way at each step.
    """
    if not isinstance(model, PeftModel):
        return model, model.state_dict()
    plain = model.get_base_model()
    layers = {
        name: module for name, module in plain.named_modules() if isinstance(module, LoraLayer)
    }
    weights = {}
    for name, weight in plain.state_dict().items():
        layer, of_layer, _ = name.partition(".base_layer.weight")
        if ".lora_" not in name:
            weights[name.replace(".base_layer.", ".")] = (
                weight + layers[layer].get_delta_weight(ADAPTER) if of_layer else weight
            )
    return plain, weights
