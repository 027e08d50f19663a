"""State of a job on a cluster, kept current from the events of its object and its pods."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from kubernetes.client import ApiException

from omnicore.cluster import timeouts
from omnicore.cluster.client import Cluster
from omnicore.cluster.failure_report import REMEDIES, failure_report, warning_events
from omnicore.cluster.logs import JobProgress, LogFollower, print_line
from omnicore.cluster.names import PODS, Kind, conditions, has_condition, timestamp
from omnicore.cluster.pods import has_started, is_running, pod_problem
from omnicore.cluster.retry import error_message, outage_message
from omnicore.cluster.waiting import (
    CREATION_REFUSED,
    ReachableClock,
    Wait,
    WaitTimer,
    failure_waits,
    is_suspended,
    problem_waits,
    start_waits,
)
from omnicore.cluster.watch import Changed, Event, Listed, Watcher, WatchFault
from omnicore.errors import ClusterError, OmniError

logger = logging.getLogger(__name__)


class JobFailed(ClusterError):
    """The job's own status says that it failed: nothing of it runs any more."""


class JobState:
    """One job as the cluster last reported it: object, pods, logs, and the waits it is in."""

    noun = "job"  # how messages call it
    remedies: Mapping[str, str] = REMEDIES

    def __init__(
        self, cluster: Cluster, kind: Kind, body: Mapping[str, Any], deadline: float
    ) -> None:
        """Start with nothing known but the object that is to be created.

        Args:
            cluster: The cluster.
            kind: Kind of the job.
            body: The object.
            deadline: Seconds from when it first runs.
        """
        self.cluster, self.kind, self.deadline = cluster, kind, deadline
        self.resource, self.name = kind.resource, body["metadata"]["name"]
        self.body = body
        self.uid = ""
        self.item: dict[str, Any] = {"metadata": {"name": self.name}}
        self.pods: dict[str, dict[str, Any]] = {}
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._followers: dict[str, LogFollower] = {}
        self._watchers: list[Watcher] = []
        self._progress = JobProgress()
        self._clock, self._timer = ReachableClock(timeouts.REQUEST), WaitTimer()
        self._logged: dict[str, str] = {}
        self._warnings_shown: set[str] = set()
        self._events_listed_at = -timeouts.HEARTBEAT_INTERVAL
        self._refusal = ""  # the newest event that says that pods are refused

    @property
    def pod_selector(self) -> dict[str, str]:
        """Selector of the job's pods."""
        return {"labelSelector": f"{self.kind.pods}={self.name}"}

    def wait(self) -> None:
        """Wait until the job has succeeded.

        Raises:
            ClusterError: It never will.
        """
        while not self.has_succeeded():
            self.poll(min(1.0, timeouts.FIRST_RETRY))
        self._update_pods()

    def poll(self, seconds: float = 0.0) -> None:
        """Process the events so far; wait up to `seconds` for the first of them.

        Raises:
            ClusterError: The job failed, waits for too long, or was deleted or replaced.
        """
        with suppress(Empty):
            event = self._events.get(timeout=seconds) if seconds else self._events.get_nowait()
            while True:
                self._process(event)
                event = self._events.get_nowait()
        if not self.has_succeeded():
            self._check_waits()

    def has_succeeded(self) -> bool:
        """Return whether the job's status says that it succeeded."""
        succeeded = has_condition(self.item, self.kind.succeeded)
        return succeeded and not has_condition(self.item, "Failed")

    def describe(self, what: str) -> str:
        """Return what happened to the job, with all that the cluster knows of it."""
        self._update_pods()
        tails = {follower.pod: list(follower.tail) for follower in self._followers.values()}
        headline = f"{self.noun} {self.name} {what}"
        pods = list(self.pods.values())
        return failure_report(self.cluster, headline, self.item, pods, tails, self.remedies)

    def refresh(self) -> None:
        """Get the job and its pods from the cluster; the time this takes is not counted."""
        item = self.cluster.get(self.resource, self.name, retry_refusals=True)
        pods, _ = self.cluster.list(PODS, self.pod_selector, retry_refusals=True)
        self._clock.tick(reachable=False)
        self._process(Listed(PODS, pods))
        self._update_item(item, gone=item is None)

    def _process(self, event: Event) -> None:
        if isinstance(event, WatchFault):
            self._process_fault(event)
            return
        items = event.items if isinstance(event, Listed) else [event.item]
        if event.resource == self.resource:
            own = [item for item in items if item["metadata"]["name"] == self.name]
            deleted = isinstance(event, Changed) and event.event_type == "DELETED"
            self._update_item(own[0] if own else None, gone=deleted or not own)
            return
        for pod in items:
            self._update_pod(pod)
        self._mark_deleted_pods(event, {pod["metadata"]["name"] for pod in items})

    def _process_fault(self, fault: WatchFault) -> None:
        plural, message = fault.resource.plural, error_message(fault.error)
        if not fault.fatal:
            self._log_once("cluster", f"the cluster is unreachable for now: {plural}: {message}")
            return
        raise ClusterError(
            f"{self.noun} {self.name}: list {plural}: the cluster's API"
            f" {outage_message(fault.error)} for {timeouts.OUTAGE:.0f} s: {message}",
            code="cluster-api-timeout",
        ) from fault.error

    def _update_item(self, item: dict[str, Any] | None, *, gone: bool) -> None:
        """Store the object as it is now, or as it was when it was deleted."""
        if item and item["metadata"]["uid"] != self.uid:
            raise ClusterError(
                f"{self.noun} {self.name} was deleted and re-created by another process; the new"
                " one is not adopted",
                code="job-replaced",
            )
        self.item = item or self.item
        self._check_item(gone=gone or bool(self.item["metadata"].get("deletionTimestamp")))
        for condition in reversed(conditions(self.item)):
            if condition["status"] == "True":
                # What a suspended job waits for is logged as a wait.
                self._log_once("condition", condition["type"].removeprefix("Suspended"))
                break

    def _check_item(self, *, gone: bool) -> None:
        """Raise for a job that failed, or that another process deleted before it ended."""
        if self.failure_reason(self.item):
            raise JobFailed(self.describe("failed"), code="job-failed")
        if gone and not self.has_succeeded():
            raise ClusterError(
                self.describe("was deleted by another process before it ended"), code="job-deleted"
            )

    def failure_reason(self, item: Mapping[str, Any]) -> str:
        """Return why an object's own status says that it failed; empty where it does not."""
        return "failed" if has_condition(item, "Failed") else ""

    def _update_pods(self) -> None:
        """Get the pods' last state, which may be newer than the job's.

        Without it, last lines and exit codes would be lost.
        """
        with suppress(ApiException, OmniError):
            pods, _ = self.cluster.list(
                PODS, self.pod_selector, retry_for=timeouts.REQUEST, retry_refusals=True
            )
            for pod in pods:
                self._update_pod(pod)

    def _update_pod(self, pod: dict[str, Any]) -> None:
        """Store a pod and follow the log of its main container once that has started."""
        name = pod["metadata"]["name"]
        self.pods[name] = pod
        for container in pod.get("status", {}).get("containerStatuses") or []:
            state = container.get("state") or {}
            started = bool({"running", "terminated"} & state.keys())
            if container["name"] != self.kind.container or not started:
                continue
            key = f"{pod['metadata'].get('uid')}-{container.get('restartCount', 0)}"
            if key not in self._followers:
                follower = LogFollower(self.cluster, name, container["name"], self._show_line)
                self._followers[key] = follower
                follower.start()
            if "terminated" in state:
                self._followers[key].ended.set()

    def _mark_deleted_pods(self, event: Event, names: set[str]) -> None:
        """Mark the pods that are gone: they stay for a diagnosis, and are not waited for."""
        for name, pod in self.pods.items():
            missing = isinstance(event, Listed) and name not in names
            deleted = isinstance(event, Changed) and event.event_type == "DELETED"
            if missing or (deleted and name in names):
                pod["metadata"].setdefault("deletionTimestamp", timestamp())

    def _show_line(self, pod: str, text: str) -> None:
        if not self._progress.read_line(text):
            print_line(f"[{pod.removeprefix(self.name).lstrip('-')}] {text}")

    def _log_once(self, topic: str, message: str) -> None:
        """Log a message that differs from the last one of its topic."""
        if message and message != self._logged.get(topic):
            logger.info("%s %s: %s", self.noun, self.name, message)
        self._logged[topic] = message

    def _check_waits(self) -> None:
        """Raise for a job that waits for too long, after asking the cluster once more."""
        reachable = all(watcher.unreachable_since is None for watcher in self._watchers)
        clock = self._clock.tick(reachable=reachable)
        if reachable:
            self._logged.pop("cluster", None)
            self._show_warnings(clock)
        waits = self._waits()
        if self._timer.expired(waits, clock):
            self.refresh()
            waits = self._waits()
            expired = self._timer.expired(waits, clock)
            if expired and not self.has_succeeded():
                raise ClusterError(self.describe(expired.verdict), code="job-stuck")
        self._log_once("wait", self._wait_message(waits, clock))

    def _wait_message(self, waits: list[Wait], clock: float) -> str:
        """Return the first wait that is worth a line: one that may last, or that has lasted."""
        for wait in waits:
            lasting = self._timer.age(wait, clock) >= timeouts.HEARTBEAT_INTERVAL
            if wait.message and (wait.limit == math.inf or lasting):
                return wait.message
        return ""

    def _waits(self) -> list[Wait]:
        """Return what the job waits for, the most informative first."""
        pods = list(self.pods.values())
        waits = [] if is_suspended(self.item) else failure_waits(pods, self.kind)
        waits += problem_waits({pod["metadata"]["name"]: pod_problem(pod) for pod in pods})
        waits += start_waits(self.item, pods, self.kind, self._refusal)
        suspended = any(wait.key == "suspended" for wait in waits)
        if not suspended and any(has_started(pod) for pod in pods):
            # As the operator counts: from the start, and anew after a suspension.
            verdict = (
                f"runs longer than its deadline of {self.deadline:.0f} s, and its operator has"
                " not stopped it"
            )
            limit = self.deadline + timeouts.DEADLINE_GRACE
            waits.append(Wait("deadline", "", limit, verdict))
        return waits

    def _show_warnings(self, clock: float) -> None:
        """Log new warning events while no pod runs; remember the newest refusal of pods."""
        due = clock - self._events_listed_at >= timeouts.HEARTBEAT_INTERVAL
        if not due or any(is_running(pod, self.kind) for pod in self.pods.values()):
            return
        self._events_listed_at = clock
        with suppress(ApiException, OmniError):
            warnings = warning_events(self.cluster, self.name, self._last_change())
            refusals = [str(event) for event in warnings if event.reason in CREATION_REFUSED]
            self._refusal = refusals[-1] if refusals else ""
            for line in map(str, warnings):
                if line not in self._warnings_shown:
                    self._warnings_shown.add(line)
                    logger.warning("%s %s: %s", self.noun, self.name, line)

    def _last_change(self) -> str:
        """Return the time of the job's last change, or of its newest pod."""
        objects = [self.item, *self.pods.values()]
        times = [item["metadata"].get("creationTimestamp", "") for item in objects]
        times += [condition.get("lastTransitionTime", "") for condition in conditions(self.item)]
        return str(max(times))
