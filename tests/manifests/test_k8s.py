"""The cluster's objects as kubectl renders them: valid to the last field, no more rights than the
code uses, no open door."""

from __future__ import annotations

import copy
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from omnicore.cluster import launch, reap, serve, step_job
from omnicore.cluster.manifests import METRICS, METRICS_PORT, training_runtime
from omnicore.cluster.names import KINDS, Resource
from omnicore.config import EngineConfig, LauncherConfig
from omnicore.telemetry import live
from pipelines import MONITORING, STORAGE
from tests.kubectl import kustomize
from tests.manifests.strict import CRDS, validate

K8S = Path(__file__).parents[2] / "k8s"
OVERLAYS = ("local", "dev", "prod")
RENDERED = ("base", *(f"overlays/{name}" for name in OVERLAYS))
NEEDS_CRDS = pytest.mark.skipif(
    not CRDS.is_dir(), reason="the upstream schemas are not beside this checkout"
)
BASE = {
    "Namespace": {"omnicore"},
    "LimitRange": {"omnicore"},
    "ServiceAccount": {"omnicore-runner", "omnicore-train", "omnicore-serve", "omnicore-reaper"},
    "Role": {"omnicore-runner", "omnicore-kfp", "omnicore-reaper"},
    "RoleBinding": {"omnicore-runner", "omnicore-kfp", "omnicore-reaper"},
    "NetworkPolicy": {
        "default-deny",
        "dns",
        "runner",
        "reaper",
        "pytorchjob",
        "trainjob",
        "predictor",
        "pushgateway",
    },
    "ConfigMap": {"omnicore-s3", "omnicore-monitoring", "omnicore-dashboards"},
    "Deployment": {"omnicore-pushgateway"},
    "Service": {"omnicore-pushgateway"},
    "Secret": {"omnicore-s3"},
    "ResourceFlavor": {"omnicore-cpu"},
    "ClusterQueue": {"omnicore"},
    "LocalQueue": {"omnicore"},
    "WorkloadPriorityClass": {"omnicore-train", "omnicore-evaluate"},
    "PriorityClass": {"omnicore-train", "omnicore-evaluate", "omnicore-reaper"},
    "PrometheusRule": {"omnicore"},
    "PodMonitor": {
        "omnicore-runner",
        "omnicore-pytorchjob",
        "omnicore-trainjob",
        "omnicore-serving",
        "omnicore-pushgateway",
    },
    "CronJob": {"omnicore-reaper"},
    "ServingRuntime": {"omnicore-vllm"},
}
RUNTIME = {"TrainingRuntime": {"omnicore"}}
GPUS = {"ResourceFlavor": {"omnicore-gpu"}}
MORE = {
    "local": [
        RUNTIME,
        {"StatefulSet": {"omnicore-storage"}, "Service": {"omnicore-storage"}},
        {"NetworkPolicy": {"local-s3", "local-s3-server"}},
    ],
    "dev": [RUNTIME, GPUS],
    "prod": [
        RUNTIME,
        GPUS,
        {"NetworkPolicy": {"istio", "istio-gateway"}},
        {
            "InferenceService": {"champion"},
            "PodDisruptionBudget": {"champion"},
            "PodMonitor": {"champion"},
            "ConfigMap": {"champion"},
        },
    ],
}


def objects(name: str) -> tuple[dict[str, Any], ...]:
    return kustomize(K8S / name)


def one(name: str, kind: str, called: str) -> dict[str, Any]:
    (found,) = [o for o in objects(name) if (o["kind"], o["metadata"]["name"]) == (kind, called)]
    return found


