"""What `run_step` finds, refuses and leaves alone, and which results it makes again."""

import errno
import fcntl
import re
import shutil
import time
from datetime import datetime
from pathlib import Path

import pytest

from omnicore.config import digest
from omnicore.config.recipe import load_recipe
from omnicore.data.prompts import profile_hash
from omnicore.errors import ConfigError, DataError, StepBusy, StorageError
from omnicore.lineage.code_version import code_digest, git_revision
from omnicore.runtime import run
from omnicore.runtime.run import run_step
from omnicore.steps import STEPS
from omnicore.storage.digests import digest_directory
from omnicore.storage.files import read_json, read_jsonl, write_json
from omnicore.storage.journal import Journal
from tests.unit.run_fixture import BATCHES, Fake, fake, finish, made, names, put, tiny

__all__ = ["fake", "tiny"]


def test_a_result_is_finished_with_its_record(fake, tiny, tmp_path, capsys):
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


def test_a_finished_result_is_returned_at_once(fake, tiny, tmp_path, capsys):
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
def test_a_result_is_replaced_only_when_something_it_depends_on_changed(
    fake, tiny, tmp_path, override, again
):
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
def test_a_finished_result_of_other_settings_is_left_alone(fake, tiny, tmp_path, overrides, told):
    run_step("prepare", tiny, {}, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    with pytest.raises(ConfigError, match=re.escape(told)):
        run_step("prepare", load_recipe("tiny", overrides), {}, tmp_path / "out")
    assert fake.runs == 1
    assert snapshot(tmp_path / "out") == before


def test_a_result_is_exchanged_only_once_the_new_one_is_finished(monkeypatch, tiny, tmp_path):
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


def test_a_kill_between_the_renames_loses_neither_result(monkeypatch, fake, tiny, tmp_path):
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


def test_a_replaced_output_may_come_from_the_cache(fake, tiny, tmp_path):
    other = load_recipe("tiny", ["seed=1"])
    for recipe in (tiny, other, tiny):
        record = run_step(
            "prepare", recipe, {}, tmp_path / "out", cache=tmp_path / "cache", replace=True
        )
        assert record == read_json(tmp_path / "out" / "step.json")
        assert record["seed"] == recipe.seed
    assert fake.runs == 2


def test_other_code_of_the_step_gives_another_key(fake, tiny, tmp_path, monkeypatch):
    first = run_step("prepare", tiny, {}, tmp_path / "out")
    monkeypatch.setattr(run, "step_code_digest", lambda step: "another")
    with pytest.raises(ConfigError, match="holds a finished prepare: other code of this step"):
        run_step("prepare", tiny, {}, tmp_path / "out")
    assert run_step("prepare", tiny, {}, tmp_path / "out", replace=True)["key"] != first["key"]
    assert fake.runs == 2


def test_inputs_count_by_their_content(monkeypatch, tiny, tmp_path):
    fake = put(monkeypatch, "probe", Fake())
    a, same, other = (
        made(tmp_path / name, "prepare", text)
        for name, text in (("a", "1"), ("same", "1"), ("other", "2"))
    )
    record = run_step("probe", tiny, {"queries": a}, tmp_path / "out")
    assert record["inputs"] == {"queries": digest_directory(a)}
    assert fake.seen == (tiny, tiny.probe, {"queries": a})
    assert run_step("probe", tiny, {"queries": same}, tmp_path / "out")["key"] == record["key"]
    with pytest.raises(
        ConfigError, match=r"holds a finished probe: another content of inputs\.queries"
    ):
        run_step("probe", tiny, {"queries": other}, tmp_path / "out")
    assert fake.runs == 1


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda place: (place / "rows.jsonl").write_text("sown"),
            "rows.jsonl was changed after the step was finished",
        ),
        (
            lambda place: (place / "rows.jsonl").write_text("rows, and more"),
            "rows.jsonl was changed after the step was finished",
        ),
        (
            lambda place: (place / "rows.jsonl").unlink(),
            "rows.jsonl is missing since the step was finished",
        ),
        (
            lambda place: (place / "more.jsonl").write_text("x"),
            "more.jsonl was added after the step was finished; remove it",
        ),
        (
            lambda place: write_json(place / "files.json", {"rows.jsonl": [4, 0, "0" * 64]}),
            "files.json is not that of the step.json",
        ),
    ],
)
def test_an_input_that_was_changed_since_is_refused_by_name(
    monkeypatch, tiny, tmp_path, change, told, copied
):
    fake = put(monkeypatch, "probe", Fake())
    queries = made(tmp_path / "queries", "prepare")
    if copied:
        queries = shutil.copytree(queries, tmp_path / "copy", copy_function=shutil.copyfile)
    run_step("probe", tiny, {"queries": queries}, tmp_path / "out")
    time.sleep(0.01)  # file systems tell times of change apart by milliseconds
    change(queries)
    for output in ("out", "other"):
        with pytest.raises(DataError, match=re.escape(told)):
            run_step("probe", tiny, {"queries": queries}, tmp_path / output)
    assert fake.runs == 1


