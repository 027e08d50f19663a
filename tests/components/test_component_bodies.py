"""A component's body hands its arguments to the one door and writes its artefacts; nothing else."""

import importlib
import json
import re
from pathlib import Path

import pytest
from kfp import dsl

from components import execute, images
from components.placement import placed
from omnicore.config.recipe import SECTION_STEP, load_recipe
from omnicore.errors import ConfigError, DataError
from omnicore.steps import STEPS

# Inputs named otherwise than the step's role: `model` is a parameter of every component, and the manifest lies in the audit.
ROLE = {"checkpoint": "model", "start": "model"}
ROLES = {"evaluate": {"audit": "manifest"}, "promote": {"audit": "manifest", "checkpoint": "model"}}
# The directory that a step fills.
OUTPUT = {
    "prepare": "queries",
    "probe": "draws",
    "clean": "audit",
    "evaluate": "scores",
    "sft": "checkpoint",
    "rlvr": "checkpoint",
    "distill": "rows",
    "report": "figures",
    "promote": "decision",
}
REPORT = Path(__file__).parents[2] / "components"


def component(step):
    return getattr(importlib.import_module(f"components.{step}.component"), step)


def artefacts(step, tmp_path):
    """Every artefact input and output of a component, by name, in directories of their own."""
    body, made = component(step), {}
    for name, kind in body.component_spec.inputs.items():
        if kind.type.startswith("system."):
            made[name] = dsl.Artifact(uri=str(tmp_path / "inputs" / name))
    for name in body.component_spec.outputs:
        (tmp_path / step).mkdir(exist_ok=True)
        made[name] = (dsl.Metrics if name == "metrics" else dsl.Artifact)(
            uri=str(tmp_path / step / name)
        )
    return made


def inputs(step, made):
    """Artefact inputs by the step's role."""
    return {
        ROLES.get(step, ROLE).get(name, ROLE.get(name, name)): a
        for name, a in made.items()
        if "inputs" in a.uri
    }


@pytest.fixture
def calls(monkeypatch):
    """What `run_step` was called with; it makes the report's page and no more."""
    calls = []

    def run_step(step, recipe, inputs, output, *, section, cache, execute):
        calls.append(
            {
                "step": step,
                "recipe": recipe,
                "inputs": inputs,
                "output": output,
                "section": section,
                "cache": cache,
            }
        )
        output.mkdir(parents=True)
        (output / "report.html").write_text("<p>page</p>")
        return {"summary": {"count": 3, "share": 0.5, "name": "words"}}

    monkeypatch.setattr(execute, "run_step", run_step)
    monkeypatch.delenv(execute.RUN, raising=False)
    monkeypatch.delenv(execute.CACHE, raising=False)
    return calls


@pytest.mark.parametrize("step", STEPS)
def test_body_calls_run_step_with_roles_and_recipe(step, tmp_path, calls):
    made = artefacts(step, tmp_path)
    component(step).python_func(
        **made, recipe="tiny", overrides="[seed=7, rlvr.steps=2]", model="embedded:tiny-probe"
    )
    (call,) = calls
    assert call["step"] == step
    assert call["section"] in {None, step}
    assert call["inputs"] == {
        role: Path(artefact.path) for role, artefact in inputs(step, made).items()
    }
    assert set(call["inputs"]) == {*STEPS[step].required, *STEPS[step].optional}
    assert call["output"] == Path(made[OUTPUT[step]].path)
    assert (call["recipe"].seed, call["recipe"].rlvr.steps, call["recipe"].model) == (
        7,
        2,
        "embedded:tiny-probe",
    )
    assert json.loads(Path(made["metrics"].path).read_text()) == {"count": 3, "share": 0.5}
    assert made["metrics"].metadata == {"count": 3, "share": 0.5}


@pytest.mark.parametrize("step", ["clean", "evaluate", "sft", "distill", "report"])
def test_optional_inputs_are_left_out(step, tmp_path, calls):
    everything = artefacts(step, tmp_path)
    optional = {
        name
        for name, kind in component(step).component_spec.inputs.items()
        if kind.optional and name in everything
    }
    assert {ROLE.get(name, name) for name in optional} == set(STEPS[step].optional)
    component(step).python_func(
        **{name: a for name, a in everything.items() if name not in optional}, recipe="tiny"
    )
    assert set(calls[0]["inputs"]) == set(STEPS[step].required)


