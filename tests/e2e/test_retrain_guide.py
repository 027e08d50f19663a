"""docs/retrain.md held to the code: its commands run, its fields and files exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from omnicore.cli.main import main
from omnicore.cluster.request import RetrainRequest, read_request
from pipelines.compile import REQUEST
from tests.kfp_server import Kfp, kfp
from tests.kubectl import kustomize
from tests.seaweed import BUCKET, seaweed, signed_in

__all__ = ["kfp", "seaweed", "signed_in"]

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "retrain.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)
    for line in block.splitlines()
]


def command(part: str) -> str:
    (found,) = [line for line in COMMANDS if part in line]
    return found


def run(line: str, folder: Path) -> str:
    """What a line of the page prints, in a copy of the repository."""
    env = {**os.environ, "PYTHONPATH": str(folder)}
    words = line.replace(".venv/bin/python", sys.executable)
    done = subprocess.run(
        ["sh", "-ec", words], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("omnicore", "components", "pipelines", "k8s"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "assets")
        )
    return tmp_path


def test_every_command_is_checked() -> None:
    kinds = (
        "pipelines.compile",
        "cp build/",
        "omnicore cluster submit",
        "kubectl apply",
        "git add",
        "publish(",
        "omnicore cluster deploy",
        "git revert",
        "git push",
    )
    assert len(COMMANDS) >= len(kinds)
    assert [line for line in COMMANDS if not any(kind in line for kind in kinds)] == []


def test_changed_request_is_rendered(
    checkout: Path,
) -> None:
    rendered, asked = (
        checkout / "k8s/gitops/retrain/rendered",
        checkout / "k8s/gitops/retrain/request.yaml",
    )
    before = (rendered / "submit.env").read_text()
    asked.write_text(asked.read_text() + "# a word\n")
    run(next(line for line in COMMANDS if line.endswith("-m pipelines.compile")), checkout)
    assert (rendered / "submit.env").read_text() == before
    asked.write_text(re.sub("reason: .*", "reason: Another.", asked.read_text()))
    (checkout / "build").mkdir()
    images = [
        {"imageName": f"omni-{name}", "tag": f"r.example/omni-{name}@sha256:{'d' * 64}"}
        for name in ("core", "train")
    ]
    (checkout / "build" / "images.json").write_text(json.dumps({"builds": images}))
    run(command("OMNI_IMAGES="), checkout)
    run(command("cp build/"), checkout)
    names = dict(line.split("=") for line in (rendered / "submit.env").read_text().split())
    assert names["RUN"] == read_request(asked).run not in before
    objects = kustomize(checkout / "k8s/gitops/retrain")
    (version,) = [o for o in objects if o["kind"] == "PipelineVersion"]
    assert version["metadata"]["name"] == names["VERSION"]
    used = set(re.findall(r"image: (\S+)", yaml.safe_dump(version)))
    assert used == {f"r.example/omni-core@sha256:{'d' * 64}"}


def test_laptop_command_submits_the_request(kfp: Kfp) -> None:
    words = shlex.split(
        command("omnicore cluster submit").replace("http://localhost:8888", kfp.url)
    )
    assert main(words[1:]) == 0
    assert kfp.runs[0]["display_name"] == read_request(REQUEST).run


def test_deploy_command_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does, and its revert, is in test_deploy.py."""
    called: list[tuple[object, ...]] = []
    monkeypatch.setattr(
        "omnicore.cluster.gitops.deploy",
        lambda *given, **how: called.append((*map(str, given), how["propose"])),
    )
    assert main(shlex.split(command("omnicore cluster deploy"))[1:]) == 0
    result, repository = "s3://omnicore/runs/results/rlvr-KEY", "https://git.example/omnicore.git"
    assert called == [("runs/decision", result, repository, "main", True)]


def test_data_is_published_and_pinned_by_digest(signed_in: None, checkout: Path) -> None:
    (checkout / "data" / "mine").mkdir(parents=True)
    (checkout / "data" / "mine" / "rows.jsonl").write_text("{}\n")
    printed = run(
        command("publish(").replace("s3://omnicore/", f"s3://{BUCKET}/"), checkout
    ).split()
    (text,) = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    asked = checkout / "request.yaml"
    asked.write_text(
        "recipe: tiny\nmodel: embedded:tiny-base\nreason: a try\n"
        + text.replace("DIGEST", printed[-1])
    )
    assert read_request(asked).data == {"mine": printed[-1]}


def test_page_names_every_field_and_existing_files() -> None:
    assert re.findall(r"^\| `(\w+)` \|", GUIDE, re.MULTILINE) == list(RetrainRequest.model_fields)
    named = set(re.findall(r"\b((?:k8s|tests|docs)/[\w./-]+\w)", GUIDE))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_page_names_the_manifests_jobs_and_rules() -> None:
    jobs = {
        o["metadata"]["name"]
        for o in kustomize(ROOT / "k8s/gitops/retrain")
        if o["kind"] in {"Job", "CronJob"}
    }
    assert set(re.findall(r"(?:Job|CronJob) `(retrain-[\w-]+)`", GUIDE)) == jobs
    (rules,) = [
        o["data"] for o in kustomize(ROOT / "k8s/gitops/argocd") if o["kind"] == "ConfigMap"
    ]
    kinds = {key.rpartition("_")[2] for key in rules}
    (listed,) = re.findall(r"have none in\s+Argo\s+CD:\s+([\w,\s]+)\.", GUIDE)
    assert set(re.split(r",\s+", listed)) == kinds
