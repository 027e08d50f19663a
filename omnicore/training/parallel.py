"""How a step's rows lie on processes and in memory, and what each process holds: everything (DDP),
or under DeepSpeed's ZeRO (arXiv 1910.02054) its share of gradients and optimizer, at stage 3 of the
weights, too.

ZeRO reduces gradients in the order in which a process' backward pass brings them, and at stage 3
gathers weights in the order in which its forward pass asks for them. So all processes have to go
the same way: one whose rows hold no sound would leave out the audio tower, and the others'
reductions would meet those of other weights. `both_towers` leads each pass through both, sound
first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from torch.nn import functional
from transformers import Qwen2_5OmniThinkerModel, TrainerCallback
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from omnicore import processes
from omnicore.config import TrainingConfig
from omnicore.errors import ConfigError

RECIPES = Path(__file__).parents[1] / "config" / "recipes"
Tensors = dict[str, torch.Tensor]
STEP, MOMENTS = "step", ("exp_avg", "exp_avg_sq")  # Adam's state, as torch names it
FRAMES = 4  # the shortest sound, in mel frames: of fewer, nothing is left after two convolutions and a pooling


def check_parallel(config: TrainingConfig) -> None:
    """Raises ConfigError where ZeRO is asked for and cannot be: before a model is loaded."""
    if config.parallel == "ddp":
        return
    if processes.world_size() == 1:
        raise ConfigError(
            f"parallel={config.parallel} shares out among processes and there is one: start several"
            " with torchrun"
        )
    if not find_spec("deepspeed"):
        raise ConfigError(
            f"parallel={config.parallel} needs DeepSpeed: pip install 'omnicore[gpu]', or set"
            " parallel=ddp"
        )


def batch_arguments(config: TrainingConfig, rows: int) -> dict[str, Any]:
    """Of a Trainer for `rows` rows of a step on this process.

    Raises ConfigError where micro-batches do not divide them.
    """
    micro = config.per_device_train_batch_size or rows
    if rows % micro:
        fitting = max(size for size in range(1, min(micro, rows) + 1) if rows % size == 0)
        raise ConfigError(
            f"per_device_train_batch_size={micro} does not divide the {rows} rows that a process has of a step: set"
            f" it to {fitting}"
        )
    gpu = torch.cuda.is_available()
    found: dict[str, Any] = {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": rows // micro,
        "use_cpu": not gpu,
        # A process whose rows hold no sound gives the audio tower no gradient; another may.
        "ddp_find_unused_parameters": True,
    }
    if config.parallel == "ddp":
        return found
    found["deepspeed"] = str(RECIPES / f"{config.parallel}.json")
    if not gpu:
        # Else transformers would ask for no backend, and accelerate take each process for the only one.
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        PartialState(backend="gloo")
        found["accelerator_config"] = {"use_configured_state": True}
    return found


class RunBothEncoders(TrainerCallback):  # type: ignore[misc]
    """`both_towers` when DeepSpeed has put its own hooks on the model."""

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        run_both_encoders(model)


def run_both_encoders(model: nn.Module) -> None:
    """Leads each pass of `model` that computes gradients through the audio tower, then through that
    for pictures and videos.

    Where the batch has no such medium, it gets the smallest there is: nothing of that reaches the
    result, and the gradient is 0.
    """
    thinker: Any = next(
        module for module in model.modules() if isinstance(module, Qwen2_5OmniThinkerModel)
    )
    absent: list[str] = []

    def look(_: nn.Module, __: Any, given: dict[str, Any]) -> None:
        media = {"audio": ("input_features",), "visual": ("pixel_values", "pixel_values_videos")}
        absent[:] = [
            tower
            for tower, names in media.items()
            if all(given.get(name) is None for name in names)
        ]

    def embedded(_: nn.Module, __: Any, embeddings: torch.Tensor) -> torch.Tensor:
        if "audio" not in absent or not torch.is_grad_enabled():
            return embeddings
        absent.remove("audio")
        return embeddings + 0.0 * _silence(thinker, embeddings).sum().to(embeddings.dtype)

    def merged(_: nn.Module, args: Any, given: dict[str, Any]) -> Any:
        if "visual" not in absent or not torch.is_grad_enabled():
            return None
        absent.remove("visual")
        embeddings = given["inputs_embeds"]
        return args, {
            **given,
            "inputs_embeds": (
                embeddings + 0.0 * _blank(thinker, embeddings).sum().to(embeddings.dtype)
            ),
        }

    thinker.register_forward_pre_hook(look, with_kwargs=True)
    # Behind DeepSpeed's hook of the one and before that of the other, as media that are there are.
    thinker.get_input_embeddings().register_forward_hook(embedded)
    thinker.language_model.register_forward_pre_hook(merged, with_kwargs=True, prepend=True)


def _silence(thinker: Any, embeddings: torch.Tensor) -> torch.Tensor:
    """What the audio tower makes of the shortest sound: one token."""
    features = embeddings.new_zeros(1, thinker.audio_tower.num_mel_bins, FRAMES)
    mask = torch.ones(1, FRAMES, dtype=torch.long, device=embeddings.device)
    heard: torch.Tensor = thinker.get_audio_features(
        features, mask, return_dict=True
    ).last_hidden_state
    return heard


def _blank(thinker: Any, embeddings: torch.Tensor) -> torch.Tensor:
    """What the other tower makes of the smallest picture: one token, of a square of patches that
    are merged."""
    patches, side = thinker.visual.patch_embed, thinker.visual.spatial_merge_size
    pixels = embeddings.new_zeros(
        side * side, patches.in_channels * patches.temporal_patch_size * patches.patch_size**2
    )
    grid = torch.tensor([[1, side, side]], device=embeddings.device)
    seen: torch.Tensor = thinker.get_image_features(pixels, grid, return_dict=True).pooler_output[0]
    return seen


def gather_zero_state(engine: Any) -> tuple[Tensors, Tensors]:
    """The weights that train, whole and in float32, and what Adam keeps of them, each by name: on
    the first process, in the CPU's memory. All processes call it together.

    DeepSpeed's own checkpoints are pickles, and go on with as many processes as wrote them alone.
    """
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    _link(engine.optimizer)
    weights: Tensors = {}
    kept: Tensors = {STEP: next(iter(engine.optimizer.optimizer.state.values()))[STEP].cpu()}
    for name, parameter in _trained(engine):
        whole = [
            safe_get_full_fp32_param(parameter),
            *(safe_get_full_optimizer_state(parameter, m) for m in MOMENTS),
        ]
        if processes.is_main():
            weights[name], *moments = (tensor.to("cpu", copy=True) for tensor in whole)
            kept |= {f"{name}.{m}": tensor for m, tensor in zip(MOMENTS, moments, strict=True)}
    return weights, kept


def load_zero_state(engine: Any, weights: Tensors, kept: Tensors) -> None:
    """Gives each process its share of what `held` returned, after DeepSpeed has taken over the
    model, with these weights in it:

    those that it computes with are of them, rounded where it computes in bfloat16.
    """
    from deepspeed import utils

    zero = engine.optimizer
    sharded = _sharded(zero)
    # The optimizer would make its state at the first step.
    for group in (
        zero.fp32_partitioned_groups_flat if sharded else zero.single_partition_of_fp32_groups
    ):
        device = group.device if zero.optimizer.defaults["fused"] else "cpu"
        zero.optimizer.state[group] = {
            STEP: kept[STEP].to(device, copy=True),
            **{m: torch.zeros_like(group) for m in MOMENTS},
        }
    _link(zero)
    for name, parameter in _trained(engine):
        moments = {m: kept[f"{name}.{m}"] for m in MOMENTS}
        if sharded:
            # Not by the calls for whole ones: they refuse a weight that does not divide among the processes.
            utils.safe_set_local_fp32_param(parameter, _share(weights[name], parameter))
            for m, value in moments.items():
                utils.safe_set_local_optimizer_state(parameter, _share(value, parameter), m)
        else:
            utils.safe_set_full_fp32_param(parameter, weights[name])
            for m, value in moments.items():
                utils.safe_set_full_optimizer_state(parameter, value, m)


def _sharded(zero: Any) -> bool:
    """Whether the weights are shared out, too: stage 3."""
    return hasattr(zero, "fp32_partitioned_groups_flat")


def _link(zero: Any) -> None:
    """Lets the weights know the state of the optimizer.

    DeepSpeed does it when the first group of weights has made its first step:
    those of the second have none then, and would never be linked.
    """
    if not _sharded(zero):
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()


def _trained(engine: Any) -> list[tuple[str, Any]]:
    return [
        (name, parameter)
        for name, parameter in engine.module.named_parameters()
        if parameter.requires_grad
    ]


def _share(whole: torch.Tensor, parameter: Any) -> torch.Tensor:
    """Of a tensor like the whole weight what this process holds at stage 3; the last one's is
    filled up with zeros."""
    size = parameter.ds_tensor.numel()
    flat = functional.pad(whole.flatten(), (0, size * processes.world_size() - whole.numel()))
    return flat[size * processes.rank() :][:size]


@contextmanager
def before_sharding(args: Any) -> Iterator[None]:
    """While DeepSpeed has not yet taken the model over: TRL would ask for the shares of weights
    that are whole."""
    if not args.deepspeed:
        yield
        return
    unset_hf_deepspeed_config()
    yield
    set_hf_deepspeed_config(args.hf_deepspeed_config)


def gather_weights(model: nn.Module) -> None:
    """Gives the first process its whole weights back, in the CPU's memory, one at a time, where
    they were shared out (stage 3).

    The others' are of no use any more then.
    """
    if not any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        return
    from deepspeed.runtime.zero import GatheredParameters

    for parameter in model.parameters():
        with GatheredParameters([parameter]):
            held = (
                parameter.detach().to("cpu", copy=True) if processes.is_main() else torch.empty(0)
            )
        parameter.data = held
    unset_hf_deepspeed_config()  # else a checkpoint that is loaded hereafter would be shared out, too