@pytest.mark.parametrize(("section", "step"), SECTION_STEP.items())
def test_a_step_used_twice_takes_its_section(section, step, tmp_path, calls):
    component(step).python_func(**artefacts(step, tmp_path), recipe="tiny", section=section)
    assert (calls[0]["step"], calls[0]["section"]) == (step, section)


def test_the_control_arm_is_one_field_of_the_recipe(tmp_path, calls):
    component("rlvr").python_func(
        **artefacts("rlvr", tmp_path), recipe="tiny", control="random_reward"
    )
    assert calls[0]["recipe"].rlvr.control == "random_reward"


def test_the_report_is_the_html_artefact(tmp_path, calls):
    made = artefacts("report", tmp_path)
    component("report").python_func(**made, recipe="tiny", run_name="demo")
    assert Path(made["report"].path).read_text() == "<p>page</p>"
    assert made["figures"].metadata["run"] == "demo"


@pytest.mark.parametrize("step", STEPS)
def test_every_component_runs_in_an_image_that_holds_the_project(step):
    spec = component(step).component_spec.implementation.container
    assert spec.image == images.CORE  # what needs a GPU is a job, which has the train image
    assert "pip install" not in " ".join(map(str, spec.command))


@pytest.mark.parametrize("step", STEPS)
def test_the_readme_names_every_input_and_output(step):
    text = (Path(execute.__file__).parent / step / "README.md").read_text()
    spec = component(step).component_spec
    assert [name for name in (*spec.inputs, *spec.outputs) if f"`{name}`" not in text] == []
    listed = re.findall(r"^\| `(\w+)`", text, re.MULTILINE)
    assert set(listed) == {*spec.inputs, *spec.outputs}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("[]", []),
        ("[rlvr.steps=40, seed=1]", ["rlvr.steps=40", "seed=1"]),
        ("- rlvr.steps=40\n", ["rlvr.steps=40"]),
        ("{rlvr.steps: 40, model: 'embedded:x'}", ["rlvr.steps=40", 'model="embedded:x"']),
        (
            "{launcher.env.CUDA_VERSION: 12.10, launcher.queue: no}",
            ["launcher.env.CUDA_VERSION=12.10", "launcher.queue=no"],
        ),
        ("launcher.env: {A: 12.30, B: '0755'}", ['launcher.env={A: 12.30, B: "0755"}']),
        ("prepare.rlvr_mix: {sum: 1}", ["prepare.rlvr_mix={sum: 1}"]),
    ],
)
def test_overrides_are_a_list_or_a_mapping(text, expected):
    assert execute.parse_overrides(text) == expected


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("rlvr.steps=40", "write a YAML list"),
        ("[{a: 1}]", "write a YAML list"),
        ("[a", "are not YAML"),
    ],
)
def test_other_overrides_are_refused(text, match):
    with pytest.raises(ConfigError, match=match):
        execute.parse_overrides(text)


def test_a_users_mistake_ends_with_status_2_and_one_message(tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise DataError("queries.jsonl:3: no answer; mend the line")

    monkeypatch.setattr(execute, "run_step", refuse)
    with pytest.raises(SystemExit) as caught:
        component("prepare").python_func(**artefacts("prepare", tmp_path), recipe="tiny")
    assert caught.value.code == 2
    assert capsys.readouterr().err == "prepare: queries.jsonl:3: no answer; mend the line\n"


def test_the_release_is_the_folder_of_the_decision(tmp_path, calls):
    made = artefacts("promote", tmp_path)
    component("promote").python_func(**made, recipe="tiny", run_name="demo")
    assert Path(made["release"].path) == calls[0]["output"] / "release"
    assert made["release"].metadata["run"] == made["decision"].metadata["run"] == "demo"


def test_benchmarks_are_the_sources_of_every_step(tmp_path, calls):
    component("promote").python_func(
        **artefacts("promote", tmp_path), recipe="tiny", benchmarks={"daily_omni": "hub@1a2b3c"}
    )
    assert calls[0]["recipe"].prepare.sources == {"daily_omni": "hub@1a2b3c"}


PLACE = {
    "resources": {
        "requests": {"cpu": "4", "memory": "32Gi"},
        "limits": {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "2"},
    },
    "node_selector": {"pool": "gpu", "zone": "a"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "env": [
        {"name": "NCCL_DEBUG", "value": "INFO"},
        {
            "name": "AWS_ACCESS_KEY_ID",
            "valueFrom": {"secretKeyRef": {"name": "omnicore-s3", "key": "AWS_ACCESS_KEY_ID"}},
        },
        {
            "name": "NOT_THERE",
            "valueFrom": {"secretKeyRef": {"name": "nothing", "key": "x", "optional": True}},
        },
        {
            "name": "KFP_RUN_ID",
            "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['pipeline/runid']"}},
        },
    ],
    "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    "volume_mounts": [{"name": "data", "mountPath": "/data"}],
}
PLACED = {
    "cpu": "8",
    "memory": "64Gi",
    "gpus_per_node": 2,
    "node_selector": {"pool": "gpu", "zone": "a"},
    "tolerations": ({"key": "nvidia.com/gpu", "operator": "Exists"},),
    "affinity": {"nodeAffinity": {}},
    "env": {"NCCL_DEBUG": "INFO"},
    "secrets": {"AWS_ACCESS_KEY_ID": "omnicore-s3/AWS_ACCESS_KEY_ID"},
    "volumes": ({"name": "data", "persistentVolumeClaim": {"claimName": "data"}},),
    "volume_mounts": ({"name": "data", "mountPath": "/data"},),
}


