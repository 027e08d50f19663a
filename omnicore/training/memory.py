"""What a training takes of a GPU's memory, before a weight is loaded: parameters by part, and bytes
by what they are for.

Of P parameters of which T train, each process holds w P bytes of weights and 4 T of LoRA's, 4 T of
gradients (of several processes as many again in DDP's buckets: torch's documentation of
gradient_as_bucket_view) and 8 T of AdamW's two moments; w is 2 under LoRA in bfloat16, else 4
(parts.py). Under ZeRO (parallel.py) w is 2 whenever bfloat16 is computed in, and of N processes
each holds 1/N of gradients and optimizer, which has a float32 copy of what trains, too; at stage 3
of the weights, beside what is gathered of them at a time. RLVR with beta holds the weights of its
reference as it holds its own; under LoRA it needs none.

Activations are what a layer keeps for its backward pass, counted for this model's layers as arXiv
2205.05198 counts GPT's: a token has 10 h + 4 k + 4 f values of 2 bytes (4 in float32), with h the
layer's width, k that of its keys and f that of its feed-forward, and 8 h bytes of its two norms,
which compute in float32; with attn_implementation=eager two rows of scores a head more. With gradient
checkpointing each layer keeps its input, and one at a time the rest. Rows count as long as they may
be (`max_length`, or the context); where the vision tower trains, all of a row as picture, merged
patches to a token; else, where the audio tower trains, as sound, two frames to a token. Autocast
keeps a bfloat16 copy of each float32 weight that trains through a forward pass.

Not counted: CUDA's own context, fragments, and what a generation of rollouts takes while nothing is
trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from omnicore import processes
from omnicore.config import MODULE_GROUPS, LauncherConfig, RlvrConfig, SftConfig
from omnicore.config.recipe import Recipe
from omnicore.errors import ConfigError
from omnicore.models import thinker
from omnicore.training.trainable_modules import lora_target_modules, module_group

GIB = 1 << 30
LIVE = (
    10**9
)  # parameters that are gathered at a time at stage 3, by DeepSpeed's stage3_max_live_parameters


@dataclass(frozen=True)
class MemoryEstimate:
    """Parameters by part, all and those that train, and bytes by what they are for on each of
    `gpus` GPUs of `room` bytes (0:

    unknown), which has `rows` rows of at most `tokens` tokens in memory at a time.
    """

    source: str
    parameters: Mapping[str, int]
    training: Mapping[str, int]
    need: Mapping[str, int]
    gpus: int
    rows: int
    tokens: int
    room: int

    def lines(self) -> list[str]:
        lines = [
            f"{'dimensions':<15}{self.source}",
            f"{'parameters':<15}{sum(self.parameters.values()):,}",
        ]
        for part, count in self.parameters.items():
            trains = self.training.get(part, 0)
            said = (
                "all train"
                if trains == count
                else f"{trains:,} of LoRA train"
                if trains
                else "stand still"
            )
            lines.append(f"  {part:<13}{count:,}, {said}")
        lines.append(
            f"{'a GPU holds':<15}{self.rows} rows of at most {self.tokens:,} tokens at a time"
            f" (GPUs: {self.gpus})"
        )
        lines += [f"  {name:<13}{size / GIB:.2f} GiB" for name, size in self.need.items()]
        of = (
            f" of {self.room / GIB:.1f}"
            if self.room
            else ", held to nothing: set launcher.gpu_memory"
        )
        return [*lines, f"  {'together':<13}{sum(self.need.values()) / GIB:.2f} GiB{of}"]

    def check(self) -> None:
        """Raises ConfigError with the remedies that are left when it is more than there is."""
        total = sum(self.need.values())
        if self.room and total > self.room:
            raise ConfigError(
                "\n".join([*self.lines(), ""])
                + f"this cannot fit: {total / GIB:.1f} GiB, and a GPU has {self.room / GIB:.1f}."
                " lora and fewer parts need less for weights, gradients and optimizer,"
                " parallel=zero2 shares the last two out, zero3 the weights;"
                " gradient_checkpointing=true, a smaller per_device_train_batch_size and a smaller max_length"
                " take fewer activations"
            )


def estimate_memory(
    recipe: Recipe, config: SftConfig | RlvrConfig, inputs: Mapping[str, Path]
) -> MemoryEstimate:
    """Of a step with the input `model`, where it is given, or `recipe.model`, as `launcher` spreads
    it; only config.json is read.

    Raises CheckpointError without one, ConfigError for a batch that does not divide.
    """
    model, source = thinker.load_skeleton(
        inputs["model"] / "checkpoint" if "model" in inputs else recipe.model, recipe.name
    )
    parameters: dict[str, int] = dict.fromkeys(MODULE_GROUPS, 0)
    for name, parameter in model.named_parameters():
        parameters[module_group(name)] += parameter.numel()
    training = _training(model, config, parameters)
    gpus = recipe.launcher.nodes * max(1, recipe.launcher.gpus_per_node)
    name, count, each = (
        ("train_batch_size", config.train_batch_size, 1)
        if isinstance(config, SftConfig)
        else ("prompts_per_step", config.prompts_per_step, config.num_generations)
    )
    if count % gpus:
        raise ConfigError(
            f"{name}={count} does not divide among {gpus} GPUs: change it, launcher.nodes or"
            " launcher.gpus_per_node"
        )
    rows = config.per_device_train_batch_size or count // gpus * each
    context = model.config.text_config.max_position_embeddings
    tokens = min(config.max_length or context, context)
    need = {
        **state_bytes(sum(parameters.values()), sum(training.values()), config, gpus),
        "activations": activation_bytes(model.config, training, config, rows * tokens, tokens),
    }
    return MemoryEstimate(
        source, parameters, training, need, gpus, rows, tokens, _room(recipe.launcher)
    )


def _training(
    model: nn.Module, config: SftConfig | RlvrConfig, parameters: Mapping[str, int]
) -> dict[str, int]:
    if config.lora is None:
        return {part: parameters[part] for part in config.trainable_modules}
    linear = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    counted: Counter[str] = Counter()
    for name in lora_target_modules(linear, config):
        counted[module_group(name)] += config.lora.rank * (
            linear[name].in_features + linear[name].out_features
        )
    return dict(counted)


def state_bytes(
    parameters: int, trained: int, config: SftConfig | RlvrConfig, gpus: int
) -> dict[str, int]:
    """Bytes on each process of weights, gradients and optimizer; `trained` are LoRA's own where
    there is one."""
    half = config.precision == "bfloat16" and (config.lora is not None or config.parallel != "ddp")
    adapters = trained if config.lora else 0
    if config.parallel == "ddp":
        weights = parameters * (2 if half else 4) + 4 * adapters
        own = {"gradients": 4 * trained * (2 if gpus > 1 else 1), "optimizer": 8 * trained}
    else:
        weights = (parameters + adapters) * (2 if half else 4)
        own = {"gradients": trained * (6 if half else 4) // gpus, "optimizer": 12 * trained // gpus}
    if config.parallel == "zero3":
        weights = weights // gpus + min(weights, LIVE * (2 if half else 4))
    reference = (
        {"reference": weights}
        if isinstance(config, RlvrConfig) and config.beta and not config.lora
        else {}
    )
    return {"weights": weights, **own, **reference}


def activation_bytes(
    model: Any,
    training: Mapping[str, int],
    config: SftConfig | RlvrConfig,
    tokens: int,
    length: int,
) -> int:
    """Bytes for the backward pass of `tokens` tokens, in rows of `length`, through a thinker of
    this configuration."""
    size = 2 if config.precision == "bfloat16" else 4

    def layers(count: int, each: int, width: int, keys: int, feed: int, heads: int) -> int:
        """`each`: how many of its own tokens such a layer has for one of the language model."""
        whole = size * (10 * width + 4 * keys + 4 * feed) + 8 * width
        if config.attn_implementation == "eager":
            whole += 2 * size * heads * each * length
        return (
            each
            * tokens
            * (count * size * width + whole if config.gradient_checkpointing else count * whole)
        )

    text, vision, audio = model.text_config, model.vision_config, model.audio_config
    heads = text.num_attention_heads
    keys = text.hidden_size // heads * text.num_key_value_heads
    kept = layers(text.num_hidden_layers, 1, text.hidden_size, keys, text.intermediate_size, heads)
    if "vision" in training:
        wide, merged = vision.hidden_size, vision.spatial_merge_size**2
        kept += layers(vision.depth, merged, wide, wide, vision.intermediate_size, vision.num_heads)
    elif "audio" in training:
        kept += layers(
            audio.encoder_layers,
            2,
            audio.d_model,
            audio.d_model,
            audio.encoder_ffn_dim,
            audio.encoder_attention_heads,
        )
    copies = config.precision == "bfloat16" and config.lora is None and config.parallel == "ddp"
    return kept + (2 * sum(training.values()) if copies else 0)


def _room(launcher: LauncherConfig) -> int:
    if launcher.gpu_memory:
        return int(launcher.gpu_memory * GIB)
    return (
        torch.cuda.get_device_properties(processes.local_rank()).total_memory
        if torch.cuda.is_available()
        else 0
    )
