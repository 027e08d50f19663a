"""Commands of the user's doors: audit, runs, doctor, recipe, power, export."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from omnicore.cli.audit import own_source
from omnicore.cli.main import main
from omnicore.config.recipe import load_recipe
from omnicore.errors import ConfigError
from omnicore.schema import Query
from omnicore.storage.files import read_jsonl
from tests.e2e.test_audit_guide import reply
from tests.errors import refused
from tests.stub_server import Answer, Stub
from tests.unit.evaluate_fixture import evaluated, inputs
from tests.unit.test_runs import finish

ROWS = [{"q": f"Which {i}?", "choices": ["x", "y", "z"], "gold": "ABC"[i % 3]} for i in range(12)]
COLUMNS = "question=q,options=choices,answer=gold"


@pytest.fixture
def server() -> Iterator[Stub]:
    listed = json.dumps({"object": "list", "data": [{"id": "guesser"}]}).encode()
    with Stub(reply, models=Answer(listed)) as stub:
        yield stub


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_audit_of_a_table_prints_scores_and_the_page(
    table: Path, server: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--columns", COLUMNS, "--probe", server.url, "--evaluate", server.url]
    options += ["--set", "probe.draws.visual_only=2", "--run", "runs/mine"]
    assert main(["audit", "mine.jsonl", *options]) == 0
    printed = capsys.readouterr().out
    assert "runs/mine/report/report.html" in printed
    assert "guesser" in printed
    assert "12" in printed
    asked = server.asked
    assert main(["audit", "mine.jsonl", *options]) == 0
    assert server.asked == asked


def test_audit_prices_before_it_asks(
    table: Path, server: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--columns", COLUMNS, "--probe", server.url, "--run", "runs/mine"]
    assert main(["audit", "mine.jsonl", *options, "--dry-run", "--price", "1,1000000"]) == 0
    printed = capsys.readouterr().out
    assert "requests       120" in printed
    tokens = 120 * load_recipe("qwen3-vl-audit").profile.max_new_tokens
    assert f"together         {tokens:,}" in printed
    assert not Path("runs/mine/probe").exists()


AUDIT_MISTAKES: dict[str, tuple[list[str], str]] = {
    "benchmark": (["absent.jsonl"], "audit-benchmark-missing"),
    "columns": (["mine.jsonl", "--columns", "question"], "cli-columns-invalid"),
    "column": (["mine.jsonl", "--columns", "question=gone"], "benchmark-column-missing"),
    "price": (
        ["mine.jsonl", "--columns", COLUMNS, "--dry-run", "--price", "1"],
        "cli-price-invalid",
    ),
}


@pytest.mark.parametrize("name", AUDIT_MISTAKES)
def test_audit_names_what_is_wrong(
    table: Path, server: Stub, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    options, code = AUDIT_MISTAKES[name]
    assert main(["audit", *options, "--probe", server.url, "--run", "runs/mine"]) == 2
    assert f"[{code}]" in capsys.readouterr().err


def test_prepare_reads_a_table_by_columns(table: Path) -> None:
    options = ["--benchmark", "mine", "--root", str(table), "--columns", COLUMNS]
    assert main(["prepare", *options, "--sample", "4", "--seed", "3", "--output", "out"]) == 0
    queries = read_jsonl(Path("out/queries.jsonl"), Query)
    assert len(queries) == 4
    assert {query.benchmark for query in queries} == {"mine"}


def test_columns_become_a_source() -> None:
    source = own_source("a.csv", "question=q,options=A|B", "clips")
    assert source == {
        "path": "a.csv",
        "columns": {"question": "q", "options": "A|B"},
        "media": "clips",
    }
    with refused(ConfigError, "cli-columns-invalid", field="--columns"):
        own_source("a.csv", "question", "")


def test_runs_are_listed_removed_and_pruned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(tmp_path / "outputs" / "sft", "sft", "a", config={"steps": 45})
    finish(tmp_path / "cache" / "sft-b", "sft", "b", config={"steps": 4})
    assert main(["runs", "list", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "sft-a" in printed
    assert "steps=45" in printed
    assert main(["runs", "list", str(tmp_path), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {step["name"]: step["settings"]["steps"] for step in listed} == {"sft-a": 45, "sft-b": 4}
    assert main(["runs", "prune", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "cache" / "sft-b")]
    assert main(["runs", "rm", str(tmp_path), "sft"]) == 0
    assert not (tmp_path / "outputs" / "sft").exists()


def test_recipes_are_explained_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipe", "explain", "clean.max_fdr"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("clean.max_fdr: number, > 0 and < 1, default")
    assert "part of the key of a result" in printed
    (tmp_path / "mine.yaml").write_text("extends: tiny\nseed: 7\n")
    assert main(["recipe", "diff", "tiny", str(tmp_path / "mine.yaml")]) == 0
    assert capsys.readouterr().out == "seed: 0 -> 7\n"
    assert main(["recipe", "show", "tiny", "probe.draws", "--set", "probe.draws.audio_only=5"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown == load_recipe("tiny").model_dump(mode="json")["probe"]["draws"] | {
        "audio_only": 5
    }
    assert main(["recipe", "schema"]) == 0
    assert "extends" in json.loads(capsys.readouterr().out)["properties"]


def test_doctor_exits_with_what_cannot_run(
    server: Stub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stub guesses the canary's questions: nothing shows that it sees or hears."""
    monkeypatch.setattr("omnicore.runtime.doctor.check_machine", lambda: [])
    monkeypatch.setattr("omnicore.cli.doctor._print_findings", lambda findings: None)
    assert main(["doctor"]) == 0
    assert main(["doctor", "--server", "http://127.0.0.1:9/v1", "--model", "x"]) == 2
    assert "[doctor-failed]" in capsys.readouterr().err


def test_power_is_planned_from_one_or_two_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = inputs(tmp_path)
    a = evaluated(tmp_path / "a", {}, given, monkeypatch)
    b = evaluated(tmp_path / "b", {"daily_omni 02": "A"}, given, monkeypatch)
    capsys.readouterr()
    assert main(["power", str(a), "--view", "raw"]) == 0
    assert capsys.readouterr().out.count("points need") == 4
    assert main(["power", str(a), str(b), "--effect", "5"]) == 0
    printed = capsys.readouterr().out
    assert "10 clean queries" in printed
    assert "changed 10.0 %" in printed


def test_an_evaluation_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("inspect_ai", reason="inspect_ai is not installed")
    evaluation: Any = evaluated(tmp_path / "a", {}, inputs(tmp_path), monkeypatch)
    target = tmp_path / "a.eval"
    assert main(["export", str(evaluation), "--output", str(target)]) == 0
    assert target.stat().st_size > 1000
    assert "13 samples" in capsys.readouterr().out
