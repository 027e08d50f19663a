"""Checks before the first step, which stop a run that would train on something else than what was
generated.

Equal prompts alone prove nothing: a server whose config.json has lost its rope_theta builds the
same tokens, answers fluently and is another model. What trainer and engine say of the same tokens
has to agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from omnicore.engines.canary import media_kinds
from omnicore.errors import TrainingError
from omnicore.models.processor import Prompt, collate
from omnicore.training.rollouts import RolloutEngine, Sample
from omnicore.training.rows import TrainingRow

SAMPLES = 4  # of each modality


def check_engine(
    trainer: Any,
    engine: RolloutEngine,
    rows: Sequence[TrainingRow],
    pad_id: int,
    temperature: float,
    limit: float,
) -> float:
    """The largest difference, in nats, between the log-probs of `trainer` and `engine` for the
    tokens of a few replies to one row of each set of media.

    Raises TrainingError above `limit`, and where the two have read different prompts.
    """
    chosen = {"+".join(sorted(media_kinds([row.request]))) or "text": row for row in reversed(rows)}
    found = engine.generate(
        list(chosen.values()), SAMPLES, temperature=temperature, seed=0, logprobs=True
    )
    names = [name for name in chosen for _ in range(SAMPLES)]
    prompts = [prompt for row in chosen.values() for prompt in [row.prompt] * SAMPLES]
    for name, prompt, sample in zip(names, prompts, found, strict=True):
        if list(sample.prompt) != prompt.ids:
            raise TrainingError(
                f"trainer and rollout engine read different prompts for {chosen[name].query.id}"
                f" ({name}): {len(prompt.ids)} and {len(sample.prompt)} tokens. Usual causes:"
                " another chat template, tokenizer or preprocessor in the engine's model"
            )
    gaps = dict.fromkeys(chosen, 0.0)
    for name, sample, ours in zip(
        names, found, log_probs(trainer, prompts, found, pad_id), strict=True
    ):
        gaps[name] = max(
            gaps[name], *(abs(a - b) for a, b in zip(ours, sample.logprobs, strict=True))
        )
    if beyond := {name: gap for name, gap in gaps.items() if not gap <= limit}:
        said = ", ".join(f"{name}: {gap:.3g}" for name, gap in sorted(beyond.items()))
        raise TrainingError(
            "log-probs of trainer and rollout engine differ by more than"
            f" rlvr.max_logprob_gap={limit:g} nats ({said}): rollouts would come from another model"
            " than the one that trains. Usual causes: media that one of them drops, another"
            " config.json (rope_theta, say) or checkpoint in the engine, its log-probs taken"
            " before the temperature, quantisation"
        )
    return max(gaps.values())


def log_probs(
    trainer: Any, prompts: Sequence[Prompt], samples: Sequence[Sample], pad_id: int
) -> list[list[float]]:
    """What the trainer's own forward pass, as it computes the loss, says of each token of the
    samples."""
    batch = collate(
        prompts, [list(sample.ids) for sample in samples], pad_id, trainer.accelerator.device
    )
    keep = max(len(sample.ids) for sample in samples)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    trainer._media = [prompt.media for prompt in prompts]
    with torch.no_grad():
        found = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, keep)[0]
    return [row[: len(sample.ids)] for row, sample in zip(found.tolist(), samples, strict=True)]
