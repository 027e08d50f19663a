"""A training on two nodes in the environment of a job, and the command of docs/train.md, with the
real torchrun."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from omnicore import processes
from omnicore.cluster.manifests import JobSpec, manifest
from omnicore.config import LauncherConfig
from omnicore.config.recipe import load_recipe
from omnicore.lineage.step_record import read_step
from omnicore.runtime import checkpoint_sync, remote
from omnicore.runtime.run import run_step
from omnicore.storage import store
from tests.forks import ended
from tests.seaweed import Seaweed, free_ports, objects, seaweed, signed_in, uri

__all__ = ["seaweed", "signed_in", "uri"]


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global agent, CurveCallback, omnicore

    from omnicore.training.curves import CurveCallback
    from tests.torchrun import agent, omnicore


ROOT = Path(__file__).parents[2]
SETS = ["prepare.split=dev", "prepare.scale=0.02", "threads=1"]
SETS += [
    f"sft.{change}"
    for change in (
        "steps=7",
        "train_batch_size=4",
        "warmup_steps=1",
        "learning_rate=1e-3",
        "save_steps=2",
    )
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("job") / "runs" / "prepare"
    run_step("prepare", load_recipe("tiny", SETS), {}, output)
    return output


@pytest.fixture(scope="module")
def calm(data: Path) -> dict[str, Any]:
    """What the command of docs/train.md makes, on one node and left alone."""
    (command,) = re.findall(
        r"^torchrun .*omnicore sft --input .*$",
        (ROOT / "docs" / "train.md").read_text(),
        re.MULTILINE,
    )
    sets = [part for value in SETS for part in ("--set", value)]
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    subprocess.run(
        [*shlex.split(command), *sets],
        cwd=data.parents[1],
        env=env | {"OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
    )
    return read_step(data.with_name("sft"))


def pods(command: list[str], nodes: int) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a job's pods, at a rendezvous on this machine."""
    place = LauncherConfig(
        kind="pytorchjob",
        image="r/train@sha256:0",
        storage="s3://b/p",
        nodes=nodes,
        gpus_per_node=0,
    )
    made = manifest(
        JobSpec(
            name="sft",
            namespace="n",
            labels={},
            command=tuple(command),
            distributed=True,
            place=place,
        )
    )
    container = made["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]
    env = {
        entry["name"]: entry["value"]
        for entry in container["env"]
        if entry["name"].startswith("PET_")
    }
    assert container["command"] == ["torchrun", "--no-python", *command]
    return container["command"], env | {"PET_RDZV_ENDPOINT": f"127.0.0.1:{free_ports(1)[0]}"}


def die_when_kept(seaweed: Seaweed, uri: str) -> None:
    """Kill -9 of the first process of the first attempt, and its disk gone, when a checkpoint is in
    S3."""
    checkpoint_sync.POLL = 0.02
    log = CurveCallback.on_log

    def on_log(self: CurveCallback, args: Any, state: Any, control: Any, **given: Any) -> None:
        log(self, args, state, control, **given)
        attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
        while (processes.rank(), state.global_step, attempt) == (0, 5, 0):
            if any(
                "/step-000004/published.json" in name
                for name in objects(seaweed, f"{uri}.unfinished")
            ):
                shutil.rmtree(remote.scratch_directory(uri))
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.02)

    CurveCallback.on_log = on_log  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.usefixtures("signed_in")
def test_two_nodes_with_a_lost_one_publish_one_result(
    data: Path,
    calm: dict[str, Any],
    seaweed: Seaweed,
    uri: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    given = f"{uri}/data"
    remote.store.publish(data, given)
    sets = [part for value in SETS for part in ("--set", value)]
    output = f"{uri}/sft"
    command, env = pods(
        ["omnicore", "sft", *sets, "--input", f"data={given}", "--output", output], nodes=2
    )
    work, nodes = omnicore(command[3:], lambda: die_when_kept(seaweed, output)), []
    for number in range(2):
        (disk := tmp_path / f"node-{number}").mkdir()
        nodes.append(agent([], work, env | {"TMPDIR": str(disk), "OMP_NUM_THREADS": "1"}))
    assert [ended(node) for node in nodes] == [0, 0]
    said = capfd.readouterr()
    assert said.err.count("step-000004: training resumes after step 4\n") == 1
    assert len(re.findall(r"^sft: \d", said.out, re.MULTILINE)) == 1, (
        "one process says that it is done"
    )
    record = json.loads(store.read_file(output, store.require(output), "step.json"))
    assert record["key"] == calm["key"]
    assert record, "whole, and of the same key"
    assert record["digest"] == calm["digest"]
    assert objects(seaweed, f"{output}.unfinished") == {}
    left = [
        path.name
        for disk in tmp_path.glob("node-*")
        for path in disk.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    ]
    assert left == [], "disks are as they were"
