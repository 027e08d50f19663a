"""Show a training's curves in TensorBoard, MLflow, Weights & Biases or trackio.

transformers' own integrations write them. They read from environment variables where to write; what
the user has set takes precedence. No result depends on it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omnicore import processes
from omnicore.config import TrackerConfig
from omnicore.errors import ConfigError


@contextmanager
def tracker_arguments(config: TrackerConfig, output: Path) -> Iterator[dict[str, Any]]:
    """Yield the Trainer's arguments for a training that writes to `output`.

    The run is named after `output`. The environment variables are set within the block only.

    Raises:
        ConfigError: A tracker is not installed.
    """
    for tracker in config.report_to:
        if not find_spec(tracker):
            raise ConfigError(
                f"tracker.report_to names {tracker}, which is not installed: pip install {tracker}",
                code="package-missing",
                field="tracker.report_to",
            )
    if not config.report_to:
        yield {"report_to": []}
        return
    added = _set_missing(_environment(config, output))
    try:
        yield {
            "report_to": list(config.report_to),
            "run_name": output.name,
            "project": config.project,
        }
    except BaseException:
        _end_failed_run(config)
        raise
    finally:
        for name in added:
            os.environ.pop(name, None)


def _environment(config: TrackerConfig, output: Path) -> dict[str, str]:
    """Return the integrations' environment variables; create the folder they write to."""
    folder = output.with_name(f"{output.name}.tracker")
    if config.logging_dir:
        folder = Path(config.logging_dir)
    if processes.is_main():
        folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "TENSORBOARD_LOGGING_DIR": str(folder / output.name),
        "MLFLOW_EXPERIMENT_NAME": config.project,
        "WANDB_PROJECT": config.project,
        "WANDB_DIR": str(folder),
        "TRACKIO_DIR": str(folder),
    }
    if config.tracking_uri:
        settings["MLFLOW_TRACKING_URI"] = config.tracking_uri
    return settings


def _set_missing(settings: dict[str, str]) -> list[str]:
    """Set the environment variables that the user has not set; return their names."""
    missing = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(missing)
    return list(missing)


def _end_failed_run(config: TrackerConfig) -> None:
    """End MLflow's run, which its integration does only if the training succeeds.

    Otherwise a failed training would be shown as running.
    """
    if "mlflow" in config.report_to:
        import mlflow

        mlflow.end_run("FAILED")
