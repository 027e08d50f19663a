"""What a step asks, and whom: asked for good, or only for what it would cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from omnicore.config import EngineConfig
from omnicore.config.recipe import Recipe
from omnicore.engines import canary, open_engine
from omnicore.engines.base import Engine, Reply, Request, Sampling, run_requests
from omnicore.engines.cost import CostEstimate, estimate_cost
from omnicore.engines.media_orders import frequent_orders
from omnicore.errors import ConfigError, EngineError


@dataclass(frozen=True)
class InferenceTask:
    """`requests` to `model` through the engine of `config`, in batches of `batch` where the model
    is in this process."""

    config: EngineConfig
    model: str
    requests: Sequence[Request]
    sampling: Sampling
    batch: int

    def run(
        self, recipe: Recipe, output: Path, label: str
    ) -> tuple[Iterator[Reply], dict[str, str | float]]:
        """All replies in order, journaled in `output`, and what the canary found before the first
        was asked.

        Raises EngineError when the canary fails, or more requests fail than `max_error_rate`
        allows.
        """
        self._check(recipe)
        with self._opened(recipe, output, label) as engine:
            perceived = canary.verify_engine(
                engine,
                self.config,
                recipe.profile,
                canary.media_kinds(self.requests),
                frequent_orders(self.requests),
            )
            replies = run_requests(
                engine,
                self.requests,
                self.sampling,
                seed=recipe.seed,
                batch=self._together,
                journal=output / "replies.journal",
                label=label,
                max_error_rate=self.config.max_error_rate,
            )
        return replies, perceived  # all are in the journal by now: nobody asks the engine any more

    def estimate_cost(self, recipe: Recipe) -> CostEstimate:
        """Asks a batch, or as many as go at a time, and no more."""
        self._check(recipe)
        together = self.batch if self.config.kind == "transformers" else self.config.concurrency
        return estimate_cost(
            self.requests,
            self.sampling,
            recipe.profile,
            batch=self._together,
            together=together,
            opened=lambda: self._open(recipe),
        )

    def _check(self, recipe: Recipe) -> None:
        """Raises ConfigError where the engine cannot score as the profile asks."""
        scoring, here = recipe.profile.scoring, self.config.kind == "transformers"
        if scoring == "choice" and here:
            raise ConfigError(
                "profile.scoring=choice needs a server that constrains replies (vLLM); in this"
                " process use logprob"
            )
        if scoring == "logprob" and not here:
            raise ConfigError(
                "profile.scoring=logprob needs engine.kind=transformers: chat completions do not"
                " score given replies; use choice with vLLM"
            )

    @property
    def _together(self) -> int:
        return self.batch if self.config.kind == "transformers" else 1

    @contextmanager
    def _opened(self, recipe: Recipe, output: Path, label: str) -> Iterator[Engine]:
        """The engine for as long as it is asked: a server that was started for it is gone when the
        block ends."""
        if self.config.kind != "kserve":
            yield self._open(recipe)
            return
        from omnicore.engines.kserve import deployed_engine

        with deployed_engine(self.config, self.model, recipe, output, label) as engine:
            yield engine

    def _open(self, recipe: Recipe) -> Engine:
        if self.config.kind == "kserve":
            raise EngineError(
                "a server of KServe is started for a run only"
            )  # nobody deploys a model to learn a price
        if self.config.kind == "transformers":
            from omnicore.models.runtime import set_up

            set_up(recipe, threads=1)  # the engine has a fork for each core
        return open_engine(self.config, self.model, recipe.profile, workers=recipe.cores)
