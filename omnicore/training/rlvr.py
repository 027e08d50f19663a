"""Train by RLVR: GRPO on verifiable rewards, from the first step or from a checkpoint."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig

from omnicore import processes
from omnicore.config import Profile, RlvrConfig
from omnicore.engines.canary import media_kinds
from omnicore.models.processor import Encoder
from omnicore.training import distributed, finite, parallel, startup, trainable_modules
from omnicore.training.checkpoints import Checkpoints
from omnicore.training.curves import CurveCallback, GradientCheck, Log
from omnicore.training.grpo_trainer import OmniGRPOTrainer
from omnicore.training.mixture import Mixture, RowOrder
from omnicore.training.rollouts import RolloutEngine, TransformersRollouts
from omnicore.training.rows import TrainingRow
from omnicore.training.sft import COMMON_ARGUMENTS, OPTIMIZER

ENCODERS = {"audio": "audio_tower", "image": "visual", "video": "visual"}


def train(
    model: Any,
    encoder: Encoder,
    rows: Sequence[TrainingRow],
    config: RlvrConfig,
    profile: Profile,
    *,
    seed: int,
    log: Log,
    journal: Log,
    checkpoints: Checkpoints | None = None,
    trackers: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Train `model` in place, from its newest checkpoint if there is one.

    Args:
        model: The thinker, on the CPU or this process's GPU.
        encoder: The model's encoder.
        rows: Training rows; their targets are not used.
        config: The section `rlvr`.
        profile: How prompts are shown and replies are bounded.
        seed: Seed of the row order, of sampling and of random rewards.
        log: Called with the record of each step.
        journal: Called with the record of each rollout.
        checkpoints: Where the training saves its checkpoints; None saves none.
        trackers: Arguments of `tracking.tracker_arguments`.

    Returns:
        `logprob_gap`, what the start-up check measured.

    Raises:
        TrainingError: A start-up check failed, an encoder that trains gets no gradient, or a loss,
            gradient or weight is not finite.
    """
    generations = -(-config.steps // config.num_iterations)
    mixture = Mixture(
        [row.query for row in rows],
        [row.tokens for row in rows],
        config.mixture,
        batch=config.prompts_per_step,
        steps=generations,
        seed=seed,
    )
    first_step = checkpoints.step if checkpoints else 0
    order = RowOrder(mixture, first_step // config.num_iterations)
    with tempfile.TemporaryDirectory() as scratch:
        args = trainer_arguments(config, profile, seed, trackers or {}, scratch)
        trainer = OmniGRPOTrainer(
            model,
            args,
            rows=rows,
            mixture=mixture,
            config=config,
            profile=profile,
            encoder=encoder,
            engine=rollout_engine(encoder, config, profile, Path(scratch)),
            journal=journal,
            checkpoints=checkpoints,
            peft_config=trainable_modules.freeze_modules(model, config),
            # TRL wants a prompt; the trainer takes the row of `index` in its place.
            train_dataset=Dataset.from_list([{"prompt": "", "index": index} for index in order]),
        )
        if trainer.is_deepspeed_enabled:
            trainer.add_callback(parallel.RunBothEncoders())
        gradient_check = GradientCheck(_trained_encoders(trainer.model, rows))
        trainer.add_callback(gradient_check)
        trainer.states["gradients"] = gradient_check
        if trainer.random_reward:
            trainer.states["random_reward"] = trainer.random_reward
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(finite.FiniteCheck())
        trainer.add_callback(CurveCallback(log, trainer.step_stats))
        # An engine that cannot take the weights is found before the first step.
        trainer.load_engine()
        with parallel.before_sharding(args):
            gap = startup.check_engine(
                trainer, trainer.engine, rows, config.temperature, config.max_logprob_gap
            )
        trainer.resume()
        parallel.gather_weights(trainer.model)
        if processes.is_main():
            trainable_modules.merge_adapters(trainer.model)
        return {"logprob_gap": round(gap, 6)}


def trainer_arguments(
    config: RlvrConfig, profile: Profile, seed: int, trackers: Mapping[str, Any], scratch: str
) -> GRPOConfig:
    """Return TRL's arguments for a training with this configuration on this process.

    Raises:
        ConfigError: The prompts of a step do not divide among processes or micro-batches.
    """
    own_prompts = distributed.per_process(config.prompts_per_step, "prompts_per_step")
    settings = COMMON_ARGUMENTS | dict(trackers) | trainable_modules.precision_arguments(config)
    return GRPOConfig(
        output_dir=scratch,
        num_generations=config.num_generations,
        max_completion_length=profile.max_new_tokens,
        max_steps=config.steps,
        learning_rate=config.learning_rate,
        # At a constant rate the last few batches decide where a run of this length ends.
        lr_scheduler_type="linear",
        warmup_steps=config.warmup_steps,
        loss_type="grpo" if config.loss_type == "gspo" else config.loss_type,
        importance_sampling_level="sequence" if config.loss_type == "gspo" else "token",
        num_iterations=config.num_iterations,
        temperature=config.temperature,
        seed=seed,
        shuffle_dataset=False,  # the mixture has its own order
        **parallel.batch_arguments(config, own_prompts * config.num_generations),
        **OPTIMIZER,
        **settings,
    )


def rollout_engine(
    encoder: Encoder, config: RlvrConfig, profile: Profile, scratch: Path
) -> RolloutEngine:
    """Return the engine that `config.rollout_engine` names."""
    if config.rollout_engine == "transformers":
        return TransformersRollouts(encoder, profile.max_new_tokens)
    # Only this engine needs aiohttp.
    from omnicore.training.vllm import VllmRollouts

    return VllmRollouts(config, profile, encoder, scratch)


def _trained_encoders(model: Any, rows: Sequence[TrainingRow]) -> dict[str, str]:
    """Return the encoders that must get a gradient: those that train, of media in the rows."""
    kinds = media_kinds(row.request for row in rows)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    encoders: dict[str, str] = {}
    for kind, encoder in ENCODERS.items():
        if kind in kinds and any(encoder in name for name in trained):
            encoders[kind] = encoder
    return encoders
