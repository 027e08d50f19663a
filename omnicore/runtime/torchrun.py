"""Run a training step in all processes that torchrun has started.

Every rank runs the same command. Rank 0 does what a single process would do: it takes the lock,
finds a finished result, or resumes. The other ranks wait for its message; they train with it if
there is work, and end once the result is published. A rank that fails ends with a status other than
0, and torchrun ends the others.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from omnicore import processes
from omnicore.config import TRAINING
from omnicore.config.recipe import Recipe
from omnicore.errors import ConfigError, DataError
from omnicore.lineage.step_record import read_step
from omnicore.processes import without_deprecations
from omnicore.runtime import remote
from omnicore.runtime.run import run_in_process
from omnicore.storage import store
from omnicore.training import distributed
from omnicore.training.distributed import RankMessages


def run(
    step: str,
    recipe: Recipe,
    inputs: Mapping[str, str],
    output: str,
    *,
    section: str | None = None,
    replace: bool = False,
) -> None:
    """Run a step as `remote.run` does, in as many processes as there are.

    Raises:
        ConfigError: The step is not a training, or its batch is not divisible by the processes.
        DataError: An input differs between two nodes.
        OmniError: The errors of `remote.run`.
    """
    if processes.world_size() == 1:
        remote.run(step, recipe, inputs, output, section=section, replace=replace)
        return
    if step not in TRAINING:
        raise ConfigError(
            f"step {step} runs in one process, not in {processes.world_size()}: run it without"
            " torchrun",
            code="step-not-distributed",
            field=step,
        )
    section = section or step
    messages = RankMessages()
    if not processes.is_main():
        _follow(step, recipe, inputs, output, section, messages)
        return
    # Refuse an indivisible batch before any rank loads a model.
    field = TRAINING[step]
    distributed.per_process(getattr(getattr(recipe, section), field), f"{section}.{field}")

    def lead(
        recipe: Recipe, _config: Any, paths: Mapping[str, Path], directory: Path
    ) -> dict[str, Any]:
        work = {}
        for role, path in paths.items():
            work[role] = {"path": str(path), "digest": read_step(path)["digest"]}
        messages.send("work", json.dumps(work))
        with messages.process_group():
            return run_in_process(step, section, recipe, paths, directory)

    remote.run(step, recipe, inputs, output, section=section, execute=lead, replace=replace)
    messages.send("end")
    # The TCPStore may end with this process.
    for other in range(1, processes.world_size()):
        messages.receive(f"gone/{other}")


def _follow(
    step: str,
    recipe: Recipe,
    inputs: Mapping[str, str],
    output: str,
    section: str,
    messages: RankMessages,
) -> None:
    """Train with rank 0 if it has work, and wait for its end."""
    key, value = messages.receive("work", "end")
    if key == "work":
        fetched = remote.scratch_directory(output, f".node-{processes.node_rank()}")
        own = remote.scratch_directory(output, f".rank-{processes.rank()}")
        paths = _local_inputs(inputs, json.loads(value), fetched, messages)
        module = import_module(f"omnicore.steps.{step}")
        with messages.process_group(), without_deprecations():
            module.run(recipe, getattr(recipe, section), paths, own)
        messages.receive("end")
        for directory in (fetched, own):
            shutil.rmtree(directory, ignore_errors=True)
    messages.send(f"gone/{processes.rank()}")


def _local_inputs(
    inputs: Mapping[str, str],
    work: Mapping[str, Mapping[str, str]],
    fetched: Path,
    messages: RankMessages,
) -> dict[str, Path]:
    """Return the inputs where this process can read them.

    On rank 0's node they are where rank 0 has them; on another node its first process fetches them.
    """
    if processes.node_rank() == 0:
        return {role: Path(entry["path"]) for role, entry in work.items()}
    paths = {}
    for role, place in inputs.items():
        path = Path(place)
        if store.is_s3(place):
            path = fetched / f"{role}-{work[role]['digest'][:32]}"
            if processes.local_rank() == 0:
                store.fetch(place.rstrip("/"), path)
                messages.send(f"fetched/{processes.node_rank()}/{role}")
            messages.receive(f"fetched/{processes.node_rank()}/{role}")
        if read_step(path)["digest"] != work[role]["digest"]:
            raise DataError(
                f"input {role} {place} on node {processes.node_rank()} differs from rank 0's: give"
                " all nodes the same",
                code="distributed-input-differs",
                field=role,
                path=place,
            )
        paths[role] = path
    return paths
