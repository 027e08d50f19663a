"""Commands, files, fields and rights of docs/cluster.md, checked without a cluster."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from omnicore.cli.main import main
from omnicore.cluster.inferenceservice import publish_checkpoint
from omnicore.config.recipe import Recipe, load_recipe
from tests.kubectl import kubectl, kustomize
from tests.seaweed import BUCKET, seaweed, signed_in

__all__ = ["seaweed", "signed_in"]
ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "cluster.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
INLINE = re.findall(r"`(omnicore [a-z][^`]*)`", GUIDE)
MISSING = 2  # argparse's and omnicore's own status for a wrong command line


def parses(words: list[str]) -> str:
    """What is wrong with the words of an `omnicore` command; nothing of it is run."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("serve.run_serve", "cluster.run_reap", "cluster.run_submit"):
            patch.setattr(f"omnicore.cli.{name}", lambda options: None)
        return "" if main(words) == 0 else shlex.join(words)


@pytest.mark.parametrize(
    "line", [line for line in COMMANDS if line.startswith(".venv/bin/omnicore ")]
)
def test_omnicore_commands_parse(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert parses(shlex.split(line)[1:]) == "", capsys.readouterr().err


@pytest.mark.parametrize("text", sorted(set(INLINE)))
def test_inline_commands_and_options_exist(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(text)[1:]
    with pytest.raises(SystemExit) as ended:
        main(
            [*itertools.takewhile(lambda word: word.islower() and word[0] != "-", words), "--help"]
        )
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert [word for word in words if word.startswith("--") and word not in said] == []


@pytest.mark.parametrize("line", [line for line in COMMANDS if ".venv/bin/python -m " in line])
def test_module_commands_need_their_arguments(line: str) -> None:
    words = shlex.split(line)
    done = subprocess.run(
        [sys.executable, "-m", words[2], "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    short = subprocess.run(
        [sys.executable, "-m", *words[2:-1]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert short.returncode == MISSING
    assert "required" in short.stderr


def test_every_command_is_checked() -> None:
    kinds = (".venv/bin/omnicore ", ".venv/bin/python -m ", ".venv/bin/python -c ", "curl ")
    assert COMMANDS
    assert [line for line in COMMANDS if not line.startswith(kinds)] == []


def test_submitted_recipe_loads() -> None:
    (line,) = [line for line in COMMANDS if " submit " in line]
    words = shlex.split(line)
    changes = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
    made = load_recipe("tiny", ["launcher.image=x", *changes]).launcher
    assert (made.kind, made.storage, made.gpus_per_node) == ("trainjob", "s3://omnicore/runs", 0)


def test_recipe_fields_exist() -> None:
    named = set(re.findall(r"`((?:launcher|engine|probe)\.[a-z_.]+)(?:=[^`]*)?`", GUIDE))
    assert len(named) > 15
    for name in named:
        held: Any = Recipe
        for part in name.split("."):
            assert issubclass(held, BaseModel), name
            assert part in held.model_fields, name
            held = held.model_fields[part].annotation


def test_named_files_exist() -> None:
    named = set(
        re.findall(
            r"\b((?:k8s|images|pipelines|tests|docs)/[\w./-]+)",
            GUIDE.replace("build/pipelines/", ""),
        )
    )
    assert len(named) > 8
    assert [name for name in named if not (ROOT / name.rstrip(".")).exists()] == []
    assert all(
        (ROOT / "pipelines" / "compiled" / Path(name).name).is_file()
        for name in re.findall(r"build/pipelines/\S+\.yaml", GUIDE)
    )


@pytest.mark.parametrize("path", sorted(set(re.findall(r"k8s/overlays/\w+", GUIDE))))
def test_overlays_render(path: str) -> None:
    assert len(kustomize(ROOT / path)) > 20


def test_make_targets_and_profiles_exist() -> None:
    targets = set(re.findall(r"make ([a-z][a-z-]*)", GUIDE))
    assert targets <= set(
        re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    )
    config = yaml.safe_load((ROOT / "skaffold.yaml").read_text())
    profiles = {profile["name"]: profile for profile in config["profiles"]}
    default = re.search(r"^PROFILE +\?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert default
    assert f"The default is `{default[1]}`." in GUIDE
    rows = re.findall(r"^\| `([a-z,]+)` \| `(k8s/overlays/\w+)` \| ([^|]+) \|", GUIDE, re.MULTILINE)
    assert [row[0] for row in rows] == ["local", "dev,gpu", "prod,gpu"]
    for names, overlay, images in rows:
        chosen = [config, *(profiles[name] for name in names.split(","))]
        assert [c["manifests"]["kustomize"]["paths"] for c in chosen if "manifests" in c][-1] == [
            overlay
        ]
        built = [c["build"]["artifacts"] for c in chosen if "artifacts" in c["build"]][-1]
        assert re.findall(r"core|train|serve", images) == [
            artifact["image"].removeprefix("omni-") for artifact in built
        ]


def test_rights_table_equals_the_granted_rights() -> None:
    told: dict[tuple[str, str], set[str]] = {}
    for account, verbs, thing in re.findall(
        r"^\| `(omnicore-\w+)` \| ([^|]+) \| ([^|]*)\|$", GUIDE, re.MULTILINE
    ):
        told[account, thing.strip()] = set(verbs.split(", "))
    objects = kustomize(ROOT / "k8s" / "base")
    roles = {o["metadata"]["name"]: o["rules"] for o in objects if o["kind"] == "Role"}
    granted: dict[tuple[str, str], set[str]] = defaultdict(set)
    for binding in (o for o in objects if o["kind"] == "RoleBinding"):
        for subject, rule in product(binding["subjects"], roles[binding["roleRef"]["name"]]):
            for group, resource in product(rule["apiGroups"], rule["resources"]):
                names = rule.get("resourceNames", [])
                thing = f"`{resource}.{group}`" if group else f"`{resource}`"
                granted[subject["name"], thing + "".join(f" named `{name}`" for name in names)] |= (
                    set(rule["verbs"])
                )
    silent = {o["metadata"]["name"] for o in objects if o["kind"] == "ServiceAccount"} - {
        account for account, _ in granted
    }
    assert {key: verbs for key, verbs in told.items() if key[0] not in silent} == granted
    assert {
        key[0] for key, verbs in told.items() if verbs == {"nothing", "and its pods hold no token"}
    } == silent


def test_commands_find_and_fetch_a_checkpoint(signed_in: None, tmp_path: Path) -> None:
    from omnicore.storage import store

    made = tmp_path / "made"
    (made / "checkpoint").mkdir(parents=True)
    (made / "checkpoint" / "config.json").write_text("{}")
    (made / "step.json").write_text("{}")
    name = f"sft-{'0' * 32}"
    store.publish(made, f"s3://{BUCKET}/runs/results/{name}")
    found = publish_checkpoint(f"s3://{BUCKET}/runs/results/{name}", "")

    def run(line: str) -> str:
        words = shlex.split(
            line.replace("s3://omnicore/", f"s3://{BUCKET}/")
            .replace("Bucket('omnicore')", f"Bucket('{BUCKET}')")
            .replace("SECTION-KEY", name)
            .replace("DIGEST", found.digest)
        )
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, *words[1:]],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed, printed, _ = (run(line) for line in COMMANDS if line.startswith(".venv/bin/python"))
    assert listed.split() == [name]
    assert all(
        f"{field}={getattr(found, field)!r}" in printed for field in ("address", "uri", "digest")
    )
    assert (tmp_path / "runs" / "model" / "checkpoint" / "config.json").read_text() == "{}"


def test_champion_file_sets_the_served_checkpoint(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    filled = (
        text.replace("ADDRESS", "s3://b/results/x")
        .replace("DIGEST", '"' + "1" * 64 + '"')
        .replace("URI", "s3://b/results/x/1/checkpoint")
    )
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    named = tmp_path / "k8s" / "overlays" / "prod" / "champion.yaml"
    named.write_text(named.read_text().partition("\ndata:\n")[0] + "\n" + filled)
    done = subprocess.run(
        [kubectl(), "kustomize", str(named.parent)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (champion,) = [o for o in yaml.safe_load_all(done.stdout) if o["kind"] == "InferenceService"]
    predictor = champion["spec"]["predictor"]
    assert predictor["initContainers"][0]["args"] == [
        "s3://b/results/x",
        "1" * 64,
        "/mnt/model/model",
    ]
    assert predictor["model"]["storageUri"] == "s3://b/results/x/1/checkpoint"
    assert (predictor["minReplicas"], predictor["model"]["resources"]["limits"]) == (
        2,
        {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "1"},
    )
    assert f"--served-model-name={champion['metadata']['name']}" in predictor["model"]["args"]
