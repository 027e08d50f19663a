"""Find the steps of a run on disk: finished outputs, and work that is running or was interrupted.

A run is a directory; `find_steps` looks at every folder below it. A result in the cache of a run
that is linked into its outputs is one step. Nothing is written but by `remove` and `prune`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from omnicore.config import flat_fields
from omnicore.errors import ConfigError, DataError, StepBusy
from omnicore.lineage.step_record import read_step
from omnicore.schema import Record
from omnicore.storage.digests import KEY_FILE, STEP_FILE

LOCK_SUFFIX = ".lock"
State = Literal["finished", "running", "interrupted"]


class StepOutput(Record):
    """One step of a run as it lies on disk.

    `name` is unique in its run: the section, for an evaluation with the model's stage behind it
    (`evaluate-rlvr`). `settings` are the values that decide the result, by dotted field; `figures`
    the counts and figures of the step's summary. `seconds` is the working time of a finished step.
    """

    name: str
    step: str
    section: str
    stage: str
    state: State
    path: Path
    key: str
    started: str
    seconds: float
    bytes: int
    settings: dict[str, Any]
    figures: dict[str, Any]
    inputs: dict[str, str]


def find_steps(root: Path) -> list[StepOutput]:
    """Return the steps below `root` in the order in which they began, unfinished ones last.

    A folder that cannot be read as a step is left out. Raises DataError when `root` is missing.
    """
    if not root.is_dir():
        raise DataError(
            f"{root}: no such directory; give a run, as in runs/demo",
            code="runs-missing",
            path=root,
        )
    records = dict(_finished(root))
    sections = {record["key"]: record for record in records.values()}
    found: dict[str, StepOutput] = {}
    for path, record in sorted(records.items(), key=lambda item: _preference(root, item[0])):
        key = str(record["key"])
        found.setdefault(key, _finished_step(path, record, sections))
    for path in sorted(_unfinished(root)):
        step = _unfinished_step(path)
        if step and step.key not in found:
            found[step.key] = step
    # Several steps may begin within a second, the resolution of `started`: inputs come first then.
    ordered = sorted(
        found.values(),
        key=lambda step: (step.state != "finished", step.started, _depth(step, found)),
    )
    return _unique_names(ordered)


def _depth(step: StepOutput, steps: Mapping[str, StepOutput]) -> int:
    """Return the length of the longest chain of inputs of a step."""
    inputs = [steps[key] for key in step.inputs.values() if key in steps]
    return 1 + max((_depth(other, steps) for other in inputs), default=0)


def stage_of_evaluation(evaluation: Path) -> str:
    """Return the section that trained an evaluation's model, found in the folders around it.

    Empty for a model that was not trained there, as one on a server.
    """
    key = read_step(evaluation).get("input_keys", {}).get("model")
    if key is None:
        return ""
    # Beside it, or as KFP lays it out: outputs/<run>/<task>/scores.
    for folder in list(evaluation.resolve().parents)[:2]:
        for _, record in _finished(folder):
            if record["key"] == key:
                return _stage(record, {})
    return ""


def differing_settings(steps: Iterable[StepOutput]) -> dict[str, dict[str, Any]]:
    """Return, by step name, the settings that are not alike in all steps of its section."""
    by_section: dict[str, list[StepOutput]] = {}
    for step in steps:
        by_section.setdefault(step.section, []).append(step)
    differing: dict[str, dict[str, Any]] = {}
    for group in by_section.values():
        fields = sorted({field for step in group for field in step.settings})
        varying = [
            field
            for field in fields
            if len({json.dumps(step.settings.get(field)) for step in group}) > 1
        ]
        for step in group:
            differing[step.name] = {field: step.settings.get(field) for field in varying}
    return differing


def remove(root: Path, names: Iterable[str]) -> list[Path]:
    """Delete steps of a run by name, with their lock files, wherever below `root` they are linked.

    Returns:
        The deleted directories.

    Raises:
        ConfigError: `root` has no step of that name.
        StepBusy: Another process works on one of them; nothing is deleted then.
    """
    steps = {step.name: step for step in find_steps(root)}
    chosen = []
    for name in names:
        if name not in steps:
            raise ConfigError(
                f"{root} has no step {name}; it has {', '.join(steps) or 'none'}",
                code="runs-unknown-step",
                field=name,
            )
        chosen.append(steps[name])
    places = [path for step in chosen for path in _places(root, step.key)]
    for path in places:
        if _is_locked(path):
            raise StepBusy(
                f"another process works on {path}: wait for it or end it",
                code="runs-step-busy",
                path=path,
            )
    for path in places:
        _delete(path)
    return places


def prune(root: Path) -> list[Path]:
    """Delete what no output of a run uses: superseded cache entries, and lock files nobody holds.

    A folder named `cache` below `root` keeps the entries whose key an output outside of it has, and
    those that are unfinished, since a re-run resumes them.

    Returns:
        The deleted paths.
    """
    used = set()
    for path, record in _finished(root):
        if "cache" not in path.relative_to(root).parts:
            used |= {record["key"], *record.get("input_keys", {}).values()}
    deleted = []
    for path, record in list(_finished(root)):
        cached = "cache" in path.relative_to(root).parts
        if cached and record["key"] not in used and not _is_locked(path):
            _delete(path)
            deleted.append(path)
    for lock in sorted(root.rglob(f"*{LOCK_SUFFIX}")):
        if lock.is_file() and not _is_locked(lock.with_suffix("")):
            lock.unlink()
            deleted.append(lock)
    return deleted


def _finished(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in sorted(root.rglob(STEP_FILE)):
        try:
            yield file.parent, read_step(file.parent)
        except DataError:
            continue


def _preference(root: Path, path: Path) -> tuple[bool, str]:
    """Sort outputs before the cache that they are linked from."""
    return "cache" in path.relative_to(root).parts, str(path)


def _finished_step(
    path: Path, record: Mapping[str, Any], sections: Mapping[str, Mapping[str, Any]]
) -> StepOutput:
    section, stage = str(record["section"]), _stage(record, sections)
    return StepOutput(
        name=f"{section}-{stage}" if record["step"] == "evaluate" else stage,
        step=record["step"],
        section=section,
        stage=stage,
        state="finished",
        path=path,
        key=record["key"],
        started=str(record.get("started", "")),
        seconds=record["seconds"],
        bytes=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        settings=_settings(record.get("decides", {})),
        figures=record["summary"],
        inputs=record.get("input_keys", {}),
    )


def _stage(record: Mapping[str, Any], sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the stage of the model that an evaluation asked, else the section and its control."""
    made = record
    if record["step"] == "evaluate":
        key = record.get("input_keys", {}).get("model")
        if key is None:
            return "base"
        if key not in sections:
            return str(key)[:8]
        made = sections[key]
    control = made.get("config", {}).get("control", "none")
    section = str(made["section"])
    return section if control == "none" else f"{section}-{control}"


