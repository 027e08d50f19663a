"""A checkpoint served by KServe for as long as one step needs it: deployed, waited for, looked after, and removed.

What KServe's status says is not enough to ask a server:

- `observedGeneration` is the Deployment's, not the object's own (kserve#6081), so it is at least the generation, not equal to it;
- `Ready` stays True while a pod that was replaced crashes (kserve#1859), so a pod has to be ready, too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from queue import Empty
from typing import Any

from kubernetes.client import ApiException

from omnicore.cluster.client import Cluster, said
from omnicore.cluster.failure import REMEDY, Trouble, diagnosis, statuses, trouble
from omnicore.cluster.inferenceservice import INITIALIZER, KIND, ServeSpec, inference_service
from omnicore.cluster.launch import Job
from omnicore.cluster.names import EVENTS, INFERENCE_SERVICES, LOGS, PODS, Resource, conditions, true
from omnicore.cluster.watch import Broken, Event, Listed
from omnicore.errors import ClusterError, ConfigError, OmniError

# What serving asks of the cluster, and all that its role must grant.
VERBS: frozenset[tuple[Resource, str]] = frozenset(
    {
        *((INFERENCE_SERVICES, verb) for verb in ("create", "get", "list", "watch", "patch", "delete")),
        *((PODS, verb) for verb in ("get", "list", "watch")),
        (LOGS, "get"),
        (EVENTS, "list"),
    }
)
REMEDIES = {
    **REMEDY,
    "OOMKilled": f"give the server more engine.memory ({INITIALIZER} is sized by the model)",
    "Unschedulable": "check the pool, launcher.node_selector, launcher.tolerations, engine.gpus, engine.cpu and engine.memory",
}


class Service(Job):
    """One InferenceService that this process looks after. Created, adopted, kept alive and removed as jobs are."""

    noun = "InferenceService"

    def __init__(self, cluster: Cluster, spec: ServeSpec) -> None:
        super().__init__(cluster, KIND, inference_service(spec), deadline=spec.engine.start_seconds)

    def start(self) -> None:
        held = self.cluster.get(self.resource, self.name)
        if held and self._ours(held) and failure(held):
            # Left by an earlier try: to adopt it would fail every retry of the step.
            self.cluster.delete(self.resource, self.name, patience=self.cluster.times.goodbye, uid=held["metadata"]["uid"])
        super().start()

    def ready(self) -> str:
        """The address of the server, once all says that it serves this very model. Raises ClusterError when it never will."""
        while True:
            self.look(min(1.0, self.cluster.times.first_wait))
            if self._succeeded():
                return str(self.found["status"]["address"]["url"])
            if time.monotonic() - self._started > self.deadline:
                raise ClusterError(self.told(f"does not serve after {self.deadline:.0f} s (engine.start_seconds)"))

    def look(self, seconds: float = 0.0) -> None:
        """Takes in what has happened, and waits for the first of it as long. Raises ClusterError when it serves no more, or
        something else than it should."""
        with suppress(Empty):
            event = self._events.get(timeout=seconds) if seconds else self._events.get_nowait()
            while True:
                self._take_in(event)
                event = self._events.get_nowait()
        self._check_patience()

    def confirm(self) -> None:
        """Asks the cluster itself whether the object is still the one that was deployed. Raises ClusterError."""
        held = self.cluster.get(self.resource, self.name)
        self._see(held, gone=held is None)

    def told(self, what: str) -> str:
        """What happened, and all that the cluster knows of it."""
        with suppress(ApiException, OmniError):  # the pods' last state may not have come yet
            for pod in self.cluster.list(PODS, self._own_pods, patience=self.cluster.times.request)[0]:
                self.pods[pod["metadata"]["name"]] = pod
        what = f"InferenceService {self.name} {what}"
        return diagnosis(self.cluster, what, self.found, list(self.pods.values()), {}, REMEDIES)

    def _take_in(self, event: Event) -> None:
        if isinstance(event, Broken):
            if isinstance(event.error, ApiException):
                raise ClusterError(f"InferenceService {self.name} cannot be watched: {said(event.error)}") from event.error
            raise event.error
        items = event.items if isinstance(event, Listed) else [event.item]
        if event.resource == self.resource:
            mine = next((item for item in items if item["metadata"]["name"] == self.name), None)
            self._see(mine, gone=mine is None or (not isinstance(event, Listed) and event.how == "DELETED"))
        else:
            self.pods |= {pod["metadata"]["name"]: pod for pod in items}
            self._forget(event, {pod["metadata"]["name"] for pod in items})

    def _see(self, found: dict[str, Any] | None, *, gone: bool) -> None:
        if found and found["metadata"]["uid"] != self.uid:
            raise ClusterError(
                f"InferenceService {self.name} was deleted and made anew by somebody else: its answers may be another's"
            )
        self.found = found or self.found
        if gone or self.found["metadata"].get("deletionTimestamp"):
            raise ClusterError(self.told("was deleted by somebody else while it was needed"))
        self._refuse_another(self.found)
        if why := failure(self.found):
            raise ClusterError(self.told(why))
        latest = next((c for c in reversed(conditions(self.found)) if c["status"] == "True"), None)
        if latest:
            self._say(latest["type"])

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
            and any(true(pod, "Ready") for pod in self.pods.values() if not pod["metadata"].get("deletionTimestamp"))
        )

    def _check_patience(self) -> None:
        times, clock = self.cluster.times, time.monotonic()
        if not conditions(self.found) and not self.pods and clock - self._started > times.unnoticed:
            raise ClusterError(self.told(f"was not taken up for {times.unnoticed:.0f} s: is KServe's controller up?"))
        if any(reason(pod) == "SchedulingGated" for pod in self.pods.values()):
            self._started = clock
            self._say("waits for its quota")
        found = {pod["metadata"]["name"]: stuck(pod, self) for pod in self.pods.values()}
        now_in = {(name, t.patience): t for name, t in found.items() if t}
        # By its patience, not its name: an image that cannot be pulled goes back and forth between two reasons.
        self._troubles = {key: self._troubles.get(key, clock) for key in now_in}
        for key, since in self._troubles.items():
            if clock - since >= key[1]:
                why = now_in[key]
                raise ClusterError(self.told(f"cannot serve: pod {key[0]}: {why.reason}: {why.message}".rstrip(": ")))

    def _refuse_unless_taken(self, error: ApiException) -> None:
        if error.status == 409:
            return
        if error.status == 404:
            raise ConfigError(
                f"this cluster has no inferenceservices.serving.kserve.io, or no namespace {self.cluster.namespace}: install "
                "KServe, or set engine.kind to http or transformers"
            ) from error
        raise ClusterError(f"the cluster refused InferenceService {self.name}: {said(error)}") from error

    def _refuse_unless_ours(self, held: Mapping[str, Any]) -> None:
        super()._refuse_unless_ours(held)
        self._refuse_another(held)

    def _refuse_another(self, held: Mapping[str, Any]) -> None:
        """Of what decides the answers, all has to be as it was deployed; the rest KServe fills in with defaults."""
        wanted, there = self.body["spec"]["predictor"]["model"], held["spec"]["predictor"].get("model", {})
        for field in ("storageUri", "runtime", "args"):
            if there.get(field) != wanted[field]:
                raise ClusterError(
                    f"InferenceService {self.name} was changed by somebody else: its {field} is {there.get(field)!r}, not "
                    f"{wanted[field]!r}. Delete it, and run the step again"
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
    return ": ".join(["cannot serve", state, *filter(None, (info.get("reason"), code, info.get("message")))])


def reason(pod: Mapping[str, Any]) -> str:
    return next((str(c.get("reason", "")) for c in conditions(pod) if c["type"] == "PodScheduled"), "")


def stuck(pod: Mapping[str, Any], service: Service) -> Trouble | None:
    """What keeps a pod from serving, and how long it may. One that has crashed and is held back has had its second chance; one
    that fetches its model is `Pending` to Kubernetes, however long."""
    found = trouble(pod, service.cluster.times)
    if found and found.reason == "CrashLoopBackOff":
        return found._replace(patience=0)
    if found and any("running" in (container.get("state") or {}) for container in statuses(pod)):
        return None
    return found
