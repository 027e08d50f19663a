"""A simulated training operator and kubelet for one job on the mock API server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from omnicore.cluster import names
from omnicore.cluster.manifests import JobSpec
from omnicore.config import LauncherConfig
from tests.kube_server import NAMESPACE, KubeServer

RUN, KEY = "omniboost-x7", "k" * 64


def spec(kind: str = "pytorchjob", step: str = "rlvr", key: str = KEY) -> JobSpec:
    place = LauncherConfig(
        kind=kind, image="r/train@sha256:0", storage="s3://b/runs", namespace=NAMESPACE, queue="gpu"
    )
    return JobSpec(
        name=names.job_name(RUN, step, key),
        namespace=NAMESPACE,
        labels=names.labels(RUN, step, key),
        command=("omnicore", step),
        distributed=True,
        place=place,
    )


def suspend(job: dict[str, Any], on: bool) -> None:
    """Set the field that each kind has at another place."""
    (job["spec"]["runPolicy"] if job["kind"] == "PyTorchJob" else job["spec"])["suspend"] = on


NAME = spec().name
POD = f"{NAME}-worker-0"


class Operator:
    """Simulates the training operator and the kubelet for one job."""

    def __init__(self, kube: KubeServer, kind: str = "pytorchjob") -> None:
        self.kube, self.kind = kube, names.KINDS[kind]
        self.plural = self.kind.resource.plural
        self.name = spec(kind).name

    def created(self, times: int = 1) -> dict[str, Any]:
        self.kube.wait_for(
            lambda: len(self.kube.created) >= times and self.kube.get(self.plural, self.name)
        )
        return self.kube.get(self.plural, self.name) or {}

    def suspend(self, on: bool) -> None:
        """Change the spec as Kueue does; the operator's condition follows."""
        self.kube.change(self.plural, self.name, lambda job: suspend(job, on))

    def set_condition(
        self, condition: str, status: str = "True", reason: str = "Because", message: str = ""
    ) -> None:
        if condition == "Suspended":
            self.suspend(status == "True")
        self.kube.condition(self.plural, self.name, condition, status, reason, message)

    def pod(self, index: int = 0, **status: Any) -> str:
        return self.kube.pod(self.name, self.kind.pods, index, self.kind.container, **status)

    def runs(self, *lines: str, index: int = 0) -> str:
        pod = self.pod(index, phase="Running", state={"running": {}})
        self.set_condition("Running")
        self.kube.write_log(pod, *lines)
        return pod

    def ends(self, code: int = 0, reason: str = "Completed", index: int = 0) -> None:
        how = {"exitCode": code, "reason": reason}
        pod = self.pod(index, phase="Failed" if code else "Succeeded", state={"terminated": how})
        self.kube.end_log(pod)

    def succeeds(self) -> None:
        self.ends()
        self.set_condition("Running", "False")
        self.set_condition(self.kind.succeeded)

    def fails(self, code: int = 1, reason: str = "Error") -> None:
        self.ends(code, reason)
        self.set_condition(
            "Failed", reason="PyTorchJobFailed", message="1 Worker replica(s) failed"
        )

    def watched(self, times: int = 1) -> None:
        self.kube.wait_for(
            lambda: (
                self.kube.count("watch", self.plural) >= times
                and self.kube.count("watch", "pods") >= 1
            )
        )

    def followed(self, times: int = 1) -> None:
        self.kube.wait_for(lambda: self.kube.count("get", "pods/log") >= times)


Scenario = Callable[[Operator], None]
