"""Work that is interrupted, killed or done by two at once resumes and leaves no other
trace."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from omnicore.config import digest
from omnicore.config.recipe import load_recipe
from omnicore.errors import ConfigError
from omnicore.runtime import outputs
from omnicore.runtime.run import run_step
from omnicore.storage.digests import digest_directory
from omnicore.storage.files import read_jsonl
from tests.unit.run_fixture import BATCHES, GATED, Fake, fake, names, put, tiny, wait_for

__all__ = ["fake", "tiny"]


@pytest.mark.parametrize("error", [RuntimeError("fell over"), KeyboardInterrupt()])
def test_interrupted_work_goes_on_from_its_journal(monkeypatch, tiny, tmp_path, error):
    undisturbed = put(monkeypatch, "prepare", Fake()) and run_step(
        "prepare", tiny, {}, tmp_path / "undisturbed"
    )
    broken = put(monkeypatch, "prepare", Fake(stop_at=8, error=error))
    with pytest.raises(type(error)):
        run_step("prepare", tiny, {}, tmp_path / "out")
    assert not (tmp_path / "out" / "step.json").exists()
    assert broken.batches == 8
    fake = put(monkeypatch, "prepare", Fake())
    record = run_step("prepare", tiny, {}, tmp_path / "out")
    assert fake.batches == BATCHES - 8
    assert (record["key"], record["digest"]) == (undisturbed["key"], undisturbed["digest"])
    assert names(tmp_path / "out") == [
        "files.json",
        "media",
        "metrics.prom",
        "rows.jsonl",
        "step.json",
    ]


def test_a_journal_of_another_key_is_never_used(monkeypatch, tiny, tmp_path):
    put(monkeypatch, "prepare", Fake(stop_at=8, error=RuntimeError("fell over")))
    with pytest.raises(RuntimeError):
        run_step("prepare", tiny, {}, tmp_path / "out")
    fake = put(monkeypatch, "prepare", Fake())
    other = load_recipe("tiny", ["seed=1"])
    with pytest.raises(
        ConfigError, match=r"holds an unfinished prepare \(work.journal\): seed 0 -> 1"
    ):
        run_step("prepare", other, {}, tmp_path / "out")
    assert (tmp_path / "out" / "work.journal").read_text().count("\n") == 8
    run_step("prepare", other, {}, tmp_path / "out", replace=True)
    assert fake.batches == BATCHES
    assert read_jsonl(tmp_path / "out" / "rows.jsonl", dict)[0]["value"] == digest([1, 0])


def test_unfinished_work_without_a_journal_makes_room(monkeypatch, tiny, tmp_path):
    put(monkeypatch, "prepare", Fake(stop_at=0, error=RuntimeError("no such server")))
    with pytest.raises(RuntimeError):
        run_step("prepare", tiny, {}, tmp_path / "out")
    fake = put(monkeypatch, "prepare", Fake())
    assert run_step("prepare", load_recipe("tiny", ["seed=1"]), {}, tmp_path / "out")["seed"] == 1
    assert fake.batches == BATCHES


def test_killed_removal_keeps_old_journals_from_a_new_key(monkeypatch, tiny, tmp_path):
    for seed in (0, 1):  # the work of seed 1 lies in out.replacing
        put(monkeypatch, "prepare", Fake(stop_at=8, error=RuntimeError("fell over")))
        with pytest.raises(RuntimeError):
            run_step(
                "prepare", load_recipe("tiny", [f"seed={seed}"]), {}, tmp_path / "out", replace=True
            )
    fake = put(monkeypatch, "prepare", Fake())
    with monkeypatch.context() as patch:

        def killed(path):
            raise KeyboardInterrupt

        patch.setattr(outputs, "_remove", killed)
        with pytest.raises(KeyboardInterrupt):
            run_step("prepare", load_recipe("tiny", ["seed=2"]), {}, tmp_path / "out", replace=True)
    run_step("prepare", load_recipe("tiny", ["seed=2"]), {}, tmp_path / "out", replace=True)
    assert fake.batches == BATCHES


def test_a_kill_while_linking_leaves_an_unfinished_output(fake, tiny, tmp_path, monkeypatch):
    link, count = Path.hardlink_to, 0

    def killed(self, target):
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        link(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "hardlink_to", killed)
        with pytest.raises(KeyboardInterrupt):
            run_step("prepare", tiny, {}, tmp_path / "a", cache=tmp_path / "cache")
    assert not (tmp_path / "a" / "step.json").exists()
    record = run_step("prepare", tiny, {}, tmp_path / "a", cache=tmp_path / "cache")
    assert digest_directory(tmp_path / "a") == record["digest"]
    assert fake.runs == 1


def test_interrupted_cache_entry_resumes_for_another_output(monkeypatch, tiny, tmp_path):
    put(monkeypatch, "prepare", Fake(stop_at=8, error=KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run_step("prepare", tiny, {}, tmp_path / "a", cache=tmp_path / "cache")
    fake = put(monkeypatch, "prepare", Fake())
    run_step("prepare", tiny, {}, tmp_path / "b", cache=tmp_path / "cache")
    assert fake.batches == BATCHES - 8


def child(output, gate, cache=None):
    """A process that does the fake step."""
    code = (
        "import sys; from pathlib import Path; from types import ModuleType; from run_fixture"
        " import Fake\nfrom omnicore.config.recipe import load_recipe; from omnicore.runtime.run"
        f" import run_step\nfake = Fake(gate={str(gate)!r}); module = ModuleType('prepare');"
        " module.run = fake.run\nsys.modules['omnicore.steps.prepare'] ="
        f" module\nrun_step('prepare', load_recipe('tiny'), {{}}, Path({str(output)!r}),"
        f" cache={str(cache)!r} if {bool(cache)} else None)\nprint('batches', fake.batches)"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(outputs.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("cached", [False, True])
def test_kill_9_loses_nothing_and_changes_nothing(fake, tiny, tmp_path, cached):
    cache = tmp_path / "cache" if cached else None
    killed = child(tmp_path / "out", tmp_path / "never", cache)
    wait_for(
        lambda: any(
            path.read_text().count("\n") == GATED for path in tmp_path.rglob("work.journal")
        )
    )
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not list(tmp_path.rglob("step.json"))

    record = run_step("prepare", tiny, {}, tmp_path / "out", cache=cache)
    assert fake.batches == BATCHES - GATED
    assert run_step("prepare", tiny, {}, tmp_path / "undisturbed")["digest"] == record["digest"]
    assert fake.batches == BATCHES - GATED + BATCHES


def test_two_processes_do_the_work_once(tmp_path):
    first = child(tmp_path / "out", tmp_path / "gate")
    wait_for((tmp_path / "out" / "work.journal").exists)
    second = child(tmp_path / "out", tmp_path / "gate")
    assert second.stderr.readline() == f"another process works on {tmp_path / 'out'}; waiting\n"
    (tmp_path / "gate").touch()
    outs = [process.communicate(timeout=60) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outs
    assert outs[0][0].splitlines()[-1] == f"batches {BATCHES}"
    assert [line.split("  ")[0] for line in outs[1][0].splitlines()] == [
        "prepare: done before",
        "batches 0",
    ]
