"""A training that is killed and given again: the same bytes as one that was left alone."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from omnicore.config import digest
from omnicore.config.recipe import load_recipe
from omnicore.errors import CheckpointError
from omnicore.lineage.step_record import read_step
from omnicore.runtime import checkpoint_sync, remote
from omnicore.runtime.keys import plan_step
from omnicore.runtime.run import run_step
from omnicore.storage import store
from omnicore.storage.digests import digest_directory
from omnicore.storage.files import read_jsonl
from omnicore.training import checkpoints
from omnicore.training.checkpoints import DIRECTORY, LISTING, Checkpoints, find_damage
from omnicore.training.rewards import RandomReward
from tests.cases import cases
from tests.errors import refused
from tests.forks import in_a_fork
from tests.seaweed import Seaweed, objects, seaweed, signed_in, uri
from tests.shared import shared
from tests.unit.training_fixture import SMALL, data, inputs

__all__ = ["data", "inputs", "seaweed", "signed_in", "uri"]


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global CurveCallback, GradientCheck, OmniGRPOTrainer, resume, save_file, torch, WEIGHTS

    import torch
    from safetensors.torch import save_file

    from omnicore.training import resume
    from omnicore.training.curves import CurveCallback, GradientCheck
    from omnicore.training.grpo_trainer import OmniGRPOTrainer
    from omnicore.training.resume import WEIGHTS


# 32 rows, 7 a step, and 16 prompts, 3 a step: an epoch ends within each run.
TRAINING = {
    "sft": [
        "sft.steps=10",
        "sft.train_batch_size=7",
        "sft.warmup_steps=2",
        "sft.learning_rate=1e-3",
        "sft.save_steps=2",
    ],
    "rlvr": [
        "rlvr.steps=7",
        "rlvr.prompts_per_step=3",
        "rlvr.num_generations=4",
        "rlvr.warmup_steps=1",
        "rlvr.learning_rate=1e-3",
        "rlvr.save_steps=2",
    ],
}


def told(record: dict[str, Any]) -> dict[str, Any]:
    """A step's summary without the time in it."""
    return {name: value for name, value in record["summary"].items() if name != "data_seconds"}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dies_after(step: int) -> None:
    """This process, when the optimizer step of this number has been taken and logged."""
    log = CurveCallback.on_log

    def on_log(self: CurveCallback, args: Any, state: Any, control: Any, **given: Any) -> None:
        log(self, args, state, control, **given)
        if state.global_step == step:
            die()

    CurveCallback.on_log = on_log  # type: ignore[method-assign]


def dies_while_saving(step: int) -> None:
    """When all files of a checkpoint are written, and it is not listed yet."""
    seal = checkpoints._seal

    def cut(folder: Path, number: int, written: float) -> None:
        if number == step:
            die()
        seal(folder, number, written)

    checkpoints._seal = cut


Undisturbed = Callable[[str, list[str]], Path]


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, dict[str, Path]]
) -> Undisturbed:
    """Trains each arm once a session, without a kill and without a checkpoint."""

    def train(step: str, arm: list[str]) -> Path:
        recipe = load_recipe("tiny", [*SMALL, *TRAINING[step], *arm, f"{step}.save_steps=0"])

        def make(output: Path) -> None:
            assert in_a_fork(lambda: run_step(step, recipe, inputs[step], output)) == 0

        return shared(tmp_path_factory, f"undisturbed-{step}-{digest(arm)}", make)

    return train


ARMS = {
    "sft": ("sft", [], lambda: dies_after(7), [4, 6], 0, 6),
    "sft killed while it saves": ("sft", [], lambda: dies_while_saving(6), [2, 4], 0, 4),
    "rlvr whose newest checkpoint is cut off": ("rlvr", [], lambda: dies_after(5), [2, 4], 4, 2),
    "rlvr on random reward": (
        "rlvr",
        ["rlvr.control=random_reward"],
        lambda: dies_after(7),
        [4, 6],
        0,
        6,
    ),
    "rlvr with a reference": ("rlvr", ["rlvr.beta=0.5"], lambda: dies_after(5), [2, 4], 0, 4),
    "sft of what hears": (
        "sft",
        ["sft.trainable_modules=[audio, projectors]"],
        lambda: dies_after(7),
        [4, 6],
        0,
        6,
    ),
    "sft of adapters": (
        "sft",
        ["sft.lora={rank: 4, dropout: 0.1}"],
        lambda: dies_after(5),
        [2, 4],
        0,
        4,
    ),
    "rlvr of adapters with a reference": (
        "rlvr",
        ["rlvr.beta=0.5", "rlvr.lora={rank: 4}"],
        lambda: dies_after(5),
        [2, 4],
        0,
        4,
    ),
}


