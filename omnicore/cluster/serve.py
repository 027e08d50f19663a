"""A checkpoint that KServe serves while one step needs it: deployed, awaited, watched, removed.

KServe's status alone does not show that a server can be asked:

- `observedGeneration` is the Deployment's and not the object's own (kserve#6081), so it is at least
  the generation and may exceed it;
- `Ready` stays True while a replaced pod crashes (kserve#1859), so a pod must be ready too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omnicore.cluster import timeouts
from omnicore.cluster.client import Cluster
from omnicore.cluster.failure_report import REMEDIES
from omnicore.cluster.inferenceservice import INITIALIZER, KIND, ServeSpec, inference_service
from omnicore.cluster.job import Job
from omnicore.cluster.names import INFERENCE_SERVICES, Resource, has_condition, launch_verbs
from omnicore.cluster.pods import PodProblem, container_statuses, is_deleted, pod_problem
from omnicore.cluster.waiting import Wait, problem_waits, start_waits
from omnicore.errors import ClusterError

# All rights that serving needs and that its role must grant.
VERBS: frozenset[tuple[Resource, str]] = frozenset(launch_verbs(INFERENCE_SERVICES))
SERVING_REMEDIES = {
    **REMEDIES,
    "OOMKilled": f"give the server more engine.memory ({INITIALIZER} is sized by the model)",
    "Unschedulable": (
        "check the pool, launcher.node_selector, launcher.tolerations, engine.gpus, engine.cpu and"
        " engine.memory"
    ),
}


class ServedModel(Job):
    """One InferenceService: created, adopted, kept alive and removed as jobs are."""

    noun = "InferenceService"
    remedies = SERVING_REMEDIES

    def __init__(self, cluster: Cluster, spec: ServeSpec) -> None:
        """Prepare the InferenceService of a spec."""
        super().__init__(cluster, KIND, inference_service(spec), deadline=spec.engine.start_seconds)
        self._was_ready = False

    def wait_until_ready(self) -> str:
        """Return the server's address once it serves this very model.

        Raises:
            ClusterError: It never will.
        """
        while not self.has_succeeded():
            self.poll(min(1.0, timeouts.FIRST_RETRY))
        self._was_ready = True
        return str(self.item["status"]["address"]["url"])

    def confirm(self) -> None:
        """Check with the cluster that the object is still the deployed one.

        Raises:
            ClusterError: It was deleted, replaced or changed.
        """
        existing = self.cluster.get(self.resource, self.name, retry_refusals=True)
        self._update_item(existing, gone=existing is None)

    def has_succeeded(self) -> bool:
        """Return whether KServe serves this very model and a pod is ready."""
        status = self.item.get("status", {})
        generation = self.item["metadata"].get("generation", 1)
        if not has_condition(self.item, "Ready"):
            return False
        if status.get("observedGeneration", 0) < generation:
            return False
        if not (status.get("address") or {}).get("url"):
            return False
        return _is_loaded(status.get("modelStatus", {})) and self._has_ready_pod()

    def failure_reason(self, item: Mapping[str, Any]) -> str:
        """Return why KServe says that an object will not serve; empty where it does not."""
        return failure_reason(item)

    def _has_ready_pod(self) -> bool:
        pods = [pod for pod in self.pods.values() if not is_deleted(pod)]
        return any(has_condition(pod, "Ready") for pod in pods)

    def _check_item(self, *, gone: bool) -> None:
        if gone:
            raise ClusterError(
                self.describe("was deleted by another process while it was needed"),
                code="served-model-deleted",
            )
        self._refuse_changed(self.item)
        reason = self.failure_reason(self.item)
        if reason:
            raise ClusterError(self.describe(reason), code="served-model-failed")

    def _update_pod(self, pod: dict[str, Any]) -> None:
        """Store a pod; its log is read after a failure and not followed."""
        self.pods[pod["metadata"]["name"]] = pod

    def _waits(self) -> list[Wait]:
        pods = list(self.pods.values())
        waits = problem_waits({pod["metadata"]["name"]: serving_problem(pod) for pod in pods})
        waits += start_waits(self.item, pods, self.kind, self._refusal)
        gated = any(wait.key == "gated" for wait in waits)
        if not self._was_ready and not gated:
            verdict = f"does not serve after {self.deadline:.0f} s (engine.start_seconds)"
            waits.append(Wait("start", "", self.deadline, verdict))
        return waits

    def _missing_kind_remedy(self) -> str:
        return "install KServe, or set engine.kind to http or transformers"

    def _take(self, item: dict[str, Any], how: str) -> None:
        super()._take(item, how)
        self._refuse_changed(item)

    def _refuse_changed(self, item: Mapping[str, Any]) -> None:
        """Raise where a field that decides the answers differs from the deployed one.

        KServe fills in the other fields with defaults.
        """
        deployed = self.body["spec"]["predictor"]["model"]
        current = item["spec"]["predictor"].get("model", {})
        for field in ("storageUri", "runtime", "args"):
            if current.get(field) != deployed[field]:
                raise ClusterError(
                    f"InferenceService {self.name} was changed by another process: its {field} is"
                    f" {current.get(field)!r}, not {deployed[field]!r}. Delete it, and re-run the"
                    " step",
                    code="served-model-changed",
                    field=field,
                )


def _is_loaded(model: Mapping[str, Any]) -> bool:
    """Return whether KServe's model status says that the newest model is loaded."""
    states = model.get("states") or {}
    active, target = states.get("activeModelState"), states.get("targetModelState", "")
    up_to_date = model.get("transitionStatus") == "UpToDate"
    return bool(up_to_date and active == "Loaded" and target in {"", "Loaded"})


def failure_reason(item: Mapping[str, Any]) -> str:
    """Return why KServe says that an object will not serve; empty where it does not."""
    if has_condition(item, "Stopped"):
        return "was stopped (serving.kserve.io/stop)"
    status = item.get("status", {}).get("modelStatus", {})
    transition = status.get("transitionStatus", "")
    if transition not in {"BlockedByFailedLoad", "InvalidSpec"}:
        return ""
    info = status.get("lastFailureInfo") or {}
    exit_code = f"exit code {info['exitCode']}" if info.get("exitCode") else ""
    parts = ("cannot serve", transition, info.get("reason"), exit_code, info.get("message"))
    return ": ".join(filter(None, parts))


def serving_problem(pod: Mapping[str, Any]) -> PodProblem | None:
    """Return what keeps a pod from serving, and how long it may.

    A pod in CrashLoopBackOff has had its second try. A pod that fetches its model is `Pending`,
    however long that takes, and has no problem.
    """
    problem = pod_problem(pod)
    if problem is None:
        return None
    if problem.reason == "CrashLoopBackOff":
        return problem._replace(limit=0)
    for container in container_statuses(pod):
        if "running" in (container.get("state") or {}):
            return None
    return problem
