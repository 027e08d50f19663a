"""Trace figures and files to their origins, and report broken chains."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from omnicore.cli.main import main
from omnicore.config.recipe import load_recipe
from omnicore.errors import DataError
from omnicore.lineage import model_card
from omnicore.lineage.step_record import read_step
from omnicore.lineage.trace import trace
from omnicore.storage.digests import digest_directory, model_directory, sha256_file
from tests.errors import refused
from tests.unit.test_card import described, finished, rows

BASE, OTHER = "embedded:tiny-base", "a-model"
RECIPE = load_recipe("tiny", ["profile.instruction=Answer with one word."])


def estimate(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 40}


def scores(clean: float) -> str:
    return json.dumps({"clean": {"macro": estimate(clean), "micro": estimate(0.25)}, "errors": 7})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run: prepare, sft, evaluations of base, sft and another model, and a report of them."""
    root = tmp_path_factory.mktemp("whole") / "run"
    facts = {
        "seed": 0,
        "recipe": "tiny",
        "recipe_hash": RECIPE.identity,
        "profile": RECIPE.profile.model_dump(),
        "profile_hash": "p",
    }

    def made(
        section: str, files: dict[str, str], inputs: dict[str, Path], name: str = "", **fields: Any
    ) -> Path:
        records = {role: read_step(path) for role, path in inputs.items()}
        digests, keys = (
            {role: record[field] for role, record in records.items()} for field in ("digest", "key")
        )
        own = {
            "key": name or section,
            "inputs": digests,
            "input_keys": keys,
            "config": {"of": name or section},
        }
        return finished(root / (name or section), section, files, **facts, **own, **fields)

    models = {BASE: digest_directory(model_directory(BASE))}
    data = made("prepare", {"queries.jsonl": "{}\n", "sft.jsonl": rows(sft=3)}, {})
    weights = {"checkpoint/model.safetensors": "weights", "checkpoint/config.json": "{}"}
    (root / "sft" / "checkpoint").mkdir(parents=True)
    model_card.write_card(root / "sft" / "checkpoint", described(RECIPE, {"data": data}))
    sft = made("sft", weights, {"data": data}, models=models)
    base = made(
        "evaluate",
        {"scores.json": scores(0.5012)},
        {"queries": data},
        "evaluate-base",
        models=models,
    )
    after = made(
        "evaluate",
        {"scores.json": scores(0.89149)},
        {"queries": data, "model": sft},
        "evaluate-sft",
    )
    other = made(
        "evaluate",
        {"scores.json": scores(0.5012)},
        {"queries": data},
        "evaluate-other",
        models={OTHER: "0" * 64},
    )
    assert read_step(other)["digest"] == read_step(base)["digest"]  # two models with equal answers
    shown = {
        "stages": {"base": json.loads(scores(0.5012)), "sft": json.loads(scores(0.89149))},
        "gain": {"sft": 0.39029},
    }
    arms = {"base": base, "sft": after, "control": other}
    made(
        "report",
        {"report.json": json.dumps(shown), "report.html": "page"},
        {"queries": data, **arms},
    )
    shutil.copytree(sft, root / "outputs" / "sft")  # as kfp's artefacts lie beside the cache
    shutil.copy(root / "report" / "report.html", root / "report.html")
    return root


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def run_trace(
    capsys: pytest.CaptureFixture[str], wanted: str | Path, root: Path
) -> tuple[int, str, str]:
    status = main(["trace", str(wanted), "--in", str(root)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize("wanted", ["89.1", "89.15", "0.891", "0.89149", "89.1%", "89"])
def test_score_leads_to_weights_data_prompts_and_code(
    whole: Path, capsys: pytest.CaptureFixture[str], wanted: str
) -> None:
    status, out, _ = run_trace(capsys, wanted, whole)
    assert status == 0
    first, second, *tree = out.splitlines()
    assert (
        first
        == f"evaluate of sft  {whole}/evaluate-sft/scores.json  clean.macro  89.15 [84.15, 94.15],"
        " n 40"
    )
    assert second.startswith(
        f"copied to report  {whole}/report/report.json  stages.sft.clean.macro"
    )
    text = "\n".join(tree)
    weights = whole / "sft" / "checkpoint" / "model.safetensors"
    for fact in (
        f"model: sft  {whole}/sft\n",
        f"weights checkpoint/model.safetensors, sha256 {sha256_file(weights)}",
        f"data sft.jsonl, 3 rows, sha256 {sha256_file(whole / 'prepare' / 'sft.jsonl')}",
        f"base {BASE}, digest {digest_directory(model_directory(BASE))}",
        '"instruction": "Answer with one word."',
        (
            f"code omnicore {read_step(whole / 'sft')['versions']['omnicore']}, digest"
            f" {read_step(whole / 'sft')['code']['digest']}"
        ),
        f"recipe tiny {RECIPE.identity}, seed 0",
        f"data: prepare  {whole}/prepare  (above)",
    ):
        assert fact in text, fact
    assert text.count("Answer with one word.") == 1  # facts of all steps appear once
    assert "ALTERED" not in text


def test_score_of_several_steps_lists_all(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run_trace(capsys, "25.0", whole)
    assert status == 0
    assert re.findall(r"^(?!copied)(.*)/scores\.json  (.*)$", out, re.MULTILINE) == [
        (f"evaluate of {BASE}  {whole}/evaluate-base", "clean.micro  25.00 [20.00, 30.00], n 40"),
        (f"evaluate of {OTHER}  {whole}/evaluate-other", "clean.micro  25.00 [20.00, 30.00], n 40"),
        (f"evaluate of sft  {whole}/evaluate-sft", "clean.micro  25.00 [20.00, 30.00], n 40"),
    ]
    assert "3 outputs hold it independently: trace one by its file" in out
    assert "recipe" not in out


@pytest.mark.parametrize(
    ("place", "first"),
    [
        ("sft/checkpoint/model.safetensors", "sft  {root}/sft/checkpoint/model.safetensors"),
        ("sft/checkpoint", "sft  {root}/sft/checkpoint"),
        ("evaluate-sft", "evaluate of sft  {root}/evaluate-sft"),
        ("report.html", "report  {root}/report/report.html  the same bytes"),
        (
            "outputs/sft/checkpoint/model.safetensors",
            "sft  {root}/outputs/sft/checkpoint/model.safetensors",
        ),
    ],
)
def test_file_leads_to_its_step(
    whole: Path, capsys: pytest.CaptureFixture[str], place: str, first: str
) -> None:
    status, out, _ = run_trace(capsys, whole / place, whole)
    assert status == 0
    assert out.splitlines()[0] == first.format(root=whole)
    assert f"data sft.jsonl, 3 rows, sha256 {sha256_file(whole / 'prepare' / 'sft.jsonl')}" in out


def test_models_with_equal_answers_stay_apart(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run_trace(capsys, whole / "report.html", whole)
    assert f"── base: evaluate of {BASE}  {whole}/evaluate-base\n" in out
    assert f"── control: evaluate of {OTHER}  {whole}/evaluate-other\n" in out


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ("12.34", "trace-number-not-found"),
        # The end of an interval is not a score.
        ("84.15", "trace-number-not-found"),
        ("nothing.html", "trace-argument-invalid"),
    ],
)
def test_unknown_number_or_file_is_refused(
    whole: Path, capsys: pytest.CaptureFixture[str], wanted: str, code: str
) -> None:
    with refused(DataError, code):
        trace(wanted, whole)
    assert capsys.readouterr().out == ""


def test_foreign_file_and_empty_directory_are_refused(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "strange.bin").write_text("strange")
    with refused(DataError, "trace-file-not-found", path=tmp_path / "strange.bin"):
        trace(str(tmp_path / "strange.bin"), whole)
    with refused(DataError, "trace-no-outputs", path=tmp_path):
        trace("89.1", tmp_path)


@pytest.mark.parametrize(
    ("broken", "shown", "message"),
    [
        (
            "remove",
            "data: MISSING {digest}",
            "data of sft {root}/sft: no output below {root} has digest {digest}",
        ),
        (
            "alter",
            "ALTERED since it was finished",
            "{root}/prepare: its files do not match its digest {digest}",
        ),
    ],
)
def test_broken_chain_is_shown_and_refused(
    run: Path, capsys: pytest.CaptureFixture[str], broken: str, shown: str, message: str
) -> None:
    values = {"root": run, "digest": read_step(run / "prepare")["digest"]}
    if broken == "remove":
        shutil.rmtree(run / "prepare")
    else:
        (run / "prepare" / "sft.jsonl").write_text(rows(sft=2))
    status, out, err = run_trace(capsys, "89.1", run)
    assert status == 2
    assert shown.format(**values) in out
    assert "weights checkpoint/model.safetensors" in out
    assert "the chain is broken:" in err
    assert message.format(**values) in err


def test_changed_base_breaks_the_chain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    models = {str(tmp_path / "base"): digest_directory(tmp_path / "base")}
    finished(tmp_path / "run" / "evaluate", "evaluate", {"scores.json": scores(0.5)}, models=models)
    assert run_trace(capsys, "50.0", tmp_path / "run")[0] == 0
    (tmp_path / "base" / "config.json").write_text('{"rope_theta": 1}')
    status, out, err = run_trace(capsys, "50.0", tmp_path / "run")
    assert status == 2
    assert "ALTERED since" in out
    assert f"model {tmp_path / 'base'}: its files do not match digest" in err


def test_step_of_an_older_version_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = finished(tmp_path / "evaluate", "evaluate", {"scores.json": scores(0.5)})
    record = read_step(made)
    (made / "step.json").write_text(
        json.dumps({name: value for name, value in record.items() if name != "code"})
    )
    status, out, _ = run_trace(capsys, "50.0", tmp_path)
    assert status == 0
    assert "digest not recorded" in out
    assert "config not recorded" in out


def test_lines_are_plain_and_whole_in_a_pipe(
    whole: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    _, out, _ = run_trace(capsys, "89.1", whole)
    assert "\x1b" not in out
    assert (
        "weights checkpoint/model.safetensors, sha256"
        f" {sha256_file(whole / 'sft' / 'checkpoint' / 'model.safetensors')}\n" in out
    )
    assert all(line == line.rstrip() for line in out.splitlines())
