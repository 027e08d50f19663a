"""Who generates the rollouts: what an engine is, and the model that trains as one.

vllm.py has the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch

from omnicore.models.generate import BatchSlice, generate
from omnicore.models.processor import Encoder
from omnicore.training.rows import TrainingRow


class Sample(NamedTuple):
    """One rollout: the prompt's token ids as the engine read them, the reply's, end of turn
    included, and their log-probs under the distribution that they were drawn from, where the engine
    gives them.

    `truncated`: cut by the length limit.
    """

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    truncated: bool
    logprobs: tuple[float, ...] = ()


class RolloutEngine(Protocol):
    """Generates for a trainer, always with the weights that were loaded last."""

    def load(self, model: Any) -> None:
        """Takes over the weights of the policy, which is whole (not sharded) while this runs."""

    def generate(
        self,
        rows: Sequence[TrainingRow],
        n: int,
        *,
        temperature: float,
        seed: int,
        logprobs: bool = False,
        part: BatchSlice | None = None,
    ) -> list[Sample]:
        """`n` samples of each row, those of a row beside each other; the same for the same weights
        and seed, and those that the rows would have in the batch of rows that they are a part
        of."""

    def wake(self) -> None:
        """Before `load` and `generate`."""

    def sleep(self) -> None:
        """After them, until the next step: memory of the GPU is the trainer's."""


class TransformersRollouts:
    """The policy itself.

    Its log-probs are computed when asked for only: they are the trainer's own.
    """

    def __init__(self, encoder: Encoder, max_new_tokens: int) -> None:
        self._encoder, self._max_new_tokens = encoder, max_new_tokens
        self._model: Any = None

    def load(self, model: Any) -> None:
        self._model = model

    def generate(
        self,
        rows: Sequence[TrainingRow],
        n: int,
        *,
        temperature: float,
        seed: int,
        logprobs: bool = False,
        part: BatchSlice | None = None,
    ) -> list[Sample]:
        prompts = [prompt for row in rows for prompt in [row.prompt] * n]
        training = self._model.training
        torch.manual_seed(seed)
        found = generate(
            self._model,
            self._encoder,
            prompts,
            max_new_tokens=self._max_new_tokens,
            temperature=temperature,
            logprobs=logprobs,
            part=part and (part[0] * n, part[1] * n),
        )
        self._model.train(training)
        return [
            Sample(tuple(p.ids), g.ids, g.truncated, g.logprobs)
            for p, g in zip(prompts, found, strict=True)
        ]

    def wake(self) -> None: ...

    def sleep(self) -> None: ...
