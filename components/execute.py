"""What the body of every component calls: parse the arguments, run the step, write its figures.

Under `pipelines.run` the environment says more, and only there:
  OMNI_RUN      directory with one file a task, `<task>.json` ({"state", "time", ...}), and its progress, `<task>.progress`;
                the runner holds `lock` in it, and a task ends when that is let go, however the runner ended
  OMNI_CACHE    step cache of the run
  OMNI_WORKER   socket of a warm worker (`omnicore.runtime.worker`) that does the work of the heavy steps

On a cluster the image of a step's job is the pipeline's own, not the recipe's: OMNI_TRAIN_IMAGE, which `pipelines.place` sets.
"""

import fcntl
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from kfp import dsl

from components.placement import placed
from omnicore import logs
from omnicore.config import raw_yaml
from omnicore.config.recipe import Recipe, load_recipe
from omnicore.errors import ConfigError, OmniError
from omnicore.progress import PROGRESS_FILE
from omnicore.runtime import worker
from omnicore.runtime.run import run_in_process, run_step
from omnicore.storage.files import read_json, write_json

RUN, CACHE, WORKER = "OMNI_RUN", "OMNI_CACHE", "OMNI_WORKER"
LOCK = "lock"
HEAVY = frozenset({"probe", "evaluate", "sft", "rlvr", "distill"})  # import torch


def execute(
    step: str,
    recipe: str,
    overrides: str,
    settings: Mapping[str, Any],
    inputs: Mapping[str, dsl.Artifact | None],
    output: dsl.Artifact,
    metrics: dsl.Metrics,
    section: str | None = None,
    place: dsl.TaskConfig | None = None,
) -> None:
    """Runs a step from its artefacts into `output` and writes the numbers of its summary to
    `metrics`.

    `settings` are single fields of the recipe that are component parameters of their own; empty
    ones are left alone. `place` says where KFP wants the job of a heavy step. What a user can mend
    ends the process with status 2 and one clear message, without a traceback.
    """
    logs.set_up()
    task = Task(Path(output.path).parent.name)
    try:
        changes = [*_written(_pinned()), *parse_overrides(overrides), *_written(settings)]
        resolved = placed(load_recipe(recipe, changes), place)
        paths = {role: Path(artifact.path) for role, artifact in inputs.items() if artifact}
        cache = Path(os.environ[CACHE]) if CACHE in os.environ else None
        work = _worker(step, section or step, task)
        record = run_step(
            step, resolved, paths, Path(output.path), section=section, cache=cache, execute=work
        )
    except OmniError as error:
        task.tell("failed", error=str(error))
        logs.log_error(error, section or step)
        sys.exit(2)
    except Exception as error:
        task.tell("failed", error=f"{type(error).__name__}: {error}")
        raise
    figures = {
        name: value for name, value in record["summary"].items() if isinstance(value, int | float)
    }
    for name, value in figures.items():
        metrics.log_metric(name, value)
    # log_metric writes no file, and an artefact without one counts as missing in a local run.
    Path(metrics.path).write_text(json.dumps(figures, indent=1))
    task.tell("done", summary=record["summary"])


def parse_overrides(text: str) -> list[str]:
    """`field=value` overrides from YAML: a list of them, or a mapping of dotted fields to values.

    Raises ConfigError.
    """
    try:
        value = raw_yaml.load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"overrides are not YAML: {error}") from error
    if isinstance(value, Mapping):
        return [f"{field}={raw_yaml.dump(given)}" for field, given in value.items()]
    if value is None or (isinstance(value, list) and all(isinstance(line, str) for line in value)):
        return value or []
    raise ConfigError(
        f"overrides {text!r}: write a YAML list, [rlvr.steps=40], or a mapping, {{rlvr.steps: 40}}"
    )


def _written(values: Mapping[str, Any]) -> list[str]:
    return [
        f"{field}={json.dumps(value, ensure_ascii=False)}"
        for field, value in values.items()
        if value
    ]


def _pinned() -> dict[str, str]:
    """On a cluster, the image that the pipeline was compiled with: a job of other code would make
    another result.

    A light step starts no job and is told none, but a recipe that names a kind of job is refused
    without an image.
    """
    return (
        {"launcher.image": os.environ.get("OMNI_TRAIN_IMAGE", "none")}
        if "KUBERNETES_SERVICE_HOST" in os.environ
        else {}
    )


def _worker(
    step: str, section: str, task: "Task"
) -> Callable[[Recipe, Any, Mapping[str, Path], Path], dict[str, Any]]:
    """What does a step's work once `run_step` knows that there is some: a cached step starts no
    worker."""

    def run(
        recipe: Recipe, config: Any, inputs: Mapping[str, Path], output: Path
    ) -> dict[str, Any]:
        task.tell("running")
        if step in HEAVY and WORKER in os.environ:
            request = {
                "step": step,
                "section": section,
                "recipe": recipe.model_dump(mode="json"),
                "output": str(output),
            }
            return worker.call(
                os.environ[WORKER],
                {**request, "inputs": {role: str(path) for role, path in inputs.items()}},
            )
        return run_in_process(step, section, recipe, inputs, output)

    return run


class Task:
    """This task's place in a local run: tells the runner how it fares, ends with it.

    Does nothing without a runner.
    """

    def __init__(self, name: str) -> None:
        self.file = Path(os.environ[RUN]) / f"{name}.json" if RUN in os.environ else None
        self.facts: dict[str, Any] = {"started": time.time(), "cached": True}
        if not self.file:
            return
        threading.Thread(target=self._end_with_runner, daemon=True).start()
        if failed := next(
            (f.stem for f in self.file.parent.glob("*.json") if read_json(f)["state"] == "failed"),
            None,
        ):
            sys.exit(
                f"not started: {failed} failed"
            )  # the runner would go on with what does not depend on it
        os.environ[PROGRESS_FILE] = str(self.file.with_suffix(".progress"))
        self.tell("started")

    def tell(self, state: str, **facts: Any) -> None:
        """`started`: asks the cache; `running`: works; then `done` or `failed`."""
        self.facts |= facts
        if state == "running":
            self.facts["cached"] = False
        if self.file:
            write_json(self.file, {"state": state, "time": time.time(), **self.facts})

    def _end_with_runner(self) -> None:
        with (self.file.parent / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            os._exit(1)
