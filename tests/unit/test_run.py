"""What `run_step` finds, refuses and leaves alone, and which results it makes again."""

import errno
import fcntl
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from omnicore.config import digest
from omnicore.config.recipe import load_recipe
from omnicore.data.prompts import profile_hash
from omnicore.errors import ConfigError, StepBusy, StorageError
from omnicore.lineage.code_version import code_digest, git_revision
from omnicore.runtime import outputs
from omnicore.runtime.run import run_step
from omnicore.storage.digests import digest_directory
from omnicore.storage.files import read_json, read_jsonl
from omnicore.storage.journal import Journal
from tests.errors import refused
from tests.unit.run_fixture import BATCHES, Fake, fake, made, names, put, tiny

__all__ = ["fake", "tiny"]


def test_finished_result_has_its_record(fake, tiny, tmp_path, capsys):
    record = run_step("prepare", tiny, {}, tmp_path / "out")
    assert names(tmp_path / "out") == [
        "files.json",
        "media",
        "metrics.prom",
        "rows.jsonl",
        "step.json",
    ]
    assert record == read_json(tmp_path / "out" / "step.json")
    assert datetime.fromisoformat(record["started"]).tzinfo is not None
    assert {name: record[name] for name in ("step", "section", "seed", "inputs", "summary")} == {
        "step": "prepare",
        "section": "prepare",
        "seed": 0,
        "inputs": {},
        "summary": {"queries": 4, "samples": BATCHES, "share": 0.25},
    }
    assert record["config"] == tiny.prepare.model_dump(mode="json")
    assert record["config_hash"] == digest(tiny.prepare)
    assert record["recipe_hash"] == tiny.identity
    assert record["profile_hash"] == profile_hash(tiny.profile)
    assert (record["recipe"], record["profile"], record["models"]) == (
        "tiny",
        tiny.profile.model_dump(mode="json"),
        {},
    )
    assert record["input_keys"] == {}
    assert record["code"] == {"digest": code_digest(), "revision": git_revision()}
    assert record["digest"] == digest_directory(tmp_path / "out")
    metrics = (tmp_path / "out" / "metrics.prom").read_text()
    assert 'omni_step_duration_seconds{stage="prepare",step="prepare"}' in metrics
    assert 'omni_step_samples{stage="prepare",step="prepare"} 12.0' in metrics
    assert capsys.readouterr().out.startswith("prepare: 0.")


def test_finished_result_is_returned_at_once(fake, tiny, tmp_path, capsys):
    first = run_step("prepare", tiny, {}, tmp_path / "out")
    assert run_step("prepare", tiny, {}, tmp_path / "out") == first
    assert fake.runs == 1
    assert (
        capsys.readouterr().out.splitlines()[1]
        == "prepare: done before  queries 4  samples 12  share 0.25"
    )


@pytest.mark.parametrize(
    ("override", "again"),
    [
        ("seed=1", True),
        ("prepare.controls=50", True),
        ("profile.max_new_tokens=9", True),
        ("threads=1", False),
        ("rlvr.steps=3", False),
        ("model=embedded:other", False),
        ("name=other", False),
    ],
)
def test_result_is_replaced_only_if_its_key_changed(fake, tiny, tmp_path, override, again):
    first = run_step("prepare", tiny, {}, tmp_path / "out")
    (tmp_path / "out" / "left-over").mkdir()
    second = run_step(
        "prepare", load_recipe("tiny", [override]), {}, tmp_path / "out", replace=True
    )
    assert fake.runs == 1 + again
    assert (first["key"] != second["key"]) is again
    assert ("left-over" in names(tmp_path / "out")) is not again
    assert names(tmp_path) == ["out", "out.lock", *(["out.replacing.lock"] if again else [])]


def snapshot(directory):
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["prepare.controls=50"],
            (
                "holds a finished prepare: prepare.controls 100 -> 50. Give another --output, or"
                " --replace"
            ),
        ),
        (["seed=1"], "holds a finished prepare: seed 0 -> 1."),
        (["profile.style=letter"], "holds a finished prepare: profile.style value -> letter."),
        (["prepare.rlvr_mix.sum=2"], "prepare.rlvr_mix.sum 4.0 -> 2.0."),
    ],
)
def test_result_of_other_settings_is_left_alone(fake, tiny, tmp_path, overrides, told):
    run_step("prepare", tiny, {}, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    with refused(ConfigError, "output-of-other-settings", path=tmp_path / "out") as caught:
        run_step("prepare", load_recipe("tiny", overrides), {}, tmp_path / "out")
    assert told in str(caught.value)
    assert fake.runs == 1
    assert snapshot(tmp_path / "out") == before


def test_result_is_replaced_after_the_new_one_finished(monkeypatch, tiny, tmp_path):
    put(monkeypatch, "prepare", Fake())
    run_step("prepare", tiny, {}, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    other = load_recipe("tiny", ["seed=1"])
    put(monkeypatch, "prepare", Fake(stop_at=8, error=RuntimeError("fell over")))
    with pytest.raises(RuntimeError):
        run_step("prepare", other, {}, tmp_path / "out", replace=True)
    assert snapshot(tmp_path / "out") == before
    fake = put(monkeypatch, "prepare", Fake())
    record = run_step("prepare", other, {}, tmp_path / "out", replace=True)
    assert fake.batches == BATCHES - 8
    assert record == read_json(tmp_path / "out" / "step.json")
    assert record["seed"] == 1


def test_kill_between_the_renames_loses_no_result(monkeypatch, fake, tiny, tmp_path):
    run_step("prepare", tiny, {}, tmp_path / "out")
    rename = Path.rename

    def killed(self, target):
        if self.name == "out.replacing":
            raise KeyboardInterrupt
        return rename(self, target)

    other = load_recipe("tiny", ["seed=1"])
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            run_step("prepare", other, {}, tmp_path / "out", replace=True)
    assert not (tmp_path / "out").exists()
    assert run_step("prepare", tiny, {}, tmp_path / "out")["seed"] == 0
    assert run_step("prepare", other, {}, tmp_path / "out", replace=True)["seed"] == 1
    assert fake.runs == 2


def test_replacing_result_may_come_from_the_cache(fake, tiny, tmp_path):
    other = load_recipe("tiny", ["seed=1"])
    for recipe in (tiny, other, tiny):
        record = run_step(
            "prepare", recipe, {}, tmp_path / "out", cache=tmp_path / "cache", replace=True
        )
        assert record == read_json(tmp_path / "out" / "step.json")
        assert record["seed"] == recipe.seed
    assert fake.runs == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda out: (out / "rows.jsonl").write_text("changed"),
        lambda out: (out / "media" / "a.bin").unlink(),
        lambda out: (out / "step.json").write_text("{"),
    ],
)
def test_damaged_result_is_rerun(fake, tiny, tmp_path, damage):
    cached = run_step("prepare", tiny, {}, tmp_path / "out", cache=tmp_path / "cache")
    directory = tmp_path / "cache" / f"prepare-{cached['key'][:16]}"
    damage(directory)
    run_step("prepare", tiny, {}, tmp_path / "again", cache=tmp_path / "cache")
    assert fake.runs == 2
    assert len(read_jsonl(tmp_path / "again" / "rows.jsonl", dict)) == BATCHES


