"""An evaluation as a log of inspect_ai, read back and served by the real package."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from urllib.error import URLError

import pytest

from omnicore.engines.base import Reply
from omnicore.errors import ConfigError, DataError
from omnicore.evaluation.inspect_log import write_inspect_log
from omnicore.storage.files import read_json
from tests.errors import refused
from tests.unit.evaluate_fixture import evaluated, inputs


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global log

    log = pytest.importorskip("inspect_ai.log", reason="inspect_ai is not installed")


@pytest.fixture
def evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    said = {"daily_omni 02": "A", "daily_omni 03": "I cannot say.", "elm 03": Reply("", error="x")}
    return evaluated(tmp_path / "evaluate", said, inputs(tmp_path), monkeypatch)


def test_samples_and_figures_survive_a_round_trip(evaluation: Path, tmp_path: Path) -> None:
    assert write_inspect_log(evaluation, tmp_path / "a.eval") == 12
    read = log.read_eval_log(str(tmp_path / "a.eval"))
    scores = read_json(evaluation / "scores.json")
    metrics = read.results.scores[0].metrics
    for view in ("raw", "clean"):
        assert metrics[f"{view}_macro"].value == scores[view]["macro"]["value"]
        assert metrics[f"{view}_macro"].metadata["queries"] == scores[view]["macro"]["n"]
    samples = {sample.id: sample for sample in read.samples}
    values = {
        name: samples[f"daily_omni/{name}"].scores["strict"].value for name in ("02", "03", "04")
    }
    assert values == {"02": "I", "03": "N", "04": "C"}
    assert samples["daily_omni/04"].output.completion == "B"
    assert samples["daily_omni/04"].metadata["clean"] is True
    assert samples["daily_omni/00"].metadata["clean"] is False
    assert "no_audio" in samples["daily_omni/04"].scores
    assert read.results.total_samples == 13


def test_inspect_view_opens_the_log(evaluation: Path, tmp_path: Path) -> None:
    write_inspect_log(evaluation, tmp_path / "logs" / "a.eval")
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "inspect_ai", "view", "start", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--log-dir", str(tmp_path / "logs")]
    viewer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        listed = wait_for_json(f"http://127.0.0.1:{port}/api/logs")
    finally:
        viewer.terminate()
        viewer.communicate()
    assert [Path(file["name"]).name for file in listed["files"]] == ["a.eval"]
    assert listed["files"][0]["task"] == "omniclean"


def wait_for_json(url: str) -> dict:
    for _ in range(300):
        try:
            with urllib.request.urlopen(url) as answer:
                return json.load(answer)
        except URLError:
            time.sleep(0.1)
    raise AssertionError(f"nothing answers at {url}")


def test_other_outputs_and_suffixes_are_refused(evaluation: Path, tmp_path: Path) -> None:
    with refused(DataError, "inspect-log-not-evaluation", path=tmp_path / "prepare"):
        write_inspect_log(tmp_path / "prepare", tmp_path / "a.eval")
    with refused(ConfigError, "inspect-log-suffix", path=tmp_path / "a.txt"):
        write_inspect_log(evaluation, tmp_path / "a.txt")


def test_missing_inspect_ai_is_named(
    evaluation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai.log", None)
    with refused(ConfigError, "inspect-missing"):
        write_inspect_log(evaluation, tmp_path / "a.eval")
