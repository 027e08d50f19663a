"""Queries of the embedded benchmark, with real png and wav files named by their content."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import soundfile

from omnicore.data.benchmarks import synthetic
from omnicore.data.benchmarks.synthetic import Item, World
from omnicore.media.sounds import SAMPLE_RATE
from omnicore.schema import Media, Query


class SyntheticWriter:
    """Makes queries of synthetic items, and writes the pictures and clips that they use once."""

    def __init__(self, world: World, root: Path) -> None:
        self.world, self.root = world, root
        self._written: dict[tuple[str, int], Media] = {}
        (root / "media").mkdir(parents=True, exist_ok=True)

    def query(self, item: Item, benchmark: str, name: str, *, target: bool = False) -> Query:
        """Return an item as a query.

        Its cluster is the handwriting behind the picture, or the voice's clip without a picture.
        """
        indices: dict[str, int] = dict(item.media)
        if "image" in indices:
            cluster = f"picture-{self.world.pictures[indices['image']].source}"
        else:
            cluster = f"clip-{indices.get('audio')}"
        return Query(
            benchmark=benchmark,
            id=name,
            type=item.type,
            question=item.question,
            options=item.options,
            answer=item.answer,
            answer_kind=item.answer_kind,
            media=tuple(self._medium(kind, index) for kind, index in item.media),
            cluster=cluster,
            wording=synthetic.WORDINGS[item.kind][item.wording],
            target=item.target if target else None,
        )

    def _medium(self, kind: Any, index: int) -> Media:
        if (kind, index) not in self._written:
            data, suffix = self._encode(kind, index)
            sha256 = hashlib.sha256(data).hexdigest()
            uri = f"media/{sha256[:16]}.{suffix}"
            (self.root / uri).write_bytes(data)
            self._written[kind, index] = Media(kind=kind, uri=uri, sha256=sha256)
        return self._written[kind, index]

    def _encode(self, kind: str, index: int) -> tuple[bytes, str]:
        """Return the file of a picture or clip, and its suffix."""
        buffer = io.BytesIO()
        if kind == "image":
            self.world.pictures[index].image().save(buffer, "png")
            return buffer.getvalue(), "png"
        wave = self.world.clips[index].wave
        soundfile.write(buffer, wave, SAMPLE_RATE, format="WAV", subtype="PCM_16")
        return buffer.getvalue(), "wav"


def training_mixture(
    writer: SyntheticWriter,
    name: str,
    count: int,
    mix: Mapping[str, float],
    seed: int,
    *,
    target: bool,
) -> Iterable[Query]:
    """Yield the rows of a training mixture: exact shares by weight, shuffled."""
    rng = random.Random(f"{seed}-{name}")
    total = sum(mix.values())
    kinds: list[Any] = []
    for kind, weight in mix.items():
        kinds += [kind] * round(count * weight / total)
    rng.shuffle(kinds)
    for number, kind in enumerate(kinds):
        item = writer.world.item(rng, kind)
        yield writer.query(item, name, f"{number:05d}", target=target)
