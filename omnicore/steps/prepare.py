"""Prepare: native annotations and media to `queries.jsonl`, and the training mixtures.

The embedded benchmark writes real png and wav files named by their content; nothing after this step
knows that it is synthetic.
"""

from __future__ import annotations

import hashlib
import io
import random
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import soundfile

from omnicore.config import BenchmarkSource, PrepareConfig
from omnicore.config.recipe import Recipe
from omnicore.data import training_rows
from omnicore.data.benchmarks import get_adapter, synthetic
from omnicore.data.benchmarks.base import (
    Adapter,
    AnnotationSource,
    MediaCheck,
    Problem,
    read_queries,
)
from omnicore.data.benchmarks.hub import download_benchmark, is_hub_place
from omnicore.data.benchmarks.losses import reason_lines, refusal_message, skew_lines
from omnicore.data.benchmarks.own import open_own_benchmark
from omnicore.data.benchmarks.subset import Subset
from omnicore.data.benchmarks.synthetic import Item, ItemKind, World
from omnicore.errors import DataError
from omnicore.media import check
from omnicore.media.sounds import SAMPLE_RATE
from omnicore.progress import track
from omnicore.schema import BenchmarkInfo, Media, Query
from omnicore.storage.files import link_or_copy, read_jsonl, write_json, write_jsonl

CONTROLS: tuple[ItemKind, ...] = ("picture", "speech", "picture_text", "speech_text")
SFT_MIX: dict[str, float] = {"picture": 1, "speech": 1, "picture_text": 1, "speech_text": 1}


class SyntheticWriter:
    """Writes the pictures and clips that items use, once each, and knows their `Media`."""

    def __init__(self, world: World, root: Path) -> None:
        self.world, self.root = world, root
        self._known: dict[tuple[str, int], Media] = {}
        (root / "media").mkdir(parents=True, exist_ok=True)

    def media(self, kind: Any, index: int) -> Media:
        if (kind, index) not in self._known:
            buffer = io.BytesIO()
            if kind == "image":
                self.world.pictures[index].image().save(buffer, "png")
            else:
                soundfile.write(
                    buffer,
                    self.world.clips[index].wave,
                    SAMPLE_RATE,
                    format="WAV",
                    subtype="PCM_16",
                )
            data = buffer.getvalue()
            sha = hashlib.sha256(data).hexdigest()
            uri = f"media/{sha[:16]}.{'png' if kind == 'image' else 'wav'}"
            (self.root / uri).write_bytes(data)
            self._known[kind, index] = Media(kind=kind, uri=uri, sha256=sha)
        return self._known[kind, index]

    def query(self, item: Item, benchmark: str, name: str, *, target: bool = False) -> Query:
        """The cluster is the handwriting behind the picture, or the voice's clip where there is no
        picture."""
        media: dict[str, int] = dict(item.media)
        source = (
            f"picture-{self.world.pictures[media['image']].source}"
            if "image" in media
            else f"clip-{media.get('audio')}"
        )
        return Query(
            benchmark=benchmark,
            id=name,
            type=item.type,
            question=item.question,
            options=item.options,
            answer=item.answer,
            answer_kind=item.answer_kind,
            media=tuple(self.media(kind, index) for kind, index in item.media),
            cluster=source,
            wording=synthetic.WORDINGS[item.kind][item.wording],
            target=item.target if target else None,
        )


def _rows(
    files: SyntheticWriter,
    name: str,
    count: int,
    mix: Mapping[str, float],
    seed: int,
    *,
    target: bool = False,
) -> Iterable[Query]:
    """Rows of a training mixture: exact shares by weight, shuffled."""
    rng = random.Random(f"{seed}-{name}")
    total = sum(mix.values())
    kinds: list[Any] = [
        kind for kind, weight in mix.items() for _ in range(round(count * weight / total))
    ]
    rng.shuffle(kinds)
    for i, kind in enumerate(kinds):
        yield files.query(files.world.item(rng, kind), name, f"{i:05d}", target=target)


