"""Which modules of a thinker train, in full or by LoRA adapters (arXiv 2106.09685), how precisely.

peft adds the adapters to linear layers, except `lm_head`: TRL takes log-probs from its weight
directly. The convolutions at the input of the encoders train in full or not at all.

Trainable weights are kept in float32 whatever the precision: a bfloat16 weight has 8 bits, and a
step of less than a thousandth of it is rounded away. `precision=bfloat16` computes in bfloat16
(autocast) and holds the frozen weights under an adapter in bfloat16.
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

ADAPTER = "default"  # peft's name of the only one


def module_group(name: str) -> ModuleGroup:
    """Return the group of a weight or module, by its name in memory or in a checkpoint."""
    if "audio_tower.proj" in name or "visual.merger" in name:
        return "projectors"
    if "audio_tower" in name:
        return "audio"
    return "vision" if "visual" in name else "language"


def load_options(config: TrainingConfig) -> dict[str, Any]:
    """Return the options with which `thinker.load` loads a model to train."""
    frozen_in_half = config.lora is not None and config.precision == "bfloat16"
    return {
        "dtype": torch.bfloat16 if frozen_in_half else torch.float32,
        "attention": config.attn_implementation,
    }


def precision_arguments(config: TrainingConfig) -> dict[str, Any]:
    """Return the Trainer's arguments of precision and memory."""
    return {
        "bf16": config.precision == "bfloat16",
        "gradient_checkpointing": config.gradient_checkpointing,
    }


def freeze_modules(model: nn.Module, config: TrainingConfig) -> LoraConfig | None:
    """Freeze all but the configured modules; return a LoRA config if one is set.

    With LoRA all weights of `model` are frozen, and the trainer adds the adapters of the config.

    Raises:
        ConfigError: `lora.target_modules` names no layer of the configured modules.
    """
    for name, parameter in model.named_parameters():
        trains = config.lora is None and module_group(name) in config.trainable_modules
        parameter.requires_grad_(trains)
    if config.lora is None:
        return None
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=lora_target_modules(linear, config),
    )


def lora_target_modules(linear: Iterable[str], config: TrainingConfig) -> list[str]:
    """Return which of these linear layers get an adapter.

    Raises:
        ConfigError: A target is none of them.
    """
    assert config.lora
    layers = []
    for name in linear:
        if module_group(name) in config.trainable_modules and name != "lm_head":
            layers.append(name)
    targets = config.lora.target_modules
    for target in targets:
        if not any(_ends_with(name, target) for name in layers):
            ends = sorted({name.rsplit(".", 1)[-1] for name in layers})
            raise ConfigError(
                f"lora.target_modules: no linear layer of {', '.join(config.trainable_modules)} is"
                f" called {target}: there are {', '.join(ends)}",
                code="recipe-unknown-module",
                field="lora.target_modules",
            )
    if not targets:
        return layers
    return [name for name in layers if any(_ends_with(name, target) for target in targets)]


def _ends_with(name: str, target: str) -> bool:
    """Return whether the last components of a dotted name are `target`."""
    return f".{name}".endswith(f".{target}")


def merge_adapters(model: Any) -> None:
    """Merge the adapters, if there are any, into the model that they were added to."""
    if isinstance(model, PeftModel):
        model.merge_and_unload()


def merged_weights(model: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """Return the plain model, and the weights that merging the adapters would give it.

    The adapters stay as they are: merging them at each step and taking them out again would round
    the weights beneath differently each time.
    """
    if not isinstance(model, PeftModel):
        return model, model.state_dict()
    plain = model.get_base_model()
    modules = plain.named_modules()
    layers = {name: module for name, module in modules if isinstance(module, LoraLayer)}
    weights = {}
    for name, weight in plain.state_dict().items():
        if ".lora_" in name:
            continue
        layer, is_adapted, _ = name.partition(".base_layer.weight")
        merged = weight + layers[layer].get_delta_weight(ADAPTER) if is_adapted else weight
        weights[name.replace(".base_layer.", ".")] = merged
    return plain, weights
