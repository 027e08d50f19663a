"""A checkpoint served by KServe for as long as one step needs it: deployed, waited for, looked after, and removed.

What KServe's status says is not enough to ask a server:

- `observedGeneration` is the Deployment's, not the object's own (kserve#6081), so it is at least the generation, not equal to it;
- `Ready` stays True while a pod that was replaced crashes (kserve#1859), so a pod has to be ready, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omnicore.cluster.client import Cluster
from omnicore.cluster.failure import REMEDY
from omnicore.cluster.inferenceservice import INITIALIZER, KIND, ServeSpec, inference_service
from omnicore.cluster.launch import Job
from omnicore.cluster.names import EVENTS, INFERENCE_SERVICES, LOGS, PODS, Resource, true
from omnicore.cluster.waiting import Trouble, Wait, statuses, trouble, troubles, waits
from omnicore.errors import ClusterError

# What serving asks of the cluster, and all that its role must grant.
VERBS: frozenset[tuple[Resource, str]] = frozenset(
    {
        *(
            (INFERENCE_SERVICES, verb)
            for verb in ("create", "get", "list", "watch", "patch", "delete")
        ),
        *((PODS, verb) for verb in ("get", "list", "watch")),
        (LOGS, "get"),
        (EVENTS, "list"),
    }
)
REMEDIES = {
    **REMEDY,
    "OOMKilled": f"give the server more engine.memory ({INITIALIZER} is sized by the model)",
    "Unschedulable": (
        "check the pool, launcher.node_selector, launcher.tolerations, engine.gpus, engine.cpu and"
        " engine.memory"
    ),
}


class ServedModel(Job):
    """One InferenceService that this process looks after.

    Created, adopted, kept alive and removed as jobs are.
    """

    noun = "InferenceService"
    remedies = REMEDIES

    def __init__(self, cluster: Cluster, spec: ServeSpec) -> None:
        super().__init__(cluster, KIND, inference_service(spec), deadline=spec.engine.start_seconds)
        self._served = False  # whether it was ready once

    def ready(self) -> str:
        """The address of the server, once all says that it serves this very model.

        Raises ClusterError when it never will.
        """
        while not self._succeeded():
            self.look(min(1.0, self.cluster.times.first_wait))
        self._served = True
        return str(self.found["status"]["address"]["url"])

    def confirm(self) -> None:
        """Asks the cluster itself whether the object is still the one that was deployed.

        Raises ClusterError.
        """
        held = self.cluster.get(self.resource, self.name, stubborn=True)
        self._see(held, gone=held is None)

    def _judge(self, *, gone: bool) -> None:
        if gone:
            raise ClusterError(self.told("was deleted by somebody else while it was needed"))
        self._refuse_another(self.found)
        if why := self._failure(self.found):
            raise ClusterError(self.told(why))

    def _failure(self, found: Mapping[str, Any]) -> str:
        return failure(found)

    def _see_pod(self, pod: dict[str, Any]) -> None:
        self.pods[pod["metadata"]["name"]] = pod  # its log is read where it failed, not followed

    def _succeeded(self) -> bool:
        status = self.found.get("status", {})
        model = status.get("modelStatus", {})
        states = model.get("states") or {}
        return (
            true(self.found, "Ready")
            and status.get("observedGeneration", 0) >= self.found["metadata"].get("generation", 1)
            and model.get("transitionStatus") == "UpToDate"
            and states.get("activeModelState") == "Loaded"
            and states.get("targetModelState", "") in {"", "Loaded"}
            and bool((status.get("address") or {}).get("url"))
            and any(
                true(pod, "Ready")
                for pod in self.pods.values()
                if not pod["metadata"].get("deletionTimestamp")
            )
        )

    def _waits(self) -> list[Wait]:
        times, pods = self.cluster.times, list(self.pods.values())
        listed = troubles({pod["metadata"]["name"]: stuck(pod, self) for pod in pods})
        listed += waits(self.found, pods, self.kind, times, self._refusal)
        if not self._served and not any(wait.key == "gated" for wait in listed):
            verdict = f"does not serve after {self.deadline:.0f} s (engine.start_seconds)"
            listed.append(Wait("start", "", self.deadline, verdict))
        return listed

    def _without_kind(self) -> str:
        return ": install KServe, or set engine.kind to http or transformers"

    def _take(self, found: dict[str, Any], how: str) -> None:
        super()._take(found, how)
        self._refuse_another(found)

    def _refuse_another(self, held: Mapping[str, Any]) -> None:
        """Of what decides the answers, all has to be as it was deployed; the rest KServe fills in
        with defaults."""
        wanted, there = (
            self.body["spec"]["predictor"]["model"],
            held["spec"]["predictor"].get("model", {}),
        )
        for field in ("storageUri", "runtime", "args"):
            if there.get(field) != wanted[field]:
                raise ClusterError(
                    f"InferenceService {self.name} was changed by somebody else: its {field} is"
                    f" {there.get(field)!r}, not {wanted[field]!r}. Delete it, and run the step"
                    " again"
                )


def failure(found: Mapping[str, Any]) -> str:
    """Why KServe itself says that an object will not serve; empty where it does not say so."""
    if true(found, "Stopped"):
        return "was stopped (serving.kserve.io/stop)"
    status = found.get("status", {}).get("modelStatus", {})
    state = status.get("transitionStatus", "")
    if state not in {"BlockedByFailedLoad", "InvalidSpec"}:
        return ""
    info = status.get("lastFailureInfo") or {}
    code = f"exit code {info['exitCode']}" if info.get("exitCode") else ""
    return ": ".join(
        ["cannot serve", state, *filter(None, (info.get("reason"), code, info.get("message")))]
    )


def stuck(pod: Mapping[str, Any], service: ServedModel) -> Trouble | None:
    """What keeps a pod from serving, and how long it may.

    One that has crashed and is held back has had its second chance; one that fetches its model is
    `Pending` to Kubernetes, however long.
    """
    found = trouble(pod, service.cluster.times)
    if found and found.reason == "CrashLoopBackOff":
        return found._replace(patience=0)
    if found and any("running" in (container.get("state") or {}) for container in statuses(pod)):
        return None
    return found