def run(
    recipe: Recipe, config: PrepareConfig, inputs: Mapping[str, Path], output: Path
) -> dict[str, Any]:
    """Raises DataError when more items of a benchmark or source are unreadable than `max_refused`
    allows."""
    made = (
        prepare_benchmarks(recipe, config, output)
        if config.sources
        else prepare_synthetic(recipe, config, output)
    )
    return {**made, **prepare_training(recipe, config, output)} if config.training else made


def prepare_training(recipe: Recipe, config: PrepareConfig, output: Path) -> dict[str, Any]:
    """The sets of the stages that `config.training` has sources for, shuffled; what became no query
    goes into `problems.jsonl`."""
    sets: dict[str, list[Query]] = {}
    listed = output / "problems.jsonl"
    problems: list[Problem] = (
        read_jsonl(listed, Problem) if listed.exists() else []
    )  # of the benchmarks
    others = len(problems)
    mute = 0  # rows of sources that ask for sound
    for name, given in sorted(config.training.items()):
        source = training_rows.open_source(name, given, output / "scratch")
        rows, found, _ = training_rows.read_training_queries(
            given, source, recipe.profile, _faults(name, source, recipe)
        )
        problems += found
        write_jsonl(listed, problems)
        _check_losses(name, found, rows, source, config)
        if given.sound and (count := training_rows.count_without_sound(rows)):
            mute += count
            _say(
                f"prepare.training.{name}: {count} of {len(rows)} rows show a video that has no"
                " sound track: its picture alone"
            )
        if not rows:
            raise DataError(
                f"prepare.training.{name}: {given.path} holds no row that is a query; {listed} says"
                " what they are"
            )
        with track(len(rows), f"prepare {name}") as progress:
            for number, row in enumerate(rows):
                rows[number] = row.model_copy(
                    update={"media": tuple(_link(m, source, output) for m in row.media)}
                )
                progress.advance()
        for stage in given.stages:
            # Prompts of the other stages are answered by the model itself.
            unanswered = (row.model_copy(update={"target": None}) for row in rows)
            sets.setdefault(stage, []).extend(rows if stage == "sft" else unanswered)
    shutil.rmtree(output / "scratch", ignore_errors=True)
    for name, chosen in sorted(sets.items()):
        random.Random(f"{recipe.seed}-{name}").shuffle(chosen)
        write_jsonl(output / f"{name}.jsonl", chosen)
    return {
        **{name: len(chosen) for name, chosen in sorted(sets.items())},
        "training_refused": sum(not p.kept for p in problems[others:]),
        **(
            {"training_mute": mute}
            if any(given.sound for given in config.training.values())
            else {}
        ),
    }


def prepare_benchmarks(recipe: Recipe, config: PrepareConfig, output: Path) -> dict[str, Any]:
    """Public benchmarks from local copies: `queries.jsonl` and `problems.jsonl`, media linked into
    `media/`."""
    queries: list[Query] = []
    problems: list[Problem] = []
    infos: list[BenchmarkInfo] = []
    for name, place in sorted(config.sources.items()):
        adapter, source, revision = _open_benchmark(name, place, output / "scratch")
        entry, root = adapter.ENTRY, source.root
        if config.limit or config.sample:
            adapter = Subset(adapter, config.limit, config.sample, recipe.seed)
        rows, listed, count = read_queries(adapter, source, _faults(name, source, recipe))
        refused, excluded, flagged = (
            sum(getattr(p, state) for p in listed) for state in ("refused", "excluded", "kept")
        )
        counts = {
            "queries": len(rows),
            "native": count,
            "refused": refused,
            "excluded": excluded,
            "flagged": flagged,
        }
        counts["published"] = source.size
        if source.size and count != source.size and not (config.limit or config.sample):
            _say(f"{entry.title}: {count:,} items are here, and {source.size:,} are published")
        told = entry.model_dump(include={"name", "filter_policy", "reason", "source", "licence"})
        infos.append(BenchmarkInfo(**told, revision=revision, **counts))
        problems += listed
        write_jsonl(output / "problems.jsonl", problems)
        _check_losses(entry.title, listed, rows, source, config)
        if not rows:
            raise DataError(f"{root} holds no item of {entry.title}: copy it again")
        with track(len(rows), f"prepare {name}") as progress:
            for row in rows:
                queries.append(
                    row.model_copy(
                        update={"media": tuple(_link(m, source, output) for m in row.media)}
                    )
                )
                progress.advance()
    shutil.rmtree(output / "scratch", ignore_errors=True)
    write_jsonl(output / "queries.jsonl", queries)
    write_json(output / "benchmarks.json", [info.model_dump(mode="json") for info in infos])
    totals = {
        name: sum(getattr(info, name) for info in infos)
        for name in ("refused", "excluded", "flagged")
    }
    return {"benchmarks": len(infos), "queries": len(queries), **totals}