@pytest.mark.parametrize(
    ("fill", "code"),
    [
        (
            lambda out: out.mkdir() or (out / "thesis.tex").write_text("years"),
            "output-not-empty",
        ),
        (lambda out: out.write_text("years"), "output-is-file"),
        (lambda out: made(out, "probe"), "output-of-other-step"),
    ],
)
def test_foreign_output_is_left_alone(fake, tiny, tmp_path, fill, code):
    fill(tmp_path / "out")

    def contents():
        return {
            path: path.read_text()
            for path in (tmp_path / "out", *tmp_path.rglob("out/*"))
            if path.is_file()
        }

    before = contents()
    with refused(ConfigError, code, path=tmp_path / "out"):
        run_step("prepare", tiny, {}, tmp_path / "out")
    assert fake.runs == 0
    assert before
    assert contents() == before


def test_full_disk_is_one_error_and_keeps_the_journal(monkeypatch, tiny, tmp_path):
    put(
        monkeypatch,
        "prepare",
        Fake(stop_at=5, error=OSError(errno.ENOSPC, "No space left on device")),
    )
    with pytest.raises(StorageError, match=r"no space left on the disk of .*out"):
        run_step("prepare", tiny, {}, tmp_path / "out")
    assert len(list(Journal(tmp_path / "out" / "work.journal"))) == 5


@pytest.mark.parametrize("name", ["trl", "omnicore.absent"])
def test_missing_library_is_named_missing_module_is_a_bug(monkeypatch, tiny, tmp_path, name):
    error = ModuleNotFoundError(f"No module named {name!r}", name=name)
    put(monkeypatch, "prepare", Fake(stop_at=0, error=error))
    if name == "trl":
        with refused(ConfigError, "package-missing", field="trl") as caught:
            run_step("prepare", tiny, {}, tmp_path / "out")
        assert "[train]" in str(caught.value)
    else:
        with pytest.raises(ModuleNotFoundError):
            run_step("prepare", tiny, {}, tmp_path / "out")


def test_cached_result_is_linked_into_any_output(fake, tiny, tmp_path, capsys):
    first = run_step("prepare", tiny, {}, tmp_path / "a", cache=tmp_path / "cache")
    second = run_step("prepare", tiny, {}, tmp_path / "b", cache=tmp_path / "cache")
    assert fake.runs == 1
    assert first == second == read_json(tmp_path / "b" / "step.json")
    cached = tmp_path / "cache" / f"prepare-{first['key'][:16]}"
    for name in ("rows.jsonl", "media/a.bin", "metrics.prom", "step.json"):
        assert (tmp_path / "b" / name).samefile(cached / name)
    assert digest_directory(tmp_path / "b") == first["digest"]
    assert capsys.readouterr().out.splitlines()[1].startswith("prepare: done before")


def test_cached_result_is_copied_without_links(fake, tiny, tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    record = run_step("prepare", tiny, {}, tmp_path / "a", cache=tmp_path / "cache")
    assert digest_directory(tmp_path / "a") == record["digest"]
    assert not (tmp_path / "a" / "rows.jsonl").samefile(
        tmp_path / "cache" / f"prepare-{record['key'][:16]}" / "rows.jsonl"
    )


def test_locked_output_is_busy_after_a_while(fake, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(outputs, "WAIT", 0.05)
    monkeypatch.setattr(outputs, "POLL", 0.01)
    with (tmp_path / "out.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with refused(StepBusy, "output-busy", path=tmp_path / "out"):
            run_step("prepare", tiny, {}, tmp_path / "out")
    assert capsys.readouterr().err.splitlines() == [
        f"another process works on {tmp_path / 'out'}; waiting"
    ]
    assert fake.runs == 0
    assert run_step("prepare", tiny, {}, tmp_path / "out")["step"] == "prepare"


def test_killed_holder_frees_the_lock(fake, tiny, tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from omnicore.runtime.outputs import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Timeout):
            FileLock(tmp_path / "out.lock").acquire(timeout=0)
        holder.kill()
    assert run_step("prepare", tiny, {}, tmp_path / "out")["step"] == "prepare"
