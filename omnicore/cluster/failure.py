"""Why a job failed or does not start, for people: conditions, exit codes, last lines, events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from kubernetes.client import ApiException

from omnicore.cluster.client import Cluster, Times
from omnicore.cluster.logs import tail
from omnicore.cluster.names import EVENTS, conditions
from omnicore.errors import OmniError

HOPELESS = frozenset({"InvalidImageName", "ErrImageNeverPull"})
STUCK = frozenset({"ErrImagePull", "ImagePullBackOff", "CreateContainerConfigError", "CreateContainerError", "CrashLoopBackOff"})
REMEDY = {
    "OOMKilled": "give it more launcher.memory, or a smaller batch",
    "ErrImagePull": "check launcher.image and the pull secret of the service account",
    "ImagePullBackOff": "check launcher.image and the pull secret of the service account",
    "InvalidImageName": "check launcher.image",
    "CreateContainerConfigError": "check the names and keys in launcher.secrets",
    "Unschedulable": "check the pool, launcher.node_selector, launcher.tolerations and the size asked for",
    "DeadlineExceeded": "give it more launcher.deadline_seconds: the step begins again",
    "Evicted": "the node ran out of something; see the message",
}
PODS_SHOWN, EVENTS_SHOWN = 8, 8


class Trouble(NamedTuple):
    """What keeps a pod from running, and how many seconds it may."""

    reason: str
    message: str
    patience: float


def trouble(pod: Mapping[str, Any], times: Times) -> Trouble | None:
    """What is wrong with a pod that does not run; None for one that does, that ended, or that waits for its quota."""
    status = pod.get("status", {})
    if pod["metadata"].get("deletionTimestamp"):
        return None
    for container in statuses(pod):
        waiting = container.get("state", {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason in HOPELESS | STUCK:
            return Trouble(reason, waiting.get("message", ""), 0 if reason in HOPELESS else times.unpullable)
    if status.get("phase", "Pending") != "Pending":
        return None
    scheduled = next((c for c in conditions(pod) if c["type"] == "PodScheduled"), {})
    if scheduled.get("reason") == "SchedulingGated":
        return None
    reason = scheduled.get("reason") or "Pending"
    return Trouble(reason, scheduled.get("message", "it is scheduled, but its containers do not start"), times.unschedulable)


def statuses(pod: Mapping[str, Any]) -> list[dict[str, Any]]:
    status = pod.get("status", {})
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def ends(pod: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Containers of a pod that ended in failure, now or in the life before this one: name and how (`exitCode`, `reason`)."""
    found = []
    for container in statuses(pod):
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            how = state.get("terminated")
            if how and how.get("exitCode", 0) != 0:
                found.append((container["name"], how))
                break
    return found


def diagnosis(
    cluster: Cluster,
    what: str,
    job: Mapping[str, Any],
    pods: Iterable[Mapping[str, Any]],
    tails: Mapping[str, Iterable[str]],
    remedies: Mapping[str, str] = REMEDY,
) -> str:
    """`what` happened, and all that the cluster knows of it. `tails` are last lines seen, for pods that are gone; `remedies`
    by reason."""
    name = job["metadata"]["name"]
    lines, reasons, asked = [what], {c.get("reason", "") for c in conditions(job)}, [name]
    told = [
        f"{c['type']}={c['status']}" + (f" ({c['reason']}: {c.get('message', '')})" if c.get("reason") else "")
        for c in conditions(job)
    ]
    lines += ["conditions:", *(f"  {line}" for line in told or ["none: no operator has taken the job up"])]
    shown = [pod for pod in pods if ends(pod) or pod.get("status", {}).get("phase") == "Failed" or trouble(pod, cluster.times)]
    for pod in shown[:PODS_SHOWN]:
        own = pod["metadata"]["name"]
        asked.append(own)
        status = pod.get("status", {})
        whole = [part for part in (status.get("phase", ""), status.get("reason", ""), status.get("message", "")) if part]
        if found := trouble(pod, cluster.times):
            whole += [found.reason, found.message]
            reasons.add(found.reason)
        reasons.add(status.get("reason", ""))
        lines.append(f"pod {own}: {', '.join(whole)}")
        for container, how in ends(pod):
            reasons.add(how.get("reason", ""))
            signal = f", signal {how['signal']}" if how.get("signal") else ""
            lines.append(
                f"  container {container}: exit code {how['exitCode']}{signal}, {how.get('reason', 'Error')}; its last lines:"
            )
            lines += [f"    {line}" for line in tail(cluster, own, container) or tails.get(own, ())]
    lines += [f"and {len(shown) - PODS_SHOWN} more pods"] if len(shown) > PODS_SHOWN else []
    lines += _events(cluster, asked)
    lines += [f"remedy: {remedies[reason]}" for reason in sorted(reasons & remedies.keys())]
    return "\n".join(lines)


def _events(cluster: Cluster, names: list[str]) -> list[str]:
    """The last warnings about objects."""
    found: list[dict[str, Any]] = []
    try:
        for name in names[: PODS_SHOWN + 1]:
            found += cluster.list(EVENTS, {"fieldSelector": f"involvedObject.name={name}"}, patience=cluster.times.request)[0]
    except (ApiException, OmniError) as error:
        return [f"events cannot be read: {error}".splitlines()[0]]
    warnings = [event for event in found if event.get("type") == "Warning"]
    warnings.sort(key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
    told = [f"  {e['involvedObject']['name']}: {e.get('reason', '')}: {e.get('message', '')}" for e in warnings[-EVENTS_SHOWN:]]
    return ["events:", *told] if told else []
