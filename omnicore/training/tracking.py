"""A training's curves in TensorBoard, MLflow, Weights & Biases or trackio, by transformers' own
integrations.

The integrations are told by environment variables where they write; what the user has set of them
goes first. Nothing of this decides an answer.
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
    """The Trainer's arguments for a training that writes to `output`, whose name is that of its
    run.

    Raises ConfigError where a tracker is not installed.
    """
    if missing := [tracker for tracker in config.report_to if not find_spec(tracker)]:
        raise ConfigError(
            f"tracker.report_to names {missing[0]}, which is not installed: pip install {missing[0]}"
        )
    if not config.report_to:
        yield {"report_to": []}
        return
    folder = (
        Path(config.logging_dir)
        if config.logging_dir
        else output.with_name(f"{output.name}.tracker")
    )
    if processes.is_main():
        folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "TENSORBOARD_LOGGING_DIR": str(folder / output.name),
        "MLFLOW_EXPERIMENT_NAME": config.project,
        "WANDB_PROJECT": config.project,
        "WANDB_DIR": str(folder),
        "TRACKIO_DIR": str(folder),
        **({"MLFLOW_TRACKING_URI": config.tracking_uri} if config.tracking_uri else {}),
    }
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield {
            "report_to": list(config.report_to),
            "run_name": output.name,
            "project": config.project,
        }
    except BaseException:
        _end_failed(config)
        raise
    finally:
        for name in added:
            os.environ.pop(name, None)


def _end_failed(config: TrackerConfig) -> None:
    """The integration ends a run of MLflow when the training has ended well; one that failed would
    be shown as running."""
    if "mlflow" in config.report_to:
        import mlflow

        mlflow.end_run("FAILED")
