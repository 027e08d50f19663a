"""The notebook of examples/ runs on a finished run and shows its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import omnicore
from omnicore.config.recipe import load_recipe
from omnicore.runtime.run import run_step


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global nbformat, NotebookClient

    import nbformat
    from nbclient import NotebookClient


NOTEBOOK = Path(__file__).parents[2] / "examples" / "analyse_run" / "analyse_run.ipynb"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """An audit and an evaluation of the embedded models at a twentieth of their size."""
    recipe = load_recipe("tiny", ["prepare.split=dev", "prepare.scale=0.05", "threads=1"])
    inputs = {"queries": tmp_path / "prepare"}
    run_step("prepare", recipe, {}, inputs["queries"])
    run_step("probe", recipe, inputs, tmp_path / "probe")
    run_step("clean", recipe, inputs | {"draws": tmp_path / "probe"}, tmp_path / "clean")
    given = inputs | {"manifest": tmp_path / "clean"}
    run_step("evaluate", recipe, given, tmp_path / "evaluate")
    return tmp_path


@pytest.mark.slow
def test_the_notebook_shows_the_figures_of_a_run(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNI_RUN", str(run))
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown = [
        "".join(text_of(output) for output in cell.get("outputs", [])) for cell in notebook.cells
    ]
    macro = omnicore.load_run(run).scores().query("level == 'macro' and view == 'clean'")
    assert f"{macro['value'].item():.3f}" in shown[3]
    assert "not_solvable" in shown[7]
    assert "alder" in shown[5]


def text_of(output: Any) -> str:
    return str(output.get("data", {}).get("text/plain", output.get("text", "")))
