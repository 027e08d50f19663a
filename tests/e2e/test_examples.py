"""Run every example and compare its output with its README."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/run.py"))


def run(name: str, folder: Path) -> str:
    """Run one example in `folder`; return what it printed to stdout."""
    script = EXAMPLES / name / "run.py"
    done = subprocess.run(
        [sys.executable, str(script)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def shown(name: str) -> str:
    """Return the output block of an example's README."""
    (block,) = re.findall(r"```text\n(.*?)```", (EXAMPLES / name / "README.md").read_text(), re.S)
    return block


def test_overview_lists_every_example() -> None:
    linked = re.findall(r"\]\((\w+)/README\.md\)", (EXAMPLES / "README.md").read_text())
    folders = sorted(path.parent.name for path in EXAMPLES.glob("*/README.md"))
    assert sorted(linked) == folders
    assert len(NAMES) == 4
    for name in NAMES:
        assert f"python examples/{name}/run.py" in (EXAMPLES / name / "README.md").read_text()


@pytest.mark.parametrize("name", ["filter_benchmark", "judge_replies"])
def test_example_prints_what_its_readme_shows(name: str, tmp_path: Path) -> None:
    assert run(name, tmp_path) == shown(name)


def test_filter_example_writes_the_clean_view(tmp_path: Path) -> None:
    run("filter_benchmark", tmp_path)
    rows = (tmp_path / "runs/examples/filter_benchmark/clean.jsonl").read_text().splitlines()
    assert [json.loads(row)["id"] for row in rows] == ["q2", "q4", "q5", "q6"]


def test_audit_example_removes_the_colour_questions(tmp_path: Path) -> None:
    assert run("audit_own_benchmark", tmp_path).endswith(shown("audit_own_benchmark"))
    assert (tmp_path / "runs/examples/audit_own_benchmark/report/report.html").is_file()


def test_compare_example_shows_the_change_on_both_views(tmp_path: Path) -> None:
    assert run("compare_models", tmp_path).endswith(shown("compare_models"))
