"""A training by several processes: torchrun's own agent starts them, as forks, since torch is
imported here already."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest

from omnicore import processes
from omnicore.config.recipe import load_recipe
from omnicore.errors import TrainingError
from omnicore.lineage.step_record import read_step
from omnicore.runtime.run import run_step
from omnicore.storage.digests import KEY_FILE, STEP_FILE, digest_directory
from omnicore.storage.files import read_jsonl
from omnicore.telemetry import live
from tests.cases import slow
from tests.forks import ended, in_a_fork
from tests.seaweed import free_ports
from tests.shared import shared
from tests.unit.test_resume import die
from tests.unit.training_fixture import SMALL, data, inputs

__all__ = ["data", "inputs"]


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global agent, CurveCallback, distributed, omnicore

    from omnicore.training import distributed
    from omnicore.training.curves import CurveCallback
    from tests.torchrun import agent, omnicore


TRAINING = {
    step: [
        f"{step}.{change}"
        for change in ("steps=4", "warmup_steps=1", "learning_rate=1e-3", "save_steps=2", *own)
    ]
    for step, own in {
        "sft": ["train_batch_size=8"],
        "rlvr": ["prompts_per_step=4", "num_generations=4", "beta=0.2", "dynamic_sampling=2"],
    }.items()
}

PASSES = {
    "sft": ["sft.per_device_train_batch_size=2"],
    "rlvr": ["rlvr.per_device_train_batch_size=4"],
}


def launched(work: Callable[[], Any], restarts: int = 0) -> int:
    """0 when it has ended well in both of two processes."""
    place = "--rdzv-backend c10d --rdzv-endpoint 127.0.0.1:0 --rdzv-id ranks".split()
    return ended(agent([*place, "--nproc-per-node", "2", "--max-restarts", str(restarts)], work))


def torchrun(
    step: str,
    sets: list[str],
    inputs: dict[str, Path],
    output: Path,
    *,
    restarts: int = 0,
    first: Callable[[], Any] = int,
) -> int:
    """0 when the command has ended well on two processes; `first` is called in each before it."""
    given = [part for value in [*SMALL, *sets] for part in ("--set", value)]
    given += [part for role, path in inputs.items() for part in ("--input", f"{role}={path}")]
    return launched(omnicore([step, *given, "--output", str(output)], first), restarts)


def flat(record: dict[str, Any], path: str = "") -> dict[str, float]:
    """A record's figures by their path in it."""
    found = {}
    for name, value in record.items():
        found |= flat(value, f"{path}{name}.") if isinstance(value, dict) else {path + name: value}
    return found


def alike(one: Path, two: Path) -> None:
    """Two trainings to the rounding of float32, in which sums are taken in another order, and of
    bfloat16 for what is saved."""
    from safetensors.torch import load_file

    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    for a, b in zip(*(read_jsonl(path / "curves.jsonl", dict) for path in (one, two)), strict=True):
        assert {**flat(b), **means(a)} == pytest.approx(flat(a), rel=1e-3, abs=2e-5)
    first, second = (load_file(path / "checkpoint" / "model.safetensors") for path in (one, two))
    for name, weights in first.items():
        np.testing.assert_allclose(
            second[name].float(), weights.float(), rtol=2**-7, atol=1e-4, err_msg=name
        )


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, dict[str, Path]]
) -> Callable[[str], Path]:
    """Trains a step once a session on two processes, in two passes each, without a failure."""

    def train(step: str) -> Path:
        def make(output: Path) -> None:
            assert torchrun(step, [*TRAINING[step], *PASSES[step]], inputs[step], output) == 0

        return shared(tmp_path_factory, f"two-processes-{step}", make)

    return train


def means(record: dict[str, Any]) -> dict[str, float]:
    """What TRL takes the mean of over passes, whatever they hold (by modality it is ours, and by
    tokens), and its count of tokens, among them those of useless groups that fill a process' batch
    up."""
    names = ("entropy", "kl", "tokens") if "reward" in record else ("entropy",)
    return {name: record[name] for name in names if name in record}


@pytest.mark.parametrize("step", [slow("sft"), "rlvr"])
def test_two_processes_are_as_one(
    inputs: dict[str, dict[str, Path]],
    undisturbed: Callable[[str], Path],
    tmp_path: Path,
    step: str,
) -> None:
    one, two = tmp_path / "one", undisturbed(step)
    assert (
        in_a_fork(
            lambda: run_step(
                step, load_recipe("tiny", [*SMALL, *TRAINING[step]]), inputs[step], one
            )
        )
        == 0
    )
    alike(one, two)
    assert read_step(one)["key"] == read_step(two)["key"]
    if step == "rlvr":
        records = [read_jsonl(output / "rollouts.jsonl", dict) for output in (one, two)]
        told = ("step", "id", "reply", "reward", "used")
        said = [sorted(tuple(record[name] for name in told) for record in book) for book in records]
        assert said[0] == said[1]
        assert len(said[0]) > 4 * 4 * 4  # further prompts were drawn


