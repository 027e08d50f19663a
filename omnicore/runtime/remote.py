"""Steps whose inputs or output lie in S3: fetched, run here, published; what is published already
is not made again.

The scratch directory hangs on the output's address, so a command that was killed finds its
journals, its finished work and what it had fetched when it is given again on the same machine. It
lies in TMPDIR and is removed when the result is published. On another machine it finds what
omnicore/runtime/checkpoint_sync.py has brought to S3 of its journals.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from omnicore.config import digest
from omnicore.config.recipe import Recipe
from omnicore.errors import ConfigError, DataError, StorageError
from omnicore.runtime import checkpoint_sync
from omnicore.runtime.run import Run, Work, differences, run_step, step_work, tell
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
    execute: Run | None = None,
    replace: bool = False,
) -> dict[str, Any]:
    """`run_step` for directories and s3:// addresses alike; returns the content of the result's `step.json`.

    A finished result of the same key at an s3:// output is returned when the store still has every object as it was written; one
    of other settings is left alone, unless `replace` says to write over it. Raises what `run_step`, `store.fetch` and
    `store.publish` raise, and ConfigError for an output that holds something else.
    """
    inputs, output = {role: place.rstrip("/") for role, place in inputs.items()}, output.rstrip("/")
    if not any(store.is_s3(place) for place in (*inputs.values(), output)):
        paths = {role: Path(place) for role, place in inputs.items()}
        return run_step(
            step, recipe, paths, Path(output), section=section, execute=execute, replace=replace
        )
    for role, place in inputs.items():
        if place == output or output.startswith(f"{place}/") or place.startswith(f"{output}/"):
            raise ConfigError(
                f"output {output} and input {role} {place} lie in one another; give the output its"
                " own address"
            )
    own, local = scratch(output), Path(output)
    with serve_metrics(), storage_errors(own), store.lock_directory(own):
        known = {role: store.require(place) for role, place in inputs.items() if store.is_s3(place)}
        places = {
            role: own / f"{role}-{known[role].folder}" if role in known else Path(inputs[role])
            for role in inputs
        }
        if store.is_s3(output):
            heads = {role: _head(inputs[role], known[role], own / "heads" / role) for role in known}
            work = step_work(step, recipe, {**places, **heads}, own / "output", section=section)
            local = (
                own / f"output-{work.key[:16]}"
            )  # unfinished work of other settings stays in directories of its own
            record = _published(output, work, replace)
            if record:
                tell(record, found=True)
                _clear(own, local)
                return record
        for role, published in known.items():
            store.fetch(inputs[role], places[role], published)
        with (
            checkpoint_sync.kept(local, output, work.key) if store.is_s3(output) else nullcontext()
        ):
            record = run_step(
                step, recipe, places, local, section=section, execute=execute, replace=replace
            )
        if store.is_s3(output):
            store.publish(local, output)
            checkpoint_sync.forget(output, work.key)
        _clear(own, local)
    return record


def _clear(own: Path, local: Path) -> None:
    """Removes what was fetched and, where it lies in the scratch directory, the result; the
    directory itself once it is empty."""
    for entry in own.iterdir():
        if entry.name.startswith(local.name) or not entry.name.startswith("output-"):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    if not any(own.iterdir()):
        own.rmdir()


def scratch(output: str, whose: str = "") -> Path:
    """This machine's directory for work on an output; `whose` where others than the one that
    publishes need their own."""
    place = output.rstrip("/") if store.is_s3(output) else str(Path(output).resolve())
    root = Path(tempfile.gettempdir()) / f"omnicore-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    if root.lstat().st_uid != os.getuid():
        raise StorageError(
            f"{root} belongs to somebody else; set TMPDIR to a directory of your own"
        )
    found = root / f"{digest(place)[:16]}{whose}"
    found.mkdir(exist_ok=True)
    return found


def _head(uri: str, published: Publication, directory: Path) -> Path:
    """A directory with the input's `step.json` alone: enough to know the key of what would be made
    of it."""
    if STEP_FILE not in {file.name for file in published.files}:
        raise DataError(
            f"{uri} is not a finished output: no {STEP_FILE}; publish the output of a step"
        )
    directory.mkdir(parents=True, exist_ok=True)
    (directory / STEP_FILE).write_bytes(store.read_file(uri, published, STEP_FILE))
    return directory


def _published(uri: str, work: Work, replace: bool) -> dict[str, Any] | None:
    """The record of the work's result at `uri`, None where it is to be made.

    Raises ConfigError where the address holds something else, or a result of other settings that
    nobody gave up.
    """
    published = store.stat(uri)
    if published is None:
        return None
    if STEP_FILE not in {file.name for file in published.files}:
        raise ConfigError(
            f"output {uri} holds something that is no result of omnicore; give another address"
        )
    if not store.verify(uri, published):
        logger.warning("%s: contents changed since they were published; re-running", uri)
        return None
    record: dict[str, Any] = json.loads(store.read_file(uri, published, STEP_FILE))
    if record["step"] != work.step:
        raise ConfigError(
            f"output {uri} holds a result of {record['step']}; give {work.step} an address of"
            " its own"
        )
    if record["key"] == work.key:
        return record
    if not replace:
        told = differences(record.get("decides", {}), work.decides)
        raise ConfigError(
            f"output {uri} holds a finished {record['section']}{told}. Give another --output, or"
            " --replace to write over it once the new result is finished"
        )
    return None
