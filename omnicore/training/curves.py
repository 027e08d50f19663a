"""What a trainer says of each step, in our names, and the checks that stop a run that cannot be
right."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import TrainerCallback

from omnicore import distributed
from omnicore.errors import TrainingError
from omnicore.telemetry import live

# TRL's and the Trainer's names -> ours.
NAMES = {
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
    """Turns each logged step into one record `{"step", "loss", "learning_rate", ..., "samples", "tokens"}`,
    and shows it to Prometheus.

    `add` may extend it. Raises TrainingError when the loss is not a number: everything after it
    would be noise.
    """

    def __init__(self, log: Log, add: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._log, self._add = log, add
        self._tokens, self._since = 0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._tokens, self._since = state.num_input_tokens_seen, time.monotonic()
        live.log_step(
            {"step": state.global_step}
        )  # a training that hangs before its first step is seen to
        live.set_gauge("omni_training_active", 1)
        live.set_gauge("omni_training_step_timestamp_seconds", time.time())

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        live.set_gauge("omni_training_active", 0)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        if not logs or "loss" not in logs:
            return
        record: dict[str, Any] = {"step": state.global_step}
        for theirs, ours in NAMES.items():
            if theirs in logs:
                record[ours] = round(float(logs[theirs]), 6)
        began, self._since = self._since, time.monotonic()
        live.set_gauge("omni_training_step_duration_seconds", self._since - began)
        live.set_gauge("omni_training_step_timestamp_seconds", time.time())
        if not math.isfinite(record["loss"]):
            live.log_step(record)
            raise TrainingError(
                f"the loss became {record['loss']} at step {state.global_step}: lower the learning"
                " rate"
            )
        record["samples"] = (
            args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        )
        if "num_tokens" in logs:  # so far, by TRL
            record["tokens"], self._tokens = (
                int(logs["num_tokens"]) - self._tokens,
                int(logs["num_tokens"]),
            )
        whole = self._add(record)
        live.log_step(whole)
        self._log(whole)


class GradientCheck(TrainerCallback):  # type: ignore[misc]
    """Stops a run whose towers get no gradient although their media are in the data.

    A stock GRPO trainer fed with sound runs on, reward and all, while its training forward sees no
    sound: this is the check that it fails. A tower must have had a non-zero gradient within
    `patience` optimizer steps that move the text model.
    """

    def __init__(self, towers: dict[str, str], patience: int = 3) -> None:
        self._missing, self._patience, self._moved = dict(towers), patience, 0
        self._alive: set[str] = (
            set()
        )  # weights that have had a gradient since the last step, on this process
        self._hooks: list[Any] = []

    def state_dict(self) -> dict[str, Any]:
        return {"missing": self._missing, "moved": self._moved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._missing, self._moved = state["missing"], state["moved"]

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        # As they come: under ZeRO no weight has a `grad` any more when the optimizer's turn is.
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._hooks = [p.register_hook(partial(self._reached, name)) for name, p in trained]

    def _reached(self, name: str, gradient: torch.Tensor) -> None:
        if name not in self._alive and bool(gradient.abs().max() > 0):
            self._alive.add(name)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self._missing:
            return
        alive: set[str] = set().union(*distributed.all_gather(self._alive))
        self._alive.clear()
        self._missing = {
            kind: part
            for kind, part in self._missing.items()
            if not any(part in name for name in alive)
        }
        self._moved += bool(alive)
        if not self._missing:
            for hook in self._hooks:
                hook.remove()
        if self._missing and self._moved >= self._patience:
            lost = " and ".join(f"{kind} (`{part}`)" for kind, part in self._missing.items())
            raise TrainingError(
                f"no gradient reached the tower for {lost} in {self._moved} steps: the trainer"
                " drops these media from its forward pass"
            )