@pytest.mark.parametrize(
    "change", [Path.unlink, lambda path: path.write_text("noise")], ids=["lost", "changed"]
)
def test_changed_medium_stops_training_and_no_question(monkeypatch, tiny, tmp_path, change):
    queries = made(tmp_path / "queries", "prepare")
    (queries / "media").mkdir()
    (queries / "media" / "a.wav").write_text("tone")
    finish(queries)
    change(queries / "media" / "a.wav")
    asked, taught = put(monkeypatch, "probe", Fake()), put(monkeypatch, "sft", Fake())
    run_step("probe", tiny, {"queries": queries}, tmp_path / "probe")
    with pytest.raises(
        DataError, match=r"media/a\.wav (was changed after|is missing since) the step was finished"
    ):
        run_step("sft", tiny, {"data": queries}, tmp_path / "sft")
    assert (asked.runs, taught.runs) == (1, 0)


def test_an_input_without_a_list_of_files_is_read_whole(monkeypatch, tiny, tmp_path):
    put(monkeypatch, "probe", Fake())
    queries = made(tmp_path / "queries", "prepare")
    (queries / "files.json").unlink()
    run_step("probe", tiny, {"queries": queries}, tmp_path / "out")
    (queries / "rows.jsonl").write_text("sown")
    with pytest.raises(DataError, match="queries was changed after it was finished"):
        run_step("probe", tiny, {"queries": queries}, tmp_path / "out")


def test_a_section_lends_its_config_and_its_own_key(monkeypatch, tiny, tmp_path):
    fake = put(monkeypatch, "probe", Fake())
    queries = made(tmp_path / "queries", "prepare")
    record = run_step("probe", tiny, {"queries": queries}, tmp_path / "out", section="second_probe")
    assert fake.seen[1] == tiny.second_probe
    assert (record["step"], record["section"]) == ("probe", "second_probe")


def key_of(step, recipe, inputs, tmp_path):
    return run._plan(step, step, recipe, inputs, tmp_path / "out").key


def test_the_recipes_model_counts_only_where_it_is_used(tiny, tmp_path):
    inputs = {
        "queries": made(tmp_path / "queries", "prepare"),
        "manifest": made(tmp_path / "clean", "clean"),
    }
    trained = {**inputs, "model": made(tmp_path / "sft", "sft")}
    other = load_recipe("tiny", ["model=embedded:other"])
    assert key_of("evaluate", tiny, inputs, tmp_path) != key_of("evaluate", other, inputs, tmp_path)
    assert key_of("evaluate", tiny, trained, tmp_path) == key_of(
        "evaluate", other, trained, tmp_path
    )


