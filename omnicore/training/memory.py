"""Estimate the GPU memory of a training before a weight is loaded.

Of P parameters of which T train, each process holds w P bytes of weights and 4 T of LoRA's, 4 T of
gradients (with several processes the same again in DDP's buckets: torch's documentation of
gradient_as_bucket_view) and 8 T of AdamW's two moments; w is 2 with LoRA in bfloat16, else 4
(trainable_modules.py). With ZeRO (parallel.py) w is 2 whenever it computes in bfloat16, and of N
processes each holds 1/N of gradients and optimizer, which also has a float32 copy of what trains;
at stage 3 it holds 1/N of the weights, beside those that are gathered at a time. RLVR with beta
holds the weights of its reference like its own; with LoRA it needs none.

Activations are what a layer keeps for its backward pass, counted for this model's layers as arXiv
2205.05198 counts GPT's: a token has 10 h + 4 k + 4 f values of 2 bytes (4 in float32), with h the
layer's width, k that of its keys and f that of its feed-forward, and 8 h bytes of its two norms,
which compute in float32; with attn_implementation=eager two more rows of scores a head. With
gradient checkpointing each layer keeps its input, and one at a time the rest. Rows count as long as
they may be (`max_length`, or the context). If the vision encoder trains, all of a row counts as
picture, merged patches to a token; else, if the audio encoder trains, as sound, two frames to a
token. Autocast keeps a bfloat16 copy of each float32 weight that trains through a forward pass.

Not counted: CUDA's own context, fragmentation, and what generating rollouts takes while nothing
trains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from omnicore import processes
from omnicore.config import MODULE_GROUPS, LauncherConfig, RlvrConfig, SftConfig
from omnicore.config.recipe import Recipe
from omnicore.errors import ConfigError
from omnicore.models import thinker
from omnicore.training.trainable_modules import lora_target_modules, module_group

GIB = 1 << 30
LIVE = 10**9  # parameters gathered at a time at stage 3: DeepSpeed's stage3_max_live_parameters


@dataclass(frozen=True)
class MemoryEstimate:
    """What a training takes of a GPU.

    Attributes:
        source: Where the model's dimensions come from.
        parameters: Number of parameters by group of modules.
        trainable: Number of those that train by group; with LoRA the adapters' parameters.
        need: Bytes on each GPU by purpose.
        gpus: Number of GPUs.
        rows: Rows in a GPU's memory at a time.
        tokens: Longest row.
        room: Bytes of a GPU, 0 if unknown.
    """

    source: str
    parameters: Mapping[str, int]
    trainable: Mapping[str, int]
    need: Mapping[str, int]
    gpus: int
    rows: int
    tokens: int
    room: int

    def lines(self) -> list[str]:
        """Return the estimate as a table for people."""
        total = sum(self.parameters.values())
        lines = [f"{'dimensions':<15}{self.source}", f"{'parameters':<15}{total:,}"]
        for group, count in self.parameters.items():
            trainable = self.trainable.get(group, 0)
            state = "frozen"
            if trainable == count:
                state = "all train"
            elif trainable:
                state = f"{trainable:,} of LoRA train"
            lines.append(f"  {group:<13}{count:,}, {state}")
        lines.append(
            f"{'a GPU holds':<15}{self.rows} rows of at most {self.tokens:,} tokens at a time"
            f" (GPUs: {self.gpus})"
        )
        for purpose, size in self.need.items():
            lines.append(f"  {purpose:<13}{size / GIB:.2f} GiB")
        limit = ", not compared: set launcher.gpu_memory"
        if self.room:
            limit = f" of {self.room / GIB:.1f}"
        return [*lines, f"  {'together':<13}{sum(self.need.values()) / GIB:.2f} GiB{limit}"]

    def check(self) -> None:
        """Compare the need with the GPU's memory.

        Raises:
            ConfigError: The training needs more; the error names the remedies.
        """
        total = sum(self.need.values())
        if self.room and total > self.room:
            table = "\n".join(self.lines())
            raise ConfigError(
                f"{table}\nthis cannot fit: {total / GIB:.1f} GiB, and a GPU has"
                f" {self.room / GIB:.1f}. lora and fewer trainable_modules need less for weights,"
                " gradients and optimizer, parallel=zero2 shares the last two out, zero3 also the"
                " weights; gradient_checkpointing=true, a smaller per_device_train_batch_size and a"
                " smaller max_length take fewer activations",
                code="recipe-exceeds-gpu-memory",
                field="launcher.gpu_memory",
            )


def estimate_memory(
    recipe: Recipe, config: SftConfig | RlvrConfig, inputs: Mapping[str, Path]
) -> MemoryEstimate:
    """Estimate the memory of a step, spread over GPUs as `recipe.launcher` says.

    Only config.json of the model is read: of the input `model`, or of `recipe.model` without one.

    Raises:
        CheckpointError: The model has no config.json.
        ConfigError: The batch does not divide among the GPUs.
    """
    path = inputs["model"] / "checkpoint" if "model" in inputs else recipe.model
    model, source = thinker.load_skeleton(path, recipe.name)
    parameters: dict[str, int] = dict.fromkeys(MODULE_GROUPS, 0)
    for name, parameter in model.named_parameters():
        parameters[module_group(name)] += parameter.numel()
    trainable = _count_trainable(model, config, parameters)
    gpus = recipe.launcher.nodes * max(1, recipe.launcher.gpus_per_node)
    rows = _rows_at_a_time(config, gpus)
    context = model.config.text_config.max_position_embeddings
    tokens = min(config.max_length or context, context)
    need = state_bytes(sum(parameters.values()), sum(trainable.values()), config, gpus)
    need["activations"] = activation_bytes(model.config, trainable, config, rows * tokens, tokens)
    room = _gpu_bytes(recipe.launcher)
    return MemoryEstimate(source, parameters, trainable, need, gpus, rows, tokens, room)


def _rows_at_a_time(config: SftConfig | RlvrConfig, gpus: int) -> int:
    """Return the rows in a GPU's memory at a time; raise ConfigError if a step does not divide."""
    if isinstance(config, SftConfig):
        field, count, rows_each = "train_batch_size", config.train_batch_size, 1
    else:
        field, count, rows_each = (
            "prompts_per_step",
            config.prompts_per_step,
            config.num_generations,
        )
    if count % gpus:
        raise ConfigError(
            f"{field}={count} does not divide among {gpus} GPUs: change it, launcher.nodes or"
            " launcher.gpus_per_node",
            code="recipe-batch-not-divisible",
            field=field,
        )
    return config.per_device_train_batch_size or count // gpus * rows_each


