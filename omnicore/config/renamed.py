"""Former names of recipe fields, which are refused with the present name."""

from __future__ import annotations

from collections.abc import Mapping

from omnicore.config.base import Config
from omnicore.config.steps import EvaluateConfig, ProbeConfig
from omnicore.config.training import (
    DistillConfig,
    LoraConfig,
    RlvrConfig,
    SftConfig,
    TrackerConfig,
    TrainingConfig,
)

# Former name -> present name, by the section that has the field; subclasses inherit the entries.
RENAMED: Mapping[type[Config], Mapping[str, str]] = {
    TrainingConfig: {
        "rate": "learning_rate",
        "warmup": "warmup_steps",
        "parts": "trainable_modules",
        "attention": "attn_implementation",
        "max_tokens": "max_length",
        "checkpoint_every": "save_steps",
        "keep_checkpoints": "save_total_limit",
        "micro_batch": "per_device_train_batch_size",
    },
    SftConfig: {
        "batch": "train_batch_size",
        "workers": "dataloader_num_workers",
    },
    RlvrConfig: {
        "prompts": "prompts_per_step",
        "group": "num_generations",
        "loss": "loss_type",
        "iterations": "num_iterations",
        "format_weight": "format_reward_weight",
        "refill": "dynamic_sampling",
        "rollouts": "rollout_engine",
        "server": "vllm_server_base_url",
        "server_weights": "vllm_weights_dir",
        "server_sleeps": "vllm_enable_sleep_mode",
    },
    DistillConfig: {
        "samples": "num_generations",
        "batch": "batch_size",
    },
    LoraConfig: {"targets": "target_modules"},
    TrackerConfig: {
        "to": "report_to",
        "uri": "tracking_uri",
        "directory": "logging_dir",
    },
    ProbeConfig: {"batch": "batch_size"},
    EvaluateConfig: {"batch": "batch_size"},
}


def present_name(section: type, field: str) -> str | None:
    """Return the present name of a section's renamed field; None if it was never renamed."""
    for kind in section.__mro__:
        if field in RENAMED.get(kind, {}):
            return RENAMED[kind][field]
    return None
