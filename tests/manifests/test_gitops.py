"""What Argo CD applies: valid to the last field, in order, no more than its project allows, and
commands that the CLI takes."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

from omnicore.cli.main import main
from omnicore.cluster.request import RetrainRequest, read_request
from pipelines.compile import REQUEST
from tests.kfp_server import Kfp, kfp
from tests.kubectl import kustomize
from tests.manifests.strict import CRDS, validate
from tests.manifests.test_k8s import PODS, chosen, everywhere

__all__ = ["kfp"]

ROOT = Path(__file__).parents[2]
GITOPS = ROOT / "k8s" / "gitops"
RETRAIN, ARGOCD = GITOPS / "retrain", GITOPS / "argocd"
WAVE, OPTIONS, COMPARE = (
    f"argocd.argoproj.io/{name}" for name in ("sync-wave", "sync-options", "compare-options")
)
URI = f"s3://omnicore/runs/results/rlvr-1/{'a' * 32}/checkpoint"


def one(folder: Path, kind: str, start: str = "") -> dict[str, Any]:
    (found,) = [
        o
        for o in kustomize(folder)
        if o["kind"] == kind and o["metadata"]["name"].startswith(start)
    ]
    return found


@pytest.mark.skipif(not CRDS.is_dir(), reason="the upstream schemas are not beside this checkout")
@pytest.mark.parametrize("folder", [RETRAIN, ARGOCD], ids=lambda f: f.name)
def test_every_object_is_valid(folder: Path) -> None:
    for found in kustomize(folder):
        assert (found["kind"], found["metadata"]["name"], validate(found)) == (
            found["kind"],
            found["metadata"]["name"],
            [],
        )
        if "spec" in found:
            assert validate({**found, "spec": {**found["spec"], "nonsense": 1}}), found["kind"]
    assert {o["metadata"]["namespace"] for o in kustomize(folder)} == {
        "omnicore" if folder == RETRAIN else "argocd"
    }


def test_project_allows_exactly_the_applied_kinds() -> None:
    spec = one(ARGOCD, "AppProject")["spec"]
    applied = list(chain(kustomize(ROOT / "k8s" / "overlays" / "prod"), kustomize(RETRAIN)))
    for listed, here in (("clusterResourceWhitelist", False), ("namespaceResourceWhitelist", True)):
        kinds = {
            (o["apiVersion"].rpartition("/")[0], o["kind"])
            for o in applied
            if bool(o["metadata"].get("namespace")) is here
        }
        assert {(kind["group"], kind["kind"]) for kind in spec[listed]} == kinds
    applications = [o["spec"] for o in kustomize(ARGOCD) if o["kind"] == "Application"]
    assert {a["project"] for a in applications} == {"omnicore"}
    assert [a["source"]["repoURL"] for a in applications] == spec["sourceRepos"] * 2
    assert all(a["destination"] in spec["destinations"] for a in applications)
    assert [
        (ROOT / a["source"]["path"] / "kustomization.yaml").is_file() for a in applications
    ] == [True, True]


def test_application_prunes_last_and_ignores_others() -> None:
    applications = [o for o in kustomize(ARGOCD) if o["kind"] == "Application"]
    assert applications
    for found in applications:
        policy = found["spec"]["syncPolicy"]
        assert policy["automated"] == {"prune": True, "selfHeal": True}
        assert {"ServerSideApply=true", "PruneLast=true", "RespectIgnoreDifferences=true"} <= set(
            policy["syncOptions"]
        )
        assert "ServerSideDiff=true" in found["metadata"]["annotations"][COMPARE]
        applied = kustomize(ROOT / found["spec"]["source"]["path"])
        for ignored in found["spec"]["ignoreDifferences"]:
            assert [
                o
                for o in applied
                if o["kind"] == ignored["kind"]
                and ignored.get("name") in (None, o["metadata"]["name"])
            ]


def test_pipeline_version_follows_and_stays() -> None:
    pipeline, version = one(RETRAIN, "Pipeline"), one(RETRAIN, "PipelineVersion")
    assert [o["metadata"]["annotations"][WAVE] for o in (pipeline, version)] == ["0", "1"]
    for found in (pipeline, version):
        # Without the second, what is not pruned would leave the application out of sync for ever.
        assert found["metadata"]["annotations"][OPTIONS] == "Prune=false"
        assert found["metadata"]["annotations"][COMPARE] == "IgnoreExtraneous"


def test_configmap_name_follows_its_content(tmp_path: Path) -> None:
    held = one(RETRAIN, "ConfigMap")
    assert held["immutable"] is True
    assert RetrainRequest.model_validate(
        yaml.safe_load(held["data"]["request.yaml"])
    ) == read_request(REQUEST)
    assert held["data"]["RUN"] == read_request(REQUEST).run
    assert held["data"]["VERSION"] == one(RETRAIN, "PipelineVersion")["metadata"]["name"]
    other = tmp_path / "retrain"
    shutil.copytree(RETRAIN, other)
    (other / "request.yaml").write_text((other / "request.yaml").read_text() + "# a word\n")
    assert one(other, "ConfigMap")["metadata"]["name"] != held["metadata"]["name"]
    for spec in everywhere(list(kustomize(RETRAIN)), "configMapKeyRef"):
        assert spec["name"] in {held["metadata"]["name"], "champion", "omnicore-s3"}


def pods() -> dict[str, dict[str, Any]]:
    """The specs of the pods that submit, by who makes them."""
    jobs = {o["metadata"]["name"]: o["spec"] for o in kustomize(RETRAIN) if o["kind"] == "Job"}
    jobs |= {
        o["metadata"]["name"]: o["spec"]["jobTemplate"]["spec"]
        for o in kustomize(RETRAIN)
        if o["kind"] == "CronJob"
    }
    return {name: job["template"] for name, job in jobs.items()}


def test_submit_hook_is_a_job_and_rest_is_suspended() -> None:
    notes = one(RETRAIN, "Job")["metadata"]["annotations"]
    assert notes == {
        "argocd.argoproj.io/hook": "PostSync",
        "argocd.argoproj.io/hook-delete-policy": "BeforeHookCreation",
    }
    assert set(pods()) == {"retrain-submit", "retrain-on-data", "retrain-weekly"}
    assert [o["spec"]["suspend"] for o in kustomize(RETRAIN) if o["kind"] == "CronJob"] == [
        True,
        True,
    ]


@pytest.mark.parametrize("name", sorted({"retrain-submit", "retrain-on-data", "retrain-weekly"}))
def test_submitter_is_restricted_with_a_kfp_token(name: str) -> None:
    pod = pods()[name]
    labels = pod["metadata"]["labels"]
    (policy,) = [o["spec"] for o in kustomize(RETRAIN) if o["kind"] == "NetworkPolicy"]
    assert chosen(policy["podSelector"], labels)
    assert not [role for role, of in PODS.items() if chosen(policy["podSelector"], of)]
    spec = pod["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert [token["audience"] for token in everywhere(spec, "serviceAccountToken")] == [
        "pipelines.kubeflow.org"
    ]
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    (container,) = spec["containers"]
    own = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert container["securityContext"] == own
    assert container["image"] == "omni-core:dev"


def test_submitter_account_has_only_kfp_rights() -> None:
    assert not [
        o for o in kustomize(RETRAIN) if o["kind"] in {"Role", "ClusterRole", "ClusterRoleBinding"}
    ]
    binding = one(RETRAIN, "RoleBinding")
    assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) == (
        "ClusterRole",
        "kubeflow-pipelines-edit",
    )
    assert {pod["spec"]["serviceAccountName"] for pod in pods().values()} == {
        s["name"] for s in binding["subjects"]
    }


def told(name: str, tmp_path: Path) -> list[str]:
    """What the container of a pod runs, as the kubelet would start it, its mounts below a folder:
    the words of `omnicore`."""
    (container,) = pods()[name]["spec"]["containers"]
    data = one(RETRAIN, "ConfigMap")["data"]
    values = {"CHAMPION": URI, **{key: data[key] for key in ("RUN", "VERSION")}}
    (tmp_path / "request.yaml").write_text(data["request.yaml"])
    words = [
        re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], word).replace(
            "/request/", f"{tmp_path}/"
        )
        for word in (*container["command"], *container["args"])
    ]
    if words[0] == "sh":
        words[words.index("omnicore")] = "echo"
        words = [
            "omnicore",
            *subprocess.run(words, capture_output=True, text=True, check=True).stdout.split(),
        ]
    return words


@pytest.mark.parametrize("name", sorted({"retrain-submit", "retrain-on-data", "retrain-weekly"}))
def test_each_pod_submits_the_request_once(
    name: str, kfp: Kfp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omnicore.cluster.kubeflow.IN_CLUSTER", kfp.url)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    kfp.versions["retrain"].append(one(RETRAIN, "PipelineVersion")["metadata"]["name"])
    words = told(name, tmp_path)
    assert words[0] == "omnicore"
    for _ in range(2):
        assert main(words[1:]) == 0
    (run,) = kfp.runs
    weekly = f"retrain-{datetime.now(UTC):%G-w%V}"
    assert run["display_name"] == (
        weekly if name == "retrain-weekly" else read_request(REQUEST).run
    )
    assert run["namespace"] == "omnicore"
    assert (
        run["pipeline_version_reference"]["pipeline_version_id"]
        == f"id-{kfp.versions['retrain'][-1]}"
    )
    assert run["runtime_config"]["parameters"]["champion"] == URI.removesuffix("/checkpoint")


# What a controller says, and how well the object is by that.
HEALTH: dict[str, list[tuple[list[tuple[str, str]], str]]] = {
    "kubeflow.org_PyTorchJob": [
        ([], "Progressing"),
        ([("Created", "True"), ("Running", "True")], "Progressing"),
        ([("Created", "True"), ("Running", "False"), ("Succeeded", "True")], "Healthy"),
        ([("Succeeded", "True"), ("Failed", "True")], "Degraded"),
        ([("Suspended", "True")], "Suspended"),
        ([("Suspended", "False"), ("Running", "True")], "Progressing"),
    ],
    "trainer.kubeflow.org_TrainJob": [
        ([], "Progressing"),
        ([("Suspended", "True")], "Suspended"),
        ([("Complete", "True")], "Healthy"),
        ([("Failed", "True")], "Degraded"),
    ],
    "kueue.x-k8s.io_ClusterQueue": [
        ([], "Progressing"),
        ([("Active", "True")], "Healthy"),
        ([("Active", "False")], "Degraded"),
    ],
    "kueue.x-k8s.io_LocalQueue": [
        ([], "Progressing"),
        ([("Active", "True")], "Healthy"),
        ([("Active", "False")], "Degraded"),
    ],
    "pipelines.kubeflow.org_PipelineVersion": [
        ([], "Healthy"),
        ([("PipelineVersionStatus", "True")], "Healthy"),
        ([("PipelineVersionStatus", "False")], "Degraded"),
    ],
}


@pytest.mark.parametrize("key", HEALTH)
def test_health_by_conditions(key: str) -> None:
    from lupa import LuaRuntime

    text = one(ARGOCD, "ConfigMap")["data"][f"resource.customizations.health.{key}"]
    lua = LuaRuntime()
    judge = lua.eval(f"function(obj) {text} end")
    for conditions, status in HEALTH[key]:
        rows = [
            {"type": kind, "status": value, "message": f"said of {kind}"}
            for kind, value in conditions
        ]
        for given in (
            {"status": {"conditions": rows}},
            *([{}, {"status": {}}] if not rows else []),
        ):
            found = judge(lua.table_from(given, recursive=True))
            assert (conditions, found["status"]) == (conditions, status)
            assert isinstance(found["message"], str)


def test_health_rules_are_of_the_applied_kinds() -> None:
    keys = {
        key.removeprefix("resource.customizations.health.")
        for key in one(ARGOCD, "ConfigMap")["data"]
    }
    assert keys == set(HEALTH)
