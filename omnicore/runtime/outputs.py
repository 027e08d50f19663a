"""Output directories: locked, begun, finished, replaced.

`step.json` is written last. Until then `key.journal` holds the key of the work and what decides it,
and a run of the same key resumes from the journals beside it. Work of another key is only removed
when the user asks for it.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from omnicore.errors import ConfigError, DataError, StepBusy
from omnicore.lineage.step_record import read_step, verify_step
from omnicore.runtime.keys import StepPlan, describe_differences
from omnicore.storage.digests import KEY_FILE, STEP_FILE

logger = logging.getLogger(__name__)
WAIT = 600.0  # seconds to wait for another process that works on the same directory
POLL = 0.2  # seconds between two attempts to take a lock


class OtherWork(NamedTuple):
    """Work of another key in a directory: its description, and what decides it where known."""

    description: str
    decides: dict[str, Any]


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a lock on `<directory>.lock`; the kernel releases it when the process ends.

    Raises:
        StepBusy: Another process holds it for longer than `WAIT`.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory.with_name(directory.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning("another process works on %s; waiting", directory)
        try:
            lock.acquire(timeout=WAIT, poll_interval=POLL)
        except Timeout as error:
            raise StepBusy(
                f"another process has worked on {directory} for more than {WAIT:.0f} s: end it, or"
                " re-run later",
                code="output-busy",
                path=directory,
            ) from error
    try:
        yield
    finally:
        lock.release()


def finished_record(directory: Path, key: str) -> dict[str, Any] | None:
    """Return the record of a finished, unchanged result of this key; None if there is none."""
    record = _read_record(directory)
    if record is None or record["key"] != key:
        return None
    try:
        return verify_step(directory)
    except DataError as error:
        logger.warning("%s; re-running %s", error, directory)
        return None


def check_output(plan: StepPlan, output: Path, replace: bool) -> None:
    """Check that a step may write to `output`.

    Raises:
        ConfigError: It is a file, holds something else than a result of this step, or holds work of
            other settings and `replace` is not set.
    """
    if output.exists() and not output.is_dir():
        raise ConfigError(
            f"output {output} is a file; give a directory", code="output-is-file", path=output
        )
    record = _read_record(output)
    if record is None and not (output / KEY_FILE).exists() and _has_entries(output):
        raise ConfigError(
            f"output {output} is not empty and holds no result of omnicore; give a new or empty"
            " directory",
            code="output-not-empty",
            path=output,
        )
    if record is not None and record["step"] != plan.step:
        raise ConfigError(
            f"output {output} holds a result of {record['step']}; give {plan.step} a directory of"
            " its own",
            code="output-of-other-step",
            path=output,
        )
    other = None if replace else other_work(output, plan.key)
    if other is not None:
        differences = describe_differences(other.decides, plan.decides)
        raise ConfigError(
            f"output {output} holds {other.description}{differences}. Give another --output, or"
            " --replace to replace it once the new result is finished",
            code="output-of-other-settings",
            path=output,
        )


def other_work(directory: Path, key: str) -> OtherWork | None:
    """Return the work of another key that would be lost if the work of `key` began here."""
    record = _read_record(directory)
    if record is not None:
        if record["key"] == key:
            return None
        return OtherWork(f"a finished {record['section']}", record.get("decides", {}))
    if not (directory / KEY_FILE).is_file():
        return None
    other_key, _, decides = (directory / KEY_FILE).read_text().partition("\n")
    journals = [path for path in directory.glob("*.journal") if path.name != KEY_FILE]
    names = sorted(path.name for path in journals if _size(path))
    if other_key in ("", key) or not names:
        return None
    known = json.loads(decides) if decides else {}
    section = known.get("section", "result")
    return OtherWork(f"an unfinished {section} ({', '.join(names)})", known)


def unfinished_key(directory: Path) -> str:
    """Return the key of the unfinished work in a directory; empty where there is none."""
    key_file = directory / KEY_FILE
    return key_file.read_text().partition("\n")[0] if key_file.is_file() else ""


def begin_work(plan: StepPlan, directory: Path) -> None:
    """Empty a directory for work on a key; only journals of the same key stay.

    Files beside the journals are removed: an incomplete file of a killed process would count as a
    result.
    """
    directory.mkdir(parents=True, exist_ok=True)
    key_file = directory / KEY_FILE
    resumes = unfinished_key(directory) == plan.key
    if not resumes:
        # A kill during the removal must not leave journals of another key under the new one.
        key_file.write_text("")
    (directory / STEP_FILE).unlink(missing_ok=True)
    for entry in directory.iterdir():
        if entry != key_file and not (resumes and entry.name.endswith(".journal")):
            _remove(entry)
    key_file.write_text(f"{plan.key}\n{json.dumps(plan.decides)}")


def remove_journals(directory: Path) -> None:
    """Remove the journals of a finished step; its result has all that they hold."""
    for journal in directory.glob("*.journal"):
        _remove(journal)


def link_result(plan: StepPlan, source: Path, output: Path) -> None:
    """Link a finished directory into `output`, `step.json` last; copy where links fail."""
    begin_work(plan, output)
    files = [path for path in source.rglob("*") if path.is_file() and path != source / STEP_FILE]
    for file in [*files, source / STEP_FILE]:
        target = output / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.hardlink_to(file)
        except OSError:
            shutil.copy2(file, target)
    remove_journals(output)


def exchange(output: Path, new: Path) -> None:
    """Replace `output` by the finished directory `new`."""
    old = _replaced(output)
    output.rename(old)
    new.rename(output)
    shutil.rmtree(old)


def undo_interrupted_exchange(output: Path) -> None:
    """Restore `output` after a kill between the two renames of `exchange`."""
    old = _replaced(output)
    if old.exists() and not output.exists():
        old.rename(output)


def _replaced(output: Path) -> Path:
    return output.with_name(output.name + ".replaced")


def _read_record(directory: Path) -> dict[str, Any] | None:
    try:
        return read_step(directory)
    except DataError:
        return None


def _has_entries(directory: Path) -> bool:
    return directory.exists() and any(directory.iterdir())


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
