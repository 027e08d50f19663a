"""A step by all processes that torchrun has started.

The first decides, writes and publishes; the others train along. Each process runs the same command.
The first does what it would do alone: it takes the lock, finds a finished result or goes on with an
unfinished one. Only when there is work does it call the others, who wait until then and end when
its result is published. A process that fails ends with a status that is not 0, and torchrun ends
the others.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from omnicore import distributed, processes
from omnicore.config import TRAINING
from omnicore.config.recipe import Recipe
from omnicore.distributed import Team
from omnicore.errors import ConfigError, DataError
from omnicore.lineage.step_record import read_step
from omnicore.processes import without_deprecations
from omnicore.runtime import remote
from omnicore.runtime.run import in_process
from omnicore.storage import store


def run(
    step: str,
    recipe: Recipe,
    inputs: Mapping[str, str],
    output: str,
    *,
    section: str | None = None,
    replace: bool = False,
) -> None:
    """`staging.run`, by as many processes as there are.

    Raises what it raises, and ConfigError for a step that takes one.
    """
    if processes.world_size() == 1:
        remote.run(step, recipe, inputs, output, section=section, replace=replace)
        return
    if step not in TRAINING:
        raise ConfigError(
            f"step {step} takes one process, not {processes.world_size()}: run it without torchrun"
        )
    team = Team()
    if not processes.is_main():
        _follow(step, recipe, inputs, output, section or step, team)
        return

    # Before anybody loads a model.
    field = TRAINING[step]
    distributed.share(
        getattr(getattr(recipe, section or step), field), f"{section or step}.{field}"
    )

    def lead(
        recipe: Recipe, _config: Any, places: Mapping[str, Path], directory: Path
    ) -> dict[str, Any]:
        told = {
            role: {"place": str(place), "digest": read_step(place)["digest"]}
            for role, place in places.items()
        }
        team.say("work", json.dumps(told))
        with team.at_work():
            return in_process(step, section or step, recipe, places, directory)

    remote.run(step, recipe, inputs, output, section=section, execute=lead, replace=replace)
    team.say("end")
    for other in range(1, processes.world_size()):  # the store may end with this process
        team.hear(f"gone/{other}")


def _follow(
    step: str, recipe: Recipe, inputs: Mapping[str, str], output: str, section: str, team: Team
) -> None:
    word, called = team.hear("work", "end")
    if word == "work":
        fetched, own = (
            remote.scratch(output, f".{whose}")
            for whose in (f"node-{processes.node_rank()}", f"rank-{processes.rank()}")
        )
        places = _places(inputs, json.loads(called), fetched, team)
        with team.at_work(), without_deprecations():
            import_module(f"omnicore.steps.{step}").run(
                recipe, getattr(recipe, section), places, own
            )
        team.hear("end")
        for directory in (fetched, own):
            shutil.rmtree(directory, ignore_errors=True)
    team.say(f"gone/{processes.rank()}")


def _places(
    inputs: Mapping[str, str], called: Mapping[str, Mapping[str, str]], fetched: Path, team: Team
) -> dict[str, Path]:
    """The inputs where this process can read them: on the first one's node they are there, on
    another its first process fetches."""
    if processes.node_rank() == 0:
        return {role: Path(told["place"]) for role, told in called.items()}
    places = {}
    for role, place in inputs.items():
        local = Path(place)
        if store.is_s3(place):
            local = fetched / f"{role}-{called[role]['digest'][:32]}"
            if processes.local_rank() == 0:
                store.fetch(place.rstrip("/"), local)
                team.say(f"fetched/{processes.node_rank()}/{role}")
            team.hear(f"fetched/{processes.node_rank()}/{role}")
        if read_step(local)["digest"] != called[role]["digest"]:
            raise DataError(
                f"input {role} {place} is another one on node {processes.node_rank()} than on the"
                " first: give all the same"
            )
        places[role] = local
    return places
