"""A job from its creation to its end, whatever happens to it, to the API server, or to this process.

`run_job` returns only for a job that has succeeded, and leaves none behind that still runs. Three things stop the GPUs of a
job whose launcher is gone: the DELETE that a SIGTERM sends at once (Argo leaves a cancelled step less than a second), the
job's own deadline, and the reaper, which looks at the heartbeat.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from omnicore.cluster.client import Cluster, said
from omnicore.cluster.failure import Trouble, diagnosis, trouble
from omnicore.cluster.logs import Follower, JobProgress, say
from omnicore.cluster.names import EVENTS, HEARTBEAT, KEY, KINDS, LOGS, PODS, RUN, STEP, Kind, Resource, conditions, now, true
from omnicore.cluster.watch import Broken, Changed, Event, Listed, Watcher
from omnicore.errors import ClusterError, ConfigError, OmniError

# What a launcher asks of the cluster, and all that its role must grant; `run_job` of one kind needs no rights on the other.
VERBS: frozenset[tuple[Resource, str]] = frozenset(
    {
        *((kind.resource, verb) for kind in KINDS.values() for verb in ("create", "get", "list", "watch", "patch", "delete")),
        *((PODS, verb) for verb in ("get", "list", "watch")),
        (LOGS, "get"),
        (EVENTS, "list"),
    }
)
GOODBYE = 10.0  # seconds to wait for the last lines of logs


def run_job(cluster: Cluster, kind: Kind, body: Mapping[str, Any], *, deadline: float, keep_on_failure: bool = False) -> None:
    """Creates a job, or adopts the same one where it is there already, and returns when it has succeeded.

    Shows the lines of its pods as they come, and its progress as this process's own. In the end the job is deleted; with
    `keep_on_failure` one that failed stays until its TTL ends. `deadline` is in seconds from when it first runs.

    Raises ClusterError, with all that is known, for a job that failed, cannot start, was deleted or replaced, or whose
    cluster does not answer; ConfigError for a name that is taken by another job, a kind that the cluster lacks, and rights
    that this process lacks. SIGTERM deletes the job and raises SystemExit.
    """
    job = Job(cluster, kind, body, deadline)
    keep = False
    with cancelling(job):
        try:
            job.start()
            job.wait()
        except JobFailed:
            keep = keep_on_failure
            raise
        finally:
            try:
                job.close()
            finally:  # also when a signal comes while the last lines are awaited
                if keep:
                    say(f"job {job.name} is kept for a look: kubectl describe {kind.resource.plural} {job.name}")
                else:
                    job.discard()


class JobFailed(ClusterError):
    """The job itself says that it failed: nothing of it runs any more."""


class Job:
    """One job that this process looks after."""

    noun = "job"  # what its lines call it

    def __init__(self, cluster: Cluster, kind: Kind, body: Mapping[str, Any], deadline: float) -> None:
        self.cluster, self.kind, self.deadline = cluster, kind, deadline
        self.resource, self.name = kind.resource, body["metadata"]["name"]
        self.uid = ""
        self.body = body
        self.found: dict[str, Any] = {"metadata": {"name": self.name}}
        self.pods: dict[str, dict[str, Any]] = {}
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._followers: dict[str, Follower] = {}
        self._watchers: list[Watcher] = []
        self._progress = JobProgress()
        self._ended = threading.Event()
        self._started = time.monotonic()
        self._running: float | None = None
        self._troubles: dict[tuple[str, float], float] = {}
        self._told = ""

    def start(self) -> None:
        """Creates or adopts the job, starts its heartbeat and the watches."""
        deleting_since: float | None = None
        while not self.uid:
            try:
                self._take(self.cluster.create(self.resource, self._stamped()), "created")
                break
            except ApiException as error:
                self._refuse_unless_taken(error)
            held = self.cluster.get(self.resource, self.name)
            if held is None:
                continue  # deleted in between
            self._refuse_unless_ours(held)
            if held["metadata"].get("deletionTimestamp"):
                deleting_since = deleting_since or time.monotonic()
                if time.monotonic() - deleting_since > self.cluster.times.goodbye:
                    raise ClusterError(f"job {self.name} is being deleted, but does not go: look at its finalizers, then run again")
                time.sleep(self.cluster.times.first_wait)
            elif true(held, "Failed"):
                # Left by an earlier try: to adopt it would fail every retry of the step.
                self.cluster.delete(self.resource, self.name, patience=self.cluster.times.goodbye, uid=held["metadata"]["uid"])
            else:
                self._take(held, "is there already; its launcher is this process now")
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        for resource, selector in ((self.resource, {"fieldSelector": f"metadata.name={self.name}"}), (PODS, self._own_pods)):
            watcher = Watcher(self.cluster, resource, self._events, selector)
            self._watchers.append(watcher)
            watcher.start()

    @property
    def _own_pods(self) -> dict[str, str]:
        return {"labelSelector": f"{self.kind.pods}={self.name}"}

    def wait(self) -> None:
        """Returns when the job has succeeded; raises when it never will."""
        while not self._succeeded():
            try:
                event = self._events.get(timeout=min(1.0, self.cluster.times.first_wait))
            except Empty:
                self._check_patience()
                continue
            if isinstance(event, Broken):
                if isinstance(event.error, ApiException):
                    raise ClusterError(f"job {self.name} cannot be watched: {said(event.error)}") from event.error
                raise event.error
            items = event.items if isinstance(event, Listed) else [event.item]
            if event.resource == self.resource:
                mine = [item for item in items if item["metadata"]["name"] == self.name]
                self._see(mine[0] if mine else None, gone=not mine or (not isinstance(event, Listed) and event.how == "DELETED"))
            else:
                for pod in items:
                    self._see_pod(pod)
                self._forget(event, {pod["metadata"]["name"] for pod in items})
            self._check_patience()
        self._see_pods()

    def discard(self) -> None:
        """Deletes the job, with its pods; does nothing where it is gone or another has taken its name."""
        uid = self.uid
        if not uid:  # cancelled while it was created: it may be there all the same
            held = self.cluster.get(self.resource, self.name)
            if held is None or not self._ours(held):
                return
            uid = held["metadata"]["uid"]
        try:
            self.cluster.delete(self.resource, self.name, patience=self.cluster.times.goodbye, uid=uid)
        except (OmniError, ApiException) as error:
            say(f"job {self.name} could not be deleted, the reaper will: {error}")

    def discard_now(self) -> None:
        """One DELETE, sent before anything else can happen."""
        if self.uid:
            with suppress(ApiException, HTTPError, OmniError):
                self.cluster.delete_now(self.resource, self.name, self.uid)

    def close(self) -> None:
        """Ends the threads, after the last lines of the logs."""
        self._ended.set()
        for watcher in self._watchers:
            watcher.stopped.set()
        over = self._succeeded() or true(self.found, "Failed")
        limit = time.monotonic() + (min(GOODBYE, self.cluster.times.goodbye) if over else 0)
        for follower in self._followers.values():
            follower.ended.set()
        for follower in self._followers.values():
            follower.join(max(0.0, limit - time.monotonic()))
            follower.stopped.set()
        self._progress.close()

    def _stamped(self) -> dict[str, Any]:
        metadata = self.body["metadata"]
        return {**self.body, "metadata": {**metadata, "annotations": {**metadata.get("annotations", {}), HEARTBEAT: now()}}}

    def _take(self, found: dict[str, Any], how: str) -> None:
        self.found, self.uid = found, found["metadata"]["uid"]
        self._started = time.monotonic()
        self._say(how)

    def _refuse_unless_taken(self, error: ApiException) -> None:
        if error.status == 409:
            return
        if error.status == 404:
            others = " or ".join(name for name in KINDS if KINDS[name] != self.kind)
            raise ConfigError(
                f"this cluster has no {self.resource.plural}.{self.resource.group}, or no namespace {self.cluster.namespace}: "
                f"install the operator of {self.kind.kind}, or set launcher.kind to {others}"
            ) from error
        raise ClusterError(f"the cluster refused job {self.name}: {said(error)}") from error

    def _ours(self, held: Mapping[str, Any]) -> bool:
        marks, wanted = held["metadata"].get("labels") or {}, self.body["metadata"]["labels"]
        return all(marks.get(name) == wanted[name] for name in (RUN, STEP, KEY))

    def _refuse_unless_ours(self, held: Mapping[str, Any]) -> None:
        if not self._ours(held):
            raise ConfigError(
                f"{self.kind.kind} {self.name} exists in namespace {self.cluster.namespace} and is not of this run and step "
                f"(its labels: {held['metadata'].get('labels') or {}}): delete it, or give the run another name"
            )

    def _see(self, found: dict[str, Any] | None, *, gone: bool) -> None:
        """Takes in the job as it is now, or as it was when it went."""
        if found and found["metadata"]["uid"] != self.uid:
            raise ClusterError(f"job {self.name} was deleted and made anew by somebody else; nothing of it is known to be ours")
        self.found = found or self.found
        if true(self.found, "Failed"):
            self._fail()
        if gone and not self._succeeded():
            raise ClusterError(
                diagnosis(self.cluster, f"job {self.name} was deleted by somebody else before it ended", *self._known())
            )
        latest = next((c for c in reversed(conditions(self.found)) if c["status"] == "True"), None)
        if latest and latest["type"] == "Suspended":
            self._say(f"waits for its quota: {latest.get('message', '')}")
        elif latest:
            self._say(latest["type"])

    def _succeeded(self) -> bool:
        return true(self.found, self.kind.succeeded) and not true(self.found, "Failed")

    def _fail(self) -> None:
        self._see_pods()
        raise JobFailed(diagnosis(self.cluster, f"job {self.name} failed", *self._known()))

    def _known(self) -> tuple[Mapping[str, Any], list[dict[str, Any]], dict[str, list[str]]]:
        return self.found, list(self.pods.values()), {f.pod: list(f.tail) for f in self._followers.values()}

    def _see_pods(self) -> None:
        """The pods' last state, which may come later than the job's: without it, last lines and exit codes would be lost."""
        with suppress(ApiException, OmniError):
            for pod in self.cluster.list(PODS, self._own_pods, patience=self.cluster.times.request)[0]:
                self._see_pod(pod)

    def _see_pod(self, pod: dict[str, Any]) -> None:
        name, status = pod["metadata"]["name"], pod.get("status", {})
        self.pods[name] = pod
        for container in status.get("containerStatuses") or []:
            state = container.get("state") or {}
            if container["name"] != self.kind.container or not ({"running", "terminated"} & state.keys()):
                continue
            key = f"{pod['metadata'].get('uid')}-{container.get('restartCount', 0)}"
            if key not in self._followers:
                self._followers[key] = Follower(self.cluster, name, container["name"], self._show)
                self._followers[key].start()
            if "terminated" in state:
                self._followers[key].ended.set()

    def _forget(self, event: Event, names: set[str]) -> None:
        """What is known of pods that are gone stays for a diagnosis, but they are no longer waited for."""
        for name, pod in self.pods.items():
            if (isinstance(event, Listed) and name not in names) or (
                isinstance(event, Changed) and event.how == "DELETED" and name in names
            ):
                pod["metadata"]["deletionTimestamp"] = pod["metadata"].get("deletionTimestamp") or now()

    def _show(self, pod: str, text: str) -> None:
        if not self._progress.read(text):
            say(f"[{pod.removeprefix(self.name).lstrip('-')}] {text}")

    def _say(self, what: str) -> None:
        if what != self._told:
            self._told = what
            say(f"{self.noun} {self.name}: {what}")

    def _check_patience(self) -> None:
        """Raises for a job that does not fail, but does not get anywhere either."""
        times, clock = self.cluster.times, time.monotonic()
        if not conditions(self.found) and not self.pods and clock - self._started > times.unnoticed:
            what = f"job {self.name} was not taken up for {times.unnoticed:.0f} s: is the operator of {self.kind.kind} up?"
            raise ClusterError(diagnosis(self.cluster, what, *self._known()))
        if true(self.found, "Suspended"):
            self._running = None  # waits for its quota, maybe after it ran: its time counts from its next start
        elif self._running is None and any(_runs(pod) for pod in self.pods.values()):
            self._running = clock
        if self._running is not None and clock - self._running > self.deadline + times.overtime:
            what = f"job {self.name} runs longer than its deadline of {self.deadline:.0f} s, and its operator lets it"
            raise ClusterError(diagnosis(self.cluster, what, *self._known()))
        found = {pod["metadata"]["name"]: trouble(pod, times) for pod in self.pods.values()}
        now_in = {(name, t.patience): t for name, t in found.items() if isinstance(t, Trouble)}
        # By its patience, not its name: an image that cannot be pulled goes back and forth between two reasons.
        self._troubles = {key: self._troubles.get(key, clock) for key in now_in}
        for key, since in self._troubles.items():
            if clock - since >= key[1]:
                what = f"pod {key[0]} does not start for {key[1]:.0f} s: {now_in[key].reason}: {now_in[key].message}"
                raise ClusterError(diagnosis(self.cluster, f"job {self.name} cannot run: {what}", *self._known()))

    def _beat(self) -> None:
        """Tells the reaper that somebody looks after the job."""
        while not self._ended.wait(self.cluster.times.beat):
            with suppress(ApiException, HTTPError, OmniError):  # the next one may get through; the reaper waits for many
                self.cluster.annotate(self.resource, self.name, self.uid, {HEARTBEAT: now()})


def _runs(pod: Mapping[str, Any]) -> bool:
    return pod.get("status", {}).get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp")


@contextmanager
def cancelling(job: Job) -> Iterator[None]:
    """Within the block SIGTERM deletes the job at once and ends this process."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread alone
        return

    def end(number: int, frame: object) -> None:  # noqa: ARG001
        job.discard_now()
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
