"""The exact shape of the compiled pipelines, and that the files in the repository are current."""

import subprocess
import sys

import pytest
import yaml

from omnicore.config import SECTION_STEP
from omnicore.steps import STEPS
from pipelines import compile as compiling
from pipelines.board import rows

OMNICLEAN = {
    "prepare": set(),
    "probe": {"prepare"},
    "probe-2": {"prepare"},
    "clean": {"prepare", "probe", "probe-2"},
}
STAGES = {
    "omniclean": set(),
    "evaluate": {"omniclean"},
    "sft": {"omniclean"},
    "evaluate-2": {"omniclean", "sft"},
    "rlvr": {"omniclean", "sft"},
    "evaluate-3": {"omniclean", "rlvr"},
    "distill": {"omniclean", "rlvr"},
    "sft-2": {"distill", "rlvr"},
    "evaluate-4": {"omniclean", "sft-2"},
    "promote": {"omniclean", "evaluate", "evaluate-4"},
    "condition-branches-1": {"omniclean", "evaluate", "evaluate-2", "evaluate-3", "evaluate-4", "sft", "rlvr", "distill", "sft-2"},
}
# role: producer, of the tasks where a mix-up would still compile
WIRES = {
    ("promote", "champion"): "evaluate",
    ("promote", "candidate"): "evaluate-4",
    ("evaluate-2", "checkpoint"): "sft",
    ("evaluate-3", "checkpoint"): "rlvr",
    ("evaluate-4", "checkpoint"): "sft-2",
    ("rlvr", "checkpoint"): "sft",
    ("distill", "checkpoint"): "rlvr",
    ("sft-2", "checkpoint"): "rlvr",
    ("sft-2", "data"): "distill",
}
REPORT = {
    "base": "evaluate-output",
    "sft": "evaluate-2-output",
    "rlvr": "evaluate-3-output",
    "distilled": "evaluate-4-output",
    "sft_curves": "sft-output",
    "rlvr_curves": "rlvr-output",
    "distilled_curves": "sft-2-output",
    "queries": "omniclean-queries",
    "draws": "omniclean-draws",
    "second_draws": "omniclean-second_draws",
    "distill": "distill-output",
    "audit": "omniclean-manifest",
}


def spec(name):
    return yaml.safe_load((compiling.COMPILED / f"{name}.yaml").read_text())


def tasks(spec, component=None):
    return (spec["components"][component] if component else spec["root"])["dag"]["tasks"]


def edges(tasks):
    return {name: set(task.get("dependentTasks", [])) for name, task in tasks.items()}


def producer(task, name):
    return task["inputs"]["artifacts"][name]["taskOutputArtifact"]["producerTask"]


def source(task, name):
    return task["inputs"]["artifacts"][name]["componentInputArtifact"].removeprefix("pipelinechannel--")


def test_omniclean():
    assert edges(tasks(spec("omniclean"))) == OMNICLEAN
    assert producer(tasks(spec("omniclean"))["clean"], "draws") == "probe"
    assert producer(tasks(spec("omniclean"))["clean"], "second_draws") == "probe-2"


def test_omniboost():
    built = spec("omniboost")
    assert edges(tasks(built)) == STAGES
    assert edges(tasks(built, "comp-omniclean")) == OMNICLEAN
    assert {wire: producer(tasks(built)[wire[0]], wire[1]) for wire in WIRES} == WIRES
    assert "checkpoint" not in tasks(built)["evaluate"]["inputs"]["artifacts"]
    assert "checkpoint" not in tasks(built)["sft"]["inputs"]["artifacts"]


def test_the_control_arm_stands_in_a_branch_of_its_own():
    built = spec("omniboost")
    with_control, without = tasks(built, "comp-condition-2"), tasks(built, "comp-condition-3")
    assert edges(with_control) == {"rlvr-2": set(), "evaluate-5": {"rlvr-2"}, "report": {"evaluate-5"}}
    assert edges(without) == {"report-2": set()}
    assert source(with_control["rlvr-2"], "checkpoint") == "sft-output"
    assert with_control["rlvr-2"]["inputs"]["parameters"]["control"]["runtimeValue"]["constant"] == "random_reward"
    assert producer(with_control["report"], "control") == "evaluate-5"
    for report in (with_control["report"], without["report-2"]):
        assert {role: source(report, role) for role in REPORT} == REPORT


@pytest.mark.parametrize("name", compiling.PIPELINES)
def test_a_second_use_of_a_step_has_its_own_section(name):
    built = spec(name)
    audit = tasks(built, "comp-omniclean" if name == "omniboost" else None)
    assert audit["probe-2"]["inputs"]["parameters"]["section"]["runtimeValue"]["constant"] == "second_probe"
    if name == "omniboost":
        assert tasks(built)["sft-2"]["inputs"]["parameters"]["section"]["runtimeValue"]["constant"] == "sft_distilled"
    assert set(SECTION_STEP) == {"second_probe", "sft_distilled"}


@pytest.mark.parametrize(("name", "expected"), [("omniclean", 3), ("omniboost", 5)])
def test_parameters_are_few(name, expected):
    assert len(spec(name)["root"]["inputDefinitions"]["parameters"]) == expected


def test_only_what_loads_a_model_asks_for_an_accelerator():
    executors = spec("omniboost")["deploymentSpec"]["executors"]
    asks = {
        name.removeprefix("exec-").rstrip("-0123456789")
        for name, e in executors.items()
        if "accelerator" in e["container"]["resources"]
    }
    assert asks == {"probe", "evaluate", "sft", "rlvr", "distill"}
    assert {name.removeprefix("exec-").rstrip("-0123456789") for name in executors} == set(STEPS)
    assert all({"resourceCpuRequest", "resourceMemoryRequest"} <= e["container"]["resources"].keys() for e in executors.values())


def test_the_board_lists_the_tasks_of_the_branch_that_runs():
    titles = [row.title for row in rows(spec("omniboost"), control=False)]
    assert titles[:5] == ["prepare", "probe", "second probe", "clean", "evaluate base"]
    assert (len(titles), titles.count("report"), "rlvr control" in titles) == (14, 1, False)
    assert len({row.key for row in rows(spec("omniboost"), control=True)}) == 16


def test_the_kubernetes_manifests_hold_the_same_pipeline_under_a_version_of_its_content():
    for name in compiling.PIPELINES:
        pipeline, version = yaml.safe_load_all((compiling.COMPILED / f"{name}.k8s.yaml").read_text())
        assert (pipeline["kind"], pipeline["metadata"]["name"]) == ("Pipeline", name)
        assert (version["kind"], version["spec"]["pipelineName"]) == ("PipelineVersion", name)
        assert version["spec"]["pipelineSpec"]["root"] == spec(name)["root"]
        assert version["metadata"]["name"].startswith(f"{name}-")


def test_the_compiled_files_are_current():
    result = subprocess.run([sys.executable, "-m", "pipelines.compile", "--check"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_stale_file_is_named(tmp_path, monkeypatch, capsys):
    compiling.compiled(tmp_path)
    with (tmp_path / "omniclean.yaml").open("a") as file:
        file.write("# edited\n")
    monkeypatch.setattr(compiling, "COMPILED", tmp_path)
    monkeypatch.setattr(sys, "argv", ["compile", "--check"])
    assert compiling.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "omniclean.yaml") in line