@pytest.mark.parametrize(("step", "override"), [("sft", "model"), ("probe", "probe.model")])
def test_a_model_directory_counts_by_its_content(tmp_path, step, override):
    model = tmp_path / "model"
    model.mkdir()
    inputs = {"data" if step == "sft" else "queries": made(tmp_path / "data", "prepare")}
    recipe = load_recipe("tiny", [f"{override}={model}"])
    (model / "model.safetensors").write_bytes(b"1")
    before = key_of(step, recipe, inputs, tmp_path)
    (model / "model.safetensors").write_bytes(b"2")
    assert key_of(step, recipe, inputs, tmp_path) != before


def test_the_report_depends_on_the_whole_recipe(tiny, tmp_path):
    inputs = {
        role: made(tmp_path / role, of[0], role) for role, of in STEPS["report"].required.items()
    }
    changed = load_recipe("tiny", ["rlvr.steps=3"])
    assert key_of("report", tiny, inputs, tmp_path) != key_of("report", changed, inputs, tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda out: (out / "rows.jsonl").write_text("changed"),
        lambda out: (out / "media" / "a.bin").unlink(),
        lambda out: (out / "step.json").write_text("{"),
    ],
)
def test_a_damaged_result_is_made_again(fake, tiny, tmp_path, damage):
    cached = run_step("prepare", tiny, {}, tmp_path / "out", cache=tmp_path / "cache")
    directory = tmp_path / "cache" / f"prepare-{cached['key'][:16]}"
    damage(directory)
    run_step("prepare", tiny, {}, tmp_path / "again", cache=tmp_path / "cache")
    assert fake.runs == 2
    assert len(read_jsonl(tmp_path / "again" / "rows.jsonl", dict)) == BATCHES


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (
            lambda out: out.mkdir() or (out / "thesis.tex").write_text("years"),
            "is not empty and holds no result of omnicore",
        ),
        (lambda out: out.write_text("years"), "is a file; give a directory"),
        (
            lambda out: made(out, "probe"),
            "holds a result of probe; give prepare a directory of its own",
        ),
    ],
)
def test_what_is_not_ours_to_replace_is_left_alone(fake, tiny, tmp_path, fill, message):
    fill(tmp_path / "out")

    def contents():
        return {
            path: path.read_text()
            for path in (tmp_path / "out", *tmp_path.rglob("out/*"))
            if path.is_file()
        }

    before = contents()
    with pytest.raises(ConfigError, match=message):
        run_step("prepare", tiny, {}, tmp_path / "out")
    assert fake.runs == 0
    assert before
    assert contents() == before


@pytest.mark.parametrize("output", ["queries", "queries/probe", "."])
def test_an_output_is_apart_from_its_inputs(monkeypatch, tiny, tmp_path, output):
    fake = put(monkeypatch, "probe", Fake())
    queries = made(tmp_path / "queries", "prepare")
    with pytest.raises(ConfigError, match="lie in one another"):
        run_step("probe", tiny, {"queries": queries}, tmp_path / output)
    assert fake.runs == 0
    assert names(queries) == ["files.json", "rows.jsonl", "step.json"]


@pytest.mark.parametrize(
    ("step", "section", "inputs", "error", "message"),
    [
        ("prober", None, {}, ConfigError, "no step 'prober'; steps are prepare, probe, clean"),
        (
            "probe",
            "sft_distilled",
            {"queries": "prepare"},
            ConfigError,
            "does not configure step probe; use probe or second_probe or distill_probe",
        ),
        ("probe", "seed", {"queries": "prepare"}, ConfigError, "section 'seed' does not configure"),
        (
            "probe",
            None,
            {},
            ConfigError,
            r"input 'queries' is missing. It takes queries \(from prepare\)",
        ),
        (
            "probe",
            None,
            {"queries": "prepare", "model": "sft"},
            ConfigError,
            "no input 'model'. It takes queries",
        ),
        (
            "clean",
            None,
            {"queries": "prepare"},
            ConfigError,
            r"'draws' is missing.*second_draws \(from probe, optional\)",
        ),
        ("prepare", None, {"queries": "prepare"}, ConfigError, "It takes no inputs"),
        (
            "sft",
            None,
            {"data": "probe"},
            ConfigError,
            r"input 'data' is probe's .*in-data; it must come from prepare or distill",
        ),
        (
            "probe",
            None,
            {"queries": None},
            DataError,
            "in-queries: no such directory; run the step that makes it first",
        ),
    ],
)
def test_a_wrong_request_says_what_is_right(tiny, tmp_path, step, section, inputs, error, message):
    paths = {
        role: made(tmp_path / f"in-{role}", by) if by else tmp_path / f"in-{role}"
        for role, by in inputs.items()
    }
    with pytest.raises(error, match=message):
        run_step(step, tiny, paths, tmp_path / "out", section=section)
    assert not (tmp_path / "out").exists()


