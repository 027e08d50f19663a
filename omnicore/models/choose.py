"""Choose among given replies by log-probability, as lm-evaluation-harness scores choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from omnicore.models.processor import Encoder, Prompt, collate


def most_likely_choice(model: Any, encoder: Encoder, prompt: Prompt, choices: Sequence[str]) -> str:
    """Return the choice with the highest log-probability a character; the first of equal ones.

    This is acc_norm of lm-evaluation-harness: by its length alone a long option has a lower sum
    than a short one. Letters are equally long, so for them it is the sum (acc).
    """
    sums = log_probabilities(model, encoder, prompt, choices)
    scores = [total / len(choice) for total, choice in zip(sums, choices, strict=True)]
    return choices[scores.index(max(scores))]


@torch.inference_mode()
def log_probabilities(
    model: Any, encoder: Encoder, prompt: Prompt, choices: Sequence[str]
) -> list[float]:
    """Return the log-probability of each choice as the start of the reply.

    It is summed over the tokens of the choice, without the end of turn.
    """
    model.eval()
    replies = [encoder.reply_ids(choice)[:-1] for choice in choices]
    batch = collate([prompt] * len(choices), replies, encoder.pad_id, model.device)
    labels = batch.pop("labels")
    logits = model(**batch).logits[:, :-1].float()
    targets = labels[:, 1:]
    table = torch.log_softmax(logits, -1).gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    sums: list[float] = table.masked_fill(targets < 0, 0.0).sum(1).tolist()
    return sums
