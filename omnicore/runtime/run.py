"""Run a step: return its finished result, continue an unfinished one, or do the work, for the CLI
and for every component.

The key of a result covers all that can change it, so a directory that holds the key holds the
result. `step.json` is written last; until then `key.journal` holds the key and what it is made of,
and a run of the same key continues there. Work of another key is never removed unless the user asks
for it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel

from omnicore.config import TRAINING, BenchmarkSource, TrainingSource, digest, result_fields
from omnicore.config.recipe import SECTION_STEP, Recipe
from omnicore.data.prompts import profile_hash
from omnicore.errors import ConfigError, DataError, StepBusy
from omnicore.lineage import model_card, signing
from omnicore.lineage.code_version import step_code_digest
from omnicore.lineage.step_record import read_step, verify_step, write_step
from omnicore.processes import without_deprecations
from omnicore.progress import told
from omnicore.steps import STEPS
from omnicore.storage import store
from omnicore.storage.digests import METRICS_FILE, STEP_FILE, digest_directory, model_directory
from omnicore.storage.files import storage_errors
from omnicore.telemetry.live import active_step, push_metrics
from omnicore.telemetry.step_metrics import stage_label, step_metrics

if TYPE_CHECKING:
    from omnicore.engines.cost import CostEstimate
    from omnicore.training.memory import MemoryEstimate

logger = logging.getLogger(__name__)
KEY_FILE = "key.journal"
ASKING = {"probe", "evaluate", "distill"}
# The extra that brings a module; everything else that a step may lack is a part of training.
EXTRAS = {
    "aiohttp": "audit",
    "av": "audit",
    "pyarrow": "audit",
    "kubernetes": "cluster",
    "minio": "cluster",
}
WAIT = 600.0  # seconds to wait for another process that works on the same directory
POLL = 0.2
Run = Callable[[Recipe, Any, Mapping[str, Path], Path], dict[str, Any]]


class Work(NamedTuple):
    """One step with everything that decides its result: `key` is the digest of `decides`."""

    step: str
    section: str
    recipe: Recipe
    config: BaseModel
    inputs: dict[str, Path]
    digests: dict[str, str]
    keys: dict[str, str]
    models: dict[str, str]
    decides: dict[str, Any]
    key: str


def run_step(
    step: str,
    recipe: Recipe,
    inputs: Mapping[str, Path],
    output: Path,
    *,
    section: str | None = None,
    cache: Path | None = None,
    execute: Run | None = None,
    replace: bool = False,
) -> dict[str, Any]:
    """Run a step: return its finished result, continue an unfinished one, or do the work.

    Returns the content of `step.json`.     `inputs` maps a role to the finished output of an
    earlier step; `section` names the part of the recipe where it is not     the step's own, as in
    `sft_distilled`. What `output` holds of other settings is left alone: `replace` does the work
    beside it     and exchanges the two once it is finished. With `cache` the work is done in
    `cache/<step>-<key>` and linked into `output`.     `execute` does the work in place of the
    step's own `run`, elsewhere than in this process; it is not called when the work is     done.

    Raises ConfigError for a wrong step, section, role or output directory, or one that holds work
    of other settings; DataError for an input that is unfinished or was changed since, StorageError
    when the disk refuses, StepBusy when another process holds the directory longer than `WAIT`,
    whatever the step raises, and what a job of it raises where `recipe.launcher` names a cluster
    (omnicore/cluster/launch.py).
    """
    output = Path(output).resolve()
    work = _plan(
        step,
        section or step,
        recipe,
        {role: Path(path).resolve() for role, path in inputs.items()},
        output,
    )
    for path in work.inputs.values():
        # A medium that was changed or lost is the error of the queries that show it; a training is refused before it starts.
        verify_step(path, skip=() if step in TRAINING else ("media",))
    with storage_errors(output), ExitStack() as locks:
        locks.enter_context(_locked(output))
        old = output.with_name(output.name + ".replaced")
        if old.exists() and not output.exists():  # killed between the two renames
            old.rename(output)
        record = _finished(output, work.key)
        found = record is not None
        if record is None:
            _make_room(work, output, replace)
            target = (
                output.with_name(output.name + ".replacing")
                if _held_by_others(output, work.key)
                else output
            )
            directory = Path(cache).resolve() / f"{step}-{work.key[:16]}" if cache else target
            if directory != output:
                locks.enter_context(_locked(directory))
                record = _finished(directory, work.key)
                found = record is not None
            record = record or _do(work, directory, execute)
            if cache:
                _publish(work, directory, target)
            if target != output:
                output.rename(old)
                target.rename(output)
                shutil.rmtree(old)
    tell(record, found=found)
    return record


def step_work(
    step: str,
    recipe: Recipe,
    inputs: Mapping[str, Path],
    output: Path,
    *,
    section: str | None = None,
) -> Work:
    """What `run_step` would look for.

    Of an input only its `step.json` is read. Raises as `run_step` does.
    """
    return _plan(step, section or step, recipe, dict(inputs), output)


def unfinished_key(directory: Path) -> str:
    """The key of the unfinished work in a directory; empty where there is none."""
    key_file = directory / KEY_FILE
    return key_file.read_text().partition("\n")[0] if key_file.is_file() else ""


def tell(record: Mapping[str, Any], *, found: bool) -> None:
    """A result in one line."""
    figures = dict(list(record["summary"].items())[:6])
    took = "done before" if found else f"{record['seconds']:.1f} s"
    print(f"{record['section']}: {took}  {told(figures)}".rstrip(), flush=True)


def cost(
    step: str, recipe: Recipe, inputs: Mapping[str, Path], *, section: str | None = None
) -> CostEstimate | MemoryEstimate:
    """What a step that asks a model would ask, in requests, tokens and hours, or what a training
    takes of a GPU's memory; nothing is written.

    Raises as `run_step` does, and ConfigError for a training that cannot fit.
    """
    config = getattr(recipe, section or step)
    if step in TRAINING:  # its rows do not matter, so there need be none yet
        memory: MemoryEstimate = import_module("omnicore.training.memory").estimate_memory(
            recipe, config, inputs
        )
        memory.check()
        return memory
    _input_records(step, inputs)
    _, asked = import_module(f"omnicore.steps.{step}").inference_task(recipe, config, inputs)
    found: CostEstimate = asked.estimate_cost(recipe)
    return found


def _plan(step: str, section: str, recipe: Recipe, inputs: dict[str, Path], output: Path) -> Work:
    """Checks the request and works out its key."""
    if step not in STEPS:
        raise ConfigError(f"no step {step!r}; steps are {', '.join(STEPS)}")
    if SECTION_STEP.get(section, section) != step:
        fitting = [step, *(name for name, of in SECTION_STEP.items() if of == step)]
        raise ConfigError(
            f"section {section!r} does not configure step {step}; use {' or '.join(fitting)}"
        )
    records = _input_records(step, inputs)
    digests, keys = (
        {role: str(record[field]) for role, record in records.items()}
        for field in ("digest", "key")
    )
    for role, path in inputs.items():
        if output == path or output in path.parents or path in output.parents:
            raise ConfigError(
                f"output {output} and input {role} {path} lie in one another; give the output its"
                " own directory"
            )
    config: BaseModel = getattr(recipe, section)
    reads = STEPS[step].reads
    whole = recipe.model_dump(mode="json")
    read = whole if "*" in reads else {name: whole[name] for name in reads if name not in inputs}
    named = {name for name in (read.get("model"), getattr(config, "model", None)) if name}
    models = {name: found for name in sorted(named) if (found := _contents(name))}
    decides = {
        "step": step,
        "section": section,
        "config": result_fields(config.model_dump(mode="json")),
        "seed": recipe.seed,
        "profile": {**recipe.profile.model_dump(mode="json"), "hash": profile_hash(recipe.profile)},
        "recipe": result_fields(read),
        "models": models,
        "sources": {
            name: _listing(Path(place)) if isinstance(place, str) else _listings(place)
            for name, place in getattr(config, "sources", {}).items()
        },
        "training": {
            name: _listings(given) for name, given in getattr(config, "training", {}).items()
        },
        "inputs": digests,
        "code": step_code_digest(step),
    }
    return Work(
        step, section, recipe, config, inputs, digests, keys, models, decides, digest(decides)
    )


def _contents(model: str) -> str:
    """Digest of a model that may change under the same name: a directory, or what is published at an s3:// address."""
    if store.is_s3(model):
        return store.require(model).digest
    place = model_directory(model)
    return digest_directory(place) if place.is_dir() else ""


