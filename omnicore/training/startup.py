"""Check before the first step that trainer and rollout engine compute with the same model.

Equal prompts alone prove nothing: a server whose config.json has lost its rope_theta builds the
same tokens, answers fluently and is another model. Both must give the same log-probs to the same
tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from omnicore.engines.canary import media_kinds
from omnicore.errors import TrainingError
from omnicore.models.processor import Prompt
from omnicore.training.rollouts import RolloutEngine, Sample
from omnicore.training.rows import TrainingRow

SAMPLES = 4  # replies to each row


class Scorer(Protocol):
    """A trainer, as far as this check uses it."""

    def log_probs(self, prompts: Sequence[Prompt], samples: Sequence[Sample]) -> list[list[float]]:
        """Return the log-probability of each sampled token, by the forward pass of the loss."""


def check_engine(
    trainer: Scorer,
    engine: RolloutEngine,
    rows: Sequence[TrainingRow],
    temperature: float,
    limit: float,
) -> float:
    """Compare the log-probs of trainer and engine on replies to one row of each set of media.

    Args:
        trainer: Scores tokens as it does for the loss.
        engine: Generates the replies and gives their log-probs.
        rows: Rows to choose from.
        temperature: Of sampling.
        limit: Largest difference that is accepted, in nats.

    Returns:
        The largest difference, in nats.

    Raises:
        TrainingError: The difference is above `limit`, or the two read different prompts.
    """
    row_by_media = {
        "+".join(sorted(media_kinds([row.request]))) or "text": row for row in reversed(rows)
    }
    chosen = list(row_by_media.values())
    samples = engine.generate(chosen, SAMPLES, temperature=temperature, seed=0, logprobs=True)
    names = [name for name in row_by_media for _ in range(SAMPLES)]
    prompts = []
    for row in chosen:
        prompts += [row.prompt] * SAMPLES
    for name, prompt, sample in zip(names, prompts, samples, strict=True):
        if list(sample.prompt) != prompt.ids:
            raise TrainingError(
                f"trainer and rollout engine read different prompts for"
                f" {row_by_media[name].query.id} ({name}): {len(prompt.ids)} and"
                f" {len(sample.prompt)} tokens. Usual causes: the engine's model has another chat"
                " template, tokenizer or preprocessor",
                code="rollout-prompt-mismatch",
            )
    gaps = dict.fromkeys(row_by_media, 0.0)
    scores = trainer.log_probs(prompts, samples)
    for name, sample, own in zip(names, samples, scores, strict=True):
        for mine, other in zip(own, sample.logprobs, strict=True):
            gaps[name] = max(gaps[name], abs(mine - other))
    _require_small(gaps, limit)
    return max(gaps.values())


def _require_small(gaps: dict[str, float], limit: float) -> None:
    large = {name: gap for name, gap in sorted(gaps.items()) if not gap <= limit}
    if not large:
        return
    listed = ", ".join(f"{name}: {gap:.3g}" for name, gap in large.items())
    raise TrainingError(
        "log-probs of trainer and rollout engine differ by more than"
        f" rlvr.max_logprob_gap={limit:g} nats ({listed}): rollouts would come from another model"
        " than the one that trains. Usual causes: media that one of them drops, another"
        " config.json (rope_theta, for example) or checkpoint in the engine, its log-probs taken"
        " before the temperature, quantisation",
        code="rollout-logprob-gap",
        field="rlvr.max_logprob_gap",
    )
