"""What decides the key of a result, and which requests `run_step` refuses."""

import re
import shutil
import time
from pathlib import Path

import pytest

from omnicore.config.recipe import load_recipe
from omnicore.errors import ConfigError, DataError
from omnicore.runtime import keys
from omnicore.runtime.run import run_step
from omnicore.steps import STEPS
from omnicore.storage.digests import digest_directory
from omnicore.storage.files import write_json
from tests.errors import refused
from tests.unit.run_fixture import Fake, fake, finish, made, names, put, tiny

__all__ = ["fake", "tiny"]


def test_other_code_of_the_step_gives_another_key(fake, tiny, tmp_path, monkeypatch):
    first = run_step("prepare", tiny, {}, tmp_path / "out")
    monkeypatch.setattr(keys, "step_code_digest", lambda step: "another")
    with refused(ConfigError, "output-of-other-settings") as caught:
        run_step("prepare", tiny, {}, tmp_path / "out")
    assert "holds a finished prepare: other code of this step." in str(caught.value)
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
    with refused(ConfigError, "output-of-other-settings") as caught:
        run_step("probe", tiny, {"queries": other}, tmp_path / "out")
    assert "finished probe: another content of inputs.queries" in str(caught.value)
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
def test_changed_input_is_refused_by_name(monkeypatch, tiny, tmp_path, change, told, copied):
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


def test_input_without_file_list_is_read_whole(monkeypatch, tiny, tmp_path):
    put(monkeypatch, "probe", Fake())
    queries = made(tmp_path / "queries", "prepare")
    (queries / "files.json").unlink()
    run_step("probe", tiny, {"queries": queries}, tmp_path / "out")
    (queries / "rows.jsonl").write_text("sown")
    with pytest.raises(DataError, match="queries was changed after it was finished"):
        run_step("probe", tiny, {"queries": queries}, tmp_path / "out")


def test_section_has_its_own_config_and_key(monkeypatch, tiny, tmp_path):
    fake = put(monkeypatch, "probe", Fake())
    queries = made(tmp_path / "queries", "prepare")
    record = run_step("probe", tiny, {"queries": queries}, tmp_path / "out", section="second_probe")
    assert fake.seen[1] == tiny.second_probe
    assert (record["step"], record["section"]) == ("probe", "second_probe")


def key_of(step, recipe, inputs, tmp_path):
    return keys.plan_step(step, recipe, inputs, tmp_path / "out").key


def test_recipe_model_counts_only_where_used(tiny, tmp_path):
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
def test_model_directory_counts_by_content(tmp_path, step, override):
    model = tmp_path / "model"
    model.mkdir()
    inputs = {"data" if step == "sft" else "queries": made(tmp_path / "data", "prepare")}
    recipe = load_recipe("tiny", [f"{override}={model}"])
    (model / "model.safetensors").write_bytes(b"1")
    before = key_of(step, recipe, inputs, tmp_path)
    (model / "model.safetensors").write_bytes(b"2")
    assert key_of(step, recipe, inputs, tmp_path) != before


def test_report_depends_on_the_whole_recipe(tiny, tmp_path):
    inputs = {
        role: made(tmp_path / role, of[0], role) for role, of in STEPS["report"].required.items()
    }
    changed = load_recipe("tiny", ["rlvr.steps=3"])
    assert key_of("report", tiny, inputs, tmp_path) != key_of("report", changed, inputs, tmp_path)


@pytest.mark.parametrize("output", ["queries", "queries/probe", "."])
def test_output_and_inputs_may_not_overlap(monkeypatch, tiny, tmp_path, output):
    fake = put(monkeypatch, "probe", Fake())
    queries = made(tmp_path / "queries", "prepare")
    with refused(ConfigError, "output-overlaps-input", field="queries"):
        run_step("probe", tiny, {"queries": queries}, tmp_path / output)
    assert fake.runs == 0
    assert names(queries) == ["files.json", "rows.jsonl", "step.json"]


@pytest.mark.parametrize(
    ("step", "section", "inputs", "code", "words"),
    [
        ("prober", None, {}, "step-unknown", "'prober'; steps are prepare, probe, clean"),
        (
            "probe",
            "sft_distilled",
            {"queries": "prepare"},
            "section-of-other-step",
            "use probe or second_probe or distill_probe",
        ),
        ("probe", "seed", {"queries": "prepare"}, "section-of-other-step", "section 'seed'"),
        (
            "probe",
            None,
            {},
            "input-roles-wrong",
            "input 'queries' is missing. It takes queries (from prepare)",
        ),
        (
            "probe",
            None,
            {"queries": "prepare", "model": "sft"},
            "input-roles-wrong",
            "no input 'model'. It takes queries",
        ),
        (
            "clean",
            None,
            {"queries": "prepare"},
            "input-roles-wrong",
            "draws (from probe), second_draws (from probe, optional)",
        ),
        ("prepare", None, {"queries": "prepare"}, "input-roles-wrong", "It takes no inputs"),
        (
            "sft",
            None,
            {"data": "probe"},
            "input-of-other-step",
            "in-data; it must come from prepare or distill",
        ),
    ],
)
def test_wrong_request_names_what_is_right(tiny, tmp_path, step, section, inputs, code, words):
    paths = {role: made(tmp_path / f"in-{role}", producer) for role, producer in inputs.items()}
    with refused(ConfigError, code) as caught:
        run_step(step, tiny, paths, tmp_path / "out", section=section)
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_unfinished_input_is_refused(tiny, tmp_path):
    (tmp_path / "queries").mkdir()
    with pytest.raises(DataError, match="is not a finished output: no step"):
        run_step("probe", tiny, {"queries": tmp_path / "queries"}, tmp_path / "out")
