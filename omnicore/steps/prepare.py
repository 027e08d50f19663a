"""Prepare: native annotations and media to `queries.jsonl`, and the training mixtures.

The embedded benchmark writes real png and wav files named by their content; no later step knows
that it is synthetic.
"""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omnicore.config import BenchmarkSource, PrepareConfig
from omnicore.config.recipe import Recipe
from omnicore.data import training_rows
from omnicore.data.benchmarks import get_adapter, synthetic
from omnicore.data.benchmarks.adapter import Adapter, MediaCheck, read_queries
from omnicore.data.benchmarks.hub import download_benchmark, is_hub_place
from omnicore.data.benchmarks.own import open_own_benchmark
from omnicore.data.benchmarks.records import Problem
from omnicore.data.benchmarks.refusal_report import reason_lines, refusal_message, skew_lines
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.data.benchmarks.subset import Subset
from omnicore.data.benchmarks.synthetic import ItemKind, World
from omnicore.data.synthetic_queries import SyntheticWriter, training_mixture
from omnicore.errors import DataError
from omnicore.media.check import find_media_errors
from omnicore.progress import track
from omnicore.schema import BenchmarkInfo, Media, Query
from omnicore.storage.files import link_or_copy, read_jsonl, write_json, write_jsonl

logger = logging.getLogger(__name__)

CONTROLS: tuple[ItemKind, ...] = ("picture", "speech", "picture_text", "speech_text")
SFT_MIX: dict[str, float] = {"picture": 1, "speech": 1, "picture_text": 1, "speech_text": 1}
MIN_ROWS = 8  # of a set that `prepare.scale` shrinks
INFO_FIELDS = {"name", "filter_policy", "reason", "source", "licence"}


def run(
    recipe: Recipe, config: PrepareConfig, inputs: Mapping[str, Path], output: Path
) -> dict[str, Any]:
    """Prepare the benchmarks of a recipe, or the embedded one, and its training sets.

    Raises:
        DataError: More items of a benchmark or source cannot be read than `max_refused` allows.
    """
    prepare = prepare_benchmarks if config.sources else prepare_synthetic
    summary = prepare(recipe, config, output)
    if config.training:
        summary |= prepare_training(recipe, config, output)
    return summary


def prepare_benchmarks(recipe: Recipe, config: PrepareConfig, output: Path) -> dict[str, Any]:
    """Write `queries.jsonl` and `problems.jsonl` of local copies, their media linked into `media/`.

    Returns:
        The summary: number of benchmarks, of queries, and of items that are refused, excluded and
        flagged.
    """
    queries: list[Query] = []
    problems: list[Problem] = []
    infos: list[BenchmarkInfo] = []
    for name, place in sorted(config.sources.items()):
        adapter, source, revision = _open_benchmark(name, place, output / "scratch")
        is_subset = bool(config.limit or config.sample)
        if is_subset:
            adapter = Subset(adapter, config.limit, config.sample, recipe.seed)
        rows, own_problems, items = read_queries(
            adapter, source, _media_check(name, source, recipe)
        )
        title = adapter.ENTRY.title
        if source.size and items != source.size and not is_subset:
            here, published = f"{items:,}", f"{source.size:,}"
            logger.warning("%s: %s items are here, and %s are published", title, here, published)
        infos.append(_benchmark_info(source, revision, rows, own_problems, items))
        problems += own_problems
        write_jsonl(output / "problems.jsonl", problems)
        _check_refused(title, own_problems, rows, source, config)
        if not rows:
            raise DataError(
                f"{source.root} holds no item of {title}: copy it again",
                code="benchmark-empty",
                field=f"prepare.sources.{name}",
                path=source.root,
            )
        if not any(row.media for row in rows):
            logger.warning(
                "%s: no query has a picture, sound or video, so there is nothing to withhold; name"
                " their columns, as in --columns video=clip",
                title,
            )
        queries += _with_linked_media(name, rows, source, output)
    shutil.rmtree(output / "scratch", ignore_errors=True)
    write_jsonl(output / "queries.jsonl", queries)
    write_json(output / "benchmarks.json", [info.model_dump(mode="json") for info in infos])
    return {
        "benchmarks": len(infos),
        "queries": len(queries),
        "refused": sum(info.refused for info in infos),
        "excluded": sum(info.excluded for info in infos),
        "flagged": sum(info.flagged for info in infos),
    }


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


def _benchmark_info(
    source: AnnotationSource,
    revision: str,
    rows: Sequence[Query],
    problems: Sequence[Problem],
    items: int,
) -> BenchmarkInfo:
    return BenchmarkInfo(
        **source.entry.model_dump(include=INFO_FIELDS),
        revision=revision,
        queries=len(rows),
        native=items,
        refused=sum(problem.refused for problem in problems),
        excluded=sum(problem.excluded for problem in problems),
        flagged=sum(problem.kept for problem in problems),
        published=source.size,
    )