def test_an_unfinished_input_is_refused(tiny, tmp_path):
    (tmp_path / "queries").mkdir()
    with pytest.raises(DataError, match="is not a finished output: no step"):
        run_step("probe", tiny, {"queries": tmp_path / "queries"}, tmp_path / "out")


def test_a_full_disk_is_one_clear_error_and_keeps_the_journal(monkeypatch, tiny, tmp_path):
    put(
        monkeypatch,
        "prepare",
        Fake(stop_at=5, error=OSError(errno.ENOSPC, "No space left on device")),
    )
    with pytest.raises(StorageError, match=r"no space left on the disk of .*out"):
        run_step("prepare", tiny, {}, tmp_path / "out")
    assert len(list(Journal(tmp_path / "out" / "work.journal"))) == 5


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "trl",
            ConfigError,
            r"step prepare needs trl, which is not installed: pip install 'omnicore\[train\]'",
        ),
        ("omnicore.absent", ModuleNotFoundError, "No module named"),
    ],
)
def test_a_missing_library_is_named_and_a_missing_room_is_a_bug(
    monkeypatch, tiny, tmp_path, name, error, message
):
    put(
        monkeypatch,
        "prepare",
        Fake(stop_at=0, error=ModuleNotFoundError(f"No module named {name!r}", name=name)),
    )
    with pytest.raises(error, match=message):
        run_step("prepare", tiny, {}, tmp_path / "out")


def test_a_cached_result_is_linked_into_any_output(fake, tiny, tmp_path, capsys):
    first = run_step("prepare", tiny, {}, tmp_path / "a", cache=tmp_path / "cache")
    second = run_step("prepare", tiny, {}, tmp_path / "b", cache=tmp_path / "cache")
    assert fake.runs == 1
    assert first == second == read_json(tmp_path / "b" / "step.json")
    cached = tmp_path / "cache" / f"prepare-{first['key'][:16]}"
    for name in ("rows.jsonl", "media/a.bin", "metrics.prom", "step.json"):
        assert (tmp_path / "b" / name).samefile(cached / name)
    assert digest_directory(tmp_path / "b") == first["digest"]
    assert capsys.readouterr().out.splitlines()[1].startswith("prepare: done before")


def test_without_links_a_cached_result_is_copied(fake, tiny, tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    record = run_step("prepare", tiny, {}, tmp_path / "a", cache=tmp_path / "cache")
    assert digest_directory(tmp_path / "a") == record["digest"]
    assert not (tmp_path / "a" / "rows.jsonl").samefile(
        tmp_path / "cache" / f"prepare-{record['key'][:16]}" / "rows.jsonl"
    )


def test_a_directory_at_work_is_busy_after_a_while(fake, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "WAIT", 0.05)
    monkeypatch.setattr(run, "POLL", 0.01)
    with (tmp_path / "out.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(StepBusy, match=r"another process works on .*out"):
            run_step("prepare", tiny, {}, tmp_path / "out")
    assert capsys.readouterr().err.splitlines() == [
        f"another process works on {tmp_path / 'out'}; waiting"
    ]
    assert fake.runs == 0
    assert run_step("prepare", tiny, {}, tmp_path / "out")["step"] == "prepare"