def _settings(decides: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decided a result by dotted field, without digests."""
    chosen = {name: decides[name] for name in ("config", "profile", "recipe") if name in decides}
    settings = dict(flat_fields(chosen.pop("config", {})))
    settings |= dict(flat_fields(chosen))
    if "seed" in decides:
        settings["seed"] = decides["seed"]
    settings.pop("profile.hash", None)
    return settings


def _unfinished(root: Path) -> Iterator[Path]:
    for file in root.rglob(KEY_FILE):
        if not (file.parent / STEP_FILE).exists():
            yield file.parent


def _unfinished_step(path: Path) -> StepOutput | None:
    key, _, text = (path / KEY_FILE).read_text().partition("\n")
    decides = json.loads(text) if text else {}
    if not key or "section" not in decides:
        return None
    section = str(decides["section"])
    journals = [file for file in path.rglob("*") if file.is_file()]
    return StepOutput(
        name=section,
        step=decides["step"],
        section=section,
        stage=section,
        state="running" if _is_locked(path) else "interrupted",
        path=path,
        key=key,
        started="",
        seconds=0,
        bytes=sum(file.stat().st_size for file in journals),
        settings=_settings(decides),
        figures={},
        inputs={},
    )


def _unique_names(steps: list[StepOutput]) -> list[StepOutput]:
    """Add the start of the key to names that several steps have."""
    counts: dict[str, int] = {}
    for step in steps:
        counts[step.name] = counts.get(step.name, 0) + 1
    return [
        step.model_copy(update={"name": f"{step.name}-{step.key[:8]}"})
        if counts[step.name] > 1
        else step
        for step in steps
    ]


def _places(root: Path, key: str) -> list[Path]:
    finished = [path for path, record in _finished(root) if record["key"] == key]
    unfinished = [
        path
        for path in _unfinished(root)
        if (path / KEY_FILE).read_text().partition("\n")[0] == key
    ]
    return finished + unfinished


def _is_locked(path: Path) -> bool:
    lock = path.with_name(path.name + LOCK_SUFFIX)
    if not lock.is_file():
        return False
    try:
        with FileLock(lock, blocking=False):
            return False
    except Timeout:
        return True


def _delete(path: Path) -> None:
    shutil.rmtree(path)
    path.with_name(path.name + LOCK_SUFFIX).unlink(missing_ok=True)
