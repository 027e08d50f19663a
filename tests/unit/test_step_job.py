"""A step as a job: recipe fields, the pods' command, the owner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from omnicore.cluster import step_job
from omnicore.cluster.client import connect
from omnicore.cluster.pod_spec import Owner
from omnicore.config import LauncherConfig
from omnicore.config.recipe import load_recipe, parse_recipe, recipe_from_json
from omnicore.errors import ConfigError
from omnicore.lineage.signing import SIGNING_KEY
from omnicore.progress import LINE, track
from omnicore.runtime.keys import plan_step
from tests.errors import refused
from tests.kube_server import NAMESPACE, KubeServer


def test_connect_without_a_cluster_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with refused(ConfigError, "cluster-not-configured", field="launcher.kind"):
        connect()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "pytorchjob"}, "launcher.image and launcher.storage"),
        ({"kind": "pytorchjob", "image": "a", "storage": "/tmp"}, "s3://"),
        ({"kind": "slurm"}, "launcher.kind"),
        ({"kind": "process", "gpus": 4}, "launcher.gpus"),
    ],
)
def test_invalid_launcher_settings_are_refused(fields: dict[str, Any], words: str) -> None:
    values = load_recipe("tiny").model_dump(mode="json")
    with pytest.raises(ConfigError, match=words):
        parse_recipe({**values, "launcher": fields}, "mine")


def test_launcher_does_not_change_the_key(tmp_path: Path) -> None:
    place = LauncherConfig(kind="trainjob", image="a", storage="s3://b/c")
    recipe = load_recipe("tiny")
    keys = {
        plan_step("prepare", r, {}, tmp_path).key
        for r in (recipe, recipe.model_copy(update={"launcher": place}))
    }
    assert len(keys) == 1
    assert recipe.identity == recipe.model_copy(update={"launcher": place}).identity


def test_pod_runs_the_step_in_its_own_process() -> None:
    """Otherwise each job would launch the next."""
    place = LauncherConfig(kind="trainjob", image="a", storage="s3://b/c")
    recipe = load_recipe("tiny").model_copy(update={"launcher": place})
    words = step_job.command("sft", "sft_distilled", recipe, {"data": "s3://b/d"}, "s3://b/o")
    assert words[:4] == ("omnicore", "sft", "--section", "sft_distilled")
    assert words[-4:] == ("--input", "data=s3://b/d", "--output", "s3://b/o")
    sent = recipe_from_json(words[5])
    assert sent == load_recipe("tiny")


@pytest.mark.parametrize(
    ("name", "signs"),
    [("sft", True), ("rlvr", True), ("probe", False), ("evaluate", False), ("distill", False)],
)
def test_only_training_jobs_get_the_signing_key(name: str, signs: bool) -> None:
    place = LauncherConfig(
        secrets={SIGNING_KEY: "omnicore-signing/OMNI_SIGNING_KEY", "AWS_REGION": "s3/AWS_REGION"}
    )
    assert set(step_job.secrets(name, place)) - {"AWS_REGION"} == (
        {SIGNING_KEY} if signs else set()
    )


def test_track_writes_progress_lines_on_rank_0(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNI_PROGRESS", "-")
    with track(3, "sft") as progress:
        progress.advance(3, loss=0.25)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith(LINE)]
    assert [json.loads(line.removeprefix(LINE))["done"] for line in lines] == [0, 3]
    monkeypatch.setenv("RANK", "1")
    with track(3, "sft") as progress:
        progress.advance(3)
    assert LINE not in capfd.readouterr().err


def test_job_is_owned_by_the_workflow_of_its_pod(
    config: Path, kube: KubeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "name": "omniboost-x7",
        "uid": "u-1",
    }
    kube.put("pods", {"metadata": {"name": "omniboost-x7-step-1", "ownerReferences": [owner]}})
    recipe, cluster = load_recipe("tiny"), connect(NAMESPACE)
    monkeypatch.delenv(step_job.POD_NAME, raising=False)
    monkeypatch.delenv(step_job.RUN_ID, raising=False)
    assert step_job.pipeline_run(cluster, recipe) == ("tiny", None)
    monkeypatch.setenv(step_job.POD_NAME, "omniboost-x7-step-1")
    assert step_job.pipeline_run(cluster, recipe) == (
        "omniboost-x7",
        Owner(name="omniboost-x7", uid="u-1"),
    )
    monkeypatch.setenv(step_job.RUN_ID, "5b6f")
    assert step_job.pipeline_run(cluster, recipe)[0] == "5b6f"
