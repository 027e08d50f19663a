"""Run steps whose inputs or output are in S3: fetch the inputs, run here, publish the result.

The scratch directory is named by the output's address, so the same command on the same machine
finds its journals, its finished work and what it had fetched. It is under TMPDIR and removed once
the result is published. Another machine gets the journals from S3 (`checkpoint_sync.py`).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnicore.config import digest
from omnicore.config.recipe import Recipe
from omnicore.errors import ConfigError, DataError, StorageError
from omnicore.runtime import checkpoint_sync
from omnicore.runtime.keys import StepPlan, describe_differences, plan_step
from omnicore.runtime.run import RunFunction, print_result, run_step
from omnicore.storage import store
from omnicore.storage.digests import STEP_FILE
from omnicore.storage.files import storage_errors
from omnicore.storage.store import Publication
from omnicore.telemetry.live import serve_metrics

logger = logging.getLogger(__name__)


def run(
    step: str,
    recipe: Recipe,
    inputs: Mapping[str, str],
    output: str,
    *,
    section: str | None = None,
    execute: RunFunction | None = None,
    replace: bool = False,
) -> dict[str, Any]:
    """Run a step on directories and s3:// addresses alike; the arguments are those of `run_step`.

    A finished result of the same key at an s3:// output is returned if the store still has every
    object as it was written; one of other settings is only replaced with `replace`.

    Returns:
        The content of the result's `step.json`.

    Raises:
        ConfigError: Output and input contain one another, or the output holds something else.
        OmniError: The errors of `run_step`, `store.fetch` and `store.publish`.
    """
    inputs = {role: place.rstrip("/") for role, place in inputs.items()}
    output = output.rstrip("/")
    if not any(store.is_s3(place) for place in (*inputs.values(), output)):
        paths = {role: Path(place) for role, place in inputs.items()}
        return run_step(
            step, recipe, paths, Path(output), section=section, execute=execute, replace=replace
        )
    _check_overlap(inputs, output)
    scratch = scratch_directory(output)
    with serve_metrics(), storage_errors(scratch), store.lock_directory(scratch):
        publications, paths = _input_paths(inputs, scratch)
        local, plan = Path(output), None
        if store.is_s3(output):
            heads = {
                role: _fetch_record(inputs[role], publication, scratch / "heads" / role)
                for role, publication in publications.items()
            }
            plan = plan_step(step, recipe, paths | heads, scratch / "output", section=section)
            # Unfinished work of other settings stays in directories of its own.
            local = scratch / f"output-{plan.key[:16]}"
            record = _published_record(output, plan, replace)
            if record:
                print_result(record, cached=True)
                _clear(scratch, local)
                return record
        for role, publication in publications.items():
            store.fetch(inputs[role], paths[role], publication)

        def run_here() -> dict[str, Any]:
            return run_step(
                step, recipe, paths, local, section=section, execute=execute, replace=replace
            )

        if plan is None:
            record = run_here()
        else:
            with checkpoint_sync.synced(local, output, plan.key):
                record = run_here()
            store.publish(local, output)
            checkpoint_sync.forget(output, plan.key)
        _clear(scratch, local)
    return record


def scratch_directory(output: str, suffix: str = "") -> Path:
    """Return this machine's directory for work on an output.

    Args:
        output: Directory or address of the output.
        suffix: For a process that needs a directory of its own, as `.rank-1`.

    Raises:
        StorageError: The common parent belongs to another user.
    """
    place = output.rstrip("/") if store.is_s3(output) else str(Path(output).resolve())
    root = Path(tempfile.gettempdir()) / f"omnicore-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    if root.lstat().st_uid != os.getuid():
        raise StorageError(
            f"{root} belongs to another user; set TMPDIR to a directory of your own",
            code="scratch-of-other-user",
            field="TMPDIR",
            path=root,
        )
    directory = root / f"{digest(place)[:16]}{suffix}"
    directory.mkdir(exist_ok=True)
    return directory


def _check_overlap(inputs: Mapping[str, str], output: str) -> None:
    for role, place in inputs.items():
        if place == output or output.startswith(f"{place}/") or place.startswith(f"{output}/"):
            raise ConfigError(
                f"output {output} and input {role} {place} contain one another; give the output its"
                " own address",
                code="output-overlaps-input",
                field=role,
                path=output,
            )


def _input_paths(
    inputs: Mapping[str, str], scratch: Path
) -> tuple[dict[str, Publication], dict[str, Path]]:
    """Return the publications of the inputs in S3, and the local path of every input."""
    publications, paths = {}, {}
    for role, place in inputs.items():
        paths[role] = Path(place)
        if store.is_s3(place):
            publications[role] = store.require(place)
            paths[role] = scratch / f"{role}-{publications[role].folder}"
    return publications, paths


def _clear(scratch: Path, local: Path) -> None:
    """Remove fetched inputs and the result `local`, and the scratch directory once it is empty."""
    for entry in scratch.iterdir():
        if entry.name.startswith("output-") and not entry.name.startswith(local.name):
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    if not any(scratch.iterdir()):
        scratch.rmdir()


def _fetch_record(uri: str, publication: Publication, directory: Path) -> Path:
    """Fetch an input's `step.json` only, which is enough to compute the result's key."""
    if not _has_record(publication):
        raise DataError(
            f"{uri} is not a finished output: no {STEP_FILE}; publish the output of a step",
            code="step-record-missing",
            path=uri,
        )
    directory.mkdir(parents=True, exist_ok=True)
    (directory / STEP_FILE).write_bytes(store.read_file(uri, publication, STEP_FILE))
    return directory


def _published_record(uri: str, plan: StepPlan, replace: bool) -> dict[str, Any] | None:
    """Return the record of the plan's result at an address; None if the step has to run.

    Raises:
        ConfigError: The address holds something else, or a result of other settings and `replace`
            is not set.
    """
    publication = store.stat(uri)
    if publication is None:
        return None
    if not _has_record(publication):
        raise ConfigError(
            f"output {uri} holds no result of omnicore; give another address",
            code="output-not-empty",
            path=uri,
        )
    if not store.verify(uri, publication):
        logger.warning("%s: contents changed since they were published; re-running", uri)
        return None
    record: dict[str, Any] = json.loads(store.read_file(uri, publication, STEP_FILE))
    if record["step"] != plan.step:
        raise ConfigError(
            f"output {uri} holds a result of {record['step']}; give {plan.step} an address of"
            " its own",
            code="output-of-other-step",
            path=uri,
        )
    if record["key"] == plan.key:
        return record
    if replace:
        return None
    differences = describe_differences(record.get("decides", {}), plan.decides)
    raise ConfigError(
        f"output {uri} holds a finished {record['section']}{differences}. Give another --output, or"
        " --replace to overwrite it once the new result is finished",
        code="output-of-other-settings",
        path=uri,
    )


def _has_record(publication: Publication) -> bool:
    return any(file.name == STEP_FILE for file in publication.files)
