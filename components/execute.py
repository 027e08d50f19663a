"""Body of every component: parse the arguments, run the step, write its figures.

`pipelines.run` sets further environment variables:
  OMNI_RUN      directory with one file a task, `<task>.json` ({"state", "time", ...}), and its
                progress, `<task>.progress`; the runner holds `lock` in it, and a task ends when the
                lock is released, however the runner ended
  OMNI_CACHE    step cache of the run
  OMNI_WORKER   socket of a warm worker (`omnicore.runtime.worker`) that runs the heavy steps

On a cluster the image of a step's job is the pipeline's own, not the recipe's: OMNI_TRAIN_IMAGE,
which `pipelines.place` sets.
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
    """Run a step from its artefacts into `output` and write the numbers of its summary.

    An error that a user can fix ends the process with status 2 and one message.

    Args:
        step: Name of the step.
        recipe: Name of a shipped recipe or path of a YAML file.
        overrides: Recipe values to change, as YAML.
        settings: Recipe fields that are component parameters of their own; empty ones do not count.
        inputs: Artefacts by role; absent ones are None.
        output: Artefact that gets the step's output.
        metrics: Artefact that gets the numbers of its summary.
        section: Part of the recipe that configures the step; its name by default.
        place: Resources and placement of the task, for the job that a heavy step launches.
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
        task.report("failed", error=str(error))
        logs.log_error(error, section or step)
        sys.exit(2)
    except Exception as error:
        task.report("failed", error=f"{type(error).__name__}: {error}")
        raise
    figures = {
        name: value for name, value in record["summary"].items() if isinstance(value, int | float)
    }
    for name, value in figures.items():
        metrics.log_metric(name, value)
    # log_metric writes no file, and an artefact without one counts as missing in a local run.
    Path(metrics.path).write_text(json.dumps(figures, indent=1))
    task.report("done", summary=record["summary"])


def parse_overrides(text: str) -> list[str]:
    """Return `field=value` overrides from YAML: a list of them, or a mapping of fields to values.

    Raises:
        ConfigError: The text is neither.
    """
    try:
        value = raw_yaml.load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"overrides are not YAML: {error}", code="overrides-not-yaml", field="overrides"
        ) from error
    if isinstance(value, Mapping):
        return [f"{field}={raw_yaml.dump(given)}" for field, given in value.items()]
    if value is None or (isinstance(value, list) and all(isinstance(line, str) for line in value)):
        return value or []
    raise ConfigError(
        f"overrides {text!r}: write a YAML list, [rlvr.steps=40], or a mapping, {{rlvr.steps: 40}}",
        code="overrides-invalid",
        field="overrides",
    )


def _written(values: Mapping[str, Any]) -> list[str]:
    return [
        f"{field}={json.dumps(value, ensure_ascii=False)}"
        for field, value in values.items()
        if value
    ]


def _pinned() -> dict[str, str]:
    """Return, on a cluster, the image that the pipeline was compiled with, as a setting.

    A job of another image would run other code. A light step starts no job and has no image, but a
    recipe with a kind of job is refused without one.
    """
    if "KUBERNETES_SERVICE_HOST" not in os.environ:
        return {}
    return {"launcher.image": os.environ.get("OMNI_TRAIN_IMAGE", "none")}


def _worker(
    step: str, section: str, task: "Task"
) -> Callable[[Recipe, Any, Mapping[str, Path], Path], dict[str, Any]]:
    """Return the function that runs a step which is not cached, in the warm worker if possible."""

    def run(
        recipe: Recipe, config: Any, inputs: Mapping[str, Path], output: Path
    ) -> dict[str, Any]:
        task.report("running")
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
    """State of this task in a local run: reported to the runner, and ended with it.

    It does nothing without a runner.
    """

    def __init__(self, name: str) -> None:
        self.file = Path(os.environ[RUN]) / f"{name}.json" if RUN in os.environ else None
        self.facts: dict[str, Any] = {"started": time.time(), "cached": True}
        if not self.file:
            return
        lock = self.file.parent / LOCK
        threading.Thread(target=_end_with_runner, args=(lock,), daemon=True).start()
        # KFP would still start tasks that do not depend on the failed one.
        for file in self.file.parent.glob("*.json"):
            if read_json(file)["state"] == "failed":
                sys.exit(f"not started: {file.stem} failed")
        os.environ[PROGRESS_FILE] = str(self.file.with_suffix(".progress"))
        self.report("started")

    def report(self, state: str, **facts: Any) -> None:
        """Report `started` (looks into the cache), `running`, then `done` or `failed`."""
        self.facts |= facts
        if state == "running":
            self.facts["cached"] = False
        if self.file:
            write_json(self.file, {"state": state, "time": time.time(), **self.facts})


def _end_with_runner(lock: Path) -> None:
    """End this process when the runner releases its lock; a shared lock lets all tasks see that."""
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        os._exit(1)
