"""Stop a training at the first number that is not finite: all later steps would be noise.

transformers reports a loss of inf or NaN as 0.0 unless `logging_nan_inf_filter` is off (seen in
5.23), so the logged loss alone proves nothing. Checked are, in this order: each row's own loss
before the backward pass, the gradients before the optimizer's step, and the weights after it. So no
checkpoint is written from weights that are not finite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

from torch.nn.utils import get_total_norm
from transformers import TrainerCallback

from omnicore.errors import TrainingError
from omnicore.models.thinker import first_not_finite
from omnicore.schema import Query
from omnicore.telemetry import live

_REMEDY = "lower the learning rate, or set another precision"
_LISTED = 5  # rows that an error names


def check_rows(losses: Sequence[float], queries: Sequence[Query], step: int) -> None:
    """Check each row's loss.

    Args:
        losses: Of the rows of a micro-batch.
        queries: Of the same rows.
        step: Optimizer steps so far.

    Raises:
        TrainingError: A loss is not finite; the error names the rows.
    """
    names = []
    for loss, query in zip(losses, queries, strict=True):
        if not math.isfinite(loss):
            names.append(f"{query.benchmark} {query.id}")
    if not names:
        return
    listed = ", ".join(dict.fromkeys(names[:_LISTED]))
    if len(names) > _LISTED:
        listed += f" and {len(names) - _LISTED} more"
    _stop(
        step,
        f"step {step + 1}: the loss of {len(names)} of {len(losses)} rows is not finite, and"
        f" nothing was learned from them: {listed}. If it is one row, check its media; if it is"
        f" all, {_REMEDY}",
        "training-loss-not-finite",
    )


class FiniteCheck(TrainerCallback):  # type: ignore[misc]
    """Check gradients and weights in each step."""

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Check the gradients.

        Under ZeRO there are none left by now; the weights show it then.

        Raises:
            TrainingError: A gradient is not finite.
        """
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        if gradients and not math.isfinite(float(get_total_norm(gradients))):
            step = state.global_step
            _stop(
                step,
                f"step {step + 1}: the gradients are not finite; {_REMEDY}",
                "training-gradient-not-finite",
            )

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Check the weights that train; of sharded ones (stage 3) this process's share.

        Raises:
            TrainingError: A weight is not finite.
        """
        trained = (
            (name, getattr(weight, "ds_tensor", weight))
            for name, weight in model.named_parameters()
            if weight.requires_grad
        )
        name = first_not_finite(trained)
        if name:
            step = state.global_step
            _stop(
                step,
                f"step {step}: the weights are not finite, {name} first; {_REMEDY}",
                "training-weight-not-finite",
            )


def _stop(step: int, message: str, code: str) -> NoReturn:
    """Set the loss metric to NaN, which fires the alert NaNLoss, and end the training."""
    live.log_step({"step": step, "loss": math.nan})
    raise TrainingError(message, code=code)
