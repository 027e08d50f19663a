"""Generate replies with a thinker in batches: the only code that samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import LogitsProcessor

from omnicore.models.processor import Encoder, Prompt, collate

# (first, total): which row of a batch the first of these rows is, and the number of all.
BatchSlice = tuple[int, int]


class Generated(NamedTuple):
    """One reply.

    Attributes:
        text: The reply as text.
        truncated: Whether it ran into the length limit.
        ids: Its token ids, end of turn included.
        logprobs: One a token; empty if not asked for.
    """

    text: str
    truncated: bool
    ids: tuple[int, ...]
    logprobs: tuple[float, ...] = ()


@torch.inference_mode()
def generate(
    model: Any,
    encoder: Encoder,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    temperature: float,
    logprobs: bool = False,
    batch_slice: BatchSlice | None = None,
) -> list[Generated]:
    """Generate replies to one batch.

    Media and control tokens are suppressed: a sampled placeholder without media would break the
    next forward pass.

    Args:
        model: A thinker.
        encoder: Its encoder.
        prompts: The batch.
        max_new_tokens: Length limit of a reply.
        temperature: 0 is greedy; else sampling is from the whole distribution (no top-k, no top-p).
        logprobs: Whether to return log-probs: those before suppression, of logits divided by the
            temperature if there is one.
        batch_slice: The prompts are this slice of a batch, and get the samples that they would get
            in it, from the same state of torch's generator.
    """
    model.eval()
    batch = collate(prompts, None, encoder.pad_id, model.device)
    labels = batch.pop("labels")
    sampling: dict[str, Any] = {}
    if temperature:
        share = batch_slice or (0, len(prompts))
        sampling["logits_processor"] = [_SampleOne(temperature, share)]
    output = model.generate(
        **batch,
        suppress_tokens=encoder.suppressed,
        max_new_tokens=max_new_tokens,
        # Greedy: `_SampleOne` leaves only the token that it has sampled.
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=logprobs,
        **sampling,
    )
    ids = output.sequences[:, labels.shape[1] :]
    ends = (ids == encoder.eos_id).int()
    lengths = torch.where(ends.any(1), ends.argmax(1) + 1, ids.shape[1]).tolist()
    token_logprobs: list[list[float]] = [[] for _ in prompts]
    if logprobs:
        # [batch, tokens, vocabulary], before suppression.
        logits = torch.stack(output.logits, 1).float() / (temperature or 1.0)
        table = torch.log_softmax(logits, -1)
        token_logprobs = table.gather(-1, ids.unsqueeze(-1)).squeeze(-1).tolist()
    truncated = (~ends.any(1)).tolist()
    texts = encoder.text(ids)
    replies = []
    for row, (tokens, length) in enumerate(zip(ids.tolist(), lengths, strict=True)):
        own_logprobs = tuple(token_logprobs[row][:length])
        replies.append(Generated(texts[row], truncated[row], tuple(tokens[:length]), own_logprobs))
    return replies


class _SampleOne(LogitsProcessor):  # type: ignore[misc]
    """Leave one token a row: the one that these rows would get in the whole batch.

    Dividing the probabilities by exponential noise and taking the largest samples from them, as
    `torch.multinomial` does. The noise is drawn a row at a time, and that of other processes' rows
    is dropped at once: at a vocabulary of 152,000 the noise of 1,024 rollouts is 0.6 GB a token.
    """

    def __init__(self, temperature: float, batch_slice: BatchSlice) -> None:
        self._temperature, (self._first, self._total) = temperature, batch_slice

    def __call__(self, input_ids: Any, scores: Any) -> Any:  # noqa: ARG002
        probabilities = torch.softmax(scores / self._temperature, -1)
        others = probabilities.new_empty(scores.shape[1])
        for row in range(self._total):
            own = row - self._first
            if 0 <= own < len(scores):
                probabilities[own] /= others.exponential_()
            else:
                others.exponential_()
        sampled = probabilities.argmax(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter_(1, sampled, 0.0)
