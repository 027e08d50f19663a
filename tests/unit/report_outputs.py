"""Fixtures: the inputs of a report, its output, and its evidence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from omnicore.report import evidence as ev
from omnicore.steps import report
from tests.unit.report_fixture import RECIPE, make


@pytest.fixture(scope="module")
def roles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def output(roles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    report.run(RECIPE, RECIPE.report, roles, folder)
    return folder


@pytest.fixture(scope="module")
def evidence(roles: dict[str, Path]) -> ev.Evidence:
    return ev.read_evidence(roles)


def changed(
    roles: dict[str, Path], role: str, tmp_path: Path, name: str, change: Callable[[str], str]
) -> dict[str, Path]:
    """The same inputs with one file of one role rewritten."""
    folder = tmp_path / role
    shutil.copytree(roles[role], folder)
    (folder / name).write_text(change((folder / name).read_text()))
    return {**roles, role: folder}
