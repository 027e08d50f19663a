"""Several evaluations side by side: values, paired differences, outputs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from omnicore.cli.main import main
from omnicore.errors import ConfigError
from omnicore.evaluation.compare import compare_evaluations
from omnicore.evaluation.leaderboard import Leaderboard, build_leaderboard, leaderboard_csv
from omnicore.report.leaderboard import headline, render_leaderboard
from tests.errors import refused
from tests.unit.evaluate_fixture import evaluated, inputs, query

MANY = [query("daily_omni", i, "Event" if i < 30 else "Inference", "dog") for i in range(60)]
REMOVED = {q.key for q in MANY[:20]}
WORSE = {f"daily_omni {i:02d}": "A" for i in range(40)}


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A model that misses forty of sixty, one that misses none, and one as the first."""
    given = inputs(tmp_path, MANY, REMOVED)
    return [
        evaluated(tmp_path / "worse", WORSE, given, monkeypatch),
        evaluated(tmp_path / "better", {}, given, monkeypatch),
        evaluated(tmp_path / "same", WORSE, given, monkeypatch),
    ]


def test_every_model_is_compared_with_the_first(folders: list[Path]) -> None:
    board = build_leaderboard(folders)
    raw, clean = board.rows[:2]
    assert [(row.group, row.view) for row in (raw, clean)] == [("", "raw"), ("", "clean")]
    assert [cell.value for cell in raw.cells] == pytest.approx([1 / 3, 1, 1 / 3])
    assert [cell.value for cell in clean.cells] == pytest.approx([0.5, 1, 0.5])
    assert raw.cells[0].difference is None
    pair = compare_evaluations(folders[0], folders[1])["rows"][0]
    assert raw.cells[1].difference.model_dump() == pair["difference"]
    assert raw.cells[2].difference.value == 0
    half = (raw.cells[1].difference.high - raw.cells[1].difference.low) / 2
    assert raw.cells[1].detectable == pytest.approx(half * 2.8016 / 1.96, rel=1e-3)


def test_groups_are_benchmarks_or_types(folders: list[Path]) -> None:
    groups = [row.group for row in build_leaderboard(folders).rows if row.view == "raw"]
    assert groups == ["", "daily_omni"]
    types = [row.group for row in build_leaderboard(folders, "type").rows if row.view == "raw"]
    assert types == ["", "daily_omni/Event", "daily_omni/Inference"]


def test_wordings_of_a_type_are_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worded = [q.model_copy(update={"wording": f"form-{i % 2}"}) for i, q in enumerate(MANY)]
    given = inputs(tmp_path, worded, REMOVED)
    folders = [
        evaluated(tmp_path / name, said, given, monkeypatch)
        for name, said in (("a", WORSE), ("b", {}))
    ]
    board = build_leaderboard(folders, "wording")
    groups = {row.group: row.cells[0].n for row in board.rows if row.view == "raw"}
    assert groups == {
        "": 60,
        "Event/form-0": 15,
        "Event/form-1": 15,
        "Inference/form-0": 15,
        "Inference/form-1": 15,
    }


def test_equal_labels_carry_their_folder(folders: list[Path]) -> None:
    labels = [model.label for model in build_leaderboard(folders).models]
    assert labels == ["stub (worse)", "stub (better)", "stub (same)"]


def test_one_evaluation_is_no_comparison(folders: list[Path]) -> None:
    with refused(ConfigError, "compare-too-few"):
        build_leaderboard(folders[:1])


def test_csv_has_a_line_a_group_and_model(folders: list[Path]) -> None:
    board = build_leaderboard(folders)
    rows = list(csv.DictReader(io.StringIO(leaderboard_csv(board))))
    assert len(rows) == len(board.rows) * 3
    assert rows[0]["difference"] == ""
    assert float(rows[1]["difference"]) == pytest.approx(2 / 3)
    assert {row["view"] for row in rows} == {"raw", "clean"}


def test_the_page_says_who_differs(folders: list[Path]) -> None:
    board = build_leaderboard(folders)
    sentence = headline(board)
    assert sentence == (
        "On the clean view (40 queries): stub (better) beats stub (worse); stub (same) cannot be"
        " told from stub (worse)."
    )
    page = render_leaderboard(board)
    assert sentence in page
    assert page.count('<circle class="sure"') == 4  # better, on two views, in total and group
    assert "http" not in page.replace("http-equiv", "")


def test_compare_prints_tables_csv_json_and_a_page(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(folder) for folder in folders]
    capsys.readouterr()
    page = tmp_path / "compare.html"
    assert main(["compare", *names, "--page", str(page)]) == 0
    printed = capsys.readouterr().out
    assert "all queries" in printed
    assert "is found with a chance of 80%" in printed
    assert page.read_text().startswith("<!doctype html>")
    assert main(["compare", *names, "--csv"]) == 0
    assert capsys.readouterr().out == leaderboard_csv(build_leaderboard(folders))
    assert main(["compare", *names, "--json", "-"]) == 0
    read = Leaderboard.model_validate_json(capsys.readouterr().out)
    assert read == build_leaderboard(folders)
    assert main(["compare", *names[:2], "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["queries"] == 60
