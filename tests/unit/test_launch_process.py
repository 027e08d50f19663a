"""A launcher in its own process against a mock API server: signals, kills, two at once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from omnicore.cluster import reap
from omnicore.cluster.client import connect
from omnicore.cluster.manifests import manifest
from tests.job_operator import NAME, Operator, spec
from tests.kube_server import NAMESPACE, Fault, KubeServer
from tests.timeouts import shorten
from tests.unit import job_scenarios as scenarios

LAUNCHER = """
import json, logging, sys
from omnicore.cluster import timeouts
from omnicore.cluster.client import connect
from omnicore.cluster.launch import run_job
from omnicore.cluster.names import KINDS
logging.basicConfig(level=logging.INFO)
timeouts.HEARTBEAT_INTERVAL, timeouts.FIRST_RETRY, timeouts.LONGEST_RETRY = 0.05, 0.01, 0.1
run_job(connect("team"), KINDS["pytorchjob"], json.loads(sys.argv[1]), deadline=600)
print("succeeded", flush=True)
"""


@pytest.fixture
def launcher(config: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start a launcher of the job in its own process."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", LAUNCHER, json.dumps(manifest(spec()))]
        started.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_sigterm_sends_the_delete_at_once(
    kube: KubeServer, launcher: Callable[[], subprocess.Popen[str]]
) -> None:
    process, op = launcher(), Operator(kube)
    op.created()
    op.runs("step 1")
    op.followed()
    before = len(kube.requests)
    process.send_signal(signal.SIGTERM)
    kube.wait_for(lambda: not kube.all("pytorchjobs"))
    asked = [
        verb
        for verb, resource, _ in kube.requests[before:]
        if resource == "pytorchjobs" and verb not in {"patch", "watch", "list"}
    ]
    assert asked[0] == "delete"
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert "succeeded" not in out
    assert not kube.all("pods")


def test_sigterm_during_creation_leaves_no_job(
    kube: KubeServer, launcher: Callable[[], subprocess.Popen[str]]
) -> None:
    """The object exists, but its answer has not come: only the name is known."""
    answered = threading.Event()

    def slow(verb: str, resource: str, name: str, seen: int) -> Fault | None:
        return Fault(hold=answered) if verb == "create" else None

    kube.fault = slow
    process, op = launcher(), Operator(kube)
    op.created()
    process.send_signal(signal.SIGTERM)
    kube.wait_for(lambda: not kube.all("pytorchjobs"))
    answered.set()
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM


def test_sigterm_deletes_before_the_last_log_lines(
    kube: KubeServer, launcher: Callable[[], subprocess.Popen[str]]
) -> None:
    """The log of an ended job does not end, so the launcher would wait ten seconds for it.

    One DELETE is sent at once and one, with retries, at the end.
    """
    kube.fault = lambda verb, resource, name, seen: (
        Fault(hold=scenarios.NEVER) if (verb, resource, seen) == ("list", "pods", 1) else None
    )
    process, op = launcher(), Operator(kube)
    op.created()
    op.runs("a log that does not end")
    op.followed()
    op.set_condition("Succeeded")
    kube.wait_for(lambda: kube.count("list", "pods") >= 2)
    process.send_signal(signal.SIGTERM)
    kube.wait_for(lambda: not kube.all("pytorchjobs"))
    process.communicate(timeout=30)
    assert kube.count("delete", "pytorchjobs") == 2
    assert process.returncode == 128 + signal.SIGTERM


def test_ctrl_c_deletes_the_job(
    kube: KubeServer, launcher: Callable[[], subprocess.Popen[str]]
) -> None:
    process, op = launcher(), Operator(kube)
    op.created()
    op.watched()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert not kube.all("pytorchjobs")


def test_next_launcher_adopts_the_job_of_a_killed_one(
    kube: KubeServer,
    launcher: Callable[[], subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shorten(monkeypatch)
    first, op = launcher(), Operator(kube)
    uid = op.created()["metadata"]["uid"]
    op.runs("step 1")
    op.watched()
    op.followed()
    first.kill()
    first.wait()
    assert reap.reap(connect(NAMESPACE), stale=900) == []
    second = launcher()
    op.followed(2)
    op.succeeds()
    out, err = second.communicate(timeout=30)
    assert out.count("succeeded") == 1
    assert "exists already" in err
    assert len(kube.created) == 1
    assert kube.get("pytorchjobs", NAME) is None, uid


def test_concurrent_launchers_share_one_job(
    kube: KubeServer, launcher: Callable[[], subprocess.Popen[str]]
) -> None:
    both, op = [launcher(), launcher()], Operator(kube)
    op.created()
    op.runs("step 1")
    op.followed(2)
    op.succeeds()
    assert [process.communicate(timeout=30)[0].count("succeeded") for process in both] == [1, 1]
    assert len(kube.created) == 1
    assert not kube.all("pytorchjobs")


def test_cancelled_launcher_fails_its_concurrent_one(
    kube: KubeServer, launcher: Callable[[], subprocess.Popen[str]]
) -> None:
    both, op = [launcher(), launcher()], Operator(kube)
    op.created()
    op.runs("step 1")
    op.followed(2)
    both[0].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=30) for process in both]
    assert "succeeded" not in outputs[0][0] + outputs[1][0]
    assert "deleted by another process" in outputs[1][1]
    assert not kube.all("pytorchjobs")
