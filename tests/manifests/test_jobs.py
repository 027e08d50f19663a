"""Jobs as objects: golden files, upstream's schemas with unknown fields refused, and the rules that
no schema knows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from omnicore.cluster import names
from omnicore.cluster.manifests import GPU, JobSpec, Owner, manifest, training_runtime
from omnicore.config import LauncherConfig
from omnicore.errors import ConfigError
from tests.errors import refused
from tests.manifests.strict import CRDS, validate

GOLDEN = Path(__file__).parent / "golden"
IMAGE = "registry.example/omnicore-train@sha256:" + "0" * 64
NEEDS_CRDS = pytest.mark.skipif(
    not CRDS.is_dir(), reason="the upstream schemas are not beside this checkout"
)
TOLERATION = {"key": GPU, "operator": "Exists", "effect": "NoSchedule"}
SPREAD = {
    "maxSkew": 1,
    "topologyKey": "kubernetes.io/hostname",
    "whenUnsatisfiable": "DoNotSchedule",
    "labelSelector": {"matchLabels": {"omnicore.dev/step": "rlvr"}},
}
NEAR = {
    "podAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {
                "weight": 100,
                "podAffinityTerm": {
                    "labelSelector": {"matchLabels": {"omnicore.dev/step": "rlvr"}},
                    "topologyKey": "topology.kubernetes.io/zone",
                },
            }
        ]
    }
}
FULL = {
    "namespace": "team",
    "nodes": 2,
    "gpus_per_node": 8,
    "cpu": "64",
    "memory": "512Gi",
    "shared_memory": "128Gi",
    "env": {"NCCL_DEBUG": "WARN"},
    "secrets": {
        "AWS_ACCESS_KEY_ID": "omnicore-s3/AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY": "omnicore-s3/AWS_SECRET_ACCESS_KEY",
    },
    "node_selector": {"cloud.example/gpu": "h100"},
    "tolerations": (TOLERATION,),
    "affinity": NEAR,
    "volumes": ({"name": "ca", "configMap": {"name": "own-ca"}},),
    "volume_mounts": ({"name": "ca", "mountPath": "/etc/own-ca", "readOnly": True},),
    "queue": "gpu",
    "priority_class": "training",
    "deadline_seconds": 7200,
}


def spec(kind: str, step: str = "rlvr", run: str = "omniboost-x7", **place: Any) -> JobSpec:
    launcher = LauncherConfig(kind=kind, image=IMAGE, storage="s3://omnicore/runs", **place)
    return JobSpec(
        name=names.job_name(run, step, "k" * 64),
        namespace=launcher.namespace or "team",
        labels=names.labels(run, step, "k" * 64),
        command=(
            "omnicore",
            step,
            "--recipe-json",
            '{"name": "tiny"}',
            "--input",
            "data=s3://b/in",
            "--output",
            "s3://b/out",
        ),
        distributed=step in {"sft", "rlvr"},
        place=launcher,
        owner=Owner(name="omniboost-x7", uid="0b2f3c1e-9d1f-4c6a-8f44-6d1f0b6f1a11"),
    )


CASES = {
    "pytorchjob-full": lambda: manifest(spec("pytorchjob", **FULL, topology_spread=(SPREAD,))),
    "pytorchjob-evaluate": lambda: manifest(
        spec("pytorchjob", "evaluate", priority_class="high", nodes=4, gpus_per_node=4)
    ),
    "pytorchjob-cpu": lambda: manifest(spec("pytorchjob", "sft", gpus_per_node=0)),
    "trainjob-full": lambda: manifest(spec("trainjob", **FULL)),
    "trainjob-evaluate": lambda: manifest(spec("trainjob", "evaluate")),
    "trainingruntime": lambda: training_runtime("omnicore", "team", IMAGE),
}


@pytest.mark.parametrize("case", CASES)
def test_objects_equal_the_golden_files(case: str) -> None:
    """`GOLDEN=1 pytest tests/manifests/test_jobs.py` writes them anew; read the difference before
    you commit it."""
    path, text = GOLDEN / f"{case}.yaml", yaml.safe_dump(CASES[case](), sort_keys=False)
    if os.environ.get("GOLDEN"):
        path.write_text(text)
    assert path.read_text() == text


@NEEDS_CRDS
@pytest.mark.parametrize("case", CASES)
def test_objects_fit_the_upstream_schema(case: str) -> None:
    made = CASES[case]()
    assert validate(made) == []
    assert validate({**made, "spec": {**made["spec"], "nonsense": 1}})


@NEEDS_CRDS
@pytest.mark.parametrize(
    ("case", "change", "place"),
    [
        (
            "pytorchjob-full",
            lambda o: o["spec"]["runPolicy"].update(backofLimit=3),
            "spec.runPolicy",
        ),
        (
            "pytorchjob-full",
            lambda o: o["spec"]["pytorchReplicaSpecs"]["Worker"].update(replicas="2"),
            "replicas",
        ),
        (
            "pytorchjob-full",
            lambda o: o["metadata"].update(name="9-starts-with-a-digit"),
            "metadata.name",
        ),
        ("pytorchjob-full", lambda o: o["metadata"].update(name="a" * 64), "metadata.name"),
        (
            "pytorchjob-full",
            lambda o: o["metadata"]["labels"].update(bad="a b"),
            "metadata.labels.bad",
        ),
        (
            "trainjob-full",
            lambda o: o["spec"].update(podSpecOverrides=[{"targetJobs": [{"name": "node"}]}]),
            "podSpecOverrides",
        ),
        ("trainjob-full", lambda o: o["spec"]["trainer"].update(nodes=2), "spec.trainer"),
        ("trainjob-full", lambda o: o["spec"]["runtimePatches"][0].pop("manager"), "manager"),
    ],
)
def test_validator_finds_refused_and_dropped_fields(case: str, change: Any, place: str) -> None:
    made = CASES[case]()
    change(made)
    assert any(place in error for error in validate(made))


def test_validator_knows_only_known_kinds() -> None:
    service = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}}
    assert validate(service) == []
    assert validate({**service, "nonsense": 1})
    assert validate({"apiVersion": "nobody.example/v1", "kind": "Thing", "metadata": {"name": "a"}})


def pods(made: dict[str, Any]) -> list[dict[str, Any]]:
    """Pod specs inside an object."""
    found = [made["containers"] and made] if "containers" in made else []
    for value in made.values():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                found += pods(part)
    return found


@pytest.mark.parametrize("case", CASES)
def test_pods_obey_restricted(case: str) -> None:
    """Pod Security Standards, `restricted`: https://kubernetes.io/docs/concepts/security/pod-security-standards/"""
    (pod,) = pods(CASES[case]())
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys()
    for container in pod["containers"]:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["readOnlyRootFilesystem"]
    kinds = {key for volume in pod.get("volumes", []) for key in volume if key != "name"}
    assert kinds <= {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }


