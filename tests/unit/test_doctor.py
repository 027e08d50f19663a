"""`omnicore doctor`: each check against something that works and something that does not."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from omnicore.config.recipe import Recipe, load_recipe
from omnicore.runtime import doctor
from omnicore.schema import Finding
from omnicore.storage.store import open_bucket
from tests.seaweed import seaweed, signed_in, uri
from tests.seeing_stub import seeing
from tests.stub_server import Stub

__all__ = ["seaweed", "signed_in", "uri"]

GROUPS = {
    "trainer.kubeflow.org": ["v1alpha1"],
    "jobset.x-k8s.io": ["v1alpha2"],
    "serving.kserve.io": ["v1beta1", "v1alpha1"],
    "kueue.x-k8s.io": ["v1beta1", "v1beta2"],
}
JOB = [
    "launcher.kind=trainjob",
    "launcher.image=registry.example/train@sha256:00",
    "launcher.storage=s3://runs",
    "launcher.queue=omnicore",
    "launcher.nodes=2",
    "launcher.gpus_per_node=4",
]


class Cluster:
    """The answers of an API server to what the doctor reads."""

    def __init__(self) -> None:
        self.groups = dict(GROUPS)
        self.denied: set[tuple[str, str]] = set()
        self.quota: int | None = 8
        self.gpus = [0, 4]

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        path = path.partition("?")[0]
        queue = "/apis/kueue.x-k8s.io/v1beta2"
        if path == "/version/":
            version = {"major": "1", "minor": "34", "gitVersion": "v1.34.2", "buildDate": "x"}
            empty = ("compiler", "gitCommit", "gitTreeState", "goVersion", "platform")
            return 200, version | dict.fromkeys(empty, "x")
        if path == "/apis/":
            return 200, {"kind": "APIGroupList", "groups": [self._group(n) for n in self.groups]}
        if path.endswith("/selfsubjectaccessreviews"):
            wanted = body["spec"]["resourceAttributes"]
            allowed = (wanted["resource"], wanted["verb"]) not in self.denied
            return 201, body | {"status": {"allowed": allowed}}
        if path == f"{queue}/namespaces/team/localqueues/omnicore" and self.quota is not None:
            return 200, {"spec": {"clusterQueue": "pool"}}
        if path == f"{queue}/clusterqueues/pool":
            resources = [{"name": "nvidia.com/gpu", "nominalQuota": self.quota}]
            flavors = [{"name": "gpu", "resources": resources}]
            return 200, {"spec": {"resourceGroups": [{"flavors": flavors}]}}
        if path == "/api/v1/nodes":
            items = [{"status": {"allocatable": {"nvidia.com/gpu": str(n)}}} for n in self.gpus]
            return 200, {"kind": "NodeList", "items": items}
        details = {"name": path.rpartition("/")[2], "kind": "localqueues"}
        status = {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
        return 404, status | {"message": f"{path} not found", "details": details}

    def _group(self, name: str) -> dict[str, Any]:
        versions = [{"groupVersion": f"{name}/{v}", "version": v} for v in self.groups[name]]
        return {"name": name, "versions": versions, "preferredVersion": versions[0]}


@contextmanager
def serving(cluster: Cluster, kubeconfig: Path) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            status, answer = cluster.answer(self.command, self.path, body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET  # noqa: N815 - http.server's name

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a", "namespace": "team"}}],
        "clusters": [
            {"name": "a", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        ],
        "users": [{"name": "a", "user": {}}],
    }
    kubeconfig.write_text(yaml.safe_dump(config))
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    made = Cluster()
    with serving(made, tmp_path / "kubeconfig"):
        yield made


def found(recipe: Recipe) -> dict[str, Finding]:
    return {finding.subject: finding for finding in doctor.check_cluster("", recipe)}


def recipe(*changes: str) -> Recipe:
    return load_recipe("tiny", [*JOB, *changes])


def test_a_cluster_that_fits_has_no_failure(cluster: Cluster) -> None:
    findings = found(recipe())
    assert {f.state for f in findings.values()} == {"ok"}
    assert findings["API server"].found == "Kubernetes v1.34.2"
    assert findings["queue omnicore"].found == "8 of at most 8 GPUs in one flavor"
    assert findings["GPU nodes"].found == "1 of 2 nodes, 4 a node"
    assert "pytorchjobs.kubeflow.org" not in findings


def change(cluster: Cluster, **values: Any) -> None:
    for name, value in values.items():
        setattr(cluster, name, value)


WRONG = {
    "no operator": (
        {"groups": {n: v for n, v in GROUPS.items() if n != "trainer.kubeflow.org"}},
        ("trainjobs.trainer.kubeflow.org", "fail", "not installed", "Trainer v2.2 or v2.3"),
    ),
    "Kueue too old": (
        {"groups": GROUPS | {"kueue.x-k8s.io": ["v1beta1"]}},
        ("localqueues.kueue.x-k8s.io", "fail", "served as v1beta1, not as v1beta2", "Kueue v0.19"),
    ),
    "Trainer without JobSet": (
        {"groups": {n: v for n, v in GROUPS.items() if n != "jobset.x-k8s.io"}},
        ("jobsets.jobset.x-k8s.io", "fail", "not installed", "JobSet"),
    ),
    "no KServe, which is not asked": (
        {"groups": {n: v for n, v in GROUPS.items() if n != "serving.kserve.io"}},
        ("inferenceservices.serving.kserve.io", "warn", "not installed", "KServe"),
    ),
    "rights": (
        {"denied": {("trainjobs", "create"), ("pods", "watch")}},
        ("rights for jobs", "fail", "may not watch pods, create trainjobs in team", "runner.yaml"),
    ),
    "quota": (
        {"quota": 4},
        (
            "queue omnicore",
            "fail",
            "asks for 8 GPUs, and no flavor of pool has more than 4",
            "raise",
        ),
    ),
    "no queue": (
        {"quota": None},
        ("queue omnicore", "fail", "no LocalQueue omnicore in team", "launcher.queue"),
    ),
    "small nodes": ({"gpus": [2, 2]}, ("GPU nodes", "warn", "a pod asks for 4", "device plugin")),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_on_a_cluster_is_named(cluster: Cluster, name: str) -> None:
    values, (subject, state, said, remedy) = WRONG[name]
    change(cluster, **values)
    finding = found(recipe())[subject]
    assert finding.state == state
    assert said in finding.found
    assert remedy in finding.remedy


def test_rights_on_the_other_kind_of_job_do_not_matter(cluster: Cluster) -> None:
    cluster.denied = {("pytorchjobs", "create")}
    assert found(recipe())["rights for jobs"].state == "ok"


def test_a_server_that_is_away_is_one_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Cluster()
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with serving(made, tmp_path / "kubeconfig"):
        pass
    (finding,) = doctor.check_cluster("", recipe())
    assert (finding.subject, finding.state) == ("API server", "fail")


def test_missing_and_old_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor, "requires", lambda name: ['aiohttp<4,>=3.12; extra == "audit"', "pydantic>=2"]
    )
    monkeypatch.setattr(doctor, "version", lambda name: "3.9")
    audit = {f.subject: f for f in doctor.check_machine()}["audit public benchmarks, ask a server"]
    assert (audit.state, audit.found) == ("warn", "aiohttp 3.9 is not <4,>=3.12")
    assert "[audit]" in audit.remedy


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 2**30})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: usage)
    disk = {f.subject: f for f in doctor.check_machine()}["disk"]
    assert (disk.state, disk.found.split(" at ")[0]) == ("warn", "1 GiB free")


@pytest.mark.parametrize(("deaf", "states"), [(False, ["ok", "ok"]), (True, ["ok", "fail"])])
def test_a_server_must_see_and_hear(deaf: bool, states: list[str]) -> None:
    lose = (lambda seen: [s for s in seen if s.kind != "audio"]) if deaf else (lambda seen: seen)
    with Stub(seeing(lose)) as stub:
        findings = doctor.check_server(stub.url, "stub", load_recipe("tiny", []))
    assert [finding.state for finding in findings] == states


@pytest.mark.usefixtures("signed_in")
def test_a_bucket_is_written_read_and_left_as_it_was(uri: str) -> None:
    (finding,) = doctor.check_store(uri)
    assert (finding.state, finding.found) == ("ok", "write, read and delete")
    bucket, prefix = open_bucket(uri)
    assert bucket.list(prefix) == {}


@pytest.mark.usefixtures("signed_in")
def test_a_missing_bucket_is_named() -> None:
    (finding,) = doctor.check_store("s3://absent-bucket/runs")
    assert finding.state == "fail"
    assert "absent-bucket" in finding.found
