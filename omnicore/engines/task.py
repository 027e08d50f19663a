"""Inference task: the requests of a step to one model, to run or only to price."""

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
    """Requests of a step to one model.

    Attributes:
        config: How the model is reached.
        model: A checkpoint directory, an s3:// address, an embedded model, or a server's model.
        requests: Requests in the order of their replies.
        sampling: How replies are sampled.
        batch: Requests a batch, for a model in this process; a server gets them one by one.
    """

    config: EngineConfig
    model: str
    requests: Sequence[Request]
    sampling: Sampling
    batch: int

    def run(
        self, recipe: Recipe, output: Path, label: str
    ) -> tuple[Iterator[Reply], dict[str, str | float]]:
        """Verify the engine with the canary, then answer all requests, journaled in `output`.

        Returns:
            All replies in order, and what the canary measured, for the summary of the step. The
            replies are read from the journal: the engine is closed by then.

        Raises:
            EngineError: The canary failed, or more requests failed than `max_error_rate` allows.
        """
        self._check_scoring(recipe)
        with self._opened(recipe, output, label) as engine:
            canary_summary = canary.verify_engine(
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
                batch=self._batch_size,
                journal=output / "replies.journal",
                label=label,
                max_error_rate=self.config.max_error_rate,
            )
        return replies, canary_summary

    def estimate_cost(self, recipe: Recipe) -> CostEstimate:
        """Estimate requests, tokens and time; sends one batch, or as many requests as run at once.

        Raises:
            ConfigError: The engine cannot score as the profile asks.
        """
        self._check_scoring(recipe)
        return estimate_cost(
            self.requests,
            self.sampling,
            recipe.profile,
            batch=self._batch_size,
            sample=self.batch if self._in_process else self.config.concurrency,
            open_engine=lambda: self._open(recipe),
        )

    @property
    def _in_process(self) -> bool:
        return self.config.kind == "transformers"

    @property
    def _batch_size(self) -> int:
        return self.batch if self._in_process else 1

    def _check_scoring(self, recipe: Recipe) -> None:
        """Raise ConfigError where the engine cannot score as the profile asks."""
        scoring = recipe.profile.scoring
        if scoring == "choice" and self._in_process:
            raise ConfigError(
                "profile.scoring=choice needs a server that constrains replies (vLLM); use logprob"
                " for a model in this process",
                code="engine-scoring-unsupported",
                field="profile.scoring",
            )
        if scoring == "logprob" and not self._in_process:
            raise ConfigError(
                "profile.scoring=logprob needs engine.kind=transformers, because chat completions"
                " do not score given replies; use choice with vLLM",
                code="engine-scoring-unsupported",
                field="profile.scoring",
            )

    @contextmanager
    def _opened(self, recipe: Recipe, output: Path, label: str) -> Iterator[Engine]:
        """Open the engine for the block; remove a server that was deployed for it at the end."""
        if self.config.kind != "kserve":
            yield self._open(recipe)
            return
        from omnicore.engines.kserve import deployed_engine

        with deployed_engine(self.config, self.model, recipe, output, label) as engine:
            yield engine

    def _open(self, recipe: Recipe) -> Engine:
        if self.config.kind == "kserve":
            # An estimate must not deploy a model.
            raise EngineError(
                "engine.kind=kserve deploys its server only for a real run",
                code="engine-kserve-no-estimate",
                field="engine.kind",
            )
        if self._in_process:
            from omnicore.models.runtime import set_up_torch

            set_up_torch(recipe, threads=1)  # the engine forks one process a core
        return open_engine(self.config, self.model, recipe.profile, workers=recipe.cores)
