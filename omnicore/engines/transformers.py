"""The engine in this process: a thinker through transformers."""

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

CACHE_BYTES = 2 << 30  # bytes of processed media that a reader keeps


class PromptReader:
    """Turns requests into prompts.

    A medium is processed once whatever the number of draws and epochs, as long as `FEATURES` bytes
    hold it; what was processed longest ago makes room: videos would fill any memory. What is slow
    to decode comes from the disk (`media.read`) when it is processed again.
    """

    def __init__(self, encoder: Encoder, profile: Profile) -> None:
        self.encoder, self.profile = encoder, profile
        self._features: dict[tuple[Media, float], Features] = {}
        self._size = 0
        self._sizes: dict[tuple[Media, float], tuple[int, ...]] = {}

    def features(self, media: Media, root: Path, profile: Profile) -> Features:
        """What the model is shown of a medium under a profile, which differs from the reader's in
        the rate of videos alone."""
        key = media, profile.fps
        if key not in self._features:
            try:
                found = self._features[key] = self._process(read_media(media, root, profile))
            except TooLongError as error:
                raise TooLongError(f"{media.uri}: {error}") from error
            self._size += found.size
            while self._size > CACHE_BYTES and len(self._features) > 1:
                self._size -= self._features.pop(next(iter(self._features))).size
        return self._features[key]

    def _process(self, decoded: Image | Wave | Video) -> Features:
        if isinstance(decoded, Video):
            return self.encoder.video(decoded.frames, decoded.fps)
        return (
            self.encoder.image(decoded)
            if isinstance(decoded, Image)
            else self.encoder.audio(decoded)
        )

    def length(self, request: Request) -> int:
        """Tokens of a prompt, without a look into its media: they are measured by their headers."""
        profile = with_common_fps(request.parts, request.root, self.profile)
        # The prompt itself, with media that have their tokens and nothing else.
        parts = [
            (
                p
                if isinstance(p, str)
                else Features(
                    p.kind, {}, self.encoder.tokens(p.kind, self._size_of(p, request.root, profile))
                )
            )
            for p in request.parts
        ]
        return len(self.encoder.prompt(parts, self.profile.system).ids)

    def seconds(self, media: Media, root: Path) -> float:
        """How long a sound is; 0 for what is none."""
        return (
            self._size_of(media, root, self.profile)[0] / SAMPLE_RATE
            if media.kind == "audio"
            else 0.0
        )

    def _size_of(self, media: Media, root: Path, profile: Profile) -> tuple[int, ...]:
        key = media, profile.fps
        if key not in self._sizes:
            self._sizes[key] = measure_media(media, root, profile)
        return self._sizes[key]

    def prompt(self, request: Request) -> Prompt:
        profile = with_common_fps(request.parts, request.root, self.profile)
        parts = [
            p if isinstance(p, str) else self.features(p, request.root, profile)
            for p in request.parts
        ]
        return self.encoder.prompt(parts, self.profile.system)


class TransformersEngine:
    """Generates with a checkpoint directory or an embedded model.

    Raises CheckpointError when it cannot be loaded.     With `workers` above 1, batches go to as
    many forks of this process, of one thread each: on two cores nearly twice as     fast, where two
    threads on matrices this small gain little. torch must not have started threads before.
    `loading` is what     `thinker.load` takes.
    """

    def __init__(
        self, model: str | Path, profile: Profile, workers: int = 1, **loading: Any
    ) -> None:
        self.name = str(model)
        self.model, self.encoder = thinker.load(model, **loading)
        self.model.to(device())
        self.reader = PromptReader(self.encoder, profile)
        self._workers = (
            workers if self.model.device.type == "cpu" else 1
        )  # a GPU is not to be used across a fork

    def with_profile(self, profile: Profile) -> TransformersEngine:
        engine = copy(self)
        engine.reader = PromptReader(self.encoder, profile)
        return engine

    def answer(self, batches: Sequence[Batch], sampling: Sampling) -> Iterator[FinishedBatches]:
        if self._workers == 1 or len(batches) < 2:
            yield from (
                [(index, self.generate(batch, sampling))] for index, batch in enumerate(batches)
            )
            return
        global _FORKED
        _FORKED = self, sampling
        with get_context("fork").Pool(self._workers, initializer=die_with_parent) as pool:
            yield from ([done] for done in pool.imap_unordered(_in_fork, list(enumerate(batches))))

    def generate(self, batch: Batch, sampling: Sampling) -> list[Reply]:
        """Answer a batch; a request with a medium that cannot be read, or a sound that is too long,
        gets a reply with an error."""
        torch.manual_seed(batch.seed)
        prompts = [self._answered(request) for request in batch.requests]
        asked = [prompt for prompt in prompts if isinstance(prompt, Prompt)]
        if not asked:
            return [prompt for prompt in prompts if isinstance(prompt, Reply)]
        found = iter(
            generate(
                self.model,
                self.encoder,
                asked,
                max_new_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                logprobs=sampling.logprobs,
            )
        )
        return [prompt if isinstance(prompt, Reply) else _reply(next(found)) for prompt in prompts]

    def _answered(self, request: Request) -> Prompt | Reply:
        """The prompt to generate from, or the reply where none is generated: an error, or the
        likeliest choice."""
        prompt = self._prompt(request)
        if isinstance(prompt, Reply) or not request.choices:
            return prompt
        return Reply(most_likely_choice(self.model, self.encoder, prompt, request.choices))

    def _prompt(self, request: Request) -> Prompt | Reply:
        try:
            return self.reader.prompt(request)
        except DataError as error:
            return media_error_reply(request, error)


def _reply(found: Generated) -> Reply:
    return Reply(
        found.text, truncated=found.truncated, logprobs=found.logprobs, tokens=len(found.ids)
    )


_FORKED: tuple[TransformersEngine, Sampling] | None = (
    None  # what a fork inherits; a model could not be sent to it
)


def _in_fork(numbered: tuple[int, Batch]) -> tuple[int, list[Reply]]:
    assert _FORKED, "set before the fork"
    engine, sampling = _FORKED
    index, batch = numbered
    return index, engine.generate(batch, sampling)
