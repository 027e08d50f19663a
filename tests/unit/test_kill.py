"""Kill -9 at 20 random moments of a probe, and at six of an evaluation, over HTTP: the same digest
as an undisturbed run, and nothing that was journaled is asked again."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from omnicore.config import digest
from omnicore.config.recipe import load_recipe
from omnicore.lineage.step_record import read_step
from omnicore.runtime.run import run_step
from tests.cases import slow
from tests.stub_server import MODEL, Stub

SMALL = ["prepare.split=dev", "prepare.scale=0.15", f"model={MODEL}", f"probe.model={MODEL}"]


def overrides(stub: Stub) -> list[str]:
    engines = [
        f"{engine}.{field}"
        for engine in ("engine", "probe.engine")
        for field in ("kind=http", f"url={stub.url}", "concurrency=4")
    ]
    return [*SMALL, *engines]


def start(step: str, stub: Stub, inputs: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
    sets = [part for override in overrides(stub) for part in ("--set", override)]
    roles = [part for role in inputs for part in ("--input", role)]
    command = [sys.executable, "-m", "omnicore", step, *sets, *roles, "--output", str(output)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def journaled(output: Path) -> set[int]:
    """Seeds of the requests whose replies lie in the journal; a torn last line holds none."""
    path = output / "replies.journal"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return {int(digest(record["key"])[:12], 16) for line in lines for record in json.loads(line)}


def kill_and_go_on(
    step: str, stub: Stub, inputs: Sequence[str], output: Path, moments: Sequence[int]
) -> int:
    """Kills a run when it has asked so often, or shortly after, and starts it again; returns how
    many runs had journaled more."""
    met, asked = 0, {}
    for moment in moments:
        until = stub.asked + moment
        with start(step, stub, inputs, output) as process:
            while stub.asked < until and process.poll() is None:
                time.sleep(0.001)
            time.sleep(0.01 * random.random())
            process.kill()
            assert process.wait() == -9, "the run ended before it was killed"
        before = len(asked)
        asked |= {seed: stub.counts[seed] for seed in journaled(output) - asked.keys()}
        met += len(asked) > before
    with start(step, stub, inputs, output) as process:
        assert process.wait() == 0
    again = {
        seed: (count, stub.counts[seed])
        for seed, count in asked.items()
        if stub.counts[seed] != count
    }
    assert not again, f"journaled, and asked again: {again}"
    return met


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("kill") / "prepare"
    run_step("prepare", load_recipe("tiny", SMALL), {}, output)
    return output


@pytest.fixture(scope="module")
def calm_probe(queries: Path) -> tuple[Path, int]:
    """An undisturbed probe, and how many requests it took."""
    with Stub() as stub:
        run_step(
            "probe",
            load_recipe("tiny", overrides(stub)),
            {"queries": queries},
            queries.with_name("probe"),
        )
        return queries.with_name("probe"), stub.asked


def moments(total: int, kills: int) -> list[int]:
    """Numbers of requests after which one run after the other is killed; together nearly all, so
    every kill meets work."""
    places = sorted(random.Random(kills).sample(range(int(0.85 * total)), kills))
    return [after - before for before, after in pairwise([0, *places])]


@pytest.mark.parametrize(("kills", "least"), [(3, 2), slow(20, 5)])
def test_a_probe_survives_kill_9(
    queries: Path, calm_probe: tuple[Path, int], tmp_path: Path, kills: int, least: int
) -> None:
    calm, total = calm_probe
    with Stub(service=0.02) as stub:
        met = kill_and_go_on(
            "probe", stub, [f"queries={queries}"], tmp_path / "probe", moments(total, kills)
        )
    assert read_step(tmp_path / "probe")["digest"] == read_step(calm)["digest"]
    assert met >= least


@pytest.mark.parametrize(("kills", "least"), [(1, 1), slow(6, 2)])
def test_an_evaluation_survives_kill_9(
    queries: Path, calm_probe: tuple[Path, int], tmp_path: Path, kills: int, least: int
) -> None:
    inputs = {"queries": queries, "manifest": tmp_path / "clean"}
    with Stub() as stub:
        recipe = load_recipe("tiny", overrides(stub))
        run_step("clean", recipe, {"queries": queries, "draws": calm_probe[0]}, tmp_path / "clean")
        run_step("evaluate", recipe, inputs, tmp_path / "calm")
        total = stub.asked
    with Stub(service=0.02) as stub:
        given = [f"{role}={path}" for role, path in inputs.items()]
        met = kill_and_go_on("evaluate", stub, given, tmp_path / "evaluate", moments(total, kills))
    assert read_step(tmp_path / "evaluate")["digest"] == read_step(tmp_path / "calm")["digest"]
    assert met >= least
