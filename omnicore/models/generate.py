"""Batched generation with a thinker: the one place that samples, for the engine, distillation and
pretraining checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import LogitsProcessor

from omnicore.models.processor import Encoder, Prompt, collate

BatchSlice = tuple[
    int, int
]  # (first, all): which row of a batch the first of these is, and how many the batch has


class Generated(NamedTuple):
    """One reply; `truncated` when it was cut before it ended, `ids` its tokens, end of turn
    included, `logprobs` one a token, if asked for."""

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
    part: BatchSlice | None = None,
) -> list[Generated]:
    """Replies to one batch; greedy at temperature 0, else from the whole distribution (no top-k, no
    top-p).

    Media and control tokens are suppressed: a sampled placeholder without media would break the next forward pass. Log-probs are
    those before suppression, of logits divided by the temperature where there is one. With `part`, the prompts draw what they would
    draw in the whole batch, from the same state of torch's generator.
    """
    model.eval()
    batch = collate(prompts, None, encoder.pad_id, model.device)
    labels = batch.pop("labels")
    sampling = (
        {"logits_processor": [_SampleOne(temperature, part or (0, len(prompts)))]}
        if temperature
        else {}
    )
    out = model.generate(
        **batch,
        suppress_tokens=encoder.suppressed,
        max_new_tokens=max_new_tokens,
        do_sample=False,  # what is drawn is all that `_Drawn` leaves
        return_dict_in_generate=True,
        output_logits=logprobs,
        **sampling,
    )
    ids = out.sequences[:, labels.shape[1] :]
    ends = (ids == encoder.eos_id).int()
    lengths = torch.where(ends.any(1), ends.argmax(1) + 1, ids.shape[1]).tolist()
    chosen: list[list[float]] = [[] for _ in prompts]
    if logprobs:
        table = torch.log_softmax(
            torch.stack(out.logits, 1).float() / (temperature or 1.0), -1
        )  # [batch, tokens, vocabulary], before suppression
        chosen = table.gather(-1, ids.unsqueeze(-1)).squeeze(-1).tolist()
    cut = (~ends.any(1)).tolist()
    return [
        Generated(text, truncated, tuple(tokens[:length]), tuple(row[:length]))
        for text, truncated, tokens, row, length in zip(
            encoder.text(ids), cut, ids.tolist(), chosen, lengths, strict=True
        )
    ]


class _SampleOne(LogitsProcessor):  # type: ignore[misc]
    """Leaves one token a row: what would be drawn for these rows if the others of the batch were
    there, too.

    Dividing the probabilities by exponential noise and taking the largest is sampling from them, as
    `torch.multinomial` does.

    The noise is drawn a row at a time, and that of other processes' rows is dropped at once: at a
    vocabulary of 152,000 the noise of 1,024 rollouts is 0.6 GB a token.
    """

    def __init__(self, temperature: float, part: BatchSlice) -> None:
        self._temperature, (self._first, self._all) = temperature, part

    def __call__(self, input_ids: Any, scores: Any) -> Any:  # noqa: ARG002
        probabilities = torch.softmax(scores / self._temperature, -1)
        others = probabilities.new_empty(scores.shape[1])
        for row in range(self._all):
            own = row - self._first
            if 0 <= own < len(scores):
                probabilities[own] /= others.exponential_()
            else:
                others.exponential_()
        drawn = probabilities.argmax(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)
