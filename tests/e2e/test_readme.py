"""Every command of the README is run: the tour here, `make demo`, `make test` and `make check` by
`.ci/run`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
COMMANDS = [line.split(" #")[0].strip() for block in BLOCKS for line in block.splitlines()]


def test_make_targets_exist() -> None:
    named = {line.split()[1] for line in COMMANDS if line.startswith("make ")}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= named <= targets
    continuous = (ROOT / ".ci" / "run").read_text()
    assert all(f"make {target}" in continuous for target in named)


@pytest.mark.slow
def test_the_tour_runs_as_it_reads(tmp_path: Path) -> None:
    tour = [line for line in COMMANDS if line.startswith(".venv/bin/omnicore ")]
    assert len(tour) == 5
    for line in tour:
        command = [sys.executable, "-m", "omnicore", *line.split()[1:]]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    scores = json.loads((tmp_path / "runs/hand/evaluate/scores.json").read_text())
    assert 0 < scores["raw"]["micro"]["value"] < 1
    assert (tmp_path / "runs/hand/sft/checkpoint/model.safetensors").is_file()


@pytest.mark.parametrize("arguments", [["--help"], ["recipe", "show", "tiny"]])
def test_commands_in_the_text_run(arguments: list[str]) -> None:
    assert f"omnicore {' '.join(arguments)}" in (ROOT / "README.md").read_text()
    done = subprocess.run(
        [sys.executable, "-m", "omnicore", *arguments], capture_output=True, text=True, check=True
    )
    assert len(done.stdout) > 500
