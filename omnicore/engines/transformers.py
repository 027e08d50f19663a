"""The engine in this process: a thinker through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from omnicore.engines.base import Request, Sampling
from omnicore.media import load_audio, load_image, locate
from omnicore.models import thinker
from omnicore.models.generate import generate
from omnicore.models.processor import Encoder, Features, Prompt
from omnicore.schema import Media


class Reader:
    """Turns requests into prompts; every medium is decoded and processed once, whatever the number of draws."""

    def __init__(self, encoder: Encoder, system: str = "") -> None:
        self.encoder, self.system = encoder, system
        self._features: dict[str, Features] = {}

    def features(self, media: Media, root: Path) -> Features:
        if media.sha256 not in self._features:
            path = locate(media, root)
            read = self.encoder.image(load_image(path)) if media.kind == "image" else self.encoder.audio(load_audio(path))
            self._features[media.sha256] = read
        return self._features[media.sha256]

    def prompt(self, request: Request) -> Prompt:
        parts = [p if isinstance(p, str) else self.features(p, request.root) for p in request.parts]
        return self.encoder.prompt(parts, self.system)


class TransformersEngine:
    """Generates with a checkpoint directory or an embedded model. Raises CheckpointError when it cannot be loaded."""

    def __init__(self, model: str | Path, system: str = "") -> None:
        self.name = str(model)
        self.model, self.encoder = thinker.load(model)
        self.reader = Reader(self.encoder, system)

    def generate(self, requests: Sequence[Request], sampling: Sampling, seed: int) -> list[str]:
        torch.manual_seed(seed)
        prompts = [self.reader.prompt(r) for r in requests]
        return generate(self.model, self.encoder, prompts, max_new_tokens=sampling.max_new_tokens, temperature=sampling.temperature)