def test_pytorchjob_has_workers_and_a_rendezvous() -> None:
    made = CASES["pytorchjob-full"]()
    assert list(made["spec"]["pytorchReplicaSpecs"]) == ["Worker"]
    assert "elasticPolicy" not in made["spec"]
    (pod,) = pods(made)
    env = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
    assert env["PET_RDZV_ENDPOINT"] == f"{made['metadata']['name']}-worker-0:23456"
    assert (env["PET_NNODES"], env["PET_NPROC_PER_NODE"]) == (
        str(made["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"]),
        "8",
    )
    assert env["PET_NNODES"] == "2"
    assert pod["containers"][0]["command"][:3] == ["torchrun", "--no-python", "omnicore"]


def test_trainjob_sets_no_reserved_variable() -> None:
    """Its webhook refuses them: pkg/constants, TorchRunReservedEnvNames."""
    env = {entry["name"] for entry in CASES["trainjob-full"]()["spec"]["trainer"]["env"]}
    assert not env & {
        "PET_NNODES",
        "PET_NPROC_PER_NODE",
        "PET_NODE_RANK",
        "PET_MASTER_ADDR",
        "PET_MASTER_PORT",
    }


@pytest.mark.parametrize("kind", ["pytorchjob", "trainjob"])
def test_other_steps_get_one_pod_without_torchrun(kind: str) -> None:
    made = manifest(spec(kind, "evaluate", nodes=4, gpus_per_node=8))
    whole = yaml.safe_dump(made)
    assert "torchrun" not in whole
    replicas = (
        made["spec"]["pytorchReplicaSpecs"]["Worker"]
        if kind == "pytorchjob"
        else made["spec"]["trainer"]
    )
    assert replicas.get("replicas", replicas.get("numNodes")) == 1
    assert f"{GPU}: '1'" in whole


@pytest.mark.parametrize(
    ("kind", "place", "code", "field"),
    [
        (
            "trainjob",
            {"topology_spread": (SPREAD,)},
            "launcher-trainjob-setting",
            "launcher.topology_spread",
        ),
        (
            "trainjob",
            {"priority_class": "high"},
            "launcher-trainjob-setting",
            "launcher.priority_class",
        ),
        (
            "pytorchjob",
            {"secrets": {"KEY": "no-slash"}},
            "launcher-secret-invalid",
            "launcher.secrets.KEY",
        ),
    ],
)
def test_unsupported_setting_is_refused_by_field(
    kind: str, place: dict[str, Any], code: str, field: str
) -> None:
    with refused(ConfigError, code, field=field):
        manifest(spec(kind, **place))


@pytest.mark.parametrize(
    ("run", "section"),
    [
        ("omniboost-x7", "rlvr"),
        ("9 Lives & more", "sft_distilled"),
        ("x" * 300, "rlvr"),
        ("", "sft"),
        ("ü", "9"),
        ("Run.With_Dots", "s"),
    ],
)
def test_job_names_are_short_dns_labels_and_unique(run: str, section: str) -> None:
    made = {names.job_name(run, section, key) for key in ("a", "b")} | {
        names.job_name(run + "2", section, "a")
    }
    assert len(made) == 3
    for name in made:
        assert len(f"{name}-node-0-99") <= 63
        assert validate_name(name)
    assert all(len(value) <= 63 for value in names.labels(run, section, "k" * 64).values())
    assert names.job_name(run, section, "a") == names.job_name(run, section, "a")


def validate_name(name: str) -> bool:
    return (
        name[0].isalpha()
        and name[-1].isalnum()
        and name == name.lower()
        and "--" not in name
        and "_" not in name
    )
