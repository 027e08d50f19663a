"""Why a job failed or does not start, in words: conditions, exit codes, last lines, events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from kubernetes.client import ApiException

from omnicore.cluster import timeouts
from omnicore.cluster.client import Cluster
from omnicore.cluster.logs import last_lines
from omnicore.cluster.names import EVENTS, conditions
from omnicore.cluster.pods import Pod, failed_containers, pod_problem
from omnicore.errors import OmniError

REMEDIES = {
    "OOMKilled": "give it more launcher.memory, or a smaller batch",
    "ErrImagePull": "check launcher.image and the pull secret of the service account",
    "ImagePullBackOff": "check launcher.image and the pull secret of the service account",
    "InvalidImageName": "check launcher.image",
    "CreateContainerConfigError": "check the names and keys in launcher.secrets",
    "Unschedulable": (
        "check the pool, launcher.node_selector, launcher.tolerations and the requested size"
    ),
    "DeadlineExceeded": "raise launcher.deadline_seconds: the step starts again",
    "Evicted": "the node ran out of a resource; see the message",
}
PODS_SHOWN, EVENTS_SHOWN = 8, 8


def failure_report(
    cluster: Cluster,
    what: str,
    job: Mapping[str, Any],
    pods: Iterable[Pod],
    tails: Mapping[str, Iterable[str]],
    remedies: Mapping[str, str] = REMEDIES,
) -> str:
    """Return what happened to a job, with all that the cluster knows of it.

    Args:
        cluster: The cluster.
        what: What happened, the first line.
        job: The object.
        pods: Its pods.
        tails: Last lines seen by pod, for pods that are gone.
        remedies: Remedies by reason.
    """
    pods = list(pods)
    lines = [what, "conditions:", *_condition_lines(job, has_pods=bool(pods))]
    reasons = {condition.get("reason", "") for condition in conditions(job)}
    shown = [pod for pod in pods if _needs_attention(pod)]
    for pod in shown[:PODS_SHOWN]:
        lines.append(_pod_line(pod, reasons))
        lines += _container_lines(cluster, pod, tails, reasons)
    if len(shown) > PODS_SHOWN:
        lines.append(f"and {len(shown) - PODS_SHOWN} more pods")
    lines += _event_lines(cluster, job)
    lines += [f"remedy: {remedies[reason]}" for reason in sorted(reasons & remedies.keys())]
    return "\n".join(lines)


def _condition_lines(job: Mapping[str, Any], *, has_pods: bool) -> list[str]:
    lines = []
    for condition in conditions(job):
        line = f"  {condition['type']}={condition['status']}"
        if condition.get("reason"):
            line += f" ({condition['reason']}: {condition.get('message', '')})"
        lines.append(line)
    if lines:
        return lines
    return ["  none"] if has_pods else ["  none: no operator has reconciled the job"]


def _needs_attention(pod: Pod) -> bool:
    failed = pod.get("status", {}).get("phase") == "Failed"
    return bool(failed or failed_containers(pod) or pod_problem(pod))


def _pod_line(pod: Pod, reasons: set[str]) -> str:
    """Return a pod's state in a line; add its reasons to `reasons`."""
    status = pod.get("status", {})
    parts = [status.get(field, "") for field in ("phase", "reason", "message")]
    reasons.add(status.get("reason", ""))
    problem = pod_problem(pod)
    if problem:
        parts += [problem.reason, problem.message]
        reasons.add(problem.reason)
    return f"pod {pod['metadata']['name']}: {', '.join(filter(None, parts))}"


def _container_lines(
    cluster: Cluster, pod: Pod, tails: Mapping[str, Iterable[str]], reasons: set[str]
) -> list[str]:
    """Return exits and last lines of a pod's failed containers; add the reasons to `reasons`."""
    name = pod["metadata"]["name"]
    lines = []
    for container, terminated in failed_containers(pod):
        reasons.add(terminated.get("reason", ""))
        signal = f", signal {terminated['signal']}" if terminated.get("signal") else ""
        lines.append(
            f"  container {container}: exit code {terminated['exitCode']}{signal},"
            f" {terminated.get('reason', 'Error')}; its last lines:"
        )
        log = last_lines(cluster, name, container) or tails.get(name, ())
        lines += [f"    {line}" for line in log]
    return lines


def _event_lines(cluster: Cluster, job: Mapping[str, Any]) -> list[str]:
    metadata = job["metadata"]
    try:
        events = warning_events(cluster, metadata["name"], metadata.get("creationTimestamp", ""))
    except (ApiException, OmniError) as error:
        return [f"events cannot be read: {error}".splitlines()[0]]
    if not events:
        return []
    return ["events:", *(f"  {event}" for event in events[-EVENTS_SHOWN:])]


class WarningEvent(NamedTuple):
    """A warning event: name of the object that it is about, and its text."""

    about: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.about}: {self.reason}: {self.message}"


def warning_events(cluster: Cluster, name: str, since: str) -> list[WarningEvent]:
    """Return the warnings about an object and the objects made for it, the oldest first, each once.

    Objects made for it are its pods, the batch Job or ReplicaSet that makes them, the JobSet, and
    Kueue's Workload. Their names begin with the object's; before the Workload's stands its kind,
    and it is truncated at 63 characters. Selectors cannot express that, so all warnings of the
    namespace are listed.

    Args:
        cluster: The cluster.
        name: Name of the object.
        since: Leave out warnings that were last seen before this time.
    """
    listed, _ = cluster.list(EVENTS, {"fieldSelector": "type=Warning"}, retry_for=timeouts.REQUEST)
    recent = [
        event
        for event in listed
        if _concerns(event.get("involvedObject") or {}, name) and _last_seen(event) >= since[:19]
    ]
    warnings: dict[WarningEvent, None] = {}
    for event in sorted(recent, key=_last_seen):
        about = event["involvedObject"].get("name", "")
        warning = WarningEvent(about, event.get("reason", ""), event.get("message", ""))
        warnings.setdefault(warning)
    return list(warnings)


def _concerns(involved: Mapping[str, Any], name: str) -> bool:
    own = involved.get("name", "")
    if involved.get("kind") == "Workload":
        without_hash = own.rpartition("-")[0]
        without_kind = without_hash.partition("-")[2]
        return name.startswith(without_kind) and len(without_kind) > len(name) // 2
    return bool(own == name or own.startswith(f"{name}-"))


def _last_seen(event: Mapping[str, Any]) -> str:
    """Return when an event was last seen, to the second.

    The core API and events.k8s.io keep it in different fields.
    """
    times = (
        (event.get("series") or {}).get("lastObservedTime"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        event["metadata"].get("creationTimestamp"),
    )
    return next((str(time)[:19] for time in times if time), "")
