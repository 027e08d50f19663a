"""The exact shape of the compiled pipelines, and that the files in the repository are current."""

import re
import subprocess
import sys

import pytest
import yaml

from components import images
from omnicore.config.recipe import SECTION_STEP
from omnicore.lineage.signing import SIGNING_KEY
from omnicore.steps import STEPS
from omnicore.telemetry import live

# Imported at collection: once torch is loaded, KFP takes half a minute to read its components.
from pipelines import MONITORING, NEEDS, SIGNING, STORAGE
from pipelines import compile as compiling
from pipelines.board import rows

HEAVY = {"probe", "evaluate", "sft", "rlvr", "distill"}
AUDIT = {
    "prepare": set(),
    "probe": {"prepare"},
    "probe-2": {"prepare"},
    "clean": {"prepare", "probe", "probe-2"},
}
# What depends on what within the block that the clean-up follows.
STAGES = {
    "omniclean": {"audit": set(), "report": {"audit"}},
    "omniboost": {
        "audit": set(),
        "evaluate": {"audit"},
        "sft": {"audit"},
        "evaluate-2": {"audit", "sft"},
        "rlvr": {"audit", "sft"},
        "evaluate-3": {"audit", "rlvr"},
        "probe": {"audit"},
        "distill": {"audit", "probe", "rlvr"},
        "sft-2": {"distill", "rlvr"},
        "evaluate-4": {"audit", "sft-2"},
        "promote": {"audit", "evaluate", "evaluate-4", "sft-2"},
        "condition-branches-2": {
            *(
                "audit",
                "evaluate",
                "evaluate-2",
                "evaluate-3",
                "evaluate-4",
                "sft",
                "rlvr",
                "probe",
                "distill",
                "sft-2",
            ),
        },
    },
    "retrain": {
        "audit": set(),
        "importer": set(),
        "evaluate": {"audit", "importer"},
        "sft": {"audit"},
        "rlvr": {"audit", "sft"},
        "evaluate-2": {"audit", "rlvr"},
        "promote": {"audit", "evaluate", "evaluate-2", "rlvr"},
    },
}
PARAMETERS = {
    "omniclean": ["benchmarks", "model", "overrides", "recipe", "run_name"],
    "omniboost": ["benchmarks", "control", "model", "overrides", "recipe", "run_name"],
    "retrain": ["benchmarks", "champion", "model", "overrides", "recipe", "run_name"],
}
# role: producer, of the tasks where a mix-up would still compile
WIRES = {
    "omniboost": {
        ("promote", "champion"): "evaluate",
        ("promote", "candidate"): "evaluate-4",
        ("promote", "checkpoint"): "sft-2",
        ("evaluate-2", "checkpoint"): "sft",
        ("evaluate-3", "checkpoint"): "rlvr",
        ("evaluate-4", "checkpoint"): "sft-2",
        ("rlvr", "start"): "sft",
        ("distill", "checkpoint"): "rlvr",
        ("distill", "draws"): "probe",
        ("sft-2", "start"): "rlvr",
        ("sft-2", "data"): "distill",
    },
    "retrain": {
        ("promote", "champion"): "evaluate",
        ("promote", "candidate"): "evaluate-2",
        ("promote", "checkpoint"): "rlvr",
        ("evaluate", "checkpoint"): "importer",
        ("evaluate-2", "checkpoint"): "rlvr",
        ("rlvr", "start"): "sft",
    },
}
REPORT = {
    "base": "evaluate-scores",
    "sft": "evaluate-2-scores",
    "rlvr": "evaluate-3-scores",
    "distilled": "evaluate-4-scores",
    "sft_curves": "sft-checkpoint",
    "rlvr_curves": "rlvr-checkpoint",
    "distilled_curves": "sft-2-checkpoint",
    "queries": "audit-queries",
    "draws": "audit-draws",
    "second_draws": "audit-second_draws",
    "distill": "distill-rows",
    "distill_draws": "probe-draws",
    "audit": "audit-audit",
}
# (CPU, memory, GPUs, hours, tries after the first)
RESOURCES = {
    "prepare": ("2", "8Gi", "0", 12, 3),
    "probe": ("8", "64Gi", "1", 48, 2),
    "clean": ("1", "4Gi", "0", 2, 2),
    "evaluate": ("8", "64Gi", "1", 48, 2),
    "sft": ("8", "64Gi", "1", 72, 2),
    "rlvr": ("8", "64Gi", "1", 168, 2),
    "distill": ("8", "64Gi", "1", 48, 2),
    "report": ("1", "4Gi", "0", 2, 2),
    "promote": ("1", "4Gi", "0", 2, 2),
    "reap": ("250m", "512Mi", "0", 1, 3),
}
ARTEFACTS = {
    "prepare": {"queries": "Dataset"},
    "probe": {"draws": "Dataset"},
    "clean": {"audit": "Artifact"},
    "evaluate": {"scores": "Artifact"},
    "sft": {"checkpoint": "Model"},
    "rlvr": {"checkpoint": "Model"},
    "distill": {"rows": "Dataset"},
    "report": {"report": "HTML", "figures": "Artifact"},
    "promote": {"decision": "Artifact", "release": "Model"},
}


