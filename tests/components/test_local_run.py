"""The local runner as a user meets it: whole runs of kfp.local, with fake steps (`fakes/`)."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.cases import slow

HERE = Path(__file__).parent
PYTHONPATH = f"{HERE / 'fakes'}{os.pathsep}{HERE.parents[1]}"
HEAVY = {"probe", "evaluate", "sft", "rlvr", "distill"}


class Runner:
    """Starts runs in one directory; `steps` are the step processes that the last one needed: (step,
    pid, parent)."""

    def __init__(self, directory):
        self.directory, self.log = directory, directory.parent / f"{directory.name}.log"
        self.scratch = (
            tempfile.TemporaryDirectory()
        )  # a killed run leaves its socket's directory behind

    def start(self, *options, pipeline="omniclean"):
        self.log.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "pipelines.run",
            "--pipeline",
            pipeline,
            "--run",
            str(self.directory),
            *options,
        ]
        env = {
            **os.environ,
            "PYTHONPATH": PYTHONPATH,
            "FAKE_LOG": str(self.log),
            "TMPDIR": self.scratch.name,
        }
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
        )

    def run(self, *options, pipeline="omniclean"):
        process = self.start(*options, pipeline=pipeline)
        said = process.communicate(timeout=120)[0]
        return process.returncode, said

    @property
    def steps(self):
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(step, int(pid), int(parent)) for step, pid, parent in map(str.split, lines)]

    def asleep(self):
        """Waits until a step with `sleep` works; returns every process of the run that a kill must
        reach."""
        assert within(60, lambda: any(step == "probe" for step, _, _ in self.steps))
        _, pid, parent = next(found for found in self.steps if found[0] == "probe")
        return {pid, parent, *descendants(os.getpid())}


@pytest.fixture
def runner(tmp_path):
    return Runner(tmp_path / "run")


@pytest.fixture(scope="module")
def boosted(tmp_path_factory):
    """One whole omniboost run."""
    runner = Runner(tmp_path_factory.mktemp("boost") / "run")
    return (
        runner,
        *runner.run("--seed", "3", "--set", "rlvr.steps=7", pipeline="omniboost"),
        runner.steps,
    )


def cleaned_up(runner):
    """Whether the task that removes what a run left on a cluster was its last."""
    log = (runner.directory / "run.log").read_text()
    return re.findall(r"Task .*'(\w[\w-]*)'.* finished with status .*(SUCCESS|FAILURE)", log)[
        -1
    ] == ("reap", "SUCCESS")


def within(seconds, condition):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def stat(pid):
    """State and parent of a process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "gone", 0
    return fields[0], int(fields[1])


def alive(pid):
    return stat(pid)[0] not in {"gone", "Z"}


def descendants(pid):
    children = [
        int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and stat(p.name)[1] == pid
    ]
    return [found for child in children for found in (child, *descendants(child))]


def test_a_whole_run_leaves_its_report_and_prints_the_result(boosted):
    runner, code, said, steps = boosted
    assert code == 0, said
    assert (runner.directory / "report.html").read_text() == "<p>page</p>"
    assert re.search(r"^sft +50.0% +40.0% to 60.0% +50.0%", said, re.MULTILINE)
    assert "audit, repeated: precision 0.5" in said
    assert said.splitlines()[-3:] == [
        str(runner.directory / name) for name in ("report.html", "report.json", "metrics.prom")
    ]
    figures = (runner.directory / "metrics.prom").read_text()
    for stage in ("base", "sft", "rlvr", "sft_distilled"):  # four evaluations of one section
        assert f'omni_step_succeeded{{stage="{stage}",step="evaluate"}} 1.0' in figures
    assert sorted(step for step, _, _ in steps) == sorted(
        [
            "prepare",
            *["probe"] * 3,
            "clean",
            *["evaluate"] * 4,
            "sft",
            "sft",
            "rlvr",
            "distill",
            "report",
            "promote",
        ]
    )
    assert "sft speaks" not in said
    assert "sft speaks" in (runner.directory / "run.log").read_text()
    assert cleaned_up(runner)


def test_overrides_and_inputs_reach_the_steps(boosted):
    runner, *_ = boosted
    (rlvr,) = outputs(runner, "rlvr")
    assert (rlvr["inputs"], rlvr["seed"], rlvr["config"]["steps"], rlvr["config"]["control"]) == (
        ["data", "model"],
        3,
        7,
        "none",
    )
    assert [found["inputs"] for found in outputs(runner, "distill")] == [["data", "draws", "model"]]
    assert sorted(found["config"]["data"] for found in outputs(runner, "probe")) == [
        "distill.jsonl",
        *["queries.jsonl"] * 2,
    ]


def outputs(runner, step):
    return [
        json.loads(file.read_text())
        for file in (runner.directory / "cache").glob(f"{step}-*/{step}.out")
    ]


def test_only_heavy_steps_fork_from_the_warm_worker(boosted):
    *_, steps = boosted
    parents = {
        step in HEAVY: {parent for s, _, parent in steps if (s in HEAVY) == (step in HEAVY)}
        for step, _, _ in steps
    }
    assert len(parents[True]) == 1
    assert not parents[True] & parents[False]


def test_repeated_run_uses_the_cache_and_starts_no_worker(boosted):
    runner, *_ = boosted
    code, said = runner.run("--seed", "3", "--set", "rlvr.steps=7", pipeline="omniboost")
    assert (code, runner.steps) == (0, [])
    assert said.count("from cache") == 15
    assert "omnicore.runtime.worker" not in (runner.directory / "run.log").read_text()
    assert len(list((runner.directory / "outputs").iterdir())) == 1


