"""How a step's rows are spread over processes, and what each process holds.

Under DDP a process holds everything, under DeepSpeed's ZeRO (arXiv 1910.02054) its share of
gradients and optimizer, and at stage 3 also of the weights.

ZeRO reduces gradients in the order in which a process's backward pass brings them, and at stage 3
gathers weights in the order in which its forward pass needs them. So all processes must take the
same way: one whose rows hold no sound would leave out the audio encoder, and the others' reductions
would meet those of other weights. `run_both_encoders` leads each pass through both, sound first.
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
# The shortest sound, in mel frames: two convolutions and a pooling leave nothing of fewer.
FRAMES = 4
# The media of a forward pass, by the encoder that reads them.
ENCODER_INPUTS = {
    "audio_tower": ("input_features",),
    "visual": ("pixel_values", "pixel_values_videos"),
}


def check_parallel(config: TrainingConfig) -> None:
    """Check, before a model is loaded, that the configured ZeRO can run.

    Raises:
        ConfigError: There is one process only, or DeepSpeed is not installed.
    """
    if config.parallel == "ddp":
        return
    if processes.world_size() == 1:
        raise ConfigError(
            f"parallel={config.parallel} spreads its state over processes and there is one: start"
            " several with torchrun, or set parallel=ddp",
            code="recipe-zero-needs-processes",
            field="parallel",
        )
    if not find_spec("deepspeed"):
        raise ConfigError(
            f"parallel={config.parallel} needs DeepSpeed: pip install 'omnicore[gpu]', or set"
            " parallel=ddp",
            code="package-missing",
            field="parallel",
        )


def batch_arguments(config: TrainingConfig, rows: int) -> dict[str, Any]:
    """Return the Trainer's arguments for a step in which this process has `rows` rows.

    Raises:
        ConfigError: The micro-batch does not divide the rows.
    """
    micro_batch = config.per_device_train_batch_size or rows
    if rows % micro_batch:
        sizes = range(1, min(micro_batch, rows) + 1)
        divisor = max(size for size in sizes if rows % size == 0)
        raise ConfigError(
            f"per_device_train_batch_size={micro_batch} does not divide the {rows} rows that a"
            f" process has of a step: set it to {divisor}",
            code="recipe-batch-not-divisible",
            field="per_device_train_batch_size",
        )
    gpu = torch.cuda.is_available()
    arguments: dict[str, Any] = {
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": rows // micro_batch,
        "use_cpu": not gpu,
        # A process whose rows hold no sound gives the audio encoder no gradient; another may.
        "ddp_find_unused_parameters": True,
    }
    if config.parallel == "ddp":
        return arguments
    arguments["deepspeed"] = str(RECIPES / f"{config.parallel}.json")
    if not gpu:
        # Otherwise transformers would ask for no backend, and accelerate take each process for the
        # only one.
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        PartialState(backend="gloo")
        arguments["accelerator_config"] = {"use_configured_state": True}
    return arguments


class RunBothEncoders(TrainerCallback):  # type: ignore[misc]
    """Call `run_both_encoders` once DeepSpeed has put its own hooks on the model."""

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Add the hooks."""
        run_both_encoders(model)


def run_both_encoders(model: nn.Module) -> None:
    """Lead each pass of `model` that computes gradients through both encoders, sound first.

    An encoder whose media the batch lacks gets the smallest medium there is: its output is
    multiplied by 0, so the result stays the same and the gradient is 0.
    """
    thinker = next(
        module for module in model.modules() if isinstance(module, Qwen2_5OmniThinkerModel)
    )
    hooks = _EncoderHooks(thinker)
    thinker.register_forward_pre_hook(hooks.note_missing_media, with_kwargs=True)
    # Behind DeepSpeed's hook of the embeddings and before that of the language model, where the
    # encoders run for media that are present.
    thinker.get_input_embeddings().register_forward_hook(hooks.run_audio_encoder)
    thinker.language_model.register_forward_pre_hook(
        hooks.run_vision_encoder, with_kwargs=True, prepend=True
    )


class _EncoderHooks:
    """The hooks of `run_both_encoders`, which share what the batch of a pass lacks."""

    def __init__(self, thinker: Any) -> None:
        self._thinker = thinker
        self._missing: set[str] = set()

    def note_missing_media(self, _: nn.Module, __: Any, inputs: dict[str, Any]) -> None:
        """Note the encoders that no medium of the batch goes through."""
        self._missing = set()
        for encoder, names in ENCODER_INPUTS.items():
            if all(inputs.get(name) is None for name in names):
                self._missing.add(encoder)

    def run_audio_encoder(self, _: nn.Module, __: Any, embeddings: torch.Tensor) -> torch.Tensor:
        """Add 0 times the encoding of a short silence, if the batch has no sound."""
        if not self._must_run("audio_tower"):
            return embeddings
        return embeddings + 0.0 * _encode_silence(self._thinker, embeddings).sum().to(
            embeddings.dtype
        )

    def run_vision_encoder(self, _: nn.Module, args: Any, inputs: dict[str, Any]) -> Any:
        """Add 0 times the encoding of a small picture, if the batch has none and no video."""
        if not self._must_run("visual"):
            return None
        embeddings = inputs["inputs_embeds"]
        nothing = 0.0 * _encode_blank(self._thinker, embeddings).sum().to(embeddings.dtype)
        return args, inputs | {"inputs_embeds": embeddings + nothing}

    def _must_run(self, encoder: str) -> bool:
        """Return whether the encoder must still run in this pass, and note that it does."""
        if encoder not in self._missing or not torch.is_grad_enabled():
            return False
        self._missing.remove(encoder)
        return True


