"""The directory of a running training's checkpoints, from which the run resumes bit for bit.

```
checkpoints.journal/step-000020/   complete: renamed to this last; `.tmp` is appended while written
    weights.safetensors            trainable parameters and buffers; the rest is the start model's
    optimizer.pt                   without ZeRO; read with weights_only
    optimizer.safetensors          with ZeRO: the whole state, so any number of processes resumes
    scheduler.pt, rng_state.pth    read with weights_only; rng_state_0.pth ... for several processes
    trainer_state.json             the Trainer's counters
    states.json                    other state (`ResumableTrainer.states`), equal on all processes
    curves.jsonl, rollouts.jsonl   the records up to this step
    checkpoint.json                written last: name, size and sha256 of every other file
```

training/resume.py writes and reads the files of one checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omnicore import processes
from omnicore.storage.digests import sha256_file
from omnicore.storage.files import read_jsonl, storage_errors, write_json, write_jsonl
from omnicore.telemetry import live
from omnicore.training import distributed

logger = logging.getLogger(__name__)

DIRECTORY = "checkpoints.journal"
LISTING = "checkpoint.json"
Records = Mapping[str, list[dict[str, Any]]]


class Checkpoints:
    """The checkpoints of one training.

    Attributes:
        latest: The newest complete checkpoint, None if the training begins at its first step.
        step: Optimizer step of `latest`, 0 without one.
        saved_at: Seconds since 1970 when `latest` was written, 0 without one.
    """

    def __init__(self, directory: Path, records: Records, *, every: int, keep: int) -> None:
        """Find the newest complete checkpoint and fill `records` from it, in place.

        A truncated or changed checkpoint is logged and removed, and the one before it is tried. Of
        several processes the first one looks and writes; all of them construct this object at the
        same time and get the same `latest`.

        Args:
            directory: Where the checkpoints lie, one folder each.
            records: What the training has logged so far, by the name of the file that holds it.
            every: Optimizer steps from one checkpoint to the next; 0 writes none.
            keep: How many of the newest checkpoints to keep.
        """
        self.directory, self.records, self.every, self.keep = directory, records, every, keep
        with storage_errors(directory):
            self.latest = distributed.broadcast_folder(self._newest_complete(), directory)
        self.step, self.saved_at = 0, 0.0
        if self.latest:
            listing = json.loads((self.latest / LISTING).read_text())
            self.step, self.saved_at = listing["step"], listing["written"]
            if processes.is_main():
                logger.info("%s: training resumes after step %d", self.latest, self.step)
        for name, lines in self.records.items():
            lines[:] = read_jsonl(self.latest / f"{name}.jsonl", dict) if self.latest else []

    def _newest_complete(self) -> Path | None:
        for folder in sorted(self.directory.glob("step-*"), reverse=True):
            damage = find_damage(folder)
            if not damage:
                return folder
            if not folder.name.endswith(".tmp"):
                logger.warning("%s: %s; trying the checkpoint before it", folder, damage)
            shutil.rmtree(folder)
        return None

    @contextmanager
    def write(self, step: int) -> Iterator[Path]:
        """Yield a folder that becomes the checkpoint of `step` if the block ends without an error.

        Older checkpoints beyond `keep` are removed afterwards.
        """
        folder = self.directory / f"step-{step:06d}"
        temporary = folder.with_name(folder.name + ".tmp")
        with storage_errors(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            for name, lines in self.records.items():
                write_jsonl(temporary / f"{name}.jsonl", lines)
            self.saved_at = time.time()
            _seal(temporary, step, self.saved_at)
            temporary.rename(folder)
            _sync(self.directory)
            self.step = step
            live.set_gauge("omni_checkpoint_saved_timestamp_seconds", self.saved_at)
            for old in sorted(self.directory.glob("step-*"))[: -self.keep]:
                shutil.rmtree(old)


def find_damage(folder: Path) -> str:
    """Describe what is wrong with a checkpoint; empty if all files have their size and sha256."""
    try:
        listing = json.loads((folder / LISTING).read_bytes())
        files = {name: (file["size"], file["sha256"]) for name, file in listing["files"].items()}
    except (OSError, ValueError, TypeError, KeyError):
        return f"incomplete: {LISTING} cannot be read"
    present = {path.relative_to(folder).as_posix() for path in _files(folder)} - {LISTING}
    if present != files.keys():
        return f"the files are not those that were written: {min(present ^ files.keys())}"
    for name, (size, sha256) in files.items():
        if (folder / name).stat().st_size != size or sha256_file(folder / name) != sha256:
            return f"{name} is truncated or changed"
    return ""


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _seal(folder: Path, step: int, written: float) -> None:
    """Flush all files to the disk, then list them.

    Otherwise a machine that loses power could leave a listing without its files.
    """
    files = {}
    for path in _files(folder):
        _sync(path)
        files[path.relative_to(folder).as_posix()] = {
            "size": path.stat().st_size,
            "sha256": sha256_file(path),
        }
    for path in folder.rglob("*"):
        if path.is_dir():
            _sync(path)
    write_json(folder / LISTING, {"step": step, "written": written, "files": files})
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