@pytest.mark.slow
def test_the_control_arm_trains_on_luck_and_reaches_the_report(boosted):
    runner, *_ = boosted
    code, said = runner.run(
        "--seed", "3", "--set", "rlvr.steps=7", "--control", pipeline="omniboost"
    )
    assert code == 0, said
    assert [step for step, _, _ in runner.steps] == ["rlvr", "evaluate", "report"]
    assert json.loads((runner.directory / "report.json").read_text())["control"] is True


@pytest.mark.parametrize("step", ["prepare", slow("probe")])
@pytest.mark.parametrize(
    ("kind", "told"),
    [("mistake", "line 3 is wrong; fix it"), ("bug", "ZeroDivisionError: a bug of the step")],
)
def test_failing_step_prints_one_error_and_the_log_path(runner, step, kind, told):
    code, said = runner.run("--set", f'profile.system="{step} {kind}"')
    assert code == 1
    message, log = said.splitlines()[-2:]
    assert re.fullmatch(rf"(second )?{step} failed: .*{re.escape(told)}", message)
    assert log == f"log: {runner.directory / 'run.log'}"
    assert ("Traceback" in (runner.directory / "run.log").read_text()) == (kind == "bug")
    assert "Traceback" not in said
    assert [s for s, _, _ in runner.steps].count(
        step
    ) == 1  # KFP continues with the probe that did not fail


@pytest.mark.parametrize("number", [slow(signal.SIGINT), slow(signal.SIGTERM), signal.SIGKILL])
def test_stopped_run_leaves_no_process_and_resumes(runner, number):
    process = runner.start("--set", 'profile.system="probe sleep"')
    everything = runner.asleep()
    assert len(everything) >= 4  # runner, worker, the task's shell and Python, the fork that works
    process.send_signal(number)
    said = process.communicate(timeout=20)[0]
    assert within(3, lambda: not any(map(alive, everything))), [
        pid for pid in everything if alive(pid)
    ]
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert said.splitlines()[-1] == "interrupted; re-run the same command to resume"
    process = runner.start("--set", 'profile.system="probe sleep"')
    runner.asleep()
    assert "prepare" not in {step for step, _, _ in runner.steps}
    process.kill()
    process.communicate()


def test_a_second_run_in_the_same_directory_gets_one_error(runner):
    process = runner.start("--set", 'profile.system="probe sleep"')
    runner.asleep()
    code, said = Runner(runner.directory).run()
    assert (code, len(said.splitlines())) == (2, 1)
    assert f"another run works in {runner.directory}" in said
    assert process.poll() is None
    process.kill()
    process.communicate()


def test_a_wrong_field_is_told_before_anything_starts(runner):
    code, said = runner.run("--set", "rlvr.stepz=3")
    assert code == 2
    assert "rlvr.stepz" in said
    assert not (runner.directory / "state").exists()


@pytest.mark.slow
def test_omniclean_leaves_the_manifest_and_its_page(runner):
    code, said = runner.run()
    assert code == 0, said
    written = ("manifest.json", "audit.json", "report.html", "metrics.prom")
    assert said.splitlines()[-4:] == [str(runner.directory / name) for name in written]
    assert (runner.directory / "manifest.json").is_file()
    assert (runner.directory / "report.html").read_text() == "<p>page</p>"


@pytest.mark.slow
def test_a_run_that_fails_ends_with_the_clean_up(runner):
    code, said = runner.run("--set", 'profile.system="rlvr mistake"', pipeline="omniboost")
    assert code == 1, said
    assert cleaned_up(runner)


RETRAIN = """
import sys, kfp.local
from pipelines.retrain import retrain
kfp.local.init(kfp.local.SubprocessRunner(use_venv=False), sys.argv[2], sys.argv[3])
retrain(recipe="tiny", champion=sys.argv[1], overrides="[seed=1]", run_name="retrain-1")
"""


@pytest.mark.slow
def test_retrain_evaluates_champion_and_candidate(boosted, tmp_path):
    champion = next(
        file.parent for file in (boosted[0].directory / "cache").glob("rlvr-*/step.json")
    )
    runner = Runner(tmp_path / "run")
    command = [
        sys.executable,
        "-c",
        RETRAIN,
        str(champion),
        str(tmp_path / "outputs"),
        str(tmp_path / "workspace"),
    ]
    env = {
        **os.environ,
        "PYTHONPATH": PYTHONPATH,
        "FAKE_LOG": str(runner.log),
        "TMPDIR": runner.scratch.name,
    }
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = sorted(step for step, _, _ in runner.steps)
    assert steps == [
        "clean",
        "evaluate",
        "evaluate",
        "prepare",
        "probe",
        "probe",
        "promote",
        "rlvr",
        "sft",
    ]
    (decision,) = (tmp_path / "outputs").glob("*/promote/decision")
    held = {
        role: json.loads((path / "step.json").read_text())["digest"]
        for role, path in scored(tmp_path / "outputs", champion)
    }
    assert json.loads((decision / "step.json").read_text())["inputs"].items() >= held.items()


def scored(outputs, champion):
    """The evaluations of the champion and of the candidate."""
    digest = json.loads((champion / "step.json").read_text())["digest"]
    for path in outputs.glob("*/evaluate*/scores"):
        model = json.loads((path / "step.json").read_text())["inputs"]["model"]
        yield ("champion" if model == digest else "candidate"), path
