"""Waits of a job or a served model, each with a limit.

Every state of an object and its pods either has a limit, after which the wait ends in an error, or
waits for a decision of others (a quota) and says so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from omnicore.cluster import timeouts
from omnicore.cluster.names import QUEUE, Kind, conditions
from omnicore.cluster.pods import (
    Pod,
    PodProblem,
    describe,
    is_alive,
    is_deleted,
    is_gated,
    main_exit,
)

# Event reasons that say that pods, or the objects that create them, are refused: of the batch Job
# and the ReplicaSet, the training operator, the JobSet, Trainer.
CREATION_REFUSED = frozenset(
    {"FailedCreate", "FailedCreatePod", "JobCreationFailed", "TrainJobResourcesCreationFailed"}
)
PODS_NAMED = 4


class Wait(NamedTuple):
    """One thing that a job waits for.

    Attributes:
        key: Identifies the wait; a wait with a new key starts anew.
        message: What it waits for; empty for a wait that is not shown.
        limit: Seconds.
        verdict: The error after the limit.
    """

    key: object
    message: str
    limit: float = math.inf
    verdict: str = ""


class WaitTimer:
    """How long each wait has lasted."""

    def __init__(self) -> None:
        """Start without waits."""
        self._since: dict[object, float] = {}

    def expired(self, waits: Iterable[Wait], clock: float) -> Wait | None:
        """Return the first wait that has reached its limit at `clock`.

        A wait that is missing from `waits` starts anew later.
        """
        current = list(waits)
        self._since = {wait.key: self._since.get(wait.key, clock) for wait in current}
        return next((wait for wait in current if self.age(wait, clock) >= wait.limit), None)

    def age(self, wait: Wait, clock: float) -> float:
        """Return how many seconds a wait has lasted."""
        return clock - self._since[wait.key]


class ReachableClock:
    """Seconds in which the cluster answered; outages and long gaps between ticks do not count."""

    def __init__(self, longest_step: float) -> None:
        """Start at zero; a tick counts at most `longest_step` seconds."""
        self._longest_step, self._last, self._total = longest_step, time.monotonic(), 0.0

    def tick(self, *, reachable: bool) -> float:
        """Return the counted seconds; add those since the last tick if the cluster answered."""
        now = time.monotonic()
        if reachable:
            self._total += min(now - self._last, self._longest_step)
        self._last = now
        return self._total


def start_waits(
    item: Mapping[str, Any], pods: Sequence[Pod], kind: Kind, refusal: str = ""
) -> list[Wait]:
    """Return what a job or a served model waits for before its pods run.

    Args:
        item: The object, which has neither ended nor is being deleted.
        pods: Its pods.
        kind: Its kind.
        refusal: The newest event that says that pods are refused.
    """
    alive = [pod for pod in pods if is_alive(pod, kind)]
    if is_suspended(item) and not alive:
        return [Wait("suspended", _suspension_message(item))]
    if not alive:
        return _no_pod_alive(item, pods, kind, refusal)
    waits = []
    if any(is_gated(pod) for pod in alive):
        waits.append(Wait("gated", "waits for its quota: its pods are gated"))
    if is_suspended(item):
        waits.append(Wait("stopping", "is suspended, but its pods still run"))
    return waits


def _suspension_message(item: Mapping[str, Any]) -> str:
    queued = QUEUE in (item["metadata"].get("labels") or {})
    what = "waits for its quota" if queued else "is suspended"
    for condition in conditions(item):
        if condition["type"] == "Suspended" and condition["status"] == "True":
            return f"{what}: {condition.get('message', '')}".removesuffix(": ")
    return what


def _no_pod_alive(
    item: Mapping[str, Any], pods: Sequence[Pod], kind: Kind, refusal: str
) -> list[Wait]:
    states = sorted(f"{pod['metadata']['name']} {describe(pod)}" for pod in pods)
    shown = ""
    if states:
        more = ", ..." if len(states) > PODS_NAMED else ""
        shown = f" ({', '.join(states[:PODS_NAMED])}{more})"
    # Any change starts the wait anew: an operator that works changes something.
    condition_states = sorted(f"{c['type']}={c['status']}" for c in conditions(item))
    key = ("idle", *states, *condition_states, is_suspended(item))
    limit = timeouts.NO_PROGRESS
    verdict = f"had no pod alive for {limit:.0f} s{shown}"
    if not pods and not condition_states:
        verdict = f"was not reconciled for {limit:.0f} s: is the operator of {kind.kind} up?"
    waits = [Wait(key, f"no pod of it is alive{shown}", limit, verdict)]
    if refusal:
        limit = timeouts.POD_CREATION
        verdict = f"cannot run: its pods are refused for {limit:.0f} s: {refusal}"
        waits.insert(0, Wait("refused", "", limit, verdict))
    return waits


def failure_waits(pods: Iterable[Pod], kind: Kind) -> list[Wait]:
    """Return the waits for a job to fail after its main container has, in any pod.

    A sidecar may keep such a pod running.
    """
    waits = []
    for pod in pods:
        terminated = main_exit(pod, kind)
        if terminated and terminated.get("exitCode", 0) != 0 and not is_deleted(pod):
            what = (
                f"container {kind.container} of pod {pod['metadata']['name']} ended with exit code"
                f" {terminated['exitCode']}"
            )
            limit = timeouts.NO_PROGRESS
            verdict = f"failed: {what}, and its operator has not reported it for {limit:.0f} s"
            waits.append(Wait(("ended", pod["metadata"].get("uid")), what, limit, verdict))
    return waits


def problem_waits(problems: Mapping[str, PodProblem | None]) -> list[Wait]:
    """Return the waits for pods that cannot run, from their problems by name."""
    waits = []
    for name, problem in problems.items():
        if problem is None:
            continue
        what = f"{problem.reason}: {problem.message}".rstrip(": ")
        lasting = f" does not start for {problem.limit:.0f} s" if problem.limit else ""
        verdict = f"cannot run: pod {name}{lasting}: {what}"
        # The key has the limit and not the reason: an image that cannot be pulled alternates
        # between two reasons.
        key = (name, problem.limit)
        waits.append(Wait(key, f"pod {name} does not start: {what}", problem.limit, verdict))
    return waits


def is_suspended(item: Mapping[str, Any]) -> bool:
    """Return whether an object is to have no pods.

    The spec decides: the condition is only as new as the operator's last reconciliation.
    """
    spec = item.get("spec") or {}
    return bool(spec.get("suspend") or (spec.get("runPolicy") or {}).get("suspend"))
