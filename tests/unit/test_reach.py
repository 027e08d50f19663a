"""Which code changes re-run a step."""

import shutil
from importlib import import_module

import pytest

from omnicore.data.benchmarks import NAMES
from omnicore.lineage import code_version
from omnicore.steps import STEPS


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package to change, whose unchanged files are parsed once."""
    copy = tmp_path_factory.mktemp("reach") / "omnicore"
    shutil.copytree(
        code_version.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors")
    )
    imports = code_version._imports
    parsed = {}

    def parse_once(path):
        content = path.read_bytes()
        if content not in parsed:
            parsed[content] = list(imports(path))
        return parsed[content]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code_version, "PACKAGE", copy)
        patch.setattr(code_version, "_imports", parse_once)
        yield copy


@pytest.fixture(scope="module")
def digests(package):
    """Returns the digest of each step's code as it is now."""
    digest = code_version.step_code_digest.__wrapped__
    return lambda: {step: digest(step) for step in STEPS}


@pytest.fixture(scope="module")
def before(digests):
    return digests()


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
def test_changed_file_reruns_only_steps_that_reach_it(package, before, digests, changed, again):
    path = package / changed
    content = path.read_text()
    path.write_text(content + "\n")
    try:
        after = digests()
    finally:
        path.write_text(content)
    assert {step for step in STEPS if after[step] != before[step]} == again


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