def everywhere(value: Any, key: str) -> list[Any]:
    """All values of a field, however deep."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [
        *([value[key]] if isinstance(value, dict) and key in value else []),
        *(v for part in inner for v in everywhere(part, key)),
    ]


@NEEDS_CRDS
@pytest.mark.parametrize("name", RENDERED)
def test_every_object_is_valid(name: str) -> None:
    for found in objects(name):
        assert (found["kind"], found["metadata"]["name"], validate(found)) == (
            found["kind"],
            found["metadata"]["name"],
            [],
        )
        worse = copy.deepcopy(found)
        worse.get("spec", worse)["nonsense"] = 1
        assert validate(worse), found["kind"]


@pytest.mark.parametrize("name", RENDERED)
def test_overlay_renders_its_kinds(name: str) -> None:
    wanted: dict[str, set[str]] = {kind: set(names) for kind, names in BASE.items()}
    for more in MORE.get(name.rpartition("/")[2], []):
        for kind, names in more.items():
            wanted[kind] = wanted.get(kind, set()) | names
    found: dict[str, set[str]] = {}
    for item in objects(name):
        found.setdefault(item["kind"], set()).add(item["metadata"]["name"])
    assert found == wanted


@NEEDS_CRDS
@pytest.mark.parametrize("name", RENDERED)
def test_only_namespaced_objects_name_a_namespace(name: str) -> None:
    wide = {"Namespace", "PriorityClass"}
    for path in CRDS.glob("*.yaml"):
        head = path.read_text()
        if re.search(r"^  scope: Cluster$", head, re.MULTILINE):
            wide.add(re.search(r"^    kind: (\w+)$", head, re.MULTILINE)[1])  # type: ignore[index]
    found = {
        (o["kind"], o["metadata"]["name"]): o["metadata"].get("namespace") for o in objects(name)
    }
    assert found == {key: None if key[0] in wide else "omnicore" for key in found}


def granted(*roles: str) -> set[tuple[str, str, str]]:
    """(group, resource, verb) of roles; a rule for named objects alone names them after the
    resource."""
    rules = [rule for role in roles for rule in one("base", "Role", role)["rules"]]
    return {
        (group, "/".join([resource, *rule.get("resourceNames", [])]), verb)
        for rule in rules
        for group, resource, verb in product(rule["apiGroups"], rule["resources"], rule["verbs"])
    }


def called(verbs: frozenset[tuple[Resource, str]]) -> set[tuple[str, str, str]]:
    return {(resource.group, resource.plural, verb) for resource, verb in verbs}


def test_runner_has_exactly_the_launch_rights() -> None:
    """What they call is recorded from a mock API server in tests/unit/test_launch.py and
    test_serve_cluster.py."""
    wanted = called(launch.VERBS | serve.VERBS)
    assert granted("omnicore-runner") == wanted
    # The clean-up at a run's end runs as the runner, and looks at no Workflow.
    assert called(reap.VERBS) - wanted == {("argoproj.io", "workflows", "get")}


def test_reaper_has_exactly_the_reap_rights() -> None:
    assert granted("omnicore-reaper") == called(reap.VERBS)


def test_kubeflows_own_rights_are_granted_by_name() -> None:
    assert granted("omnicore-kfp") == {
        ("argoproj.io", "workflowtaskresults", "create"),
        ("argoproj.io", "workflowtaskresults", "patch"),
        ("", "pods", "patch"),
        ("", "configmaps/kfp-launcher", "get"),
        ("", "secrets/mlpipeline-minio-artifact", "get"),
    }


@pytest.mark.parametrize("name", RENDERED)
def test_rights_are_explicit_and_of_one_account(name: str) -> None:
    kinds = {o["kind"] for o in objects(name)}
    assert not kinds & {"ClusterRole", "ClusterRoleBinding"}
    assert "*" not in "".join(
        map(str, [everywhere(o, "rules") for o in objects(name) if o["kind"] == "Role"])
    )
    bound = {
        o["roleRef"]["name"]: [(s["kind"], s["name"], s["namespace"]) for s in o["subjects"]]
        for o in objects(name)
        if o["kind"] == "RoleBinding"
    }
    runner, reaper = (
        ("ServiceAccount", "omnicore-runner", "omnicore"),
        (
            "ServiceAccount",
            "omnicore-reaper",
            "omnicore",
        ),
    )
    assert bound == {
        "omnicore-runner": [runner],
        "omnicore-kfp": [runner],
        "omnicore-reaper": [reaper],
    }


def test_only_cluster_clients_hold_a_token() -> None:
    tokens = {
        o["metadata"]["name"]: o["automountServiceAccountToken"]
        for o in objects("base")
        if o["kind"] == "ServiceAccount"
    }
    assert tokens == {
        "omnicore-runner": True,
        "omnicore-reaper": True,
        "omnicore-train": False,
        "omnicore-serve": False,
    }


def test_recipes_and_manifests_use_the_same_names() -> None:
    place, engine = LauncherConfig(), EngineConfig()
    assert one("base", "ServiceAccount", place.service_account)
    assert one("base", "ServiceAccount", engine.service_account)
    assert one("base", "ServingRuntime", engine.runtime)
    assert one("overlays/dev", "TrainingRuntime", place.runtime)
    assert one("base", "Secret", STORAGE)
    assert one("base", "ConfigMap", STORAGE)


def test_pods_know_where_to_serve_and_push_metrics() -> None:
    told = one("base", "ConfigMap", MONITORING)["data"]
    assert {name: told[name] for name in (live.PORT, live.HOST)} == METRICS
    (port,) = one("base", "Service", "omnicore-pushgateway")["spec"]["ports"]
    assert told[live.GATEWAY] == f"http://omnicore-pushgateway.omnicore.svc:{port['port']}"
    assert live.GATEWAY in step_job.PASSED_ON


@pytest.mark.parametrize("name", OVERLAYS)
def test_scraped_ports_are_those_of_the_pods(name: str) -> None:
    """By name; the runner's pods declare none, and are reached by number."""
    ports = [
        port
        for o in objects(f"overlays/{name}")
        for ports in everywhere(o, "ports")
        for port in ports
    ]
    named = {port.get("name") for port in ports} | {
        "metrics"
    }  # a job's pods: omnicore/cluster/manifests.py
    monitors = [o for o in objects(f"overlays/{name}") if o["kind"] == "PodMonitor"]
    assert monitors
    for monitor in monitors:
        for end in monitor["spec"]["podMetricsEndpoints"]:
            if "port" in end:
                assert end["port"] in named, monitor["metadata"]["name"]
            else:
                assert any(
                    f"$1:{METRICS_PORT}" == rule.get("replacement") for rule in end["relabelings"]
                )


