"""What a job or a served model waits for, and for how long it may: one rule for every state that
its object and its pods can be in.

Each state either has a limit, after which the wait ends in an error, or waits for what others
decide (a quota), and says so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from omnicore.cluster.client import Times
from omnicore.cluster.names import Kind, conditions

# Reasons of events that say that pods, or what makes them, are refused: of the batch Job and the ReplicaSet, the training
# operator, the JobSet, Trainer.
REFUSED = frozenset(
    {"FailedCreate", "FailedCreatePod", "JobCreationFailed", "TrainJobResourcesCreationFailed"}
)
HOPELESS = frozenset({"InvalidImageName", "ErrImageNeverPull"})
STUCK = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
        "CrashLoopBackOff",
    }
)


class Trouble(NamedTuple):
    """What keeps a pod from running, and how many seconds it may."""

    reason: str
    message: str
    patience: float


class Wait(NamedTuple):
    """One thing that is waited for, the same as long as its key is.

    `words` say what; `verdict` is said after `limit` seconds.
    """

    key: object
    words: str
    limit: float = math.inf
    verdict: str = ""


class Patience:
    """For how long each wait has lasted."""

    def __init__(self) -> None:
        self._since: dict[object, float] = {}

    def over(self, waits: Iterable[Wait], clock: float) -> Wait | None:
        """Return the first wait that has lasted too long at `clock`.

        A wait that is not there any more begins anew later.
        """
        waits = list(waits)
        self._since = {wait.key: self._since.get(wait.key, clock) for wait in waits}
        return next((wait for wait in waits if self.age(wait, clock) >= wait.limit), None)

    def age(self, wait: Wait, clock: float) -> float:
        return clock - self._since[wait.key]


class Clock:
    """Seconds in which the cluster was heard: those of an outage, and those in which nobody looked,
    are not counted."""

    def __init__(self, step: float) -> None:
        self._step, self._last, self._total = step, time.monotonic(), 0.0

    def tick(self, *, heard: bool) -> float:
        now = time.monotonic()
        self._total += min(now - self._last, self._step) if heard else 0.0
        self._last = now
        return self._total


def waits(
    found: Mapping[str, Any],
    pods: Sequence[Mapping[str, Any]],
    kind: Kind,
    times: Times,
    refusal: str = "",
) -> list[Wait]:
    """Return what a job or a served model waits for before its pods run.

    Args:
        found: the object; one that has ended, or is being deleted, waits for nothing and is not asked about.
        refusal: the newest event that says that pods are refused.
    """
    alive = [pod for pod in pods if lives(pod, kind)]
    if suspended(found) and not alive:
        told = next(
            (
                c.get("message", "")
                for c in conditions(found)
                if c["type"] == "Suspended" and c["status"] == "True"
            ),
            "",
        )
        queued = "kueue.x-k8s.io/queue-name" in (found["metadata"].get("labels") or {})
        return [
            Wait(
                "suspended",
                f"{'waits for its quota' if queued else 'is suspended'}: {told}".removesuffix(": "),
            )
        ]
    if not alive:
        return _nothing_lives(found, pods, kind, times, refusal)
    listed = (
        [Wait("gated", "waits for its quota: its pods are gated")]
        if any(gated(pod) for pod in alive)
        else []
    )
    if suspended(found):
        listed.append(Wait("stopping", "is suspended, but its pods still run"))
    return listed


def _nothing_lives(
    found: Mapping[str, Any],
    pods: Sequence[Mapping[str, Any]],
    kind: Kind,
    times: Times,
    refusal: str,
) -> list[Wait]:
    states = sorted(f"{pod['metadata']['name']} {state(pod)}" for pod in pods)
    shown = f" ({', '.join(states[:4])}{', ...' if len(states) > 4 else ''})" if states else ""
    # The last change of any of it begins the wait anew: an operator that is at work changes something.
    key = (
        "idle",
        *states,
        *sorted(f"{c['type']}={c['status']}" for c in conditions(found)),
        suspended(found),
    )
    verdict = f"had no pod alive for {times.unnoticed:.0f} s{shown}"
    if not pods and not conditions(found):
        verdict = (
            f"was not taken up for {times.unnoticed:.0f} s: is the operator of {kind.kind} up?"
        )
    idle = Wait(key, f"no pod of it is alive{shown}", times.unnoticed, verdict)
    if not refusal:
        return [idle]
    return [
        Wait(
            "refused",
            "",
            times.uncreated,
            f"cannot run: its pods are refused for {times.uncreated:.0f} s: {refusal}",
        ),
        idle,
    ]


def failures(pods: Iterable[Mapping[str, Any]], kind: Kind, times: Times) -> list[Wait]:
    """Return the waits for a job to fail of itself after its main container has, in any pod, also
    beside a running sidecar."""
    found = []
    for pod in pods:
        how = ended(pod, kind)
        if how and how.get("exitCode", 0) != 0 and not pod["metadata"].get("deletionTimestamp"):
            what = (
                f"container {kind.container} of pod {pod['metadata']['name']} ended with exit code"
                f" {how['exitCode']}"
            )
            verdict = (
                f"failed: {what}, and its operator has not said so for {times.unnoticed:.0f} s"
            )
            found.append(
                Wait(("ended", pod["metadata"].get("uid")), what, times.unnoticed, verdict)
            )
    return found


def troubles(found: Mapping[str, Trouble | None]) -> list[Wait]:
    """Return the waits for pods that something keeps from running, by their names."""
    listed = []
    for name, why in found.items():
        if why:
            what = f"{why.reason}: {why.message}".rstrip(": ")
            lasting = f" does not start for {why.patience:.0f} s" if why.patience else ""
            # By its patience, not its reason: an image that cannot be pulled goes back and forth between two of them.
            key, verdict = (name, why.patience), f"cannot run: pod {name}{lasting}: {what}"
            listed.append(Wait(key, f"pod {name} does not start: {what}", why.patience, verdict))
    return listed


def trouble(pod: Mapping[str, Any], times: Times) -> Trouble | None:
    """What is wrong with a pod that does not run; None for one that does, that ended, or that waits
    for its quota."""
    status = pod.get("status", {})
    if pod["metadata"].get("deletionTimestamp"):
        return None
    for container in statuses(pod):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason in HOPELESS | STUCK:
            return Trouble(
                reason, waiting.get("message", ""), 0 if reason in HOPELESS else times.unpullable
            )
    if status.get("phase", "Pending") != "Pending" or gated(pod):
        return None
    scheduled = _scheduled(pod)
    reason = scheduled.get("reason") or "Pending"
    return Trouble(
        reason,
        scheduled.get("message", "it is scheduled, but its containers do not start"),
        times.unschedulable,
    )


def lives(pod: Mapping[str, Any], kind: Kind) -> bool:
    """Whether a pod runs its main container or may yet: not one that is being deleted, has ended,
    or is on a lost node."""
    if pod["metadata"].get("deletionTimestamp") or ended(pod, kind):
        return False
    return pod.get("status", {}).get("phase", "Pending") in {"Pending", "Running"}


def runs(pod: Mapping[str, Any], kind: Kind) -> bool:
    return lives(pod, kind) and started(pod)


def started(pod: Mapping[str, Any]) -> bool:
    """Whether a pod runs or has run, be it gone by now."""
    return bool(pod.get("status", {}).get("phase", "Pending") != "Pending")


def ended(pod: Mapping[str, Any], kind: Kind) -> Mapping[str, Any] | None:
    """How the main container of a pod ended; None while it runs, or waits for its next life."""
    main = (
        c
        for c in pod.get("status", {}).get("containerStatuses") or []
        if c["name"] == kind.container
    )
    return next(((container.get("state") or {}).get("terminated") for container in main), None)


def gated(pod: Mapping[str, Any]) -> bool:
    """Whether Kueue holds a pod back; that is no failure of scheduling."""
    return _scheduled(pod).get("reason") == "SchedulingGated"


def suspended(found: Mapping[str, Any]) -> bool:
    """Whether an object is to have no pods.

    Its spec decides: the condition is only as new as the operator's last look.
    """
    spec = found.get("spec") or {}
    return bool(spec.get("suspend") or (spec.get("runPolicy") or {}).get("suspend"))


def state(pod: Mapping[str, Any]) -> str:
    if pod["metadata"].get("deletionTimestamp"):
        return "deleted"
    status = pod.get("status", {})
    return " ".join(filter(None, (status.get("phase", "Pending"), status.get("reason", ""))))


def statuses(pod: Mapping[str, Any]) -> list[dict[str, Any]]:
    status = pod.get("status", {})
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def _scheduled(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((c for c in conditions(pod) if c["type"] == "PodScheduled"), {})