def on_log(process: int, step: int, what: Callable[[], Any]) -> None:
    """Does it in a process of the first attempt, when the optimizer step of this number has been
    logged."""
    log = CurveCallback.on_log

    def on_log(self: CurveCallback, args: Any, state: Any, control: Any, **given: Any) -> None:
        log(self, args, state, control, **given)
        if (processes.rank(), state.global_step, os.environ["TORCHELASTIC_RESTART_COUNT"]) == (
            process,
            step,
            "0",
        ):
            what()

    CurveCallback.on_log = on_log  # type: ignore[method-assign]


@pytest.mark.parametrize(("step", "process"), [slow("sft", 0), slow("rlvr", 1)])
def test_lost_process_costs_steps_since_the_checkpoint(
    inputs: dict[str, dict[str, Path]],
    undisturbed: Callable[[str], Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    process: int,
) -> None:
    output, scraped = tmp_path / "killed", tmp_path / "scraped"
    (port,) = free_ports(1)
    monkeypatch.setenv(live.PORT, str(port))

    def scrape_and_die() -> None:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            scraped.write_bytes(answer.read())
        die()

    sets, hook = [*TRAINING[step], *PASSES[step]], lambda: on_log(process, 3, scrape_and_die)
    assert torchrun(step, sets, inputs[step], output, restarts=1, first=hook) == 0
    assert capfd.readouterr().err.count("step-000002: training resumes after step 2\n") == 1
    assert (
        read_step(output)["digest"]
        == read_step(undisturbed(step))["digest"]
        == digest_directory(output)
    )
    assert (
        f'omni_training_active{{stage="{step}",step="{step}"}} 1.0' in scraped.read_text()
    )  # the first process serves


def test_a_finished_result_is_found_by_the_first_and_ends_all(
    inputs: dict[str, dict[str, Path]],
    undisturbed: Callable[[str], Path],
    capfd: pytest.CaptureFixture[str],
) -> None:
    output = undisturbed("rlvr")
    written = (output / STEP_FILE).stat().st_mtime_ns
    assert torchrun("rlvr", TRAINING["rlvr"], inputs["rlvr"], output) == 0
    assert capfd.readouterr().out.count("rlvr: done before") == 1
    assert (output / STEP_FILE).stat().st_mtime_ns == written


def fail() -> None:
    raise TrainingError("out of luck")


def test_a_process_that_fails_fails_all_and_leaves_no_result(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "failed"
    assert (
        torchrun("sft", TRAINING["sft"], {"data": data}, output, first=lambda: on_log(1, 3, fail))
        == 1
    )
    assert "process 1: omnicore: out of luck" in capfd.readouterr().err
    assert {path.name for path in output.iterdir()} == {
        KEY_FILE,
        "checkpoints.journal",
        "curves.jsonl",
        "too_long.jsonl",
    }


@pytest.mark.parametrize(
    ("step", "change", "words"),
    [
        (
            "sft",
            "sft.train_batch_size=7",
            (
                "sft.train_batch_size=7 is not a multiple of 2 processes: set it to one, as in"
                " sft.train_batch_size=8 [distributed-count-indivisible]"
            ),
        ),
        (
            "sft",
            "sft.per_device_train_batch_size=3",
            "per_device_train_batch_size=3 does not divide the 4 rows that a process has of a step: set it to 2",
        ),
        (
            "prepare",
            "seed=0",
            "step prepare runs in one process, not in 2: run it without torchrun [step-not-distributed]",
        ),
    ],
)
def test_what_cannot_be_shared_out_is_said_with_the_remedy(
    inputs: dict[str, dict[str, Path]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    step: str,
    change: str,
    words: str,
) -> None:
    assert (
        torchrun(step, [*TRAINING.get(step, []), change], inputs.get(step, {}), tmp_path / "o") == 1
    )
    assert f"omnicore: {words}" in capfd.readouterr().err
    assert not (tmp_path / "o" / STEP_FILE).exists()


def test_folder_of_rank_0_reaches_other_nodes_whole(tmp_path: Path) -> None:
    """Two processes with a node each; the folder is more than one piece of it."""
    folder = tmp_path / "step-000002"
    (folder / "below").mkdir(parents=True)
    (folder / "large").write_bytes(os.urandom(2500))
    (folder / "below" / "empty").touch()

    def work() -> None:
        os.environ |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        distributed.CHUNK = 1000
        with distributed.RankMessages().process_group():
            found = [
                distributed.broadcast_folder(named, tmp_path / f"node-{processes.node_rank()}")
                for named in (folder, None)
            ]
        assert found == [folder if processes.is_main() else tmp_path / "node-1" / folder.name, None]

    assert launched(work) == 0
    assert digest_directory(tmp_path / "node-1" / folder.name) == digest_directory(folder)