@pytest.mark.parametrize("name", RENDERED)
def test_no_secret_has_a_value(name: str) -> None:
    for secret in (o for o in objects(name) if o["kind"] == "Secret"):
        assert not {"data", "stringData"} & secret.keys()
    for entry in [e for o in objects(name) for env in everywhere(o, "env") for e in env]:
        assert not (re.search("KEY|SECRET|TOKEN|PASSWORD", entry["name"]) and "value" in entry), (
            entry
        )


def test_training_runtime_is_the_launchers() -> None:
    made = training_runtime("omnicore", "omnicore", "omni-train:dev")
    assert one("overlays/local", "TrainingRuntime", "omnicore") == made


PINNED = r"docker\.io/(chrislusf/seaweedfs:4\.48|prom/pushgateway:v1\.11\.3)"
IMAGE = re.compile(rf"(omni-(core|train|serve):dev|{PINNED}|.*@sha256:[0-9a-f]{{64}})")


@pytest.mark.parametrize("name", OVERLAYS)
def test_images_are_built_or_pinned(name: str) -> None:
    images = [image for o in objects(f"overlays/{name}") for image in everywhere(o, "image")]
    assert len(images) >= 3
    assert [image for image in images if not IMAGE.fullmatch(image)] == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_pods_obey_restricted(name: str) -> None:
    """Pod Security Standards, `restricted`: https://kubernetes.io/docs/concepts/security/pod-security-standards/"""
    for pod in (
        spec
        for o in objects(f"overlays/{name}")
        for spec in everywhere(o, "spec")
        if "containers" in spec
    ):
        own = pod.get("securityContext", {})
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["readOnlyRootFilesystem"]
            assert own.get("runAsNonRoot") or security["runAsNonRoot"]
            assert own.get("seccompProfile", security.get("seccompProfile")) == {
                "type": "RuntimeDefault"
            }
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert not everywhere(pod, "hostPath")


