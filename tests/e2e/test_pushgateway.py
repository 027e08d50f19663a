"""Metrics in a real Pushgateway after success and failure, and how Prometheus reads them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.request import urlopen

import pytest

from omnicore.config.recipe import load_recipe
from omnicore.errors import TrainingError
from omnicore.runtime.run import run_step
from omnicore.storage.files import write_jsonl
from omnicore.telemetry import live
from tests.monitoring import needs, prometheus, started
from tests.seaweed import free_ports

RECIPE = load_recipe("tiny")
GROUP = 'instance="",job="omnicore"'
SFT = f'{GROUP},stage="sft",step="sft"'


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    binary, (port,) = needs("prometheus-pushgateway"), free_ports(1)
    command = [binary, f"--web.listen-address=127.0.0.1:{port}"]
    with started(
        command, f"http://127.0.0.1:{port}/-/ready", tmp_path_factory.mktemp("gateway") / "log"
    ):
        yield port


@pytest.fixture
def gateway(port: int, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv(live.GATEWAY, f"http://127.0.0.1:{port}")
    return port


@pytest.fixture(autouse=True)
def loss(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The loss that a training logs; where it is not a number, it ends in an error.

    Its data are prepared in no time.
    """
    held = {"loss": 2.5}

    def prepare(recipe: Any, config: Any, inputs: Any, output: Path) -> dict[str, Any]:
        (output / "sft.jsonl").write_text("")
        return {"queries": 12}

    def sft(recipe: Any, config: Any, inputs: Any, output: Path) -> dict[str, Any]:
        live.log_step({"step": 3, **held})
        live.set_gauge("omni_canary_passed", 1, kind="audio")
        if held["loss"] != held["loss"]:
            raise TrainingError("the loss became nan")
        write_jsonl(output / "curves.jsonl", [{"step": 4, **held}])
        return {}

    for run in (prepare, sft):
        module = ModuleType(run.__name__)
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"omnicore.steps.{run.__name__}", module)
    return held


def held(port: int) -> dict[str, str]:
    """What the gateway would tell Prometheus of us."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if "omnicore" in line)
    return {
        series: value
        for series, value in found.items()
        if series.startswith(("omni_", "push_time"))
    }


def test_result_is_pushed_once_without_a_run_label(gateway: int, tmp_path: Path) -> None:
    run_step("prepare", RECIPE, {}, tmp_path / "prepare")
    found = held(gateway)
    group = f'{GROUP},stage="prepare",step="prepare"'
    assert found[f"omni_step_succeeded{{{group}}}"] == "1"
    assert found[f"omni_step_queries{{{group}}}"] == "12"
    assert not [series for series in found if "run" in series or str(tmp_path) in series]
    run_step("prepare", RECIPE, {}, tmp_path / "prepare")  # found, not done
    assert held(gateway) == found


def test_failure_keeps_its_metrics_until_a_success(
    gateway: int, tmp_path: Path, loss: dict[str, Any]
) -> None:
    run_step("prepare", RECIPE, {}, tmp_path / "prepare")
    given = {"data": tmp_path / "prepare"}
    loss["loss"] = float("nan")
    with pytest.raises(TrainingError):
        run_step("sft", RECIPE, given, tmp_path / "sft")
    found = held(gateway)
    values = {
        name: found[f"{name}{{{SFT}}}"]
        for name in ("omni_step_succeeded", "omni_training_loss", "omni_training_steps")
    }
    assert values == {
        "omni_step_succeeded": "0",
        "omni_training_loss": "NaN",
        "omni_training_steps": "3",
    }
    canary = f'omni_canary_passed{{{GROUP},kind="audio",stage="sft",step="sft"}}'
    assert found[canary] == "1"
    with prometheus(tmp_path, {gateway: {}}, honor_labels=True) as seen:
        seen.until('omni_training_loss{job="omnicore"}')
        series = frozenset({("step", "sft"), ("stage", "sft")})
        assert seen.now("omni_training_loss != omni_training_loss").keys() == {series}
        loss["loss"] = 1.5
        run_step("sft", RECIPE, given, tmp_path / "sft")
        seen.until("omni_training_loss == 1.5")
        assert seen.now('omni_step_succeeded{stage="sft"}') == {series: 1.0}
    assert canary not in held(gateway), "nothing is left of what was pushed before"


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9", "http://127.0.0.1:{refusing}/nothing/here", "no address"]
)
def test_step_runs_without_a_usable_gateway(
    port: int,
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(live.GATEWAY, address.format(refusing=port))
    assert run_step("prepare", RECIPE, {}, tmp_path / "prepare")["summary"] == {"queries": 12}
    assert "cannot push the metrics of prepare to" in capsys.readouterr().err


def test_only_rank_0_pushes(gateway: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_step("prepare", RECIPE, {}, tmp_path / "a")
    found = held(gateway)
    monkeypatch.setenv("RANK", "1")
    run_step("prepare", RECIPE, {}, tmp_path / "b")
    assert held(gateway) == found