def prepare_training(recipe: Recipe, config: PrepareConfig, output: Path) -> dict[str, Any]:
    """Write the sets of the stages that `config.training` has sources for, shuffled.

    Rows that became no query are added to `problems.jsonl`.

    Returns:
        The summary: rows by set, `training_refused`, and `training_mute`, the rows whose video has
        no sound, if a source asks for sound.
    """
    sets: dict[str, list[Query]] = {}
    problem_file = output / "problems.jsonl"
    # Those of the benchmarks come first.
    problems = read_jsonl(problem_file, Problem) if problem_file.exists() else []
    refused = 0
    without_sound = 0
    for name, config_of_source in sorted(config.training.items()):
        source = training_rows.open_source(name, config_of_source, output / "scratch")
        rows, own_problems, _ = training_rows.read_training_queries(
            config_of_source, source, recipe.profile, _media_check(name, source, recipe)
        )
        refused += sum(not problem.kept for problem in own_problems)
        problems += own_problems
        write_jsonl(problem_file, problems)
        _check_refused(name, own_problems, rows, source, config)
        if config_of_source.sound:
            without_sound += _count_without_sound(name, rows)
        if not rows:
            raise DataError(
                f"prepare.training.{name}: {config_of_source.path} holds no row that is a query;"
                f" {problem_file} says what they are",
                code="training-source-empty",
                field=f"prepare.training.{name}",
                path=problem_file,
            )
        rows = list(_with_linked_media(name, rows, source, output))
        for stage in config_of_source.stages:
            # The model itself answers prompts of the other stages.
            unanswered = (row.model_copy(update={"target": None}) for row in rows)
            sets.setdefault(stage, []).extend(rows if stage == "sft" else unanswered)
    shutil.rmtree(output / "scratch", ignore_errors=True)
    summary: dict[str, Any] = {}
    for name, rows in sorted(sets.items()):
        random.Random(f"{recipe.seed}-{name}").shuffle(rows)
        write_jsonl(output / f"{name}.jsonl", rows)
        summary[name] = len(rows)
    summary["training_refused"] = refused
    if any(source_config.sound for source_config in config.training.values()):
        summary["training_mute"] = without_sound
    return summary


def _count_without_sound(name: str, rows: Sequence[Query]) -> int:
    count = training_rows.count_without_sound(rows)
    if count:
        logger.warning(
            "prepare.training.%s: %d of %d rows show a video that has no sound track: they are"
            " shown without sound",
            name,
            count,
            len(rows),
        )
    return count


def _media_check(name: str, source: AnnotationSource, recipe: Recipe) -> MediaCheck:
    def check(queries: Sequence[Query]) -> dict[str, str]:
        return find_media_errors(queries, source.media.path, f"prepare {name}: media", recipe.cores)

    return check


def _with_linked_media(
    name: str, rows: Sequence[Query], source: AnnotationSource, output: Path
) -> Iterator[Query]:
    """Yield queries whose media are linked or copied into `media/`."""
    with track(len(rows), f"prepare {name}") as progress:
        for row in rows:
            media = tuple(_link(medium, source, output) for medium in row.media)
            yield row.model_copy(update={"media": media})
            progress.advance()


def _link(media: Media, source: AnnotationSource, output: Path) -> Media:
    """Link a medium under a name by its content, so that no two benchmarks share a name."""
    uri = f"media/{media.sha256[:16]}{Path(media.uri).suffix.lower()}"
    link_or_copy(source.media.path(media), output / uri)
    return media.model_copy(update={"uri": uri})


def _check_refused(
    title: str,
    problems: Sequence[Problem],
    rows: Sequence[Query],
    source: AnnotationSource,
    config: PrepareConfig,
) -> None:
    """Log the items that are refused or doubtful.

    Raises:
        DataError: More are refused than `max_refused` allows.
    """
    refused = [problem for problem in problems if problem.refused]
    flagged = [problem for problem in problems if problem.kept]
    count = len(rows) + len(refused)
    if len(refused) > config.max_refused * count:
        raise DataError(
            refusal_message(title, refused, count, config.max_refused, source),
            code="benchmark-too-many-refused",
            field="prepare.max_refused",
            path=source.root,
        )
    for found, state in ((refused, "cannot be read"), (flagged, "are kept and doubtful")):
        if found:
            lines = reason_lines(found, source.columns)
            head = f"{title}: {len(found)} of {count} items {state}:"
            logger.warning("\n".join([head, *lines]))
    skew = skew_lines(source.lost_by_value) if refused else []
    if skew:
        logger.warning("\n".join(skew))


def prepare_synthetic(recipe: Recipe, config: PrepareConfig, output: Path) -> dict[str, Any]:
    """Write the embedded benchmark, its controls, the planted truth and the training mixtures.

    Returns:
        The summary: number of benchmarks, of queries, of controls and of rows by training set.
    """
    writer = SyntheticWriter(World(config.split), output)
    queries, planted, infos = [], {}, []
    for name, items in synthetic.planted_items(writer.world, config.scale).items():
        is_solvable = {}
        for number, (item, solvable) in enumerate(items):
            query = writer.query(item, name, f"{name}-{number:04d}")
            is_solvable[query.id] = solvable
            queries.append(query)
        planted[name] = is_solvable
        infos.append(synthetic.benchmark_info(name, len(items)))
    rng = random.Random(f"{config.split}-controls")
    controls = []
    for kind in CONTROLS:
        for number in range(_scaled(config.controls, config)):
            item = writer.world.item(rng, kind)
            controls.append(writer.query(item, "controls", f"{kind}-{number:04d}"))
    write_jsonl(output / "queries.jsonl", queries)
    write_jsonl(output / "controls.jsonl", controls)
    write_json(output / "benchmarks.json", [info.model_dump(mode="json") for info in infos])
    write_json(output / "planted.json", planted)
    summary = {"benchmarks": len(infos), "queries": len(queries), "controls": len(controls)}

    train = SyntheticWriter(World("train"), output)
    for name, count, mix in (
        ("sft", config.sft_rows, SFT_MIX),
        ("rlvr", config.rlvr_prompts, config.rlvr_mix),
        ("distill", config.distill_prompts, config.distill_mix),
    ):
        with_target = name == "sft"
        scaled = _scaled(count, config)
        rows = list(training_mixture(train, name, scaled, mix, recipe.seed, target=with_target))
        write_jsonl(output / f"{name}.jsonl", rows)
        summary[name] = len(rows)
    return summary


def _scaled(count: int, config: PrepareConfig) -> int:
    return max(MIN_ROWS, round(count * config.scale))