# Labels that Argo, the operators and KServe put on pods.
PODS = {
    "runner": {"workflows.argoproj.io/workflow": "w", "pipeline/runid": "r"},
    "reaper": {"app.kubernetes.io/name": "omnicore", "app.kubernetes.io/component": "reaper"},
    "pytorchjob": {
        KINDS["pytorchjob"].pods: "j",
        "omnicore.dev/step": "sft",
        "training.kubeflow.org/replica-index": "0",
    },
    "trainjob": {
        KINDS["trainjob"].pods: "j",
        "omnicore.dev/step": "sft",
        "batch.kubernetes.io/job-completion-index": "0",
    },
    "predictor": {"serving.kserve.io/inferenceservice": "m", "omnicore.dev/step": "evaluate"},
    "champion": {
        "serving.kserve.io/inferenceservice": "champion",
        "app.kubernetes.io/component": "champion",
    },
    "storage": {"app.kubernetes.io/name": "omnicore", "app.kubernetes.io/component": "storage"},
    "pushgateway": {
        "app.kubernetes.io/name": "omnicore",
        "app.kubernetes.io/component": "pushgateway",
    },
    "stranger": {"app": "x"},
}
ANY = "every port"
API, S3 = "0.0.0.0/0", "0.0.0.0/0 but private"
# (from role, to role or place): ports
FLOWS = {
    "base": {
        ("runner", API): {443, 6443},
        ("runner", "kubeflow"): {8887, 8888, 8080, 8333, 9000},
        ("runner", "predictor"): {8080},
        ("runner", "champion"): {8080},
        ("reaper", API): {443, 6443},
        ("pytorchjob", S3): {443},
        ("pytorchjob", "pytorchjob"): {ANY},
        ("trainjob", S3): {443},
        ("trainjob", "trainjob"): {ANY},
        ("predictor", S3): {443},
        ("champion", S3): {443},
        **{
            (role, "pushgateway"): {9091}
            for role in ("runner", "pytorchjob", "trainjob", "monitoring")
        },
        ("monitoring", "runner"): {METRICS_PORT},
        ("monitoring", "pytorchjob"): {METRICS_PORT},
        ("monitoring", "trainjob"): {METRICS_PORT},
        ("monitoring", "predictor"): {8080},
        ("monitoring", "champion"): {8080},
    },
    "local": {
        (role, "storage"): {8333}
        for role in PODS
        if role not in {"reaper", "pushgateway", "storage"}
    },
    "dev": {},
    "prod": (
        {("istio-system", role): {8080} for role in ("predictor", "champion")}
        | {(role, "istio-system"): {15012} for role in PODS}
    ),
}


