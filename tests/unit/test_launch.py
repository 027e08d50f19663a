"""A launcher against a mock API server over HTTP: no failure is reported as success, no job stays."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from omnicore.cluster import launch, names
from omnicore.cluster.client import connect
from omnicore.cluster.launch import run_job
from omnicore.cluster.manifests import manifest
from omnicore.storage.files import read_json
from tests.errors import refused
from tests.job_operator import Operator, spec
from tests.kube_server import NAMESPACE, KubeServer, rights
from tests.timeouts import shorten
from tests.unit import job_scenarios as scenarios
from tests.unit.launch_cases import CASES

RIGHTS = rights(launch.VERBS)


@pytest.mark.parametrize("name", CASES)
def test_launcher_ends_as_the_job_does(
    name: str,
    config: Path,
    kube: KubeServer,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = CASES[name]
    caplog.set_level(logging.INFO, logger="omnicore")
    shorten(monkeypatch, **case.timeouts)
    kube.fault = case.fault
    case.before(kube)
    kube.created.clear()
    op = Operator(kube, case.kind)
    problems: list[BaseException] = []

    def act() -> None:
        try:
            case.act(op)
        except BaseException as error:
            problems.append(error)

    actor = threading.Thread(target=act, daemon=True)
    actor.start()
    body = manifest(spec(case.kind))
    kind = names.KINDS[case.kind]
    cluster = connect(NAMESPACE)
    if case.code is None:
        run_job(cluster, kind, body, deadline=case.deadline, keep_on_failure=case.keep)
    else:
        with refused(case.error, case.code) as caught:
            run_job(cluster, kind, body, deadline=case.deadline, keep_on_failure=case.keep)
        for words in case.words:
            assert words in str(caught.value)
    actor.join(30)
    assert not problems
    printed = capfd.readouterr().out
    pod_lines = "\n".join(line for line in printed.splitlines() if line.startswith("["))
    everything = "\n".join([printed, *caplog.messages])
    for text in case.shown:
        assert (pod_lines if text.startswith("[") else everything).count(text) == 1, everything
    assert len(kube.created) == case.jobs
    assert len(kube.all(kind.resource.plural)) == case.left
    assert case.left or not kube.all("pods")


def test_progress_of_the_job_is_shown_as_own(
    config: Path, kube: KubeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OMNI_PROGRESS", str(tmp_path / "progress"))
    shorten(monkeypatch)
    op = Operator(kube)
    threading.Thread(target=scenarios.progress, args=[op], daemon=True).start()
    run_job(connect(NAMESPACE), op.kind, manifest(spec()), deadline=600)
    assert read_json(tmp_path / "progress") == {
        "label": "rlvr",
        "done": 4,
        "total": 4,
        "facts": {"loss": 0.5},
    }


def test_every_listed_right_is_used(
    config: Path,
    kube: KubeServer,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("past its deadline", "its pods are refused"):
        test_launcher_ends_as_the_job_does(name, config, kube, capfd, caplog, monkeypatch)
    own_pod = ("", "pods", "get")  # read by `step_job.pipeline_run`
    assert kube.calls | {own_pod} == RIGHTS
