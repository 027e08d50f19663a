"""`omnicore cluster submit` over HTTP against a small stand-in of KFP's API v2beta1: one run a name, one
clear error for each mistake."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from omnicore.cli.main import main
from tests.kfp_server import TOKEN, Kfp, kfp

__all__ = ["kfp"]


def submit(kfp: Kfp, *options: str, pipeline: str = "omniboost", run: str = "boost-1") -> int:
    return main(
        ["cluster", "submit", "--pipeline", pipeline, "--run", run, "--host", kfp.url, *options]
    )


def created(kfp: Kfp) -> int:
    return kfp.requests.count(("POST", "/apis/v2beta1/runs"))


def test_run_takes_the_newest_version_and_its_arguments(
    kfp: Kfp, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(kfp, "--set", "rlvr.steps=40", "--set", "seed=1", "--param", "control=true") == 0
    (run,) = kfp.runs
    assert run["display_name"] == "boost-1"
    assert run["pipeline_version_reference"] == {
        "pipeline_id": "id-omniboost",
        "pipeline_version_id": "id-omniboost-new",
    }
    parameters = run["runtime_config"]["parameters"]
    assert yaml.safe_load(parameters.pop("overrides")) == ["rlvr.steps=40", "seed=1"]
    assert parameters == {"recipe": "tiny", "run_name": "boost-1", "control": True}
    assert run["service_account"] == "omnicore-runner"
    assert kfp.experiments == [{"display_name": "omniboost", "experiment_id": "e0"}]
    assert (
        capsys.readouterr().out
        == f"run boost-1 of omniboost-new is created: {kfp.url}/#/runs/details/r0\n"
    )


def test_overrides_are_sent_without_an_image(kfp: Kfp) -> None:
    assert (
        submit(
            kfp, "--set", "launcher.kind=trainjob", "--set", "launcher.storage=s3://omnicore/runs"
        )
        == 0
    )
    sent = yaml.safe_load(kfp.runs[0]["runtime_config"]["parameters"]["overrides"])
    assert sent == ["launcher.kind=trainjob", "launcher.storage=s3://omnicore/runs"]


def test_version_account_and_namespace_are_passed_on(kfp: Kfp) -> None:
    kfp.users = True
    assert (
        submit(
            kfp, "--version", "omniboost-old", "--namespace", "team", "--service-account", "mine"
        )
        == 0
    )
    (run,) = kfp.runs
    assert run["pipeline_version_reference"]["pipeline_version_id"] == "id-omniboost-old"
    assert (run["service_account"], run["namespace"]) == ("mine", "team")


@pytest.mark.parametrize(
    ("state", "again"),
    [
        (None, False),
        ("PENDING", False),
        ("RUNNING", False),
        ("PAUSED", False),
        ("SUCCEEDED", False),
        ("FAILED", True),
        ("CANCELED", True),
        ("CANCELING", True),
        ("SKIPPED", True),
    ],
)
def test_submit_recreates_only_failed_or_cancelled_runs(
    state: str | None, again: bool, kfp: Kfp, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(kfp) == 0
    kfp.runs[0] |= {"state": state} if state else {}
    capsys.readouterr()
    assert submit(kfp) == 0
    assert created(kfp) == (2 if again else 1)
    assert len(kfp.experiments) == 1
    said = capsys.readouterr().out
    assert said.endswith(f"/#/runs/details/{'r1' if again else 'r0'}\n")
    assert ("is created" in said) == again
    assert again or f"exists already ({(state or 'pending').lower()})" in said


def test_running_run_is_found_beside_a_failed_one(kfp: Kfp) -> None:
    for state in ("FAILED", "RUNNING"):
        assert submit(kfp) == 0
        kfp.runs[-1]["state"] = state
    assert submit(kfp) == 0
    assert created(kfp) == 2


def test_same_name_in_other_namespace_is_another_run(kfp: Kfp) -> None:
    kfp.users = True
    assert submit(kfp, "--namespace", "team") == 0
    assert submit(kfp, "--namespace", "other") == 0
    assert created(kfp) == 2


def test_run_with_a_lost_reply_is_found(kfp: Kfp, capsys: pytest.CaptureFixture[str]) -> None:
    kfp.faults["POST", "runs"] = 0
    assert submit(kfp) == 0
    assert created(kfp) == len(kfp.runs) == 1
    assert "exists already" in capsys.readouterr().out


def test_projected_token_is_read_for_every_request(
    kfp: Kfp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    monkeypatch.setenv(TOKEN, str(token))
    for kfp.token in ("first", "second"):
        token.write_text(f"{kfp.token}\n")
        assert submit(kfp, run=kfp.token) == 0
    assert created(kfp) == 2


def test_pod_finds_the_api(kfp: Kfp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omnicore.cluster.kubeflow.IN_CLUSTER", kfp.url)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert main(["cluster", "submit", "--pipeline", "omniboost", "--run", "a"]) == 0
    assert created(kfp) == 1


# Case: settings of the server, options, code, words that the message needs.
MISTAKES: dict[str, tuple[dict[str, Any], list[str], str, str]] = {
    "unknown pipeline": (
        {},
        ["--pipeline", "omnibust"],
        "pipeline-missing",
        r"kubectl apply .*/pipelines/compiled/omnibust\.k8s\.yaml",
    ),
    "unknown version": ({}, ["--version", "nine"], "pipeline-version-missing", "no version nine"),
    "no version": ({}, ["--pipeline", "empty"], "pipeline-version-missing", "no version yet"),
    "unknown parameter": (
        {},
        ["--param", "steps=3"],
        "pipeline-parameter-unknown",
        "steps: its parameters are benchmarks, control, model",
    ),
    "missing parameter": (
        {},
        ["--pipeline", "retrain"],
        "pipeline-parameter-missing",
        "retrain needs champion",
    ),
    "odd parameter": ({}, ["--param", "control"], "cli-param-invalid", "NAME=VALUE"),
    "parameter that is not YAML": (
        {},
        ["--param", "benchmarks={"],
        "cli-param-invalid",
        "not YAML",
    ),
    "wrong field": ({}, ["--set", "rlvr.stepz=3"], "", r"rlvr\.stepz"),
    "no address": ({}, ["--host", "kubeflow"], "kfp-host-invalid", "port-forward svc/ml-pipeline"),
    "nobody there": ({}, ["--host", "http://127.0.0.1:9"], "kfp-unreachable", "check --host"),
    "another server": ({"page": "<html>"}, [], "kfp-host-not-kfp", "check --host"),
    "another server's JSON": ({"page": "{}"}, [], "kfp-host-not-kfp", "check --host"),
    "another server's path": (
        {"faults": {("GET", "omniboost"): 405}},
        [],
        "kfp-host-not-kfp",
        "check --host",
    ),
    "unknown caller": (
        {"token": "secret"},
        [],
        "kfp-unauthorized",
        r"\(401\).*KF_PIPELINES_SA_TOKEN_PATH",
    ),
    "no rights": (
        {"faults": {("POST", "runs"): 403}},
        ["--namespace", "team"],
        "kfp-forbidden",
        r"\(403\).*kubeflow-pipelines-edit in namespace team",
    ),
    "no namespace": ({"users": True}, [], "kfp-refused", "namespace is empty in multi-user mode"),
    "a fault": (
        {"faults": {("GET", "runs"): 500}},
        [],
        "kfp-failed",
        r"\(500\): fault 500; re-run",
    ),
    "a full server": ({"faults": {("POST", "runs"): 429}}, [], "kfp-failed", r"\(429\)"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake_is_one_line_with_code(
    case: str, kfp: Kfp, capsys: pytest.CaptureFixture[str]
) -> None:
    server, options, code, words = MISTAKES[case]
    for name, value in server.items():
        setattr(kfp, name, value)
    assert submit(kfp, *options) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(words, err.replace("\n", " ")), err
    assert not code or f"[{code}]" in err
    assert "Traceback" not in err
    assert kfp.runs == []


def test_missing_token_file_is_named(
    kfp: Kfp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(TOKEN, str(tmp_path / "absent"))
    assert submit(kfp) == 2
    assert "absent: no such file" in capsys.readouterr().err


def test_run_name_of_other_pipeline_is_refused(
    kfp: Kfp, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(kfp) == 0
    assert submit(kfp, "--param", "champion=s3://models/champion", pipeline="retrain") == 2
    assert "[run-of-other-pipeline]" in capsys.readouterr().err
    assert created(kfp) == 1


def test_recipe_of_the_image_is_not_checked(kfp: Kfp) -> None:
    assert (
        submit(
            kfp, "--recipe", "/recipes/mine.yaml", "--param", "benchmarks={daily_omni: hub@1a2b3c}"
        )
        == 0
    )
    assert kfp.runs[0]["runtime_config"]["parameters"]["benchmarks"] == {"daily_omni": "hub@1a2b3c"}
