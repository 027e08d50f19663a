"""The interface of rollout engines, and the engine that generates with the policy itself.

vllm.py has the engine that asks a server.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch

from omnicore.models.generate import BatchSlice, generate
from omnicore.models.processor import Encoder
from omnicore.training.rows import TrainingRow


class Sample(NamedTuple):
    """One generated reply.

    Attributes:
        prompt: Token ids of the prompt as the engine read them.
        ids: Token ids of the reply, end of turn included.
        truncated: Whether the reply ran into the length limit.
        logprobs: Log-probability of each token of the reply under the distribution that it was
            drawn from; empty if the engine gives none.
    """

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    truncated: bool
    logprobs: tuple[float, ...] = ()


class RolloutEngine(Protocol):
    """Generates for a trainer, always with the weights that were loaded last."""

    def load(self, model: Any) -> None:
        """Load the weights of the policy, which are gathered (not sharded) during this call."""

    def generate(
        self,
        rows: Sequence[TrainingRow],
        n: int,
        *,
        temperature: float,
        seed: int,
        logprobs: bool = False,
        batch_slice: BatchSlice | None = None,
    ) -> list[Sample]:
        """Generate `n` samples of each row, those of a row beside each other.

        The samples are a function of weights and seed. With `batch_slice` they are those that the
        rows would have in the whole batch.
        """

    def wake(self) -> None:
        """Take the GPU's memory before `load` and `generate`."""

    def sleep(self) -> None:
        """Leave the GPU's memory to the trainer until the next step."""


class TransformersRollouts:
    """Generates with the policy itself.

    Log-probs are computed only when asked for: they are the trainer's own.
    """

    def __init__(self, encoder: Encoder, max_new_tokens: int) -> None:
        self._encoder, self._max_new_tokens = encoder, max_new_tokens
        self._model: Any = None

    def load(self, model: Any) -> None:
        """Remember the policy."""
        self._model = model

    def generate(
        self,
        rows: Sequence[TrainingRow],
        n: int,
        *,
        temperature: float,
        seed: int,
        logprobs: bool = False,
        batch_slice: BatchSlice | None = None,
    ) -> list[Sample]:
        """Generate as `RolloutEngine` says."""
        prompts = []
        for row in rows:
            prompts += [row.prompt] * n
        if batch_slice:
            first, total = batch_slice
            batch_slice = (first * n, total * n)
        training = self._model.training
        torch.manual_seed(seed)
        replies = generate(
            self._model,
            self._encoder,
            prompts,
            max_new_tokens=self._max_new_tokens,
            temperature=temperature,
            logprobs=logprobs,
            batch_slice=batch_slice,
        )
        self._model.train(training)
        return [
            Sample(tuple(prompt.ids), reply.ids, reply.truncated, reply.logprobs)
            for prompt, reply in zip(prompts, replies, strict=True)
        ]

    def wake(self) -> None:
        """Do nothing: the policy stays where it is."""

    def sleep(self) -> None:
        """Do nothing: the policy stays where it is."""
