"""Run every command of the README and the quick start."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README, TOUR = ((ROOT / name).read_text() for name in ("README.md", "docs/quickstart.md"))


def commands(page: str) -> list[str]:
    """Return the commands of a page's `sh` blocks, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    return [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]


def test_make_targets_exist_and_run_in_ci() -> None:
    named = {line.split()[1] for line in commands(README + TOUR) if line.startswith("make ")}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= named <= targets
    continuous = (ROOT / ".ci" / "run").read_text()
    assert all(f"make {target}" in continuous for target in named)


def test_readme_has_at_most_90_lines() -> None:
    assert len(README.splitlines()) <= 90


@pytest.mark.slow
def test_tour_of_the_quick_start_runs(tmp_path: Path) -> None:
    tour = [line for line in commands(TOUR) if line.startswith(".venv/bin/omnicore ")]
    assert len(tour) == 5
    for line in tour:
        command = [sys.executable, "-m", "omnicore", *line.split()[1:]]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    scores = json.loads((tmp_path / "runs/hand/evaluate/scores.json").read_text())
    queries = (tmp_path / "runs/hand/prepare/queries.jsonl").read_text().splitlines()
    assert scores["raw"]["micro"]["n"] == len(queries)
    assert (tmp_path / "runs/hand/sft/checkpoint/model.safetensors").is_file()


@pytest.mark.parametrize("arguments", [["--help"], ["recipe", "show", "tiny"]])
def test_commands_in_the_text_run(arguments: list[str]) -> None:
    assert f"omnicore {' '.join(arguments)}" in TOUR
    done = subprocess.run(
        [sys.executable, "-m", "omnicore", *arguments], capture_output=True, text=True, check=True
    )
    assert len(done.stdout) > 500
