"""`omnicore submit` over HTTP against a small stand-in of KFP's API v2beta1: one run a name, one
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
    return main(["submit", "--pipeline", pipeline, "--run", run, "--host", kfp.url, *options])


def created(kfp: Kfp) -> int:
    return kfp.requests.count(("POST", "/apis/v2beta1/runs"))


def test_a_run_of_the_newest_version_with_its_arguments(
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


def test_jobs_need_no_image_of_the_user_and_are_told_none(kfp: Kfp) -> None:
    assert (
        submit(
            kfp, "--set", "launcher.kind=trainjob", "--set", "launcher.storage=s3://omnicore/runs"
        )
        == 0
    )
    sent = yaml.safe_load(kfp.runs[0]["runtime_config"]["parameters"]["overrides"])
    assert sent == ["launcher.kind=trainjob", "launcher.storage=s3://omnicore/runs"]


def test_a_version_an_account_and_a_namespace_are_taken_as_given(kfp: Kfp) -> None:
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
def test_a_name_that_is_alive_or_has_succeeded_is_not_run_again(
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
    assert again or f"is there already ({(state or 'pending').lower()})" in said


def test_a_run_that_failed_once_and_runs_now_is_alive(kfp: Kfp) -> None:
    for state in ("FAILED", "RUNNING"):
        assert submit(kfp) == 0
        kfp.runs[-1]["state"] = state
    assert submit(kfp) == 0
    assert created(kfp) == 2


def test_the_same_name_in_another_namespace_is_another_run(kfp: Kfp) -> None:
    kfp.users = True
    assert submit(kfp, "--namespace", "team") == 0
    assert submit(kfp, "--namespace", "other") == 0
    assert created(kfp) == 2


def test_a_run_whose_answer_was_lost_is_found_not_made_twice(
    kfp: Kfp, capsys: pytest.CaptureFixture[str]
) -> None:
    kfp.faults["POST", "runs"] = 0
    assert submit(kfp) == 0
    assert created(kfp) == len(kfp.runs) == 1
    assert "is there already" in capsys.readouterr().out


def test_the_projected_token_is_sent_and_read_again(
    kfp: Kfp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    monkeypatch.setenv(TOKEN, str(token))
    for kfp.token in ("first", "second"):
        token.write_text(f"{kfp.token}\n")
        assert submit(kfp, run=kfp.token) == 0
    assert created(kfp) == 2


def test_a_pod_knows_where_the_api_is(kfp: Kfp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.submit.IN_CLUSTER", kfp.url)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert main(["submit", "--pipeline", "omniboost", "--run", "a"]) == 0
    assert created(kfp) == 1


MISTAKES: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "unknown pipeline": (
        {},
        ["--pipeline", "omnibust"],
        r"has no pipeline omnibust: kubectl apply .*omnibust\.k8s\.yaml",
    ),
    "unknown version": ({}, ["--version", "nine"], "pipeline omniboost of .* has no version nine"),
    "no version": ({}, ["--pipeline", "empty"], "has no version yet"),
    "unknown parameter": (
        {},
        ["--param", "steps=3"],
        "takes no steps: its parameters are benchmarks, control, model",
    ),
    "missing parameter": ({}, ["--pipeline", "retrain"], "retrain needs champion"),
    "odd parameter": ({}, ["--param", "control"], "write NAME=VALUE"),
    "parameter that is not YAML": ({}, ["--param", "benchmarks={"], "the value is not YAML"),
    "wrong field": ({}, ["--set", "rlvr.stepz=3"], r"rlvr\.stepz"),
    "no address": ({}, ["--host", "kubeflow"], "port-forward svc/ml-pipeline"),
    "nobody there": ({}, ["--host", "http://127.0.0.1:9"], "is not to be reached: check --host"),
    "another server": ({"page": "<html>"}, [], "answers, but not as KFP's API does"),
    "another server's JSON": ({"page": "{}"}, [], "answers, but not as KFP's API does"),
    "another server's path": (
        {"faults": {("GET", "omniboost"): 405}},
        [],
        "answers, but not as KFP's API does",
    ),
    "unknown caller": (
        {"token": "secret"},
        [],
        r"does not know who asks \(401\).*KF_PIPELINES_SA_TOKEN_PATH",
    ),
    "no rights": (
        {"faults": {("POST", "runs"): 403}},
        ["--namespace", "team"],
        r"\(403\).*kubeflow-pipelines-edit in namespace team",
    ),
    "no namespace": ({"users": True}, [], "namespace is empty in multi-user mode"),
    "a fault": (
        {"faults": {("GET", "runs"): 500}},
        [],
        r"fails \(500\): fault 500; the same command",
    ),
    "a full server": ({"faults": {("POST", "runs"): 429}}, [], r"fails \(429\)"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_each_mistake_is_one_clear_line(
    case: str, kfp: Kfp, capsys: pytest.CaptureFixture[str]
) -> None:
    server, options, words = MISTAKES[case]
    for name, value in server.items():
        setattr(kfp, name, value)
    assert submit(kfp, *options) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(words, err.replace("\n", " ")), err
    assert "Traceback" not in err
    assert kfp.runs == []


def test_a_token_file_that_is_missing_is_told(
    kfp: Kfp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(TOKEN, str(tmp_path / "absent"))
    assert submit(kfp) == 2
    assert "absent: no such file" in capsys.readouterr().err


def test_a_name_of_another_pipelines_run_is_refused(
    kfp: Kfp, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(kfp) == 0
    assert submit(kfp, "--param", "champion=s3://models/champion", pipeline="retrain") == 2
    assert "is of another pipeline" in capsys.readouterr().err
    assert created(kfp) == 1


def test_a_recipe_that_only_the_image_holds_is_left_to_the_run(kfp: Kfp) -> None:
    assert (
        submit(
            kfp, "--recipe", "/recipes/mine.yaml", "--param", "benchmarks={daily_omni: hub@1a2b3c}"
        )
        == 0
    )
    assert kfp.runs[0]["runtime_config"]["parameters"]["benchmarks"] == {"daily_omni": "hub@1a2b3c"}
