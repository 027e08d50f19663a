"""Steps on s3:// addresses, against a real S3 server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import ANY
from urllib.request import urlopen

import pytest

from omnicore.config.recipe import load_recipe
from omnicore.errors import ConfigError, OmniError, StorageError
from omnicore.runtime import remote
from omnicore.storage import store
from omnicore.telemetry import live
from tests.seaweed import (
    Proxy,
    Seaweed,
    fill,
    free_ports,
    overwrite,
    proxy,
    seaweed,
    signed_in,
    uri,
)

__all__ = ["proxy", "seaweed", "signed_in", "uri"]
pytestmark = pytest.mark.usefixtures("signed_in")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Prepare and sft that write one file each, counted."""
    ran = {"prepare": 0, "sft": 0}
    for name in ran:

        def run(recipe, config, inputs, output, name=name):  # type: ignore[no-untyped-def]
            ran[name] += 1
            (output / f"{name}.txt").write_text(
                "".join((path / "prepare.txt").read_text() for path in inputs.values()) + name
            )
            return {"rows": 1}

        module = ModuleType(name)
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"omnicore.steps.{name}", module)
    return ran


def test_steps_read_and_write_addresses(
    seaweed: Seaweed, proxy: Proxy, uri: str, tmp_path: Path, steps: dict[str, int]
) -> None:
    recipe = load_recipe("tiny")
    first = remote.run("prepare", recipe, {}, f"{uri}/prepare/")
    made = remote.run("sft", recipe, {"data": f"{uri}/prepare"}, f"{uri}/sft")
    assert store.read_file(f"{uri}/sft", store.require(f"{uri}/sft"), "sft.txt") == b"preparesft"
    assert made["inputs"] == {"data": first["digest"]}
    assert remote.run("sft", recipe, {"data": f"{uri}/prepare/"}, f"{uri}/sft") == made
    assert steps == {"prepare": 1, "sft": 1}

    overwrite(seaweed, f"{uri}/sft", f"{store.require(f'{uri}/sft').folder}/sft.txt", b"spoilt")
    remote.run("sft", recipe, {"data": f"{uri}/prepare"}, f"{uri}/sft")
    assert steps == {"prepare": 1, "sft": 2}
    assert store.verify(f"{uri}/sft", store.require(f"{uri}/sft"))
    other = load_recipe("tiny", ["sft.steps=7"])
    with pytest.raises(
        ConfigError,
        match=r"holds a finished sft: sft\.steps 45 -> 7\. Give another --output, or --replace",
    ):
        remote.run("sft", other, {"data": f"{uri}/prepare"}, f"{uri}/sft")
    assert json.loads(
        store.read_file(f"{uri}/sft", store.require(f"{uri}/sft"), "step.json")
    ) == made | {
        "started": ANY,
        "seconds": ANY,
    }
    remote.run("sft", other, {"data": f"{uri}/prepare"}, f"{uri}/sft", replace=True)
    assert steps == {"prepare": 1, "sft": 3}
    assert (
        json.loads(store.read_file(f"{uri}/sft", store.require(f"{uri}/sft"), "step.json"))[
            "config"
        ]["steps"]
        == 7
    )

    remote.run("sft", recipe, {"data": f"{uri}/prepare"}, str(tmp_path / "local"))
    assert (tmp_path / "local" / "sft.txt").read_text() == "preparesft"
    scratch = tmp_path / f"omnicore-{os.getuid()}"
    assert {path.suffix for path in scratch.iterdir()} == {".lock"}


def test_failed_publish_resumes_with_the_result(
    seaweed: Seaweed, uri: str, steps: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv(live.PORT, str(port))
    scraped = []

    def refuse(directory: Path, uri: str) -> None:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            scraped.append(answer.status)  # the target is up for as long as it takes
        raise StorageError("away")

    with monkeypatch.context() as patched:
        patched.setattr(store, "publish", refuse)
        with pytest.raises(StorageError, match="away"):
            remote.run("prepare", load_recipe("tiny"), {}, uri)
    assert scraped == [200]
    assert store.stat(uri) is None
    remote.run("prepare", load_recipe("tiny"), {}, uri)
    assert store.stat(uri)
    assert steps["prepare"] == 1


@pytest.mark.parametrize(
    ("inputs", "output", "code"),
    [
        (
            {"data": "{}/prepare"},
            "{}/prepare",
            "output-overlaps-input",
        ),
        ({"data": "{}/prepare"}, "{}/prepare/sft", "output-overlaps-input"),
        ({"data": "{}/prepare"}, "{}", "output-overlaps-input"),
        (
            {"data": "{}/prepare"},
            "{}/other",
            "output-of-other-step",
        ),
        (
            {"data": "{}/prepare"},
            "{}/plain",
            "output-not-empty",
        ),
        ({"data": "{}/plain"}, "{}/new", "step-record-missing"),
        ({"data": "{}/absent"}, "{}/new", "s3-not-published"),
        ({"data": "absent"}, "{}/new", "directory-missing"),
        ({"zzz": "{}/prepare"}, "{}/new", "input-roles-wrong"),
        ({}, "{}/new", "input-roles-wrong"),
    ],
)
def test_invalid_addresses_are_refused(
    uri: str,
    tmp_path: Path,
    steps: dict[str, int],
    inputs: dict[str, str],
    output: str,
    code: str,
) -> None:
    remote.run("prepare", load_recipe("tiny"), {}, f"{uri}/prepare")
    remote.run("prepare", load_recipe("tiny"), {}, f"{uri}/other")
    store.publish(fill(tmp_path / "plain", {"a": 1}), f"{uri}/plain")
    with pytest.raises(OmniError) as caught:
        remote.run(
            "sft",
            load_recipe("tiny"),
            {role: place.format(uri) for role, place in inputs.items()},
            output.format(uri),
        )
    assert caught.value.code == code
    assert steps["sft"] == 0


@pytest.mark.slow
def test_command_line_takes_addresses(uri: str, tmp_path: Path) -> None:
    settings = ["--set", "prepare.scale=0.05", "--set", "threads=1", "--set", "sft.steps=1"]

    def omnicore(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "omnicore", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    train = ["sft", *settings, "--input", f"data={uri}/prepare", "--output", f"{uri}/sft"]
    early = omnicore(*train)
    assert (early.returncode, early.stdout) == (2, "")
    assert early.stderr.startswith(f"omnicore: {uri}/prepare: nothing is published there")
    for command in (["prepare", *settings, "--output", f"{uri}/prepare"], train):
        done = omnicore(*command)
        assert done.returncode == 0, done.stderr
    again = omnicore(*train)
    assert again.stdout.startswith("sft: done before  rows ")
    assert again.stderr == ""
    names = {file.name for file in store.require(f"{uri}/sft").files}
    assert {"step.json", "metrics.prom", "curves.jsonl", "checkpoint/model.safetensors"} <= names
