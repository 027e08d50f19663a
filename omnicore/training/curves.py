"""The record of each training step, and checks that stop a run which cannot be right."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import TrainerCallback

from omnicore.errors import TrainingError
from omnicore.telemetry import live
from omnicore.training import distributed

# Names of the Trainer and of TRL -> fields of `curves.jsonl`.
FIELDS = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "reward": "reward",
    "reward_std": "reward_std",
    "kl": "kl",
    "entropy": "entropy",
    "completions/mean_length": "length",
    "completions/clipped_ratio": "truncated",
}
Log = Callable[[dict[str, Any]], None]


class CurveCallback(TrainerCallback):  # type: ignore[misc]
    """Turn each logged step into a record and set the metrics of Prometheus from it."""

    def __init__(self, log: Log, extend: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Create the callback.

        Args:
            log: Called with each record: `step`, `loss`, `learning_rate`, ..., `samples`, `tokens`.
            extend: Returns a record with more fields; called on all processes.
        """
        self._log, self._extend = log, extend
        self._tokens, self._since = 0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin to count tokens and seconds."""
        self._tokens, self._since = state.num_input_tokens_seen, time.monotonic()
        # Otherwise a training that hangs before its first step would have no metrics.
        live.log_step({"step": state.global_step})
        live.set_gauge("omni_training_active", 1)
        live.set_gauge("omni_training_step_timestamp_seconds", time.time())

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note that the training has ended."""
        live.set_gauge("omni_training_active", 0)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Record a step.

        Raises:
            TrainingError: The loss is not finite: all later steps would be noise.
        """
        if not logs or "loss" not in logs:
            return
        record: dict[str, Any] = {"step": state.global_step}
        for name, field in FIELDS.items():
            if name in logs:
                record[field] = round(float(logs[name]), 6)
        began, self._since = self._since, time.monotonic()
        live.set_gauge("omni_training_step_duration_seconds", self._since - began)
        live.set_gauge("omni_training_step_timestamp_seconds", time.time())
        if not math.isfinite(record["loss"]):
            live.log_step(record)
            raise TrainingError(
                f"step {state.global_step}: the loss became {record['loss']}; lower the learning"
                " rate",
                code="training-loss-not-finite",
            )
        rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        record["samples"] = rows
        if "num_tokens" in logs:
            # TRL logs the tokens since the beginning.
            tokens = int(logs["num_tokens"])
            record["tokens"], self._tokens = tokens - self._tokens, tokens
        extended = self._extend(record)
        live.log_step(extended)
        self._log(extended)


class GradientCheck(TrainerCallback):  # type: ignore[misc]
    """Stop a run whose encoders get no gradient although their media are in the data.

    A stock GRPO trainer that is fed with sound runs on, reward and all, while its forward pass for
    training gets no sound; this check stops it. An encoder must have had a non-zero gradient within
    `patience` optimizer steps in which any weight had one.
    """

    def __init__(self, encoders: dict[str, str], patience: int = 3) -> None:
        """Create the check.

        Args:
            encoders: Kind of media -> part of the names of its encoder's weights.
            patience: Optimizer steps with a gradient, after which an encoder must have had one.
        """
        self._missing, self._patience, self._moved = dict(encoders), patience, 0
        # Weights that have had a gradient since the last step, on this process.
        self._reached: set[str] = set()
        self._hooks: list[Any] = []

    def state_dict(self) -> dict[str, Any]:
        """Return the encoders without a gradient so far, and the steps that have moved weights."""
        return {"missing": self._missing, "moved": self._moved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._missing, self._moved = state["missing"], state["moved"]

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Watch gradients as they come: under ZeRO no weight has a `grad` at the optimizer step."""
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                self._hooks.append(weight.register_hook(partial(self._note, name)))

    def _note(self, name: str, gradient: torch.Tensor) -> None:
        if name not in self._reached and bool(gradient.abs().max() > 0):
            self._reached.add(name)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Check the gradients of all processes together.

        Raises:
            TrainingError: An encoder has had no gradient in `patience` steps.
        """
        if not self._missing:
            return
        reached: set[str] = set().union(*distributed.all_gather(self._reached))
        self._reached.clear()
        missing = {}
        for kind, encoder in self._missing.items():
            if not any(encoder in name for name in reached):
                missing[kind] = encoder
        self._missing = missing
        self._moved += bool(reached)
        if not missing:
            for hook in self._hooks:
                hook.remove()
        if missing and self._moved >= self._patience:
            listed = " and ".join(f"{kind} (`{encoder}`)" for kind, encoder in missing.items())
            raise TrainingError(
                f"no gradient reached the encoder of {listed} in {self._moved} steps: the trainer"
                " drops these media from its forward pass",
                code="training-no-encoder-gradient",
            )
