"""A job from its creation to its end, whatever happens to it, to the API server, or to this
process.

`run_job` returns only for a job that has succeeded, and leaves none behind that still runs. Three
things stop the GPUs of a job whose launcher is gone: the DELETE that a SIGTERM sends at once (Argo
leaves a cancelled step less than a second), the job's own deadline, and the reaper, which looks at
the heartbeat.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from omnicore.cluster.client import Cluster, said, say, silence
from omnicore.cluster.failure import REMEDY, diagnosis, warnings
from omnicore.cluster.logs import Follower, JobProgress
from omnicore.cluster.names import (
    EVENTS,
    HEARTBEAT,
    KEY,
    KINDS,
    LOGS,
    PODS,
    RUN,
    STEP,
    Kind,
    Resource,
    conditions,
    now,
    true,
)
from omnicore.cluster.waiting import (
    REFUSED,
    Clock,
    Patience,
    Wait,
    failures,
    runs,
    started,
    suspended,
    trouble,
    troubles,
    waits,
)
from omnicore.cluster.watch import Changed, Event, Listed, Unheard, Watcher
from omnicore.errors import ClusterError, ConfigError, OmniError

# What a launcher asks of the cluster, and all that its role must grant; `run_job` of one kind needs no rights on the other.
VERBS: frozenset[tuple[Resource, str]] = frozenset(
    {
        *(
            (kind.resource, verb)
            for kind in KINDS.values()
            for verb in ("create", "get", "list", "watch", "patch", "delete")
        ),
        *((PODS, verb) for verb in ("get", "list", "watch")),
        (LOGS, "get"),
        (EVENTS, "list"),
    }
)
GOODBYE = 10.0  # seconds to wait for the last lines of logs


def run_job(
    cluster: Cluster,
    kind: Kind,
    body: Mapping[str, Any],
    *,
    deadline: float,
    keep_on_failure: bool = False,
) -> None:
    """Creates a job, or adopts the same one where it is there already, and returns when it has
    succeeded.

    Shows the lines of its pods as they come, and its progress as this process's own. In the end the
    job is deleted; with `keep_on_failure` one that failed stays until its TTL ends. `deadline` is
    in seconds from when it first runs.

    Raises ClusterError, with all that is known, for a job that failed, cannot start, was deleted or
    replaced, or whose cluster does not answer; ConfigError for a name that is taken by another job,
    a kind that the cluster lacks, and rights that this process lacks. Once the job exists no
    refusal ends it: they are retried for as long as an outage may take. SIGTERM deletes the job and
    raises SystemExit.
    """
    job = Job(cluster, kind, body, deadline)
    keep = False
    with delete_on_sigterm(job):
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
                    say(
                        f"job {job.name} is kept for a look: kubectl describe"
                        f" {kind.resource.plural} {job.name}"
                    )
                else:
                    job.discard()


class JobFailed(ClusterError):
    """The job itself says that it failed: nothing of it runs any more."""


class Job:
    """One job that this process looks after."""

    noun = "job"  # what its lines call it
    remedies: Mapping[str, str] = REMEDY

    def __init__(
        self, cluster: Cluster, kind: Kind, body: Mapping[str, Any], deadline: float
    ) -> None:
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
        self._clock, self._patience = Clock(cluster.times.request), Patience()
        self._told: dict[str, str] = {}
        self._warned: set[str] = set()  # events that were shown
        self._looked = -cluster.times.beat  # when events were last asked for
        self._refusal = ""  # the newest event that says that pods are refused
        self._unsure = True  # whether a job without a known uid may be there, and is ours to delete

    def start(self) -> None:
        """Creates or adopts the job, starts its heartbeat and the watches."""
        deleting_since: float | None = None
        while not self.uid:
            held = self._create_or_get()
            if held is None:
                continue  # created, or deleted in between
            self._refuse_unless_ours(held)
            if held["metadata"].get("deletionTimestamp"):
                deleting_since = deleting_since or time.monotonic()
                if time.monotonic() - deleting_since > self.cluster.times.goodbye:
                    raise ClusterError(
                        f"{self.noun} {self.name} is being deleted, but does not go: look at its"
                        " finalizers, then run again"
                    )
                time.sleep(self.cluster.times.first_wait)
            elif self._failure(held):
                # Left by an earlier try: to adopt it would fail every retry of the step.
                self.cluster.delete(
                    self.resource,
                    self.name,
                    patience=self.cluster.times.goodbye,
                    uid=held["metadata"]["uid"],
                )
            else:
                self._take(held, "is there already; its launcher is this process now")
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        for resource, selector in (
            (self.resource, {"fieldSelector": f"metadata.name={self.name}"}),
            (PODS, self._own_pods),
        ):
            watcher = Watcher(self.cluster, resource, self._events, selector)
            self._watchers.append(watcher)
            watcher.start()

    @property
    def _own_pods(self) -> dict[str, str]:
        return {"labelSelector": f"{self.kind.pods}={self.name}"}

    def wait(self) -> None:
        """Returns when the job has succeeded; raises when it never will."""
        while not self._succeeded():
            self.look(min(1.0, self.cluster.times.first_wait))
        self._see_pods()

    def look(self, seconds: float = 0.0) -> None:
        """Takes in what has happened, and waits for the first of it as long.

        Raises ClusterError when it got nowhere for too long, or is not what it was.
        """
        with suppress(Empty):
            event = self._events.get(timeout=seconds) if seconds else self._events.get_nowait()
            while True:
                self._take_in(event)
                event = self._events.get_nowait()
        if not self._succeeded():
            self._check_patience()

    def discard(self) -> None:
        """Deletes the job, with its pods; does nothing where it is gone or another has taken its
        name."""
        uid = self.uid
        try:
            if (
                not uid and self._unsure
            ):  # cancelled while it was created: it may be there all the same
                held = self.cluster.get(self.resource, self.name)
                uid = held["metadata"]["uid"] if held and self._ours(held) else ""
            if uid:
                self.cluster.delete(
                    self.resource,
                    self.name,
                    patience=self.cluster.times.goodbye,
                    uid=uid,
                    stubborn=True,
                )
        except (OmniError, ApiException) as error:
            say(f"{self.noun} {self.name} could not be deleted, the reaper will: {error}")

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
        over = self._succeeded() or bool(self._failure(self.found))
        limit = time.monotonic() + (min(GOODBYE, self.cluster.times.goodbye) if over else 0)
        for follower in self._followers.values():
            follower.ended.set()
        for follower in self._followers.values():
            follower.join(max(0.0, limit - time.monotonic()))
            follower.stopped.set()
        self._progress.close()

    def _stamped(self) -> dict[str, Any]:
        metadata = self.body["metadata"]
        return {
            **self.body,
            "metadata": {
                **metadata,
                "annotations": {**metadata.get("annotations", {}), HEARTBEAT: now()},
            },
        }

    def _create_or_get(self) -> dict[str, Any] | None:
        """Creates the job, or returns the one that has its name.

        A refusal ends the launcher only where there is none: the
        answer to an earlier try may have been lost, and a quota refuses what is there already, too.
        """
        refusal: ApiException | ConfigError
        try:
            self._take(self.cluster.create(self.resource, self._stamped()), "created")
            return None
        except (ApiException, ConfigError) as error:
            refusal = error
        taken = isinstance(refusal, ApiException) and refusal.status == 409
        try:
            held = self.cluster.get(self.resource, self.name)
        except (ConfigError, ClusterError):
            if taken:
                self._unsure = False
                raise
            held = None
        if held is None and not taken:
            self._unsure = False
            if isinstance(refusal, ConfigError):
                raise refusal
            self._refuse(refusal)
        return held

    def _take(self, found: dict[str, Any], how: str) -> None:
        self.found, self.uid = found, found["metadata"]["uid"]
        self._say("launcher", how)

    def _refuse(self, error: ApiException) -> None:
        if error.status == 404:
            raise ConfigError(
                f"this cluster has no {self.resource.plural}.{self.resource.group}, or no namespace"
                f" {self.cluster.namespace}{self._without_kind()}"
            ) from error
        raise ClusterError(f"the cluster refused {self.noun} {self.name}: {said(error)}") from error

    def _without_kind(self) -> str:
        others = " or ".join(name for name in KINDS if KINDS[name] != self.kind)
        return f": install the operator of {self.kind.kind}, or set launcher.kind to {others}"

    def _ours(self, held: Mapping[str, Any]) -> bool:
        marks, wanted = held["metadata"].get("labels") or {}, self.body["metadata"]["labels"]
        return all(marks.get(name) == wanted[name] for name in (RUN, STEP, KEY))

    def _refuse_unless_ours(self, held: Mapping[str, Any]) -> None:
        if not self._ours(held):
            self._unsure = False
            raise ConfigError(
                f"{self.kind.kind} {self.name} exists in namespace {self.cluster.namespace} and is"
                f" not of this run and step (its labels: {held['metadata'].get('labels') or {}}):"
                " delete it, or give the run another name"
            )

    def _take_in(self, event: Event) -> None:
        if isinstance(event, Unheard):
            if event.over:
                how = (
                    f"the cluster's API {silence(event.error)} for {self.cluster.times.outage:.0f}"
                    f" s: {said(event.error)}"
                )
                raise ClusterError(
                    f"{self.noun} {self.name}: list {event.resource.plural}: {how}"
                ) from event.error
            self._say(
                "cluster",
                f"the cluster is not heard for now: {event.resource.plural}: {said(event.error)}",
            )
            return
        items = event.items if isinstance(event, Listed) else [event.item]
        if event.resource == self.resource:
            mine = next((item for item in items if item["metadata"]["name"] == self.name), None)
            self._see(
                mine, gone=mine is None or (isinstance(event, Changed) and event.how == "DELETED")
            )
            return
        for pod in items:
            self._see_pod(pod)
        self._forget(event, {pod["metadata"]["name"] for pod in items})

    def _see(self, found: dict[str, Any] | None, *, gone: bool) -> None:
        """Takes in the job as it is now, or as it was when it went."""
        if found and found["metadata"]["uid"] != self.uid:
            raise ClusterError(
                f"{self.noun} {self.name} was deleted and made anew by somebody else; nothing of it"
                " is known to be ours"
            )
        self.found = found or self.found
        self._judge(gone=gone or bool(self.found["metadata"].get("deletionTimestamp")))
        latest = next((c for c in reversed(conditions(self.found)) if c["status"] == "True"), None)
        if latest:  # of a suspended one `_waits` says what it waits for
            self._say("condition", latest["type"].removeprefix("Suspended"))

    def _judge(self, *, gone: bool) -> None:
        """Raises for a job that has failed, or is gone before it ended.

        Only a launcher deletes jobs, and this one has not.
        """
        if self._failure(self.found):
            raise JobFailed(self.told("failed"))
        if gone and not self._succeeded():
            raise ClusterError(self.told("was deleted by somebody else before it ended"))

    def _failure(self, found: Mapping[str, Any]) -> str:
        """Why an object itself says that it failed; empty where it does not."""
        return "failed" if true(found, "Failed") else ""

    def _succeeded(self) -> bool:
        return true(self.found, self.kind.succeeded) and not true(self.found, "Failed")

    def told(self, what: str) -> str:
        """What happened to it, with all that the cluster knows."""
        self._see_pods()
        tails = {follower.pod: list(follower.tail) for follower in self._followers.values()}
        pods = list(self.pods.values())
        return diagnosis(
            self.cluster, f"{self.noun} {self.name} {what}", self.found, pods, tails, self.remedies
        )

    def _see_pods(self) -> None:
        """The pods' last state, which may come later than the job's: without it, last lines and
        exit codes would be lost."""
        with suppress(ApiException, OmniError):
            for pod in self.cluster.list(
                PODS, self._own_pods, patience=self.cluster.times.request, stubborn=True
            )[0]:
                self._see_pod(pod)

    def _see_pod(self, pod: dict[str, Any]) -> None:
        name, status = pod["metadata"]["name"], pod.get("status", {})
        self.pods[name] = pod
        for container in status.get("containerStatuses") or []:
            state = container.get("state") or {}
            if container["name"] != self.kind.container or not (
                {"running", "terminated"} & state.keys()
            ):
                continue
            key = f"{pod['metadata'].get('uid')}-{container.get('restartCount', 0)}"
            if key not in self._followers:
                self._followers[key] = Follower(self.cluster, name, container["name"], self._show)
                self._followers[key].start()
            if "terminated" in state:
                self._followers[key].ended.set()

    def _forget(self, event: Event, names: set[str]) -> None:
        """What is known of pods that are gone stays for a diagnosis, but they are no longer waited
        for."""
        for name, pod in self.pods.items():
            if (isinstance(event, Listed) and name not in names) or (
                isinstance(event, Changed) and event.how == "DELETED" and name in names
            ):
                pod["metadata"]["deletionTimestamp"] = (
                    pod["metadata"].get("deletionTimestamp") or now()
                )

    def _show(self, pod: str, text: str) -> None:
        if not self._progress.read(text):
            say(f"[{pod.removeprefix(self.name).lstrip('-')}] {text}")

    def _say(self, about: str, what: str) -> None:
        """Prints what is new; `about` is one of the things that change apart from each other."""
        if what and what != self._told.get(about):
            say(f"{self.noun} {self.name}: {what}")
        self._told[about] = what

    def _check_patience(self) -> None:
        """Raises for a job that does not fail, but does not get anywhere either; the cluster is
        asked once more before."""
        heard = all(watcher.deaf_since is None for watcher in self._watchers)
        clock = self._clock.tick(heard=heard)
        if heard:
            self._told.pop("cluster", None)
            self._look_at_events(clock)
        listed = self._waits()
        if self._patience.over(listed, clock):
            self._refresh()
            listed = self._waits()
            over = self._patience.over(listed, clock)
            if over and not self._succeeded():
                raise ClusterError(self.told(over.verdict))
        # What ends by itself in a moment is not worth a line.
        lasting = [
            w
            for w in listed
            if w.limit == math.inf or self._patience.age(w, clock) >= self.cluster.times.beat
        ]
        self._say("wait", next((wait.words for wait in lasting if wait.words), ""))

    def _waits(self) -> list[Wait]:
        """What the job waits for, the most telling first."""
        times, pods = self.cluster.times, list(self.pods.values())
        listed = [] if suspended(self.found) else failures(pods, self.kind, times)
        listed += troubles({pod["metadata"]["name"]: trouble(pod, times) for pod in pods})
        listed += waits(self.found, pods, self.kind, times, self._refusal)
        if any(started(pod) for pod in pods) and not any(
            wait.key == "suspended" for wait in listed
        ):
            # Its time counts from its start, and anew after it was suspended: as its operator counts.
            verdict = (
                f"runs longer than its deadline of {self.deadline:.0f} s, and its operator lets it"
            )
            listed.append(Wait("deadline", "", self.deadline + times.overtime, verdict))
        return listed

    def _refresh(self) -> None:
        """Asks the cluster for the job and its pods.

        The time that this takes is not counted.
        """
        held = self.cluster.get(self.resource, self.name, stubborn=True)
        pods, _ = self.cluster.list(PODS, self._own_pods, stubborn=True)
        self._clock.tick(heard=False)
        self._take_in(Listed(PODS, pods))
        self._see(held, gone=held is None)

    def _look_at_events(self, clock: float) -> None:
        """While nothing runs: shows warnings as they come, and notes the newest that says that pods
        are refused."""
        if clock - self._looked < self.cluster.times.beat or any(
            runs(pod, self.kind) for pod in self.pods.values()
        ):
            return
        self._looked = clock
        known = [
            item["metadata"].get("creationTimestamp", "")
            for item in (self.found, *self.pods.values())
        ]
        known += [c.get("lastTransitionTime", "") for c in conditions(self.found)]
        with suppress(ApiException, OmniError):
            told = warnings(self.cluster, self.name, max(known))
            refusals = [str(event) for event in told if event.reason in REFUSED]
            self._refusal = refusals[-1] if refusals else ""
            for line in (str(event) for event in told):
                if line not in self._warned:
                    self._warned.add(line)
                    say(f"{self.noun} {self.name}: {line}")

    def _beat(self) -> None:
        """Tells the reaper that somebody looks after the job."""
        while not self._ended.wait(self.cluster.times.beat):
            with suppress(
                ApiException, HTTPError, OmniError
            ):  # the next one may get through; the reaper waits for many
                self.cluster.annotate(self.resource, self.name, self.uid, {HEARTBEAT: now()})


@contextmanager
def delete_on_sigterm(job: Job) -> Iterator[None]:
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