@pytest.mark.parametrize(
    ("step", "arm", "end", "left", "cut", "goes_on"),
    cases(ARMS, fast=["sft killed while it saves", "rlvr whose newest checkpoint is cut off"]),
)
def test_killed_training_resumes_byte_for_byte(
    inputs: dict[str, dict[str, Path]],
    undisturbed: Undisturbed,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    step: str,
    arm: list[str],
    end: Callable[[], None],
    left: list[int],
    cut: int,
    goes_on: int,
) -> None:
    recipe = load_recipe("tiny", [*SMALL, *TRAINING[step], *arm])
    calm, output = undisturbed(step, arm), tmp_path / "killed"

    def run() -> None:
        run_step(step, recipe, inputs[step], output)

    assert in_a_fork(lambda: (end(), run())) == -signal.SIGKILL
    saved = output / DIRECTORY
    assert [path.name for path in sorted(saved.glob("step-??????"))] == [
        f"step-{number:06d}" for number in left
    ]
    if cut:
        os.truncate(saved / f"step-{cut:06d}" / WEIGHTS, 5000)
    capfd.readouterr()
    assert in_a_fork(run) == 0
    said = capfd.readouterr().err
    assert f"step-{goes_on:06d}: training resumes after step {goes_on}" in said
    assert (
        "weights.safetensors is truncated or changed; trying the checkpoint before it" in said
    ) == bool(cut)
    records = [read_step(path) for path in (calm, output)]
    assert {path.name for path in output.iterdir()} == {path.name for path in calm.iterdir()}
    for name in ("curves.jsonl", "rollouts.jsonl", "checkpoint/model.safetensors"):
        if (calm / name).exists():
            assert (output / name).read_bytes() == (calm / name).read_bytes(), name
    assert records[0]["digest"] == records[1]["digest"] == digest_directory(output)
    assert told(records[0]) == told(records[1])
    assert records[0]["key"] == records[1]["key"]
    if "rlvr.beta=0.5" in arm:
        assert read_jsonl(calm / "curves.jsonl", dict)[-1]["kl"] > 0, (
            "the reference is the start model"
        )


