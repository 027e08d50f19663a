"""States of pods, and the problems that keep them from running."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from omnicore.cluster import timeouts
from omnicore.cluster.names import Kind, conditions

Pod = Mapping[str, Any]
PERMANENT = frozenset({"InvalidImageName", "ErrImageNeverPull"})
TEMPORARY = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
        "CrashLoopBackOff",
    }
)


class PodProblem(NamedTuple):
    """What keeps a pod from running, and how many seconds it may."""

    reason: str
    message: str
    limit: float


def pod_problem(pod: Pod) -> PodProblem | None:
    """Return what keeps a pod from running.

    None for a pod that runs, has ended, or waits for its quota.
    """
    if is_deleted(pod):
        return None
    for container in container_statuses(pod):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason in PERMANENT:
            return PodProblem(reason, message, 0)
        if reason in TEMPORARY:
            return PodProblem(reason, message, timeouts.IMAGE_PULL)
    if phase(pod) != "Pending" or is_gated(pod):
        return None
    scheduled = _scheduled_condition(pod)
    message = scheduled.get("message", "it is scheduled, but its containers do not start")
    return PodProblem(scheduled.get("reason") or "Pending", message, timeouts.SCHEDULING)


def phase(pod: Pod) -> str:
    """Return a pod's phase."""
    return str(pod.get("status", {}).get("phase", "Pending"))


def is_deleted(pod: Pod) -> bool:
    """Return whether a pod is being deleted or is gone."""
    return bool(pod["metadata"].get("deletionTimestamp"))


def is_alive(pod: Pod, kind: Kind) -> bool:
    """Return whether a pod runs its main container or may yet.

    False for a pod that is being deleted, has ended, or is on a lost node.
    """
    if is_deleted(pod) or main_exit(pod, kind):
        return False
    return phase(pod) in {"Pending", "Running"}


def is_running(pod: Pod, kind: Kind) -> bool:
    """Return whether a pod runs its main container."""
    return is_alive(pod, kind) and has_started(pod)


def has_started(pod: Pod) -> bool:
    """Return whether a pod runs or has run."""
    return phase(pod) != "Pending"


def main_exit(pod: Pod, kind: Kind) -> Mapping[str, Any] | None:
    """Return how a pod's main container ended; None while it runs or waits for a restart."""
    for container in pod.get("status", {}).get("containerStatuses") or []:
        if container["name"] == kind.container:
            terminated: Mapping[str, Any] | None = (container.get("state") or {}).get("terminated")
            return terminated
    return None


def is_gated(pod: Pod) -> bool:
    """Return whether Kueue holds a pod back for its quota."""
    return _scheduled_condition(pod).get("reason") == "SchedulingGated"


def describe(pod: Pod) -> str:
    """Return a pod's phase and reason in words."""
    if is_deleted(pod):
        return "deleted"
    reason = pod.get("status", {}).get("reason", "")
    return f"{phase(pod)} {reason}".strip()


def container_statuses(pod: Pod) -> list[dict[str, Any]]:
    """Return the statuses of init containers and containers."""
    status = pod.get("status", {})
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def failed_containers(pod: Pod) -> list[tuple[str, dict[str, Any]]]:
    """Return the containers that failed, now or in the life before: name, and exit as a dict."""
    failed = []
    for container in container_statuses(pod):
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            terminated = state.get("terminated")
            if terminated and terminated.get("exitCode", 0) != 0:
                failed.append((container["name"], terminated))
                break
    return failed


def _scheduled_condition(pod: Pod) -> Mapping[str, Any]:
    return next((c for c in conditions(pod) if c["type"] == "PodScheduled"), {})
