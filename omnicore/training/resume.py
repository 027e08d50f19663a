"""Save and restore a training through the public hooks of transformers' Trainer.

`SaveCheckpoint` writes a checkpoint after the record of a step is logged, and restores one when the
training begins. The Trainer's own `resume_from_checkpoint` is not used: it saves the frozen weights
too, writes in place, so that a kill leaves half a checkpoint which it would load, and pickles its
arguments.
"""

from __future__ import annotations

import io
import json
import random
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback, TrainerState

from omnicore import processes
from omnicore.errors import CheckpointError
from omnicore.storage.files import write_json
from omnicore.telemetry import live
from omnicore.training import distributed, parallel
from omnicore.training.checkpoints import Checkpoints

WEIGHTS, OPTIMIZER_STATE = "weights.safetensors", "optimizer.safetensors"
OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"
TRAINER_STATE, STATES = "trainer_state.json", "states.json"


class Stateful(Protocol):
    """State that decides what a training does next, beside the weights and the optimizer.

    The state is JSON: lists for tuples, numbers and texts.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class ResumableTrainer(Trainer):  # type: ignore[misc]
    """A Trainer that writes checkpoints and resumes; mixed in before TRL's class.

    The training set of a resumed run begins at the row after the checkpoint, so the order of rows
    must be a function of seed and step. Whatever else a subclass carries from one step to the next
    goes into `states` by name before it trains.
    """

    def __init__(self, *args: Any, checkpoints: Checkpoints | None, **kwargs: Any) -> None:
        self.checkpoints = checkpoints
        self.states: dict[str, Stateful] = {}
        super().__init__(*args, **kwargs)

    def resume(self) -> None:
        """Train from the newest complete checkpoint, or from the start."""
        if self.checkpoints:
            if self.checkpoints.every:
                saved_at = self.checkpoints.saved_at or time.time()
                live.set_gauge("omni_checkpoint_saved_timestamp_seconds", saved_at)
            if self.checkpoints.latest:
                load_weights(self.model, self.checkpoints.latest)
            self.add_callback(SaveCheckpoint(self, self.checkpoints))
        self.train()

    def can_checkpoint(self) -> bool:
        """Return whether all state between two optimizer steps is in a checkpoint."""
        return True

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Create the scheduler and restore the counters of a checkpoint.

        This is the last public method before the Trainer notes the step after which it averages the
        logged loss.
        """
        if self.checkpoints and self.checkpoints.latest:
            saved = TrainerState.load_from_json(str(self.checkpoints.latest / TRAINER_STATE))
            self.state.global_step = saved.global_step
            self.state.num_input_tokens_seen = saved.num_input_tokens_seen
        return super().create_scheduler(num_training_steps, optimizer)


