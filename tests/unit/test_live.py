"""Metrics of the running step: where they are served, to whom, and that no step fails for them."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from omnicore.config import EngineConfig
from omnicore.engines.base import Batch, FinishedBatches, Reply, Request, Sampling, run_requests
from omnicore.errors import EngineError
from omnicore.progress import track
from omnicore.telemetry import live
from tests.errors import refused
from tests.seaweed import free_ports

END = 'stage="second_probe",step="probe"'


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    (port,) = free_ports(1)
    monkeypatch.setenv(live.PORT, str(port))
    return port


def scraped(port: int) -> dict[str, float]:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in lines
        if not line.startswith("#")
    }


def test_metrics_are_served_only_while_the_step_runs(
    port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    live.set_gauge("omni_training_steps", 7)  # no active step: ignored
    with live.active_step("probe", "second_probe"):
        assert scraped(port) == {}
        live.set_gauge("omni_canary_passed", 1, kind="audio")
        live.increment("omni_engine_retries_total", 1)
        live.increment("omni_engine_retries_total", 2)
        live.log_step({"step": 3, "loss": float("nan"), "samples": 4, "tokens": 50, "by_type": {}})
        with track(8, "probe") as progress:
            progress.advance(2, loss=1.0)
        found = scraped(port)
        assert found.pop(f"omni_training_loss{{{END}}}") != 0  # not a number
        assert found == {
            f'omni_canary_passed{{kind="audio",{END}}}': 1.0,
            f"omni_engine_retries_total{{{END}}}": 3.0,
            f"omni_training_steps{{{END}}}": 3.0,
            f"omni_samples_total{{{END}}}": 4.0,
            f"omni_tokens_total{{{END}}}": 50.0,
            f"omni_step_progress_ratio{{{END}}}": 0.25,
        }
    assert f"metrics at http://127.0.0.1:{port}/metrics" in capsys.readouterr().err
    with pytest.raises(URLError):
        scraped(port)
    with live.active_step("probe", "second_probe"):
        assert scraped(port) == {}


def test_target_stays_up_before_and_after_the_step(port: int) -> None:
    """While inputs are fetched and the result is published: a target that is down is an alert."""
    with live.serve_metrics():
        assert scraped(port) == {}
        with live.active_step("sft", "sft"):
            live.set_gauge("omni_training_active", 1)
            assert scraped(port) == {'omni_training_active{stage="sft",step="sft"}': 1.0}
        assert scraped(port) == {}
    with pytest.raises(URLError):
        scraped(port)


def test_default_host_serves_only_this_machine(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for host, reached in (
        ("", ["127.0.0.1"]),
        ("127.0.0.2", ["127.0.0.2"]),
        ("0.0.0.0", ["127.0.0.1", "127.0.0.2"]),
    ):
        if host:
            monkeypatch.setenv(live.HOST, host)
        found = []
        with live.active_step("sft", "sft"):
            for address in ("127.0.0.1", "127.0.0.2"):
                with suppress(OSError), socket.create_connection((address, port), timeout=1):
                    found.append(address)
        assert found == reached


def test_only_rank_0_serves_metrics(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with live.active_step("sft", "sft"):
        live.set_gauge("omni_training_steps", 1)
        with pytest.raises(URLError):
            scraped(port)
    monkeypatch.setenv("RANK", "0")
    with live.active_step("sft", "sft"):
        assert scraped(port) == {}


@pytest.mark.parametrize("given", ["taken", "ninety", "99999"])
def test_step_runs_without_a_usable_metrics_port(
    given: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setenv(live.PORT, str(other.getsockname()[1]) if given == "taken" else given)
        with live.active_step("sft", "sft"):
            live.set_gauge("omni_training_steps", 1)
    assert "cannot serve metrics at 127.0.0.1:" in capsys.readouterr().err


def test_failed_step_closes_its_port(port: int) -> None:
    with pytest.raises(RuntimeError, match="fell"), live.active_step("sft", "sft"):
        raise RuntimeError("fell over")
    with pytest.raises(URLError):
        scraped(port)


class Half:
    """Answers every other request."""

    name = "half"

    def __init__(self, port: int) -> None:
        self.seen: list[dict[str, float]] = []
        self._port = port

    def answer(self, batches: list[Batch], sampling: Sampling) -> FinishedBatches:
        for index, _ in enumerate(batches):
            self.seen.append(scraped(self._port))
            yield [(index, [Reply(error="HTTP 422") if index % 2 else Reply("A")])]


def test_replies_and_errors_are_counted_on_arrival(port: int, tmp_path: Path) -> None:
    requests = [Request((str(number),), tmp_path) for number in range(4)]
    engine, config = Half(port), EngineConfig(max_error_rate=0.25)
    with (
        live.active_step("probe", "second_probe"),
        refused(EngineError, "engine-error-rate"),
    ):
        run_requests(
            engine,
            requests,
            Sampling(0, 8),
            seed=0,
            batch=1,
            journal=tmp_path / "replies.journal",
            label="probe",
            max_error_rate=config.max_error_rate,
        )
    names = ("omni_samples_total", "omni_engine_error_ratio", "omni_step_progress_ratio")
    found = [[seen.get(f"{name}{{{END}}}") for name in names] for seen in engine.seen]
    assert found == [[None, None, 0.0], [1.0, 0.0, 0.25], [1.0, 0.25, 0.5], [2.0, 0.25, 0.75]]