@pytest.mark.parametrize("step", sorted(execute.HEAVY))
def test_what_kubeflow_says_of_a_heavy_task_reaches_its_job(step, tmp_path, calls, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "here")
    component(step).python_func(
        **artefacts(step, tmp_path), recipe="tiny", place=dsl.TaskConfig(**PLACE)
    )
    launcher = calls[0]["recipe"].launcher
    assert {name: getattr(launcher, name) for name in PLACED} == PLACED


def test_what_the_recipe_says_of_its_jobs_goes_before_the_task(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "here")
    own = [
        "launcher.gpus_per_node=8",
        "launcher.node_selector={pool: big}",
        "launcher.env={NCCL_DEBUG: WARN}",
        "launcher.affinity={}",
    ]
    made = placed(load_recipe("tiny", own), dsl.TaskConfig(**PLACE)).launcher
    assert (made.gpus_per_node, made.memory, made.affinity) == (8, "64Gi", {})
    assert (made.node_selector, made.env) == ({"pool": "big", "zone": "a"}, {"NCCL_DEBUG": "WARN"})


def test_a_local_task_says_nothing_and_the_recipe_stays_as_it_is():
    recipe = load_recipe("tiny")
    assert placed(recipe, None) is recipe
    assert placed(recipe, dsl.TaskConfig()) is recipe


@pytest.mark.parametrize(
    ("cluster", "overrides", "image"),
    [
        (True, "", "registry/train@sha256:1"),
        (True, "[launcher.image=mine]", "mine"),
        (False, "", ""),
    ],
)
def test_a_jobs_image_is_the_pipelines_own(cluster, overrides, image, tmp_path, calls, monkeypatch):
    monkeypatch.setenv("OMNI_TRAIN_IMAGE", "registry/train@sha256:1")
    if cluster:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    else:
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    component("sft").python_func(**artefacts("sft", tmp_path), recipe="tiny", overrides=overrides)
    assert calls[0]["recipe"].launcher.image == image


def test_light_step_accepts_a_recipe_with_a_launcher(tmp_path, calls, monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.delenv("OMNI_TRAIN_IMAGE", raising=False)
    jobs = "[launcher.kind=trainjob, launcher.storage=s3://omnicore/runs]"
    component("prepare").python_func(
        **artefacts("prepare", tmp_path), recipe="tiny", overrides=jobs
    )
    assert calls[0]["recipe"].launcher.kind == "trainjob"


def test_clean_up_reaps_only_the_run_of_its_pod(monkeypatch):
    called = []
    monkeypatch.setattr("subprocess.call", lambda command: called.append(command[1:]) or 0)
    monkeypatch.delenv("KFP_RUN_ID", raising=False)
    component("reap").python_func()
    assert called == []
    monkeypatch.setenv("KFP_RUN_ID", "1234-abcd")
    with pytest.raises(SystemExit) as caught:
        component("reap").python_func()
    assert (caught.value.code, called) == (
        0,
        [["-m", "omnicore", "cluster", "reap", "--run", "1234-abcd"]],
    )
