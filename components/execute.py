"""What the body of every component calls: parse the arguments, run the step, write its figures.

Under `pipelines.run` the environment says more, and only there:
  OMNI_RUN      directory for one JSON file a task ({"state", "started", ...}) and its progress file; `lock` in it is held
                by the runner, and a task ends when the runner lets go of it, however the runner ended
  OMNI_CACHE    step cache of the run
  OMNI_WORKER   socket of a warm worker (`omnicore.worker`) that does the work of the heavy steps
"""

import contextlib
import fcntl
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from kfp import dsl

from omnicore import telemetry, worker
from omnicore.config import load_recipe
from omnicore.errors import ConfigError, OmniError
from omnicore.journal import read_json, write_json
from omnicore.run import run_step

RUN, CACHE, WORKER = "OMNI_RUN", "OMNI_CACHE", "OMNI_WORKER"
HEAVY = frozenset({"probe", "evaluate", "sft", "rlvr", "distill"})  # import torch


def execute(
    step: str,
    recipe: str,
    overrides: str,
    settings: Mapping[str, str],
    inputs: Mapping[str, dsl.Artifact | None],
    output: dsl.Artifact,
    metrics: dsl.Metrics,
    section: str | None = None,
) -> None:
    """Runs a step from its artefacts into `output` and writes the numbers of its summary to `metrics`.

    `settings` are single fields of the recipe that are component parameters of their own; empty ones are left alone. What a
    user can mend ends the process with status 2 and one clear message, without a traceback.
    """
    task = _Task(Path(output.path).parent.name)
    try:
        resolved = load_recipe(recipe, [*parse_overrides(overrides), *(f"{k}={json.dumps(v)}" for k, v in settings.items() if v)])
        if step in HEAVY and WORKER in os.environ:
            _work_elsewhere(step, task)
        else:
            task.tell("running")
        cache = os.environ.get(CACHE)
        paths = {role: Path(artifact.path) for role, artifact in inputs.items() if artifact}
        record = run_step(step, resolved, paths, Path(output.path), section=section, cache=Path(cache) if cache else None)
    except OmniError as error:
        task.tell("failed", error=str(error))
        print(f"{section or step}: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    except Exception as error:
        task.tell("failed", error=f"{type(error).__name__}: {error}")
        raise
    figures = {name: value for name, value in record["summary"].items() if isinstance(value, int | float)}
    for name, value in figures.items():
        metrics.log_metric(name, value)
    # log_metric writes no file, and an artefact without one counts as missing in a local run.
    Path(metrics.path).write_text(json.dumps(figures, indent=1))
    task.tell("done", summary=record["summary"])