def _count_trainable(
    model: nn.Module, config: SftConfig | RlvrConfig, parameters: Mapping[str, int]
) -> dict[str, int]:
    if config.lora is None:
        return {group: parameters[group] for group in config.trainable_modules}
    modules = model.named_modules()
    linear = {name: module for name, module in modules if isinstance(module, nn.Linear)}
    counted: Counter[str] = Counter()
    for name in lora_target_modules(linear, config):
        layer = linear[name]
        counted[module_group(name)] += config.lora.rank * (layer.in_features + layer.out_features)
    return dict(counted)


def state_bytes(
    parameters: int, trainable: int, config: SftConfig | RlvrConfig, gpus: int
) -> dict[str, int]:
    """Return the bytes on each process of weights, gradients, optimizer and reference.

    Args:
        parameters: Parameters of the model.
        trainable: Those that train; with LoRA the adapters' own.
        config: Section of the training.
        gpus: Number of processes.
    """
    half = config.precision == "bfloat16" and (config.lora is not None or config.parallel != "ddp")
    weight_size = 2 if half else 4
    adapters = trainable if config.lora else 0
    if config.parallel == "ddp":
        weights = parameters * weight_size + 4 * adapters
        buckets = 2 if gpus > 1 else 1
        gradients, optimizer = 4 * trainable * buckets, 8 * trainable
    else:
        weights = (parameters + adapters) * weight_size
        gradients = trainable * (6 if half else 4) // gpus
        optimizer = 12 * trainable // gpus
    if config.parallel == "zero3":
        weights = weights // gpus + min(weights, LIVE * weight_size)
    need = {"weights": weights, "gradients": gradients, "optimizer": optimizer}
    if isinstance(config, RlvrConfig) and config.beta and not config.lora:
        need["reference"] = weights
    return need


class _Layers(NamedTuple):
    """The layers of a language model or an encoder; widths in values a token."""

    number: int
    tokens: int  # of its own for one token of the language model
    width: int
    key_width: int
    feed_forward: int
    heads: int


def activation_bytes(
    model: Any,
    trainable: Mapping[str, int],
    config: SftConfig | RlvrConfig,
    tokens: int,
    length: int,
) -> int:
    """Return the bytes kept for a backward pass.

    Args:
        model: Configuration of a thinker.
        trainable: Parameters that train by group.
        config: Section of the training.
        tokens: Tokens in memory at a time.
        length: Tokens of a row.
    """
    kept = _layer_bytes(_language_layers(model), config, tokens, length)
    if "vision" in trainable:
        kept += _layer_bytes(_vision_layers(model), config, tokens, length)
    elif "audio" in trainable:
        kept += _layer_bytes(_audio_layers(model), config, tokens, length)
    if config.precision == "bfloat16" and config.lora is None and config.parallel == "ddp":
        kept += 2 * sum(trainable.values())
    return kept


def _layer_bytes(layers: _Layers, config: SftConfig | RlvrConfig, tokens: int, length: int) -> int:
    size = 2 if config.precision == "bfloat16" else 4
    width = layers.width
    values = 10 * width + 4 * layers.key_width + 4 * layers.feed_forward
    whole = size * values + 8 * width
    if config.attn_implementation == "eager":
        whole += 2 * size * layers.heads * layers.tokens * length
    if config.gradient_checkpointing:
        return layers.tokens * tokens * (layers.number * size * width + whole)
    return layers.tokens * tokens * (layers.number * whole)


def _language_layers(model: Any) -> _Layers:
    text = model.text_config
    heads = text.num_attention_heads
    key_width = text.hidden_size // heads * text.num_key_value_heads
    return _Layers(
        text.num_hidden_layers, 1, text.hidden_size, key_width, text.intermediate_size, heads
    )


def _vision_layers(model: Any) -> _Layers:
    vision = model.vision_config
    width, merged = vision.hidden_size, vision.spatial_merge_size**2
    return _Layers(vision.depth, merged, width, width, vision.intermediate_size, vision.num_heads)


def _audio_layers(model: Any) -> _Layers:
    audio = model.audio_config
    width = audio.d_model
    return _Layers(
        audio.encoder_layers,
        2,
        width,
        width,
        audio.encoder_ffn_dim,
        audio.encoder_attention_heads,
    )


def _gpu_bytes(launcher: LauncherConfig) -> int:
    """Return the memory of a GPU, 0 if none is configured and none is here."""
    if launcher.gpu_memory:
        return int(launcher.gpu_memory * GIB)
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(processes.local_rank()).total_memory)
    return 0
