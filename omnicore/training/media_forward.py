"""Give the media of a batch's rows to forward passes that TRL calls with token ids only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from omnicore.models.processor import Features, media_tensors

RowMedia = Sequence[tuple[Features, ...]]


class MediaForward:
    """A model's forward pass with the media of its rows.

    Attributes:
        output: What the model returned last.
    """

    def __init__(self, model: Any, media: RowMedia) -> None:
        """Prepare a forward pass of `model` over rows with these media, in their order."""
        self._model, self._media = model, media
        self.output: Any = None

    def __call__(self, **inputs: Any) -> Any:
        """Run the model on token ids [rows, tokens] and the rows' media."""
        tensors = _batch_tensors(self._media, inputs["input_ids"].device)
        self.output = self._model(**inputs, **tensors)
        return self.output


@contextmanager
def media_in_forward(models: Iterable[nn.Module], media: RowMedia) -> Iterator[None]:
    """Add the rows' media to every forward pass of the models within the block.

    TRL scores all rows in order, some at a time, with the policy and again with the reference.
    """
    with ExitStack() as stack:
        for model in models:
            hook = _AddMedia(media)
            handle = model.register_forward_pre_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        yield


class _AddMedia:
    """A forward pre-hook that counts the rows which a model has scored."""

    def __init__(self, media: RowMedia) -> None:
        self._media, self._scored = media, 0

    def __call__(self, _: nn.Module, args: Any, inputs: dict[str, Any]) -> Any:
        ids = inputs["input_ids"]
        rows = self._media[self._scored : self._scored + len(ids)]
        self._scored = (self._scored + len(ids)) % len(self._media)
        return args, inputs | _batch_tensors(rows, ids.device)


def _batch_tensors(media: RowMedia, device: torch.device) -> dict[str, torch.Tensor]:
    features = [feature for row in media for feature in row]
    return media_tensors(features, device)
