"""A training step as a job, whole: the mock cluster really runs the command of the job's pod, and
the store is a real one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from omnicore.config import LauncherConfig
from omnicore.config.recipe import Recipe, load_recipe
from omnicore.errors import ClusterError
from omnicore.runtime.keys import plan_step
from omnicore.runtime.run import run_step
from omnicore.storage.digests import STEP_FILE, digest_directory
from omnicore.storage.files import read_json
from tests.errors import refused
from tests.kube_server import NAMESPACE, KubeServer
from tests.seaweed import BUCKET, Seaweed, seaweed

__all__ = ["seaweed"]
SMALL = ["prepare.scale=0.02", "sft.steps=1", "sft.train_batch_size=2", "threads=1"]


@pytest.fixture
def kube(seaweed: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeServer]:
    for name, value in seaweed.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with KubeServer() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
        yield server


@pytest.fixture
def recipe(request: pytest.FixtureRequest) -> Recipe:
    storage = f"s3://{BUCKET}/{request.node.name.replace('_', '-')}"
    place = LauncherConfig(
        kind="pytorchjob", image="r/train@sha256:0", storage=storage, namespace=NAMESPACE
    )
    return load_recipe("tiny", SMALL).model_copy(update={"launcher": place})


def kubelet(kube: KubeServer, *change: str) -> None:
    """Runs the pod of the one job as a process here, with the pod's environment; `change` is added
    to its command."""

    def play() -> None:
        kube.wait_for(lambda: kube.created, 120)
        job = kube.created[-1]
        name, label = job["metadata"]["name"], "training.kubeflow.org/job-name"
        container = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][
            0
        ]
        command = [*container["command"][3:], *change]
        env = {
            entry["name"]: entry["value"]
            for entry in container["env"]
            if "value" in entry and entry["name"] != "HOME"
        }
        pod = kube.pod(name, label, phase="Running", state={"running": {}})
        whole = {**os.environ, **env, "TMPDIR": os.environ["TMPDIR"]}
        process = subprocess.Popen(
            [sys.executable, "-m", "omnicore", *command],
            env=whole,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout
        for line in process.stdout:
            kube.write_log(pod, line.rstrip("\n"))
        code = process.wait()
        kube.pod(
            name,
            label,
            phase="Failed" if code else "Succeeded",
            state={"terminated": {"exitCode": code, "reason": "Error"}},
        )
        kube.end_log(pod)
        kube.condition("pytorchjobs", name, "Failed" if code else "Succeeded")

    threading.Thread(target=play, daemon=True).start()


def test_training_step_runs_as_a_job(
    kube: KubeServer, recipe: Recipe, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data, output = tmp_path / "prepare", tmp_path / "sft"
    run_step("prepare", recipe, {}, data)
    assert not kube.created
    kubelet(kube)
    record = run_step("sft", recipe, {"data": data}, output)
    assert record["key"] == plan_step("sft", load_recipe("tiny", SMALL), {"data": data}, output).key
    assert record == read_json(output / STEP_FILE)
    assert record["digest"] == digest_directory(output)
    assert (output / "checkpoint").is_dir()
    assert not kube.all("pytorchjobs")
    told = capfd.readouterr()
    assert "[worker-0] sft: " in told.out
    assert "sft: 1 of 1" in told.err  # the job's progress, shown as this process's own

    again = run_step("sft", recipe, {"data": data}, tmp_path / "sft-of-another-run")
    assert again == record
    assert len(kube.created) == 1, "a result that is in the store is not made again"


@pytest.mark.slow
def test_failed_pod_fails_the_step_with_its_lines(
    kube: KubeServer, recipe: Recipe, tmp_path: Path
) -> None:
    data, output = tmp_path / "prepare", tmp_path / "sft"
    run_step("prepare", recipe, {}, data)
    kubelet(kube, "--set", "sft.data=nothing.jsonl")
    with refused(ClusterError, "job-failed") as caught:
        run_step("sft", recipe, {"data": data}, output)
    assert "exit code 2" in str(caught.value)
    assert "nothing.jsonl: no such file" in str(caught.value)
    assert not (output / STEP_FILE).exists()
    assert not kube.all("pytorchjobs")


@pytest.mark.slow
def test_job_of_other_code_is_refused(kube: KubeServer, recipe: Recipe, tmp_path: Path) -> None:
    """Its image was built from another commit: another value stands for it, since both move the
    key."""
    data, output = tmp_path / "prepare", tmp_path / "sft"
    run_step("prepare", recipe, {}, data)
    kubelet(kube, "--set", "sft.learning_rate=0.1")
    with refused(ClusterError, "job-code-mismatch", field="launcher.image"):
        run_step("sft", recipe, {"data": data}, output)
    assert not (output / STEP_FILE).exists()
