"""Stop a training at the first number that is not finite: everything after it would be noise, and
its checkpoint none.

transformers reports a loss of inf or NaN as 0.0 unless `logging_nan_inf_filter` is off (seen in
5.23), so the logged loss alone tells nothing. What is looked at, in this order: each row's own loss
before the backward pass, the gradients before the optimizer's step, the weights after it. So no
checkpoint on the way, and none at the end, is written from weights that are not finite.
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


def check_rows(losses: Sequence[float], queries: Sequence[Query], step: int) -> None:
    """Raises TrainingError naming the rows whose own loss is not finite."""
    lost = [
        f"{query.benchmark} {query.id}"
        for loss, query in zip(losses, queries, strict=True)
        if not math.isfinite(loss)
    ]
    if lost:
        named = ", ".join(dict.fromkeys(lost[:5])) + (
            f" and {len(lost) - 5} more" if len(lost) > 5 else ""
        )
        _stop(
            step,
            f"the loss of {len(lost)} of {len(losses)} rows is not finite at step {step + 1}, and"
            f" nothing was learned from them: {named}. If it is one row, look at its media; if it"
            f" is all, {_REMEDY}",
        )


class FiniteCheck(TrainerCallback):  # type: ignore[misc]
    """Looks at gradients and weights.

    Raises TrainingError.
    """

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        # Under ZeRO there are none left by now; weights show it then.
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        if gradients and not math.isfinite(float(get_total_norm(gradients))):
            _stop(
                state.global_step,
                f"the gradients are not finite at step {state.global_step + 1}, before the step:"
                f" {_REMEDY}",
            )

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        # Of weights that are shared out (stage 3), this process' share.
        trained = (
            (name, weight) for name, weight in model.named_parameters() if weight.requires_grad
        )
        if name := first_not_finite(
            (name, getattr(weight, "ds_tensor", weight)) for name, weight in trained
        ):
            _stop(
                state.global_step,
                f"the weights are not finite after step {state.global_step}, {name} first:"
                f" {_REMEDY}",
            )


def _stop(step: int, message: str) -> NoReturn:
    """Shows Prometheus a loss that is none, which the alert NaNLoss looks for, and ends the
    training."""
    live.log_step({"step": step, "loss": math.nan})
    raise TrainingError(message)