@pytest.mark.usefixtures("signed_in")
def test_lost_machine_resumes_from_s3(
    inputs: dict[str, dict[str, Path]],
    undisturbed: Undisturbed,
    seaweed: Seaweed,
    uri: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Kill -9 of a training whose output is in S3, its scratch directory gone, and the same command
    on another machine."""
    recipe = load_recipe("tiny", [*SMALL, *TRAINING["sft"]])
    given = {role: str(path) for role, path in inputs["sft"].items()}

    def dies_when_kept(step: int) -> None:
        checkpoint_sync.POLL = 0.02
        log = CurveCallback.on_log

        def on_log(self: CurveCallback, args: Any, state: Any, control: Any, **more: Any) -> None:
            log(self, args, state, control, **more)
            while state.global_step == step + 1:
                if any(
                    f"/step-{step:06d}/published.json" in name
                    for name in objects(seaweed, f"{uri}.unfinished")
                ):
                    die()
                time.sleep(0.02)

        CurveCallback.on_log = on_log  # type: ignore[method-assign]

    assert (
        in_a_fork(lambda: (dies_when_kept(6), remote.run("sft", recipe, given, uri)))
        == -signal.SIGKILL
    )
    (scratch,) = tmp_path.glob("omnicore-*")
    shutil.rmtree(scratch)
    capfd.readouterr()
    assert in_a_fork(lambda: remote.run("sft", recipe, given, uri)) == 0
    assert "step-000006: training resumes after step 6" in capfd.readouterr().err
    calm = read_step(undisturbed("sft", []))
    record = json.loads(store.read_file(uri, store.require(uri), "step.json"))
    assert record["key"] == calm["key"]
    assert (record["digest"], told(record)) == (calm["digest"], told(calm))
    assert objects(seaweed, f"{uri}.unfinished") == {}


def test_pickle_in_checkpoint_is_not_run(
    inputs: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    recipe, output, ran = (
        load_recipe("tiny", [*SMALL, *TRAINING["sft"]]),
        tmp_path / "sft",
        tmp_path / "ran",
    )

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(ran),)

    def run() -> None:
        run_step("sft", recipe, inputs["sft"], output)

    assert in_a_fork(lambda: (dies_after(3), run())) == -signal.SIGKILL
    folder = output / DIRECTORY / "step-000002"
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        kept = (folder / name).read_bytes()
        for content, harmless in ((pickle.dumps(Evil(), protocol=2), False), (kept, True)):
            (folder / name).write_bytes(content)
            (folder / LISTING).unlink()
            checkpoints._seal(folder, 2, 0.0)
            if not harmless:
                with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
                    run()
            assert not ran.exists(), name


@pytest.mark.parametrize("change", ["every", "keep"])
def test_saving_fields_are_not_in_the_key(data: Path, tmp_path: Path, change: str) -> None:
    field = {"every": "save_steps", "keep": "save_total_limit"}[change]
    keys = {
        plan_step(
            "sft",
            load_recipe("tiny", [*SMALL, f"sft.{field}={value}"]),
            {"data": data},
            tmp_path / "o",
        ).key
        for value in (1, 3)
    }
    assert len(keys) == 1


def write(directory: Path, *steps: int, keep: int = 2) -> Checkpoints:
    made = Checkpoints(directory, {"curves": []}, every=1, keep=keep)
    for step in steps:
        made.records["curves"].append({"step": step, "loss": 0.1 * step})
        with made.write(step) as folder:
            (folder / WEIGHTS).write_bytes(b"w" * step)
    return made


def test_newest_checkpoints_and_records_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "omnicore")
    made = write(tmp_path, 2, 4, 6, 8, keep=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-000004",
        "step-000006",
        "step-000008",
    ]
    found = Checkpoints(tmp_path, {"curves": [{"step": 99}]}, every=1, keep=3)
    assert (found.step, found.saved_at, found.latest) == (
        8,
        made.saved_at,
        tmp_path / "step-000008",
    )
    assert found.records == made.records
    assert caplog.messages == [f"{tmp_path}/step-000008: training resumes after step 8"]


def test_failed_checkpoint_keeps_the_one_before(tmp_path: Path) -> None:
    made = write(tmp_path, 2)
    with pytest.raises(ZeroDivisionError), made.write(4):
        _ = 1 // 0
    assert (made.step, Checkpoints(tmp_path, {"curves": []}, every=1, keep=2).step) == (2, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002"]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (
            lambda folder: os.truncate(folder / WEIGHTS, 1),
            "weights.safetensors is truncated or changed",
        ),
        (
            lambda folder: (folder / WEIGHTS).write_bytes(b"v" * 4),
            "weights.safetensors is truncated or changed",
        ),
        (
            lambda folder: (folder / WEIGHTS).unlink(),
            "the files are not those that were written: weights.safetensors",
        ),
        (
            lambda folder: (folder / "more").touch(),
            "the files are not those that were written: more",
        ),
        (
            lambda folder: (folder / LISTING).unlink(),
            "incomplete: checkpoint.json cannot be read",
        ),
        (
            lambda folder: os.truncate(folder / LISTING, 40),
            "incomplete: checkpoint.json cannot be read",
        ),
        (
            lambda folder: (folder / LISTING).write_text("[]"),
            "incomplete: checkpoint.json cannot be read",
        ),
    ],
)
def test_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], None], said: str
) -> None:
    write(tmp_path, 2, 4)
    assert find_damage(tmp_path / "step-000004") == ""
    harm(tmp_path / "step-000004")
    found = Checkpoints(tmp_path, {"curves": []}, every=1, keep=2)
    assert found.step == 2
    tried = f"{tmp_path}/step-000004: {said}; trying the checkpoint before it"
    assert tried in caplog.messages
    harm(tmp_path / "step-000002")
    found = Checkpoints(tmp_path, {"curves": [{"step": 1}]}, every=1, keep=2)
    assert (found.step, found.latest, found.records, list(tmp_path.iterdir())) == (
        0,
        None,
        {"curves": []},
        [],
    )


def test_checkpoint_of_other_parameters_is_refused(tmp_path: Path) -> None:
    """Modules that train now and did not then would begin anew without a word."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model[0].requires_grad_(False)
    save_file(resume.trainable_weights(model), tmp_path / WEIGHTS)
    model[1].weight.data.zero_()
    resume.load_weights(model, tmp_path)
    assert model[1].weight.abs().sum() > 0
    model[0].requires_grad_(True)
    with refused(CheckpointError, "checkpoint-other-parameters", path=tmp_path, field="0.bias"):
        resume.load_weights(model, tmp_path)


@pytest.mark.parametrize(
    ("step", "accumulation", "per_generation", "iterations", "expected"),
    [
        (1, 1, 1, 1, True),
        (3, 1, 1, 1, True),
        (1, 4, 4, 1, True),
        (1, 2, 4, 1, False),
        (2, 2, 4, 1, True),
        (1, 4, 4, 2, False),
        (2, 4, 4, 2, True),
    ],
)
def test_no_checkpoint_while_rollouts_are_left(
    step: int, accumulation: int, per_generation: int, iterations: int, expected: bool
) -> None:
    args = SimpleNamespace(
        gradient_accumulation_steps=accumulation, steps_per_generation=per_generation
    )
    state = SimpleNamespace(global_step=step)
    trainer = SimpleNamespace(args=args, state=state, num_iterations=iterations)
    assert OmniGRPOTrainer.can_checkpoint(trainer) is expected


def test_random_reward_and_gradient_check_resume() -> None:
    coin, check = RandomReward(3), GradientCheck({"audio": "audio_tower"})
    for _ in range(random.Random(1).randrange(10, 20)):
        coin.draw()
    check._moved = 2
    for part, other in (
        (coin, RandomReward(4)),
        (check, GradientCheck({"audio": "audio_tower", "image": "visual"})),
    ):
        other.load_state_dict(part.state_dict())
        assert other.state_dict() == part.state_dict()
    again = RandomReward(0)
    again.load_state_dict(coin.state_dict())
    assert [again.draw() for _ in range(30)] == [coin.draw() for _ in range(30)]