def _listings(source: TrainingSource | BenchmarkSource) -> list[str]:
    """Identity of the rows of a source, and of its media where they lie elsewhere."""
    if isinstance(source, BenchmarkSource):
        from omnicore.data.benchmarks.own import source_files

        return [_identity(source_files(source), Path(source.path).parent)]
    return [_listing(Path(place)) for place in (source.path, source.media) if place]


def _listing(root: Path) -> str:
    """Identity of a benchmark's local copy by names, sizes and times of its files: hashing a
    hundred gigabytes of video on every call would take minutes, and a result that is made again is
    no harm."""
    root = root.parent if root.is_file() else root  # rows lie in one file, their media beside it
    return _identity(sorted(path for path in root.rglob("*") if path.is_file()), root)


def _identity(files: Sequence[Path], root: Path) -> str:
    """Digest of the names relative to `root`, sizes and times of files."""
    stats = [(os.path.relpath(path, root), path.stat()) for path in files]
    return digest([[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats])


def _input_records(step: str, inputs: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """What `step.json` says of each input.

    Raises ConfigError for a role or a step's output that this step does not take.
    """
    info = STEPS[step]
    roles = {**info.required, **info.optional}
    wrong = [f"no input {role!r}" for role in inputs if role not in roles]
    wrong += [f"input {role!r} is missing" for role in info.required if role not in inputs]
    if wrong:
        takes = [
            f"{role} (from {' or '.join(of)}{', optional' if role in info.optional else ''})"
            for role, of in roles.items()
        ]
        raise ConfigError(
            f"step {step}: {'; '.join(wrong)}. It takes {', '.join(takes) or 'no inputs'}"
        )
    records = {}
    for role, path in sorted(inputs.items()):
        record = read_step(path)
        if record["step"] not in roles[role]:
            raise ConfigError(
                f"step {step}: input {role!r} is {record['step']}'s {path}; it must come from"
                f" {' or '.join(roles[role])}"
            )
        records[role] = record
    return records


def _do(work: Work, directory: Path, execute: Run | None) -> dict[str, Any]:
    """Runs the step in `directory` and finishes it."""
    _begin(work, directory)
    started, clock = datetime.now(UTC), time.monotonic()
    stage = stage_label(work.step, work.section, work.config, work.inputs)
    try:
        if _is_job(work):
            from omnicore.cluster.step_job import run_as_job

            with active_step(work.step, stage):
                run_as_job(work.step, work.section, work.recipe, work.inputs, directory, work.key)
            _drop_journals(directory)
            return read_step(directory)
        if f"{model_card.CHECKPOINT}/" in STEPS[work.step].writes:
            signing.check_signing_key()
        if execute:
            summary = execute(work.recipe, work.config, work.inputs, directory)
        else:
            summary = in_process(work.step, work.section, work.recipe, work.inputs, directory)
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] == "omnicore":
            raise
        extra = EXTRAS.get(error.name or "", "train")
        raise ConfigError(
            f"step {work.step} needs {error.name}, which is not installed: pip install"
            f" 'omnicore[{extra}]'"
        ) from error
    if (directory / model_card.CHECKPOINT).is_dir():
        described = model_card.create_card(
            work.section, work.recipe, work.config, work.inputs, work.digests, work.models
        )
        model_card.write_card(directory / model_card.CHECKPOINT, described)
        signing.sign_checkpoint(directory / model_card.CHECKPOINT)
    seconds = round(time.monotonic() - clock, 3)
    metrics = step_metrics(work.step, stage, seconds, summary, directory)
    metrics.write(directory / METRICS_FILE)
    fields = {
        "step": work.step,
        "section": work.section,
        "key": work.key,
        "config": work.config.model_dump(mode="json"),
        "config_hash": digest(work.config),
        "recipe": work.recipe.name,
        "recipe_hash": work.recipe.identity,
        "profile": work.recipe.profile.model_dump(mode="json"),
        "profile_hash": profile_hash(work.recipe.profile),
        "seed": work.recipe.seed,
        "inputs": work.digests,
        "input_keys": work.keys,
        "models": work.models,
        "decides": work.decides,
        "started": started.isoformat(timespec="seconds"),
        "seconds": seconds,
        "summary": summary,
    }
    record = write_step(directory, fields)
    _drop_journals(directory)
    push_metrics(metrics, work.step, stage)
    return record


def in_process(
    step: str, section: str, recipe: Recipe, inputs: Mapping[str, Path], output: Path
) -> dict[str, Any]:
    """The step's own work, without cache and lock; Prometheus may look on.

    Returns its summary, raises what it raises.
    """
    config = getattr(recipe, section)
    with active_step(step, stage_label(step, section, config, inputs)), without_deprecations():
        return dict(import_module(f"omnicore.steps.{step}").run(recipe, config, inputs, output))


def _is_job(work: Work) -> bool:
    """Whether the step's work is done by a job on a cluster: what trains, or holds a model in its
    own process."""
    engine = getattr(work.config, "engine", work.recipe.engine)
    heavy = work.step in TRAINING or (work.step in ASKING and engine.kind == "transformers")
    return heavy and work.recipe.launcher.kind != "process"


def _publish(work: Work, source: Path, output: Path) -> None:
    """Links a finished directory into `output`, `step.json` last; copies where the disk has no
    links."""
    _begin(work, output)
    files = [
        file
        for file in source.rglob("*")
        if file.is_file() and file.relative_to(source) != Path(STEP_FILE)
    ]
    for file in [*files, source / STEP_FILE]:
        target = output / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.hardlink_to(file)
        except OSError:
            shutil.copy2(file, target)
    _drop_journals(output)


def _finished(directory: Path, key: str) -> dict[str, Any] | None:
    """The record of a finished result with this key whose files are still as they were written."""
    record = _held(directory)
    if record is None or record["key"] != key:
        return None
    try:
        return verify_step(directory)
    except DataError as error:
        logger.warning("%s; re-running %s", error, directory)
        return None


def _held(directory: Path) -> dict[str, Any] | None:
    try:
        return read_step(directory)
    except DataError:
        return None


def _make_room(work: Work, output: Path, replace: bool) -> None:
    """Raises ConfigError where `output` is not a directory for this step, or holds work of other
    settings that nobody gave up."""
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output {output} is a file; give a directory")
    held = _held(output)
    if not held and not (output / KEY_FILE).exists() and output.exists() and any(output.iterdir()):
        raise ConfigError(
            f"output {output} is not empty and holds no result of omnicore; give a new or empty"
            " directory"
        )
    if held and held["step"] != work.step:
        raise ConfigError(
            f"output {output} holds a result of {held['step']}; give {work.step} a directory of"
            " its own"
        )
    if not replace and (others := _held_by_others(output, work.key)):
        told = differences(others.decides, work.decides)
        raise ConfigError(
            f"output {output} holds {others.what}{told}. Give another --output, or --replace to"
            " exchange it once the new result is finished"
        )


class Others(NamedTuple):
    """Work of other settings in a directory: in words, and what decided it where that is known."""

    what: str
    decides: dict[str, Any]


def _held_by_others(directory: Path, key: str) -> Others | None:
    """What would be lost if the work of `key` began in `directory`: a finished result, or journals,
    of another key."""
    held = _held(directory)
    if held:
        return (
            Others(f"a finished {held['section']}", held.get("decides", {}))
            if held["key"] != key
            else None
        )
    if not (directory / KEY_FILE).is_file():
        return None
    theirs, _, decides = (directory / KEY_FILE).read_text().partition("\n")
    journals = sorted(
        path.name for path in directory.glob("*.journal") if path.name != KEY_FILE and _size(path)
    )
    if theirs in ("", key) or not journals:
        return None
    known = json.loads(decides) if decides else {}
    return Others(f"an unfinished {known.get('section', 'result')} ({', '.join(journals)})", known)


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """What differs between two works' `decides`, at most five settings, to stand behind their
    name."""
    if not theirs:
        return " of other settings"
    old, new = dict(_leaves(theirs)), dict(_leaves(ours))
    names = [
        name
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and name != "profile.hash"
    ]
    if not names:
        return " made with another format of prompts and answers"
    told = [_difference(name, old.get(name), new.get(name), ours["section"]) for name in names[:5]]
    return ": " + ", ".join([*told, *([f"and {len(names) - 5} more"] if len(names) > 5 else [])])


def _difference(name: str, old: Any, new: Any, section: str) -> str:
    kind, _, field = name.partition(".")
    match kind:
        case "code":
            return "other code of this step"
        case "inputs" | "models" | "sources" | "training":
            return f"another content of {kind}.{field}"
        case "config" | "recipe":
            return f"{section + '.' if kind == 'config' else ''}{field} {old} -> {new}"
        case _:
            return f"{name} {old} -> {new}"


def _leaves(values: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{place}{name}.")
        else:
            yield f"{place}{name}", value


def _begin(work: Work, directory: Path) -> None:
    """Empties a directory for work on a key; journals of the same key stay, and no others.

    Files beside the journals go too: what a killed process left half-made would otherwise count as a result.
    """
    directory.mkdir(parents=True, exist_ok=True)
    key_file, step_file = directory / KEY_FILE, directory / STEP_FILE
    same = unfinished_key(directory) == work.key
    if not same:
        # First disown the journals: a kill in the middle of the removal must not leave them under the new key.
        key_file.write_text("")
    step_file.unlink(missing_ok=True)
    for entry in directory.iterdir():
        if entry != key_file and not (same and entry.name.endswith(".journal")):
            _remove(entry)
    key_file.write_text(f"{work.key}\n{json.dumps(work.decides)}")


def _drop_journals(directory: Path) -> None:
    """Everything in them is in the result by now."""
    for journal in directory.glob("*.journal"):
        _remove(journal)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Holds `<directory>.lock`.

    The kernel lets go of it when the process ends, however it ends.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with directory.with_name(directory.name + ".lock").open("a") as file:
        waiting_since = None
        while not _try_lock(file):
            if waiting_since is None:
                waiting_since = time.monotonic()
                logger.warning("another process works on %s; waiting", directory)
            elif time.monotonic() - waiting_since > WAIT:
                raise StepBusy(
                    f"another process works on {directory}, for more than {WAIT:.0f} s now; end it,"
                    " or try again later"
                )
            time.sleep(POLL)
        yield


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
