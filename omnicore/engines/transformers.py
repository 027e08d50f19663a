"""Engine in this process: a thinker through transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from omnicore.config import Profile
from omnicore.engines.base import (
    Batch,
    FinishedBatches,
    Reply,
    Request,
    Sampling,
    media_error_reply,
)
from omnicore.errors import DataError, TooLongError
from omnicore.media.read import measure_media, read_media, with_common_fps
from omnicore.media.sounds import SAMPLE_RATE, Wave
from omnicore.media.video import Video
from omnicore.models import thinker
from omnicore.models.choose import most_likely_choice
from omnicore.models.generate import Generated, generate
from omnicore.models.processor import Encoder, Features, Prompt
from omnicore.models.runtime import device
from omnicore.processes import die_with_parent
from omnicore.schema import Media

CACHE_BYTES = 2 << 30  # processed media that a reader keeps


class PromptReader:
    """Turns requests into prompts.

    A medium is processed once for all draws and epochs as long as CACHE_BYTES hold it; the one that
    was processed first is dropped first, because videos would fill any memory. Media that are slow
    to decode come from the disk cache of `media.read` when they are processed again.
    """

    def __init__(self, encoder: Encoder, profile: Profile) -> None:
        self.encoder, self.profile = encoder, profile
        self._features: dict[tuple[Media, float], Features] = {}
        self._cached_bytes = 0
        self._sizes: dict[tuple[Media, float], tuple[int, ...]] = {}

    def features(self, media: Media, root: Path, profile: Profile) -> Features:
        """Return the processed medium under a profile, which may differ in its video frame rate.

        Raises:
            TooLongError: A sound is longer than the model takes.
            DataError: The medium is missing, changed or unreadable.
        """
        key = media, profile.fps
        if key not in self._features:
            try:
                features = self._process(read_media(media, root, profile))
            except TooLongError as error:
                raise TooLongError(f"{media.uri}: {error}", **error.details()) from error
            self._features[key] = features
            self._cached_bytes += features.size
            while self._cached_bytes > CACHE_BYTES and len(self._features) > 1:
                self._cached_bytes -= self._features.pop(next(iter(self._features))).size
        return self._features[key]

    def _process(self, decoded: Image | Wave | Video) -> Features:
        if isinstance(decoded, Video):
            return self.encoder.video(decoded.frames, decoded.fps)
        if isinstance(decoded, Image):
            return self.encoder.image(decoded)
        return self.encoder.audio(decoded)

    def length(self, request: Request) -> int:
        """Count the tokens of a prompt; media are measured by their headers, not decoded."""
        profile = with_common_fps(request.parts, request.root, self.profile)
        # The prompt itself, with media that have a number of tokens and no tensors.
        parts: list[str | Features] = []
        for part in request.parts:
            if isinstance(part, Media):
                size = self._media_size(part, request.root, profile)
                parts.append(Features(part.kind, {}, self.encoder.tokens(part.kind, size)))
            else:
                parts.append(part)
        return len(self.encoder.prompt(parts, self.profile.system).ids)

    def seconds(self, media: Media, root: Path) -> float:
        """Return the duration of a sound; 0 for other media."""
        if media.kind != "audio":
            return 0.0
        return self._media_size(media, root, self.profile)[0] / SAMPLE_RATE

    def _media_size(self, media: Media, root: Path, profile: Profile) -> tuple[int, ...]:
        key = media, profile.fps
        if key not in self._sizes:
            self._sizes[key] = measure_media(media, root, profile)
        return self._sizes[key]

    def prompt(self, request: Request) -> Prompt:
        """Build the prompt of a request, with its processed media.

        Raises:
            DataError: A medium is missing, changed, unreadable or too long.
        """
        profile = with_common_fps(request.parts, request.root, self.profile)
        parts: list[str | Features] = []
        for part in request.parts:
            if isinstance(part, Media):
                parts.append(self.features(part, request.root, profile))
            else:
                parts.append(part)
        return self.encoder.prompt(parts, self.profile.system)


class TransformersEngine:
    """Engine that generates with a checkpoint directory or an embedded model."""

    def __init__(
        self, model: str | Path, profile: Profile, workers: int = 1, **loading: Any
    ) -> None:
        """Load the model.

        Args:
            model: A checkpoint directory or an embedded model.
            profile: Shows media and writes prompts.
            workers: Processes that generate on a CPU, forked with one thread each. Two on two cores
                are nearly twice as fast as one; two threads gain little on matrices this small.
                torch must not have started threads before the fork.
            loading: Further arguments of `thinker.load`.

        Raises:
            CheckpointError: The model cannot be loaded.
        """
        self.name = str(model)
        self.model, self.encoder = thinker.load(model, **loading)
        self.model.to(device())
        self.reader = PromptReader(self.encoder, profile)
        # A forked process cannot use the GPU of its parent.
        self._workers = workers if self.model.device.type == "cpu" else 1

    def with_profile(self, profile: Profile) -> TransformersEngine:
        """Return an engine for the same model that shows media as `profile` says."""
        engine = copy(self)
        engine.reader = PromptReader(self.encoder, profile)
        return engine

    def answer(self, batches: Sequence[Batch], sampling: Sampling) -> Iterator[FinishedBatches]:
        """Answer batches, in forked processes where there are several workers."""
        if self._workers == 1 or len(batches) < 2:
            for index, batch in enumerate(batches):
                yield [(index, self.generate(batch, sampling))]
            return
        global _FORKED
        _FORKED = self, sampling
        with get_context("fork").Pool(self._workers, initializer=die_with_parent) as pool:
            for finished in pool.imap_unordered(_generate_in_fork, list(enumerate(batches))):
                yield [finished]

    def generate(self, batch: Batch, sampling: Sampling) -> list[Reply]:
        """Answer a batch; a request with an unreadable medium or too long a sound gets an error."""
        torch.manual_seed(batch.seed)
        prompts = [self._prompt_or_reply(request) for request in batch.requests]
        to_generate = [prompt for prompt in prompts if isinstance(prompt, Prompt)]
        if not to_generate:
            return [prompt for prompt in prompts if isinstance(prompt, Reply)]
        generated = iter(
            generate(
                self.model,
                self.encoder,
                to_generate,
                max_new_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                logprobs=sampling.logprobs,
            )
        )
        replies = []
        for prompt in prompts:
            replies.append(prompt if isinstance(prompt, Reply) else _reply(next(generated)))
        return replies

    def _prompt_or_reply(self, request: Request) -> Prompt | Reply:
        """Return the prompt to generate from, or at once the most likely choice or an error."""
        try:
            prompt = self.reader.prompt(request)
        except DataError as error:
            return media_error_reply(request, error)
        if request.choices:
            return Reply(most_likely_choice(self.model, self.encoder, prompt, request.choices))
        return prompt


def _reply(generated: Generated) -> Reply:
    return Reply(
        generated.text,
        truncated=generated.truncated,
        logprobs=generated.logprobs,
        tokens=len(generated.ids),
    )


# Inherited by the forked processes; a model could not be sent to them.
_FORKED: tuple[TransformersEngine, Sampling] | None = None


def _generate_in_fork(numbered: tuple[int, Batch]) -> tuple[int, list[Reply]]:
    assert _FORKED, "set before the fork"
    engine, sampling = _FORKED
    index, batch = numbered
    return index, engine.generate(batch, sampling)