class SaveCheckpoint(TrainerCallback):  # type: ignore[misc]
    """Write a checkpoint every `checkpoints.every` steps; restore the newest one at the start.

    Add it after the callback that records the logged step: the checkpoint holds the record.
    """

    def __init__(self, trainer: ResumableTrainer, checkpoints: Checkpoints) -> None:
        self._trainer, self._checkpoints = trainer, checkpoints
        self._random_numbers_restored = checkpoints.latest is None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Restore optimizer, scheduler and the trainer's `states`."""
        folder, trainer = self._checkpoints.latest, self._trainer
        if not folder:
            return
        scheduler_state = torch.load(folder / SCHEDULER, weights_only=True)
        trainer.lr_scheduler.load_state_dict(scheduler_state)
        if trainer.is_deepspeed_enabled:
            weights, optimizer_state = (
                load_file(folder / WEIGHTS),
                load_file(folder / OPTIMIZER_STATE),
            )
            parallel.load_zero_state(trainer.model_wrapped, weights, optimizer_state)
            # A scheduler's state does not set the optimizer's rate: the next step would have the
            # rate of the first one.
            rates = trainer.lr_scheduler.get_last_lr()
            for group, rate in zip(trainer.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        else:
            optimizer_state = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
            trainer.optimizer.load_state_dict(optimizer_state)
        states = json.loads((folder / STATES).read_text())
        for name, part in trainer.states.items():
            part.load_state_dict(states[name])

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Restore the random numbers once the first batch is read, which may have drawn some."""
        if not self._random_numbers_restored and self._checkpoints.latest:
            load_random_numbers(self._checkpoints.latest)
            self._random_numbers_restored = True

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Write a checkpoint if one is due.

        None is written at the last step: a run that resumed there would have no step left.
        """
        every = self._checkpoints.every
        due = every > 0 and state.global_step - self._checkpoints.step >= every
        if due and state.global_step < state.max_steps and self._trainer.can_checkpoint():
            self._save()

    def _save(self) -> None:
        trainer, step = self._trainer, self._trainer.state.global_step
        random_numbers = distributed.all_gather(random_number_file())
        if trainer.is_deepspeed_enabled:
            weights, optimizer_state = parallel.gather_zero_state(trainer.model_wrapped)
        else:
            weights, optimizer_state = trainable_weights(trainer.model), {}
        if not processes.is_main():
            self._checkpoints.step = step
            return
        with self._checkpoints.write(step) as folder:
            tensors = weights | saved_buffers(trainer.model)
            save_file(
                {name: tensor.detach().contiguous() for name, tensor in tensors.items()},
                folder / WEIGHTS,
            )
            if trainer.is_deepspeed_enabled:
                save_file(optimizer_state, folder / OPTIMIZER_STATE)
            else:
                torch.save(trainer.optimizer.state_dict(), folder / OPTIMIZER)
            torch.save(trainer.lr_scheduler.state_dict(), folder / SCHEDULER)
            for name, content in random_numbers:
                (folder / name).write_bytes(content)
            trainer.state.save_to_json(str(folder / TRAINER_STATE))
            states = {name: part.state_dict() for name, part in trainer.states.items()}
            write_json(folder / STATES, states)


def load_weights(model: Any, folder: Path) -> None:
    """Copy the weights of a checkpoint into the trainable parameters and buffers of `model`.

    Raises:
        CheckpointError: The checkpoint holds other parameters than those that train.
    """
    tensors, saved = trainable_weights(model) | saved_buffers(model), load_file(folder / WEIGHTS)
    different = tensors.keys() ^ saved.keys()
    if different:
        raise CheckpointError(
            f"{folder} holds other parameters than the model that trains: {min(different)}; remove"
            " the directory to begin at the first step",
            code="checkpoint-other-parameters",
            path=folder,
            field=min(different),
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(saved[name])


def trainable_weights(model: Any) -> dict[str, torch.Tensor]:
    """Return the weights that train, each once whatever names share it."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def saved_buffers(model: Any) -> dict[str, torch.Tensor]:
    """Return the buffers that a state dict holds."""
    persistent = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name in persistent}


def random_number_file() -> tuple[str, bytes]:
    """Return name and content of the file with this process's random-number states."""
    numpy_state: dict[str, Any] = dict(np.random.get_state(legacy=False))
    # Plain numbers, since torch's weights_only loads no NumPy array.
    keys = numpy_state["state"]["key"].tolist()
    numpy_state["state"] = {"key": keys, "pos": numpy_state["state"]["pos"]}
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": numpy_state,
        "cpu": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    content = io.BytesIO()
    torch.save(states, content)
    return _random_number_name(), content.getvalue()


def load_random_numbers(folder: Path) -> None:
    """Restore this process's random-number states.

    A training that resumes with more processes than wrote the checkpoint keeps the states of the
    additional ones as they are.
    """
    path = folder / _random_number_name()
    if not path.is_file():
        return
    states = torch.load(path, weights_only=True)
    random.setstate(states["python"])
    numpy_state = states["numpy"]
    numpy_state["state"]["key"] = np.array(numpy_state["state"]["key"], dtype=np.uint32)
    np.random.set_state(numpy_state)
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])


def _random_number_name() -> str:
    if processes.world_size() == 1:
        return "rng_state.pth"
    return f"rng_state_{processes.rank()}.pth"
