"""docs/cluster.md held to the code, without a cluster: what it names exists, what it says of
rights, sizes and limits is so."""

from __future__ import annotations

import ast
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
from omnicore.cluster.client import Times
from omnicore.cluster.inferenceservice import fetching, publish_checkpoint, storage
from omnicore.cluster.reap import STALE
from omnicore.config import SftConfig
from omnicore.config.recipe import Recipe, load_recipe
from omnicore.runtime.checkpoint_sync import EVERY
from pipelines import NEEDS
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
        for name in ("_serve", "_reap", "_submit"):
            patch.setattr(f"omnicore.cli.main.{name}", lambda options: "")
        return "" if main(words) == 0 else shlex.join(words)


@pytest.mark.parametrize(
    "line", [line for line in COMMANDS if line.startswith(".venv/bin/omnicore ")]
)
def test_omnicore_commands_parse(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert parses(shlex.split(line)[1:]) == "", capsys.readouterr().err


@pytest.mark.parametrize("text", sorted(set(INLINE)))
def test_commands_in_the_text_are_the_clis_own(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(text)[1:]
    with pytest.raises(SystemExit) as ended:
        main([*[word for word in words if not word.startswith("-")][:1], "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert [word for word in words if word.startswith("--") and word not in said] == []


@pytest.mark.parametrize("line", [line for line in COMMANDS if ".venv/bin/python -m " in line])
def test_modules_are_there_and_take_as_many_arguments(line: str) -> None:
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


def test_every_line_of_the_blocks_is_looked_at() -> None:
    kinds = (".venv/bin/omnicore ", ".venv/bin/python -m ", ".venv/bin/python -c ", "curl ")
    assert COMMANDS
    assert [line for line in COMMANDS if not line.startswith(kinds)] == []


def test_the_submitted_recipe_is_one() -> None:
    (line,) = [line for line in COMMANDS if " submit " in line]
    words = shlex.split(line)
    changes = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
    made = load_recipe("tiny", ["launcher.image=x", *changes]).launcher
    assert (made.kind, made.storage, made.gpus_per_node) == ("trainjob", "s3://omnicore/runs", 0)


def test_values_of_the_recipe_exist() -> None:
    named = set(re.findall(r"`((?:launcher|engine|probe)\.[a-z_.]+)(?:=[^`]*)?`", GUIDE))
    assert len(named) > 15
    for name in named:
        held: Any = Recipe
        for part in name.split("."):
            assert issubclass(held, BaseModel), name
            assert part in held.model_fields, name
            held = held.model_fields[part].annotation
    need = NEEDS["rlvr"]
    assert (
        f"{need.cpu} cores, {need.memory.removesuffix('Gi')} Gi, {need.gpus} GPU for a heavy step"
        in GUIDE
    )


def test_files_that_it_names_exist() -> None:
    named = set(
        re.findall(
            r"\b((?:k8s|images|pipelines|tests|docs)/[\w./-]+)",
            GUIDE.replace("build/pipelines/", ""),
        )
    )
    named |= {f"docs/{link}" for link in re.findall(r"\]\(([^)#]+)\)", GUIDE)}
    assert len(named) > 8
    assert [name for name in named if not (ROOT / name.rstrip(".")).exists()] == []
    assert all(
        (ROOT / "pipelines" / "compiled" / Path(name).name).is_file()
        for name in re.findall(r"build/pipelines/\S+\.yaml", GUIDE)
    )


@pytest.mark.parametrize("path", sorted(set(re.findall(r"k8s/overlays/\w+", GUIDE))))
def test_overlays_render(path: str) -> None:
    assert len(kustomize(ROOT / path)) > 20


def test_targets_and_profiles_are_those_of_the_makefile_and_skaffold() -> None:
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


def test_the_table_of_rights_is_what_the_base_grants() -> None:
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


def test_sizes_and_times_are_those_of_the_code() -> None:
    size = 22 * 10**9
    assert f"{storage(size).removesuffix('Gi')} Gi for 22 GB" in GUIDE
    assert f"{fetching(size).removesuffix('Gi')} Gi for 22 GB" in GUIDE
    hours = [NEEDS[step].hours for step in ("probe", "sft", "rlvr")]
    assert [NEEDS[step].hours for step in ("evaluate", "distill")] == 2 * hours[:1]
    assert {NEEDS[step].retries for step in NEEDS if NEEDS[step].gpus} == {2}  # "tries twice more"
    assert "{} hours (probe, evaluate, distill), {} (sft) or {} (rlvr)".format(*hours) in GUIDE
    times = Times()
    assert f"given up after {times.unschedulable / 60:.0f} minutes: no node" in GUIDE
    assert GUIDE.count(f"given up after {times.unpullable / 60:.0f} minutes") >= 2
    assert f"heartbeat for {STALE:.0f} seconds" in GUIDE
    assert times.outage == 3600
    (reaper,) = [o for o in kustomize(ROOT / "k8s" / "base") if o["kind"] == "CronJob"]
    assert reaper["spec"]["schedule"] == "*/5 * * * *"
    assert f"held for {STALE / 60 + 5:.0f} minutes and one reaper's run" in GUIDE


def test_what_is_kept_of_an_unfinished_step_is_as_it_reads() -> None:
    assert f"replies every {EVERY:.0f} seconds" in GUIDE
    tiny, plain = load_recipe("tiny"), SftConfig(data="x")
    assert plain.save_steps == 0
    assert {section.save_steps for section in (tiny.sft, tiny.rlvr, tiny.sft_distilled)} == {20}


def test_quotas_and_small_pods_are_those_of_the_manifests() -> None:
    for overlay, gpus in (("dev", 2), ("prod", 8)):
        (queue,) = [
            o for o in kustomize(ROOT / "k8s" / "overlays" / overlay) if o["kind"] == "ClusterQueue"
        ]
        cpu, gpu = queue["spec"]["resourceGroups"][0]["flavors"]
        assert [r["nominalQuota"] for r in cpu["resources"]] == [32, "128Gi", 0]
        assert [r["nominalQuota"] for r in gpu["resources"]] == [96, "768Gi", gpus]
    (limits,) = [
        o["spec"]["limits"][0]
        for o in kustomize(ROOT / "k8s" / "base")
        if o["kind"] == "LimitRange"
    ]
    assert limits["defaultRequest"] == {"cpu": "250m", "memory": "1Gi"}
    assert (NEEDS["prepare"].cpu, NEEDS["prepare"].memory) == ("2", "8Gi")
    assert {(NEEDS[step].cpu, NEEDS[step].memory) for step in ("clean", "report", "promote")} == {
        ("1", "4Gi")
    }


def test_jobs_of_a_run_are_counted_right() -> None:
    """Tasks with a GPU of the compiled pipeline, those of the control arm apart."""
    spec = next(
        yaml.safe_load_all((ROOT / "pipelines" / "compiled" / "omniboost.yaml").read_text())
    )
    found: dict[bool, list[str]] = {True: [], False: []}

    def walk(tasks: dict[str, Any], control: bool) -> None:
        for task in tasks.values():
            name = task["componentRef"]["name"]
            inner = spec["components"][name].get("dag")
            if inner:
                condition = task.get("triggerPolicy", {}).get("condition", "")
                walk(inner["tasks"], control or (bool(condition) and not condition.startswith("!")))
            else:
                found[control].append(re.sub(r"-\d+$", "", name.removeprefix("comp-")))

    walk(spec["root"]["dag"]["tasks"], control=False)
    heavy = {
        arm: {step: names.count(step) for step in NEEDS if NEEDS[step].gpus}
        for arm, names in found.items()
    }
    assert heavy[False] == {"probe": 3, "evaluate": 4, "sft": 2, "rlvr": 1, "distill": 1}
    assert heavy[True] == {"probe": 0, "evaluate": 1, "sft": 0, "rlvr": 1, "distill": 0}


def source() -> str:
    """All string literals of the code, one after the other; what an f-string fills in is left
    out."""
    found: list[str] = []
    for root in ("omnicore", "pipelines"):
        for path in (ROOT / root).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    found.append(
                        "\0".join(
                            str(part.value) if isinstance(part, ast.Constant) else ""
                            for part in node.values
                        )
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(found)


def test_messages_are_those_that_the_code_prints() -> None:
    table = GUIDE.partition("## What you may see")[2]
    cells = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    assert len(cells) > 20
    code = source()
    for message in (text for cell in cells for text in re.findall(r"`([^`]+)`", cell)):
        parts = [part.strip() for part in message.split("...") if part.strip(" ();:")]
        assert [part for part in parts if part not in code] == [], message


def test_a_published_checkpoint_is_listed_found_and_fetched_as_it_reads(
    signed_in: None, tmp_path: Path
) -> None:
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


def test_one_file_names_the_champions_checkpoint_everywhere(tmp_path: Path) -> None:
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
