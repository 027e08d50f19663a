"""docs/train.md's curves in TensorBoard and in a real MLflow server, and in the output while a
training works."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from omnicore.config.recipe import load_recipe
from omnicore.runtime.run import run_step
from omnicore.storage.files import read_jsonl
from tests.forks import in_a_fork
from tests.unit.training_fixture import SMALL

pytestmark = pytest.mark.slow
GUIDE = (Path(__file__).parents[2] / "docs" / "train.md").read_text()


def commands() -> list[list[str]]:
    """The commands of the section on curves."""
    block = re.search(r"## Watching curves.*?```\n(.*?)```", GUIDE, re.DOTALL)
    assert block
    return [shlex.split(line.rstrip("& ")) for line in block[1].replace("\\\n", " ").splitlines()]


@pytest.fixture
def port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def mlflow(port: int, tmp_path: Path) -> Iterator[str]:
    """The guide's server, on a free port."""
    (tmp_path / "runs").mkdir()
    command = [word.replace("5000", str(port)) for word in commands()[0]]
    url = f"http://127.0.0.1:{port}"
    program = Path(sys.executable).with_name(command[0])
    with subprocess.Popen(
        [program, *command[1:], "--workers", "1"], cwd=tmp_path, stdout=subprocess.DEVNULL
    ) as process:
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{url}/health"):
                    break
            except OSError:
                assert process.poll() is None, "the server has ended"
                time.sleep(0.1)
        yield url
        process.terminate()


def test_curves_are_shown_in_two_trackers(mlflow: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, train, _ = commands()
    run_step("prepare", load_recipe("tiny", SMALL), {}, tmp_path / "runs" / "prepare")
    words = [word.replace("http://127.0.0.1:5000", mlflow) for word in train[1:]]
    settings = [
        part
        for value in (*SMALL, "sft.steps=3", "sft.train_batch_size=4")
        for part in ("--set", value)
    ]
    done = subprocess.run(
        [sys.executable, "-m", "omnicore", *words, *settings],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, "a deprecation of a library reached the terminal"
    losses = [
        record["loss"] for record in read_jsonl(tmp_path / "runs" / "sft" / "curves.jsonl", dict)
    ]
    assert len(losses) == 3

    client = MlflowClient(mlflow)
    experiment = client.get_experiment_by_name("omnicore")
    assert experiment
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("sft", "FINISHED")
    logged = sorted(
        client.get_metric_history(run.info.run_id, "loss"), key=lambda metric: metric.step
    )
    assert [metric.value for metric in logged] == pytest.approx(losses, abs=1e-4)

    events = EventAccumulator(str(tmp_path / "runs" / "sft.tracker" / "sft"))
    events.Reload()
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(
        losses, abs=1e-4
    )


def test_another_tracker_finds_the_finished_result(tmp_path: Path) -> None:
    run_step("prepare", load_recipe("tiny", SMALL), {}, tmp_path / "prepare")
    plain, watched = (
        load_recipe(
            "tiny", [*SMALL, "sft.steps=1", "sft.train_batch_size=2", f"tracker.report_to={to}"]
        )
        for to in ("[]", "[mlflow]")
    )
    inputs = {"data": tmp_path / "prepare"}
    assert in_a_fork(lambda: run_step("sft", plain, inputs, tmp_path / "sft")) == 0
    assert run_step("sft", watched, inputs, tmp_path / "sft")["summary"]["steps"] == 1


def test_curves_grow_while_a_training_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies in the output when the last step begins is all but the last line."""
    from omnicore.training.sft import OmniSFTTrainer

    run_step("prepare", load_recipe("tiny", SMALL), {}, tmp_path / "prepare")
    seen: list[list[Any]] = []
    computed = OmniSFTTrainer.compute_loss

    def look(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(read_jsonl(tmp_path / "sft" / "curves.jsonl", dict))
        return computed(self, *args, **kwargs)

    monkeypatch.setattr(OmniSFTTrainer, "compute_loss", look)
    run_step(
        "sft",
        load_recipe("tiny", [*SMALL, "sft.steps=3", "sft.train_batch_size=2"]),
        {"data": tmp_path / "prepare"},
        tmp_path / "sft",
    )
    whole = read_jsonl(tmp_path / "sft" / "curves.jsonl", dict)
    assert seen == [whole[:n] for n in range(3)]