def chosen(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    tests = {
        "Exists": lambda e: e["key"] in labels,
        "DoesNotExist": lambda e: e["key"] not in labels,
        "In": lambda e: labels.get(e["key"]) in e["values"],
        "NotIn": lambda e: labels.get(e["key"]) not in e["values"],
    }
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(tests[e["operator"]](e) for e in selector.get("matchExpressions", []))


def ends(peer: dict[str, Any]) -> set[str]:
    """Who is at the other end of a rule: roles, namespaces of the platform, or addresses."""
    if block := peer.get("ipBlock"):
        assert "169.254.0.0/16" in block["except"], "the node's own keys are at 169.254.169.254"
        return {f"{block['cidr']} but private" if len(block["except"]) > 1 else block["cidr"]}
    if space := peer.get("namespaceSelector"):
        return {space["matchLabels"]["kubernetes.io/metadata.name"]}
    return {role for role, labels in PODS.items() if chosen(peer["podSelector"], labels)}


def flows(name: str) -> dict[tuple[str, str], set[Any]]:
    """What the policies let through between pods of the namespace, and to and from what is outside
    of it."""
    out: dict[tuple[str, str], set[Any]] = {}
    into: dict[tuple[str, str], set[Any]] = {}
    for policy in (o["spec"] for o in objects(name) if o["kind"] == "NetworkPolicy"):
        for role in (
            role for role, labels in PODS.items() if chosen(policy["podSelector"], labels)
        ):
            for rule in policy.get("egress", []):
                for end in {end for peer in rule["to"] for end in ends(peer)}:
                    out.setdefault((role, end), set()).update(
                        p["port"] for p in rule.get("ports", [{"port": ANY}])
                    )
            for rule in policy.get("ingress", []):
                for end in {end for peer in rule["from"] for end in ends(peer)}:
                    into.setdefault((end, role), set()).update(
                        p["port"] for p in rule.get("ports", [{"port": ANY}])
                    )
    inside = {pair: ports & into.get(pair, set()) for pair, ports in out.items() if pair[1] in PODS}
    outside = {pair: ports for pair, ports in out.items() if pair[1] not in PODS}
    return {
        **{k: v for k, v in inside.items() if v},
        **outside,
        **{k: v for k, v in into.items() if k[0] not in PODS},
    }


@pytest.mark.parametrize("name", RENDERED)
def test_network_policy_allows_only_needed_traffic(name: str) -> None:
    dns = {(role, "kube-system"): {53} for role in PODS}
    assert flows(name) == {**FLOWS["base"], **dns, **FLOWS.get(name.rpartition("/")[2], {})}


def test_other_traffic_is_denied() -> None:
    deny = one("base", "NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@pytest.mark.parametrize(
    "role", ["runner", "pytorchjob", "trainjob", "predictor", "champion", "pushgateway"]
)
def test_each_pod_with_metrics_is_scraped_once(role: str) -> None:
    monitors = [o for o in objects("overlays/prod") if o["kind"] == "PodMonitor"]
    assert len([m for m in monitors if chosen(m["spec"]["selector"], PODS[role])]) == 1


@pytest.mark.parametrize(
    "rank", ["training.kubeflow.org/replica-index", "batch.kubernetes.io/job-completion-index"]
)
def test_ranks_without_metrics_are_not_scraped(rank: str) -> None:
    role = "pytorchjob" if rank.startswith("training") else "trainjob"
    others = {**PODS[role], rank: "1"}
    assert not [
        m
        for m in objects("base")
        if m["kind"] == "PodMonitor" and chosen(m["spec"]["selector"], others)
    ]


@pytest.mark.parametrize("name", RENDERED)
def test_queue_has_its_flavors_and_quotas(name: str) -> None:
    (queue,) = [o["spec"] for o in objects(name) if o["kind"] == "ClusterQueue"]
    flavors = {o["metadata"]["name"] for o in objects(name) if o["kind"] == "ResourceFlavor"}
    for group in queue["resourceGroups"]:
        assert {flavor["name"] for flavor in group["flavors"]} == flavors
        for flavor in group["flavors"]:
            assert [resource["name"] for resource in flavor["resources"]] == group[
                "coveredResources"
            ]
    (local,) = [o["spec"] for o in objects(name) if o["kind"] == "LocalQueue"]
    assert local["clusterQueue"] == "omnicore"


@pytest.mark.parametrize(("name", "gpus"), [("dev", 2), ("prod", 8)])
def test_gpu_quota_is_the_pools(name: str, gpus: int) -> None:
    (group,) = one(f"overlays/{name}", "ClusterQueue", "omnicore")["spec"]["resourceGroups"]
    quota = {flavor["name"]: flavor["resources"][-1] for flavor in group["flavors"]}
    assert quota == {
        "omnicore-cpu": {"name": "nvidia.com/gpu", "nominalQuota": 0},
        "omnicore-gpu": {"name": "nvidia.com/gpu", "nominalQuota": gpus},
    }


def test_reaper_runs_more_often_than_heartbeats_stale() -> None:
    spec = one("base", "CronJob", "omnicore-reaper")["spec"]
    minutes = int(re.fullmatch(r"\*/(\d+) \* \* \* \*", spec["schedule"])[1])  # type: ignore[index]
    assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] < minutes * 60 < reap.STALE
    assert spec["concurrencyPolicy"] == "Forbid"
    (container,) = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["omnicore", "cluster", "reap"]


def test_every_folder_is_used_by_an_overlay() -> None:
    """A component that nobody uses is not tested."""
    used = {
        (K8S / "overlays" / name / path).resolve()
        for name in OVERLAYS
        for path in yaml.safe_load((K8S / "overlays" / name / "kustomization.yaml").read_text())[
            "components"
        ]
    }
    assert {path.parent for path in (K8S / "components").glob("*/kustomization.yaml")} == used