def spec(name):
    return next(yaml.safe_load_all((compiling.COMPILED / f"{name}.yaml").read_text()))


def platform(name):
    """What Kubernetes is told of each executor."""
    *_, last = yaml.safe_load_all((compiling.COMPILED / f"{name}.yaml").read_text())
    return last["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def tasks(spec, component=None):
    return (spec["components"][component] if component else spec["root"])["dag"]["tasks"]


def steps(spec):
    """The tasks in the block that the clean-up follows."""
    return tasks(spec, "comp-exit-handler-1")


def every_task(spec):
    dags = (part["dag"] for part in (spec["root"], *spec["components"].values()) if "dag" in part)
    return {
        task["componentRef"]["name"].removeprefix("comp-"): task
        for dag in dags
        for task in dag["tasks"].values()
    }


def step_of(name):
    """The step of an executor or component, as `evaluate` of `exec-evaluate-4`."""
    return re.sub(r"^(exec|comp)-|-\d+$", "", name)


def executors(spec):
    found = spec["deploymentSpec"]["executors"]
    return {name: e["container"] for name, e in found.items() if "container" in e}


def edges(tasks):
    return {name: set(task.get("dependentTasks", [])) for name, task in tasks.items()}


def producer(task, name):
    return task["inputs"]["artifacts"][name]["taskOutputArtifact"]["producerTask"]


def source(task, name):
    return task["inputs"]["artifacts"][name]["componentInputArtifact"].removeprefix(
        "pipelinechannel--"
    )


def constant(task, name):
    return task["inputs"]["parameters"][name]["runtimeValue"]["constant"]


def test_all_three_are_compiled():
    assert (
        set(compiling.PIPELINES)
        == set(STAGES)
        == {file.name.partition(".")[0] for file in compiling.COMPILED.iterdir()}
    )


@pytest.mark.parametrize("name", STAGES)
def test_tasks_and_what_they_wait_for(name):
    built = spec(name)
    assert edges(steps(built)) == STAGES[name]
    assert edges(tasks(built, "comp-audit")) == AUDIT
    assert producer(tasks(built, "comp-audit")["clean"], "draws") == "probe"
    assert producer(tasks(built, "comp-audit")["clean"], "second_draws") == "probe-2"
    wires = WIRES.get(name, {})
    assert {wire: producer(steps(built)[wire[0]], wire[1]) for wire in wires} == wires


@pytest.mark.parametrize("name", STAGES)
def test_clean_up_always_runs_last_and_is_never_cached(name):
    root = tasks(spec(name))
    assert set(root) == {"exit-handler-1", "reap"}
    assert root["reap"]["dependentTasks"] == ["exit-handler-1"]
    assert root["reap"]["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    uncached = {
        key
        for key, task in every_task(spec(name)).items()
        if not task.get("cachingOptions", {}).get("enableCache")
    }
    # Groups of tasks have no cache of their own.
    assert {step_of(key) for key in uncached} - {
        "exit-handler",
        "condition-branches",
        "condition",
    } == {"reap"}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_few_and_each_is_described(name):
    parameters = spec(name)["root"]["inputDefinitions"]["parameters"]
    assert sorted(parameters) == PARAMETERS[name]
    assert len(parameters) <= 6
    assert [
        key for key, value in parameters.items() if len(value.get("description", "")) < 40
    ] == []
    assert [key for key, value in parameters.items() if not value.get("isOptional")] == (
        ["champion", "recipe"] if name == "retrain" else []
    )
    assert len(spec(name)["pipelineInfo"]["description"]) > 40


@pytest.mark.parametrize("name", STAGES)
def test_every_input_and_output_has_a_description(name):
    """Except those of KFP's importer, and the channels that KFP makes where it nests tasks."""
    ir = spec(name)
    components = {"root": ir["root"], **ir["components"]}
    components.pop("comp-importer", None)
    undescribed, described = [], 0
    for component, definition in components.items():
        for kind in ("inputDefinitions", "outputDefinitions"):
            fields = {
                **definition.get(kind, {}).get("parameters", {}),
                **definition.get(kind, {}).get("artifacts", {}),
            }
            own = {
                field: value
                for field, value in fields.items()
                if not field.startswith("pipelinechannel--")
            }
            missing = [
                f"{component}.{field}"
                for field, value in own.items()
                if not value.get("description", "").strip()
            ]
            undescribed += missing
            described += len(own) - len(missing)
    assert undescribed == []
    assert described > 50


def test_what_is_left_empty_is_the_recipes_own():
    for key, value in spec("omniboost")["root"]["inputDefinitions"]["parameters"].items():
        assert value["defaultValue"] == {"recipe": "tiny", "control": False, "benchmarks": {}}.get(
            key, ""
        )


def test_models_without_a_start_are_the_recipes():
    built = steps(spec("omniboost"))
    assert "checkpoint" not in built["evaluate"]["inputs"]["artifacts"]
    assert "start" not in built["sft"]["inputs"]["artifacts"]


def test_retrain_judges_champion_like_candidate():
    built = spec("retrain")
    (importer,) = [
        e["importer"] for e in built["deploymentSpec"]["executors"].values() if "importer" in e
    ]
    assert importer["artifactUri"] == {"runtimeParameter": "uri"}
    assert importer["typeSchema"]["schemaTitle"] == "system.Model"
    assert (
        steps(built)["importer"]["inputs"]["parameters"]["uri"]["componentInputParameter"]
        == "pipelinechannel--champion"
    )
    inputs = [steps(built)[task]["inputs"] for task in ("evaluate", "evaluate-2")]
    assert inputs[0]["parameters"] == inputs[1]["parameters"]
    assert inputs[0]["artifacts"]["audit"] == inputs[1]["artifacts"]["audit"]


def test_the_control_arm_stands_in_a_branch_of_its_own():
    built = spec("omniboost")
    with_control, without = tasks(built, "comp-condition-3"), tasks(built, "comp-condition-4")
    assert edges(with_control) == {
        "rlvr-2": set(),
        "evaluate-5": {"rlvr-2"},
        "report": {"evaluate-5"},
    }
    assert edges(without) == {"report-2": set()}
    assert source(with_control["rlvr-2"], "start") == "sft-checkpoint"
    assert constant(with_control["rlvr-2"], "control") == "random_reward"
    assert producer(with_control["report"], "control") == "evaluate-5"
    for report in (with_control["report"], without["report-2"]):
        assert {role: source(report, role) for role in REPORT} == REPORT


@pytest.mark.parametrize("name", STAGES)
def test_a_second_use_of_a_step_has_its_own_section(name):
    built = spec(name)
    assert constant(tasks(built, "comp-audit")["probe-2"], "section") == "second_probe"
    if name == "omniboost":
        assert constant(steps(built)["probe"], "section") == "distill_probe"
        assert constant(steps(built)["sft-2"], "section") == "sft_distilled"
    assert set(SECTION_STEP) == {"second_probe", "distill_probe", "sft_distilled"}


def test_every_step_is_in_a_pipeline_and_has_resources():
    used = {step_of(name) for pipeline in compiling.PIPELINES for name in executors(spec(pipeline))}
    assert used == {*STEPS, "reap"} == set(NEEDS) == set(RESOURCES)


@pytest.mark.parametrize("name", STAGES)
def test_resources_timeouts_and_retries_of_each_step(name):
    built, told, all_tasks = spec(name), platform(name), every_task(spec(name))
    for executor, container in executors(built).items():
        cpu, memory, gpus, hours, retries = RESOURCES[step_of(executor)]
        asked = container["resources"]
        assert asked["resourceCpuRequest"] == cpu
        assert asked["resourceMemoryRequest"] == asked["resourceMemoryLimit"] == memory
        assert asked.get("accelerator", {}).get("resourceCount", "0") == gpus
        assert int(told[executor]["activeDeadlineSeconds"]) == hours * 3600
        assert all_tasks[executor.removeprefix("exec-")]["retryPolicy"]["maxRetryCount"] == retries


@pytest.mark.parametrize("name", STAGES)
def test_pods_are_unprivileged_and_know_their_run(name):
    for executor, told in platform(name).items():
        assert told["securityContext"] == {"runAsNonRoot": True}
        assert {"name": "KFP_RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"} in told[
            "fieldPathAsEnv"
        ]
        container = executors(spec(name))[executor]
        assert container["image"] == images.CORE
        env = {entry["name"]: entry["value"] for entry in container.get("env", [])}
        assert env == ({"OMNI_TRAIN_IMAGE": images.TRAIN} if step_of(executor) in HEAVY else {})
    assert re.fullmatch(
        r"[^:@]+(:[0-9]+)?/[^:@]+(:(?!latest)[\w.-]+|@sha256:[0-9a-f]{64})", images.CORE
    )


@pytest.mark.parametrize("name", STAGES)
def test_no_secret_value_is_written_only_the_name_of_the_secret(name):
    text = (compiling.COMPILED / f"{name}.yaml").read_text()
    known = {STORAGE, MONITORING} if name == "omniclean" else {STORAGE, MONITORING, SIGNING}
    assert set(re.findall(r"(?:secretName|configMapName): (\S+)", text)) == known
    for executor, told in platform(name).items():
        (watched,) = [
            entry for entry in told["configMapAsEnv"] if entry["configMapName"] == MONITORING
        ]
        assert [key["envVar"] for key in watched["keyToEnv"]] == [
            live.PORT,
            live.HOST,
            live.GATEWAY,
        ]
        secrets = {
            entry["secretName"]: [key["envVar"] for key in entry["keyToEnv"]]
            for entry in told.get("secretAsEnv", [])
        }
        assert (STORAGE in secrets) == (step_of(executor) in {*HEAVY, "prepare"})
        assert secrets.get(SIGNING) == ([SIGNING_KEY] if step_of(executor) == "promote" else None)
        assert all(
            entry["optional"]
            for entry in (*told.get("secretAsEnv", []), *told.get("configMapAsEnv", []))
        )


@pytest.mark.parametrize("name", STAGES)
def test_only_heavy_components_pass_resources_to_a_job(name):
    fields = [
        "RESOURCES",
        "KUBERNETES_TOLERATIONS",
        "KUBERNETES_NODE_SELECTOR",
        "KUBERNETES_AFFINITY",
    ]
    passed = [{"field": field} for field in fields] + [
        {"field": field, "applyToTask": True} for field in ("ENV", "KUBERNETES_VOLUMES")
    ]
    for component, found in spec(name)["components"].items():
        if "executorLabel" not in found or component == "comp-importer":
            continue
        heavy = step_of(component) in HEAVY
        assert found.get("taskConfigPassthroughs", []) == (passed if heavy else [])
        place = found.get("inputDefinitions", {}).get("parameters", {}).get("place")
        assert bool(place) == heavy
        if heavy:
            assert (place["isOptional"], place["parameterType"]) == (True, "TASK_CONFIG")


@pytest.mark.parametrize("name", STAGES)
def test_artefacts_are_named_for_what_they_are(name):
    for component, found in spec(name)["components"].items():
        if "executorLabel" in found and step_of(component) in ARTEFACTS:
            made = {
                key: value["artifactType"]["schemaTitle"]
                for key, value in found["outputDefinitions"]["artifacts"].items()
            }
            wanted = {**ARTEFACTS[step_of(component)], "metrics": "Metrics"}
            assert made == {key: f"system.{kind}" for key, kind in wanted.items()}


def test_the_board_lists_the_tasks_of_the_branch_that_runs():
    titles = [row.title for row in rows(spec("omniboost"), control=False)]
    assert titles[:5] == ["prepare", "probe", "second probe", "clean", "evaluate base"]
    assert (len(titles), titles.count("report"), "rlvr control" in titles) == (15, 1, False)
    assert titles.index("prepare") < titles.index("probe distill") < titles.index("distill")
    assert len({row.key for row in rows(spec("omniboost"), control=True)}) == 17


def test_kubernetes_manifests_hold_the_compiled_pipeline():
    for name in compiling.PIPELINES:
        pipeline, version = yaml.safe_load_all(
            (compiling.COMPILED / f"{name}.k8s.yaml").read_text()
        )
        assert (pipeline["kind"], pipeline["metadata"]["name"]) == ("Pipeline", name)
        assert (version["kind"], version["spec"]["pipelineName"]) == ("PipelineVersion", name)
        assert version["spec"]["pipelineSpec"]["root"] == spec(name)["root"]
        assert version["spec"]["platformSpec"]["platforms"]["kubernetes"]["deploymentSpec"][
            "executors"
        ] == platform(name)
        assert version["metadata"]["name"].startswith(f"{name}-")


def test_the_compiled_files_are_current():
    result = subprocess.run(
        [sys.executable, "-m", "pipelines.compile", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_a_stale_file_is_named(tmp_path, monkeypatch, capsys):
    compiling.compile_pipelines(tmp_path)
    with (tmp_path / "omniclean.yaml").open("a") as file:
        file.write("# edited\n")
    monkeypatch.setattr(compiling, "COMPILED", tmp_path)
    monkeypatch.setattr(sys, "argv", ["compile", "--check"])
    assert compiling.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "omniclean.yaml") in line
