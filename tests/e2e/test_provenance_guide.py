"""Run the commands of docs/provenance.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = (Path(__file__).parents[2] / "docs" / "provenance.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)
    for line in block.splitlines()
]


def test_key_and_library_commands_run(tmp_path: Path) -> None:
    pytest.importorskip("model_signing")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    chosen = [line for line in COMMANDS if line.startswith(("openssl ", "model_signing "))]
    assert len(chosen) == 4
    for line in chosen:
        done = subprocess.run(
            line,
            shell=True,
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_every_command_is_checked() -> None:
    """tests/components/test_real_run.py runs those of omnicore, on a whole run."""
    assert len(COMMANDS) > 4
    assert [
        line
        for line in COMMANDS
        if not line.startswith(("openssl ", "model_signing ", ".venv/bin/omnicore "))
    ] == []
