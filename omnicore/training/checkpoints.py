"""Checkpoints of a training under way, from which it goes on bit for bit as if it had never stopped.

  checkpoints.journal/step-000020/       whole: it took this name last; `.tmp` behind it while it is written
      weights.safetensors                the parameters that train and the buffers; the others are the start model's
      optimizer.pt, scheduler.pt, trainer_state.json      by the Trainer's own hand, read with weights_only
      optimizer.safetensors              in place of the first of them under ZeRO, whole: any number of processes goes on from it
      rng_state.pth                      likewise; of several processes rng_state_0.pth and so on
      states.json                        what else goes on (`Resumable`), the same on all processes
      curves.jsonl, rollouts.jsonl       the books: the records up to here
      checkpoint.json                    written last: names, sizes and sha256 of all others

The Trainer's `resume_from_checkpoint` restores optimizer, scheduler, random numbers and step, and skips the rows that were seen.
The rest is ours: its weights are those of `save_pretrained`, whose names are not those of the model in memory, and it loads them
with `strict=False`; it knows nothing of reward coins, checks and books; it writes in place, so that a kill leaves half a checkpoint
which it would take; and it pickles its arguments beside them.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback

from omnicore import distributed, processes
from omnicore.errors import CheckpointError
from omnicore.storage.digests import sha256_file
from omnicore.storage.files import read_jsonl, storage_errors, write_json, write_jsonl
from omnicore.telemetry import live
from omnicore.training import parallel

DIRECTORY = "checkpoints.journal"
LISTING = "checkpoint.json"
WEIGHTS, OPTIMIZER = "weights.safetensors", "optimizer.safetensors"
STATES = "states.json"
Records = Mapping[str, list[dict[str, Any]]]


class Stateful(Protocol):
    """Whatever decides what a training does next and lies outside of weights, optimizer, scheduler,
    the process' random numbers and the Trainer's step.

    The state is JSON: lists for tuples, numbers and texts.
    """

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Checkpoints:
    """The checkpoints of one training below `directory`, one every so many optimizer steps (0:
    none), the newest `keep` of them.

    `books` are the records that the training has written so far. Opening fills them, in place, from
    the newest whole checkpoint, which is `found`, None where the training begins at its first step.
    One that is cut off or changed is named on stderr and removed, and the one before it is looked
    at.

    Of several processes, the first looks and writes; all open it at the same time and find what the
    first has found.
    """

    def __init__(self, directory: Path, books: Records, *, every: int, keep: int) -> None:
        self.directory, self.books, self.every, self.keep = directory, books, every, keep
        self.found: Path | None = None
        with storage_errors(directory):
            for folder in sorted(directory.glob("step-*"), reverse=True):
                damage = find_damage(folder)
                if not damage:
                    self.found = folder
                    break
                if not folder.name.endswith(".tmp"):
                    print(
                        f"{folder}: {damage}; the checkpoint before it is looked at",
                        file=sys.stderr,
                        flush=True,
                    )
                shutil.rmtree(folder)
            self.found = distributed.broadcast_folder(self.found, directory)
        self.step, self.saved_at = 0, 0.0  # of the newest one; seconds since 1970
        if self.found:
            listing = json.loads((self.found / LISTING).read_text())
            self.step, self.saved_at = listing["step"], listing["written"]
            if processes.is_main():
                print(
                    f"{self.found}: training goes on after step {self.step}",
                    file=sys.stderr,
                    flush=True,
                )
        for name, book in self.books.items():
            book[:] = read_jsonl(self.found / f"{name}.jsonl", dict) if self.found else []

    @contextmanager
    def writing(self, step: int) -> Iterator[Path]:
        """A folder that becomes the checkpoint of `step` when the block ends well; older ones
        beyond `keep` are then removed."""
        folder = self.directory / f"step-{step:06d}"
        temporary = folder.with_name(folder.name + ".tmp")
        with storage_errors(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            for name, book in self.books.items():
                write_jsonl(temporary / f"{name}.jsonl", book)
            self.saved_at = time.time()
            _seal(temporary, step, self.saved_at)
            temporary.rename(folder)
            _sync(self.directory)
            self.step = step
            live.set_gauge("omni_checkpoint_saved_timestamp_seconds", self.saved_at)
            for old in sorted(self.directory.glob("step-*"))[: -self.keep]:
                shutil.rmtree(old)


def find_damage(folder: Path) -> str:
    """What is wrong with a checkpoint, nothing if it is whole: every file has the size and sha256
    with which it was written."""
    try:
        listing = json.loads((folder / LISTING).read_bytes())
        files = {name: (file["size"], file["sha256"]) for name, file in listing["files"].items()}
    except (OSError, ValueError, TypeError, KeyError):
        return f"was not finished: no {LISTING} that can be read"
    there = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    } - {LISTING}
    if there != files.keys():
        return f"has not the files that were written: {min(there ^ files.keys())}"
    for name, (size, sha256) in files.items():
        if (folder / name).stat().st_size != size or sha256_file(folder / name) != sha256:
            return f"{name} is cut off or changed"
    return ""


def _seal(folder: Path, step: int, written: float) -> None:
    """Brings everything to the disk and lists it: a machine that loses power must not leave a
    listing without its files."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        _sync(path)
        files[path.relative_to(folder).as_posix()] = {
            "size": path.stat().st_size,
            "sha256": sha256_file(path),
        }
    for path in [path for path in folder.rglob("*") if path.is_dir()]:
        _sync(path)
    write_json(folder / LISTING, {"step": step, "written": written, "files": files})
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Resumable(Trainer):  # type: ignore[misc]
    """A Trainer that writes `checkpoints` and goes on from the one that they have found; mixed in
    before TRL's class.

    What a subclass keeps from one step to the next and needs to go on (a coin, a check's count, a
    position among the rows) it puts into `states`, by name, before it trains. They are restored
    before the first row is drawn. Rows that were seen are skipped by counting batches, so the order
    of rows must not depend on what happened before. A subclass that holds work between two
    optimizer steps (rollouts that serve several) says so in `can_checkpoint`, and no checkpoint is written
    before it is.
    """

    def __init__(self, *args: Any, checkpoints: Checkpoints | None, **kwargs: Any) -> None:
        self.checkpoints = checkpoints
        self.states: dict[str, Stateful] = {}
        super().__init__(*args, **kwargs)
        if checkpoints and checkpoints.every:
            self.add_callback(_Due(self, checkpoints))

    def resume(self) -> None:
        """Trains from the newest whole checkpoint, or from the start."""
        found = self.checkpoints and self.checkpoints.found
        if self.checkpoints and self.checkpoints.every:
            live.set_gauge(
                "omni_checkpoint_saved_timestamp_seconds", self.checkpoints.saved_at or time.time()
            )
        if found and self.is_deepspeed_enabled:
            # Before DeepSpeed takes the model over. Later the Trainer would have it read files of its own.
            self._load_from_checkpoint(str(found))
        with mock.patch("transformers.trainer.deepspeed_load_checkpoint", _take_over):
            self.train(resume_from_checkpoint=str(found) if found else None)

    def can_checkpoint(self) -> bool:
        return True

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        assert self.checkpoints, "asked for by _Due alone"
        numbers = distributed.all_gather(self._random_numbers())
        weights, optimizer = (
            parallel.gather_zero_state(self.model_wrapped)
            if self.is_deepspeed_enabled
            else (_trained(self.model), {})
        )
        if not processes.is_main():
            self.checkpoints.step = self.state.global_step
            return
        with self.checkpoints.writing(self.state.global_step) as folder:
            weights |= _buffers(self.model)
            save_file(
                {name: held.detach().contiguous() for name, held in weights.items()},
                folder / WEIGHTS,
            )
            if optimizer:
                save_file(optimizer, folder / OPTIMIZER)
                torch.save(self.lr_scheduler.state_dict(), folder / "scheduler.pt")
            else:
                self._save_optimizer_and_scheduler(str(folder))
            self._save_scaler(str(folder))
            for name, content in numbers:
                (folder / name).write_bytes(content)
            self.state.save_to_json(str(folder / "trainer_state.json"))
            write_json(
                folder / STATES, {name: part.state_dict() for name, part in self.states.items()}
            )

    def _random_numbers(self) -> tuple[str, bytes]:
        """Name and content of the file that the Trainer would write in the state of this process'
        generators."""
        with tempfile.TemporaryDirectory() as folder:
            self._save_rng_state(folder)
            (path,) = Path(folder).iterdir()
            return path.name, path.read_bytes()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        model = model or self.model
        held, saved = (
            _trained(model) | _buffers(model),
            load_file(Path(resume_from_checkpoint) / WEIGHTS),
        )
        if unlike := held.keys() ^ saved.keys():
            raise CheckpointError(
                f"{resume_from_checkpoint} is of another model than the one that trains:"
                f" {min(unlike)}"
            )
        with torch.no_grad():
            for name, tensor in held.items():
                tensor.copy_(saved[name])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint and self.is_deepspeed_enabled:
            # A scheduler's state does not set the rate: the optimizer's would, and the next step had that of the first.
            for group, rate in zip(
                self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True
            ):
                group["lr"] = rate
        if checkpoint:
            states = json.loads((Path(checkpoint) / STATES).read_text())
            for name, part in self.states.items():
                part.load_state_dict(states[name])


def _trained(model: Any) -> dict[str, torch.Tensor]:
    """The weights that a training changes, each once whatever names share it."""
    return {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }


def _buffers(model: Any) -> dict[str, torch.Tensor]:
    kept = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name in kept}


def _take_over(engine: Any, folder: str, **_: Any) -> None:
    """In place of transformers' own: what ZeRO shares out, from a checkpoint of ours."""
    parallel.load_zero_state(
        engine, load_file(Path(folder) / WEIGHTS), load_file(Path(folder) / OPTIMIZER)
    )


class _Due(TrainerCallback):  # type: ignore[misc]
    """Not by the Trainer's `save_steps`: a training that goes on would take them from the
    checkpoint and not from the recipe."""

    def __init__(self, trainer: Resumable, checkpoints: Checkpoints) -> None:
        self._trainer, self._checkpoints = trainer, checkpoints

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        since = state.global_step - self._checkpoints.step
        # None at the last step: the Trainer would train one step more from there.
        if since >= self._checkpoints.every and state.global_step < state.max_steps:
            control.should_save = self._trainer.can_checkpoint()
