"""Which code changes re-run a step."""

import shutil
from importlib import import_module

import pytest

from omnicore.data.benchmarks import NAMES
from omnicore.lineage import code_version
from omnicore.steps import STEPS


@pytest.fixture
def package(monkeypatch, tmp_path):
    """A copy of the package to change."""
    copy = tmp_path / "omnicore"
    shutil.copytree(
        code_version.PACKAGE,
        copy,
        ignore=shutil.ignore_patterns("__pycache__", "models"),
        dirs_exist_ok=False,
    )
    shutil.copytree(
        code_version.PACKAGE / "models",
        copy / "models",
        ignore=shutil.ignore_patterns("__pycache__"),
        dirs_exist_ok=True,
    )
    monkeypatch.setattr(code_version, "PACKAGE", copy)
    return copy


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        ("training/sft.py", {"sft", "rlvr"}),
        ("training/rlvr.py", {"rlvr"}),
        ("engines/openai.py", {"probe", "evaluate", "distill", "sft", "rlvr"}),
        ("scoring/extract.py", set(STEPS) - {"clean", "promote", "report"}),
        ("audit/rules.py", {"clean", "distill"}),
        ("data/benchmarks/worldsense.py", {"prepare", "evaluate"}),
        ("report/page.css", {"report", "promote"}),
        ("steps/probe.py", {"probe"}),
        ("telemetry/metrics.py", set()),
        ("cluster/launch.py", set()),
        ("cli/main.py", set()),
        ("config/training.py", set()),
    ],
)
def test_changed_file_reruns_only_steps_that_reach_it(package, changed, again):
    digest = code_version.step_code_digest.__wrapped__
    before = {step: digest(step) for step in STEPS}
    with (package / changed).open("a") as file:
        file.write("\n")
    assert {step for step in STEPS if digest(step) != before[step]} == again


@pytest.mark.parametrize("step", STEPS)
def test_imports_at_run_time_are_reachable(step):
    """Python's own imports are the reference: every module of the package that the step names."""
    module = import_module(f"omnicore.steps.{step}")
    own = {
        value.__name__
        for value in vars(module).values()
        if getattr(value, "__name__", "").startswith("omnicore.")
    }
    own |= {
        str(value.__module__)
        for value in vars(module).values()
        if str(getattr(value, "__module__", "")).startswith("omnicore.")
    }
    counted = {name for name in own if not code_version.has_no_effect(name)}
    assert counted
    assert counted <= code_version.reachable_modules(step)


def test_every_adapter_is_reachable_from_prepare():
    assert {f"omnicore.data.benchmarks.{name}" for name in NAMES} <= code_version.reachable_modules(
        "prepare"
    )
