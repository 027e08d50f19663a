"""Batched generation with a thinker: the one place that samples, for the engine, distillation and pretraining checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from omnicore.models.processor import Encoder, Prompt, collate


@torch.inference_mode()
def generate(model: Any, encoder: Encoder, prompts: Sequence[Prompt], *, max_new_tokens: int, temperature: float) -> list[str]:
    """Replies to one batch; greedy at temperature 0, else from the whole distribution (no top-k, no top-p).

    Media and control tokens are suppressed: a sampled placeholder without media would break the next forward pass.
    """
    model.eval()
    batch = collate(prompts, None, encoder.pad_id)
    labels = batch.pop("labels")
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {"do_sample": False}
    ids = model.generate(**batch, suppress_tokens=encoder.suppressed, max_new_tokens=max_new_tokens, **sampling)
    return encoder.text(ids[:, labels.shape[1] :])
