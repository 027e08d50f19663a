"""Served models as objects: golden files, upstream's schemas with unknown fields refused, and what
the server's flags must say."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from omnicore.cluster import names
from omnicore.cluster.inferenceservice import (
    PublishedCheckpoint,
    ServeSpec,
    fetch_memory,
    fetch_storage,
    inference_service,
)
from omnicore.cluster.pod_spec import Owner, container_security, pod_security
from omnicore.config import EngineConfig, LauncherConfig
from omnicore.errors import ConfigError
from tests.errors import refused
from tests.manifests.strict import CRDS, validate

K8S = Path(__file__).parents[2] / "k8s"
CHAMPION = K8S / "components" / "champion"
GOLDEN = Path(__file__).parent / "golden"
NEEDS_CRDS = pytest.mark.skipif(
    not CRDS.is_dir(), reason="the upstream schemas are not beside this checkout"
)
IMAGE = "registry.example/omni-train@sha256:" + "0" * 64
SECRETS = {name: f"omnicore-s3/{name}" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
BIG = PublishedCheckpoint(
    "s3://omnicore/runs/inputs/ab",
    "s3://omnicore/runs/inputs/ab/cd/checkpoint",
    "c" * 64,
    22_000_000_000,
    "checkpoint",
)
TINY = PublishedCheckpoint("s3://omnicore/base", "s3://omnicore/base/ef", "e" * 64, 900_000, "")
OWNER = Owner(name="omniboost-x7", uid="0b2f3c1e-9d1f-4c6a-8f44-6d1f0b6f1a11")
FULL = {
    "env": {"OMNI_S3_ENDPOINT": "http://seaweedfs:8333"},
    # The key to sign with is for jobs that write a checkpoint: no server is given it.
    "secrets": {
        **SECRETS,
        "OMNI_VERIFY_KEY": "omnicore-verify/OMNI_VERIFY_KEY",
        "OMNI_SIGNING_KEY": "omnicore-signing/OMNI_SIGNING_KEY",
    },
    "node_selector": {"cloud.example/gpu": "h100"},
    "tolerations": ({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},),
    "queue": "gpu",
}


def spec(
    model: PublishedCheckpoint,
    owner: Owner | None = None,
    engine: dict[str, Any] | None = None,
    **place: Any,
) -> ServeSpec:
    return ServeSpec(
        name=names.job_name("omniboost-x7", "evaluate", "k" * 64),
        namespace="team",
        labels=names.labels("omniboost-x7", "evaluate", "k" * 64),
        model=model,
        engine=EngineConfig(kind="kserve", **(engine or {})),
        place=LauncherConfig(image=IMAGE, storage="s3://omnicore/runs", **place),
        owner=owner,
    )


BUILT = {
    "inferenceservice-full": lambda: inference_service(
        spec(BIG, OWNER, {"gpus": 2, "memory": "128Gi"}, **FULL)
    ),
    "inferenceservice-cpu": lambda: inference_service(
        spec(TINY, None, {"gpus": 0, "cpu": "4", "memory": "8Gi"})
    ),
}


def shipped(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def with_candidate() -> dict[str, Any]:
    """The champion as kustomize patches it: kinds without a schema of its own get a JSON merge
    patch."""
    champion = shipped(CHAMPION / "inferenceservice.yaml")
    champion["spec"] |= shipped(CHAMPION / "canary" / "candidate.yaml")["spec"]
    return champion


SHIPPED = {
    "servingruntime": lambda: shipped(K8S / "base" / "serving" / "servingruntime.yaml"),
    "champion": lambda: shipped(CHAMPION / "inferenceservice.yaml"),
    "champion with a candidate": with_candidate,
    "poddisruptionbudget": lambda: shipped(CHAMPION / "poddisruptionbudget.yaml"),
    "podmonitor": lambda: shipped(CHAMPION / "podmonitor.yaml"),
}
OBJECTS = {**BUILT, **SHIPPED}


@pytest.mark.parametrize("case", BUILT)
def test_objects_equal_the_golden_files(case: str) -> None:
    """`GOLDEN=1 pytest tests/manifests/test_serving.py` writes them anew; read the difference
    before you commit it."""
    path, text = GOLDEN / f"{case}.yaml", yaml.safe_dump(BUILT[case](), sort_keys=False)
    if os.environ.get("GOLDEN"):
        path.write_text(text)
    assert path.read_text() == text


@NEEDS_CRDS
@pytest.mark.parametrize("case", OBJECTS)
def test_objects_fit_the_upstream_schema(case: str) -> None:
    made = OBJECTS[case]()
    assert validate(made) == []
    assert validate({**made, "spec": {**made["spec"], "nonsense": 1}})


@NEEDS_CRDS
@pytest.mark.parametrize(
    ("case", "change", "place"),
    [
        (
            "inferenceservice-full",
            lambda o: o["spec"]["predictor"].update(minReplica=1),
            "minReplica",
        ),
        (
            "inferenceservice-full",
            lambda o: o["spec"]["predictor"]["model"].update(storageURI="s3://b"),
            "storageURI",
        ),
        (
            "inferenceservice-full",
            lambda o: o["spec"]["predictor"]["initContainers"][0].update(mem="1Gi"),
            "mem",
        ),
        (
            "servingruntime",
            lambda o: o["spec"]["containers"][0]["startupProbe"].update(failureTreshold=1),
            "failureTreshold",
        ),
        ("servingruntime", lambda o: o["spec"].update(securityContext={}), "securityContext"),
        (
            "champion with a candidate",
            lambda o: o["spec"]["canary"][0].pop("trafficPercent"),
            "trafficPercent",
        ),
        (
            "champion with a candidate",
            lambda o: o["spec"]["canary"][0].update(trafficPercent=101),
            "101",
        ),
        ("podmonitor", lambda o: o["spec"]["podMetricsEndpoints"][0].update(pth="/metrics"), "pth"),
    ],
)
def test_validator_finds_refused_and_dropped_fields(case: str, change: Any, place: str) -> None:
    made = copy.deepcopy(OBJECTS[case]())
    change(made)
    assert any(place in error for error in validate(made))


@pytest.mark.parametrize(
    ("size", "disk", "memory"),
    [
        (0, "1Gi", "1Gi"),
        (900_000, "2Gi", "2Gi"),
        (22_000_000_000, "24Gi", "4Gi"),
        (150_000_000_000, "155Gi", "15Gi"),
    ],
)
def test_initializer_is_sized_by_the_model(size: int, disk: str, memory: str) -> None:
    assert (fetch_storage(size), fetch_memory(size)) == (disk, memory)
    made = inference_service(spec(BIG._replace(size=size)))["spec"]["predictor"]
    resources = made["initContainers"][0]["resources"]
    assert resources["requests"] == {"cpu": "2", "memory": memory, "ephemeral-storage": disk}
    assert resources["limits"] == {"cpu": "2", "memory": memory}
    assert made["volumes"][0]["emptyDir"] == {"sizeLimit": disk}


def test_secret_without_a_key_is_refused() -> None:
    with refused(ConfigError, "launcher-secret-invalid", field="launcher.secrets.KEY"):
        inference_service(spec(BIG, secrets={"KEY": "no-slash"}))


def flags() -> dict[str, str]:
    args = SHIPPED["servingruntime"]()["spec"]["containers"][0]["args"]
    return dict(arg.partition("=")[::2] for arg in args[1:])


def test_server_arguments_are_safe_and_take_audio() -> None:
    found = flags()
    assert (
        not {"--trust-remote-code", "--allowed-local-media-path", "--enable-log-requests"}
        & found.keys()
    )
    assert found["--allowed-media-domains"].endswith(
        ".invalid"
    )  # a name that no host has: RFC 2606
    assert found["--served-model-name"] == "{{.Name}}"
    limits = yaml.safe_load(found["--limit-mm-per-prompt"])
    assert set(limits) == {"image", "video", "audio"}
    assert all(count > 0 for count in limits.values())
    # Without it vLLM 0.32 refuses the frame rate that comes with every video (EngineError: HTTP 400).
    assert "--trust-request-mm-kwargs" in found


def containers(predictor: dict[str, Any]) -> list[dict[str, Any]]:
    return [*predictor.get("initContainers", []), *predictor.get("containers", [])]


@pytest.mark.parametrize(
    "case", ["inferenceservice-full", "inferenceservice-cpu", "champion", "servingruntime"]
)
def test_pods_obey_restricted(case: str) -> None:
    """Pod Security Standards, `restricted`; of a runtime, whose pod has no settings of its own,
    each container does."""
    made = OBJECTS[case]()
    whole = made["spec"] if made["kind"] == "ServingRuntime" else made["spec"]["predictor"]
    for container in containers(whole):
        assert container_security().items() <= container["securityContext"].items()
    if made["kind"] == "ServingRuntime":
        assert pod_security().items() <= whole["containers"][0]["securityContext"].items()
    else:
        assert whole["securityContext"] == pod_security()
        assert whole["automountServiceAccountToken"] is False


def test_mounts_are_where_the_server_reads_and_writes() -> None:
    runtime = SHIPPED["servingruntime"]()["spec"]
    assert runtime["containers"][0]["args"][0] == "/mnt/models"
    mounts = {
        mount["mountPath"]: mount["name"] for mount in runtime["containers"][0]["volumeMounts"]
    }
    volumes = {volume["name"]: volume for volume in runtime["volumes"]}
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    assert mounts["/tmp"] in volumes
    for case in ("inferenceservice-full", "champion"):
        predictor = OBJECTS[case]()["spec"]["predictor"]
        (model,), (init,) = predictor["model"]["volumeMounts"], predictor["initContainers"]
        assert (model["mountPath"], model["subPath"], model["readOnly"]) == (
            "/mnt/models",
            "model/checkpoint",
            True,
        )
        assert not {volume["name"] for volume in predictor["volumes"]} & volumes.keys()
        target = init["command"][-1] if case != "champion" else init["args"][-1]
        assert target == "/mnt/model/model"
    assert (
        BUILT["inferenceservice-cpu"]()["spec"]["predictor"]["model"]["volumeMounts"][0]["subPath"]
        == "model"
    )


def test_step_and_champion_use_the_shipped_runtime() -> None:
    runtime = SHIPPED["servingruntime"]()
    ports = [port["containerPort"] for port in runtime["spec"]["containers"][0]["ports"]]
    # KServe's Service of a headless cluster leads to 8080, whatever the container says.
    assert ports == [8080] == [int(flags()["--port"])]
    assert runtime["spec"]["annotations"]["prometheus.kserve.io/port"] == "8080"
    assert EngineConfig().runtime == runtime["metadata"]["name"]
    formats = {known["name"] for known in runtime["spec"]["supportedModelFormats"]}
    for case in ("inferenceservice-full", "champion"):
        model = OBJECTS[case]()["spec"]["predictor"]["model"]
        assert model["runtime"] == runtime["metadata"]["name"]
        assert model["modelFormat"]["name"] in formats


def test_champion_is_not_reaped_and_candidate_not_scaled() -> None:
    champion = with_candidate()
    assert names.RUN not in champion["metadata"]["labels"]
    assert names.HEARTBEAT not in champion["metadata"].get("annotations", {})
    (candidate,) = champion["spec"]["canary"]
    assert (
        not {"maxReplicas", "autoScaling", "scaleMetric", "scaleTarget"}
        & candidate["predictor"].keys()
    )
    assert candidate["predictor"]["name"]
    stable = champion["spec"]["predictor"]["initContainers"][0]
    own = candidate["predictor"]["initContainers"][0]
    assert {**own, "args": None} == {**stable, "args": None}
    assert "--served-model-name=champion" in champion["spec"]["predictor"]["model"]["args"]


@pytest.mark.parametrize("case", ["poddisruptionbudget", "podmonitor"])
def test_budget_and_monitor_select_the_champion(case: str) -> None:
    chosen = SHIPPED[case]()["spec"]["selector"]["matchLabels"]
    labels = {
        "serving.kserve.io/inferenceservice": "champion",
        "component": "predictor",
    }  # as KServe marks its pods
    assert chosen.items() <= labels.items()
    assert SHIPPED[case]()["metadata"]["name"] != "champion-predictor"