def _open_benchmark(
    name: str, place: str | BenchmarkSource, scratch: Path
) -> tuple[Adapter, AnnotationSource, str]:
    """Return adapter, files and revision of a public benchmark, or of the user's own."""
    if not isinstance(place, str):
        return *open_own_benchmark(name, place, scratch), ""
    adapter = get_adapter(name)
    root, revision = Path(place), ""
    if is_hub_place(place):
        root, revision = download_benchmark(adapter.ENTRY, place)
    return adapter, AnnotationSource(adapter.ENTRY, root, scratch), revision


def _faults(name: str, source: AnnotationSource, recipe: Recipe) -> MediaCheck:
    return lambda queries: check.find_media_errors(
        queries, source.media_path, f"prepare {name}: media", recipe.cores
    )


def _link(media: Media, source: AnnotationSource, output: Path) -> Media:
    """The medium under a name by its content, so that files of several benchmarks cannot meet under
    one name."""
    uri = f"media/{media.sha256[:16]}{Path(media.uri).suffix.lower()}"
    link_or_copy(source.media_path(media), output / uri)
    return media.model_copy(update={"uri": uri})


def _check_losses(
    title: str,
    problems: list[Problem],
    rows: list[Query],
    source: AnnotationSource,
    config: PrepareConfig,
) -> None:
    """Says what was lost or is doubtful.

    Raises DataError where more is lost than `max_refused` allows.
    """
    lost, flagged = [p for p in problems if p.refused], [p for p in problems if p.kept]
    count = len(rows) + len(lost)
    if len(lost) > config.max_refused * count:
        raise DataError(refusal_message(title, lost, count, config.max_refused, source))
    for found, what in ((lost, "cannot be read"), (flagged, "are kept and doubtful")):
        if found:
            _say(
                "\n".join(
                    [
                        f"{title}: {len(found)} of {count} items {what}:",
                        *reason_lines(found, source.columns),
                    ]
                )
            )
    if lost and (lines := skew_lines(source.losses)):
        _say("\n".join(lines))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def prepare_synthetic(recipe: Recipe, config: PrepareConfig, output: Path) -> dict[str, Any]:
    def scaled(count: int) -> int:
        return max(8, round(count * config.scale))

    files = SyntheticWriter(World(config.split), output)
    queries, planted, infos = [], {}, []
    for name, items in synthetic.planted_items(files.world, config.scale).items():
        rows = [files.query(item, name, f"{name}-{i:04d}") for i, (item, _) in enumerate(items)]
        planted[name] = {row.id: solvable for row, (_, solvable) in zip(rows, items, strict=True)}
        infos.append(synthetic.benchmark_info(name, len(rows)))
        queries += rows
    rng = random.Random(f"{config.split}-controls")
    controls = [
        files.query(files.world.item(rng, kind), "controls", f"{kind}-{i:04d}")
        for kind in CONTROLS
        for i in range(scaled(config.controls))
    ]
    write_jsonl(output / "queries.jsonl", queries)
    write_jsonl(output / "controls.jsonl", controls)
    write_json(output / "benchmarks.json", [info.model_dump(mode="json") for info in infos])
    write_json(output / "planted.json", planted)

    train = SyntheticWriter(World("train"), output)
    counts = {}
    for name, count, mix in (
        ("sft", config.sft_rows, SFT_MIX),
        ("rlvr", config.rlvr_prompts, config.rlvr_mix),
        ("distill", config.distill_prompts, config.distill_mix),
    ):
        rows = list(_rows(train, name, scaled(count), mix, recipe.seed, target=name == "sft"))
        write_jsonl(output / f"{name}.jsonl", rows)
        counts[name] = len(rows)
    return {"benchmarks": len(infos), "queries": len(queries), "controls": len(controls), **counts}