def _encode_silence(thinker: Any, embeddings: torch.Tensor) -> torch.Tensor:
    """Encode the shortest sound, which becomes one token."""
    features = embeddings.new_zeros(1, thinker.audio_tower.num_mel_bins, FRAMES)
    mask = torch.ones(1, FRAMES, dtype=torch.long, device=embeddings.device)
    output = thinker.get_audio_features(features, mask, return_dict=True)
    encoded: torch.Tensor = output.last_hidden_state
    return encoded


def _encode_blank(thinker: Any, embeddings: torch.Tensor) -> torch.Tensor:
    """Encode the smallest picture, a square of patches that are merged to one token."""
    patches, side = thinker.visual.patch_embed, thinker.visual.spatial_merge_size
    size = patches.in_channels * patches.temporal_patch_size * patches.patch_size**2
    pixels = embeddings.new_zeros(side * side, size)
    grid = torch.tensor([[1, side, side]], device=embeddings.device)
    output = thinker.get_image_features(pixels, grid, return_dict=True)
    encoded: torch.Tensor = output.pooler_output[0]
    return encoded


@contextmanager
def before_sharding(args: Any) -> Iterator[None]:
    """Treat weights as whole until DeepSpeed has sharded them.

    Otherwise TRL would gather the shares of weights that have none yet.
    """
    if not args.deepspeed:
        yield
        return
    unset_hf_deepspeed_config()
    yield
    set_hf_deepspeed_config(args.hf_deepspeed_config)


def gather_weights(model: nn.Module) -> None:
    """Give the first process its whole weights back, on the CPU, if they were sharded (stage 3).

    Weights are gathered one at a time. Those of the other processes are empty afterwards.
    """
    if not any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        return
    from deepspeed.runtime.zero import GatheredParameters

    for parameter in model.parameters():
        whole = torch.empty(0)
        with GatheredParameters([parameter]):
            if processes.is_main():
                whole = parameter.detach().to("cpu", copy=True)
        parameter.data = whole
    # Otherwise a checkpoint that is loaded afterwards would be sharded too.
    unset_hf_deepspeed_config()


def gather_zero_state(engine: Any) -> tuple[Tensors, Tensors]:
    """Return the trainable weights and Adam's state, whole and in float32, on the first process.

    All processes call it together; the others get nothing. DeepSpeed's own checkpoints are pickles
    and resume only with as many processes as wrote them.
    """
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    _link_optimizer_state(engine.optimizer)
    weights: Tensors = {}
    step = next(iter(engine.optimizer.optimizer.state.values()))[STEP]
    state: Tensors = {STEP: step.cpu()}
    for name, parameter in _trainable_parameters(engine):
        weight = safe_get_full_fp32_param(parameter)
        moments = {m: safe_get_full_optimizer_state(parameter, m) for m in MOMENTS}
        if processes.is_main():
            weights[name] = weight.to("cpu", copy=True)
            for moment, value in moments.items():
                state[f"{name}.{moment}"] = value.to("cpu", copy=True)
    return weights, state


def load_zero_state(engine: Any, weights: Tensors, state: Tensors) -> None:
    """Give each process its share of what `gather_zero_state` returned.

    Call it once DeepSpeed has taken over the model with these weights in it: the weights that it
    computes with are theirs, rounded if it computes in bfloat16.
    """
    from deepspeed import utils

    zero = engine.optimizer
    sharded = _weights_are_sharded(zero)
    groups = zero.fp32_partitioned_groups_flat if sharded else zero.single_partition_of_fp32_groups
    # The optimizer would make its state only at the first step.
    for group in groups:
        device = group.device if zero.optimizer.defaults["fused"] else "cpu"
        group_state = {STEP: state[STEP].to(device, copy=True)}
        for moment in MOMENTS:
            group_state[moment] = torch.zeros_like(group)
        zero.optimizer.state[group] = group_state
    _link_optimizer_state(zero)
    for name, parameter in _trainable_parameters(engine):
        moments = {moment: state[f"{name}.{moment}"] for moment in MOMENTS}
        if sharded:
            # The calls for whole tensors refuse a weight that does not divide among processes.
            utils.safe_set_local_fp32_param(parameter, _own_share(weights[name], parameter))
            for moment, value in moments.items():
                share = _own_share(value, parameter)
                utils.safe_set_local_optimizer_state(parameter, share, moment)
        else:
            utils.safe_set_full_fp32_param(parameter, weights[name])
            for moment, value in moments.items():
                utils.safe_set_full_optimizer_state(parameter, value, moment)


def _weights_are_sharded(zero: Any) -> bool:
    """Return whether the weights are sharded too: stage 3."""
    return hasattr(zero, "fp32_partitioned_groups_flat")


def _link_optimizer_state(zero: Any) -> None:
    """Let the weights find their optimizer state.

    DeepSpeed links them when the first group of weights has made its first step. The state of the
    second group does not exist then and would never be linked.
    """
    if not _weights_are_sharded(zero):
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()


def _trainable_parameters(engine: Any) -> list[tuple[str, Any]]:
    named = engine.module.named_parameters()
    return [(name, parameter) for name, parameter in named if parameter.requires_grad]


def _own_share(whole: torch.Tensor, parameter: Any) -> torch.Tensor:
    """Return this process's share at stage 3 of a tensor shaped like the whole weight.

    The last share is padded with zeros.
    """
    size = parameter.ds_tensor.numel()
    padding = size * processes.world_size() - whole.numel()
    flat = functional.pad(whole.flatten(), (0, padding))
    return flat[size * processes.rank() :][:size]
