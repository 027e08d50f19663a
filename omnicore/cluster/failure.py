"""Why a job failed or does not start, for people: conditions, exit codes, last lines, events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from kubernetes.client import ApiException

from omnicore.cluster.client import Cluster
from omnicore.cluster.logs import tail
from omnicore.cluster.names import EVENTS, conditions
from omnicore.cluster.waiting import statuses, trouble
from omnicore.errors import OmniError

REMEDY = {
    "OOMKilled": "give it more launcher.memory, or a smaller batch",
    "ErrImagePull": "check launcher.image and the pull secret of the service account",
    "ImagePullBackOff": "check launcher.image and the pull secret of the service account",
    "InvalidImageName": "check launcher.image",
    "CreateContainerConfigError": "check the names and keys in launcher.secrets",
    "Unschedulable": (
        "check the pool, launcher.node_selector, launcher.tolerations and the size asked for"
    ),
    "DeadlineExceeded": "give it more launcher.deadline_seconds: the step begins again",
    "Evicted": "the node ran out of something; see the message",
}
PODS_SHOWN, EVENTS_SHOWN = 8, 8


def ends(pod: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Containers of a pod that ended in failure, now or in the life before this one: name and how
    (`exitCode`, `reason`)."""
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
    """`what` happened, and all that the cluster knows of it.

    `tails` are last lines seen, for pods that are gone; `remedies` by reason.
    """
    name = job["metadata"]["name"]
    lines, reasons = [what], {c.get("reason", "") for c in conditions(job)}
    told = [
        f"{c['type']}={c['status']}"
        + (f" ({c['reason']}: {c.get('message', '')})" if c.get("reason") else "")
        for c in conditions(job)
    ]
    pods = list(pods)
    lines += [
        "conditions:",
        *(
            f"  {line}"
            for line in told or ["none" if pods else "none: no operator has taken the job up"]
        ),
    ]
    shown = [
        pod
        for pod in pods
        if ends(pod)
        or pod.get("status", {}).get("phase") == "Failed"
        or trouble(pod, cluster.times)
    ]
    for pod in shown[:PODS_SHOWN]:
        own = pod["metadata"]["name"]
        status = pod.get("status", {})
        whole = [
            part
            for part in (
                status.get("phase", ""),
                status.get("reason", ""),
                status.get("message", ""),
            )
            if part
        ]
        if found := trouble(pod, cluster.times):
            whole += [found.reason, found.message]
            reasons.add(found.reason)
        reasons.add(status.get("reason", ""))
        lines.append(f"pod {own}: {', '.join(whole)}")
        for container, how in ends(pod):
            reasons.add(how.get("reason", ""))
            signal = f", signal {how['signal']}" if how.get("signal") else ""
            lines.append(
                f"  container {container}: exit code {how['exitCode']}{signal},"
                f" {how.get('reason', 'Error')}; its last lines:"
            )
            lines += [f"    {line}" for line in tail(cluster, own, container) or tails.get(own, ())]
    lines += [f"and {len(shown) - PODS_SHOWN} more pods"] if len(shown) > PODS_SHOWN else []
    try:
        told = [
            f"  {event}"
            for event in warnings(cluster, name, job["metadata"].get("creationTimestamp", ""))
        ]
        lines += ["events:", *told[-EVENTS_SHOWN:]] if told else []
    except (ApiException, OmniError) as error:
        lines.append(f"events cannot be read: {error}".splitlines()[0])
    lines += [f"remedy: {remedies[reason]}" for reason in sorted(reasons & remedies.keys())]
    return "\n".join(lines)


class Warned(NamedTuple):
    """A warning event: the name of the object that it is about, and what it says."""

    about: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.about}: {self.reason}: {self.message}"


def warnings(cluster: Cluster, name: str, since: str) -> list[Warned]:
    """Return the warnings about an object and about what was made for it: its pods, the batch Job
    or ReplicaSet that makes them, the JobSet, Kueue's Workload. The oldest first, each once; those
    that have not come (again) since a time are left out.

    Their names begin with the object's, but for the Workload's, whose kind goes before it and which
    is cut at 63 characters. Selectors cannot say that, so all warnings of the namespace are listed.
    """
    found, _ = cluster.list(
        EVENTS, {"fieldSelector": "type=Warning"}, patience=cluster.times.request
    )
    about = [
        event
        for event in found
        if _concerns(event.get("involvedObject") or {}, name) and _last(event) >= since[:19]
    ]
    told = [
        Warned(
            event["involvedObject"].get("name", ""),
            event.get("reason", ""),
            event.get("message", ""),
        )
        for event in sorted(about, key=_last)
    ]
    return list(dict.fromkeys(told))


def _concerns(involved: Mapping[str, Any], name: str) -> bool:
    own = involved.get("name", "")
    if involved.get("kind") == "Workload":
        stem = own.rpartition("-")[0]  # without the hash
        return (
            f"-{name}".startswith(f"-{stem.partition('-')[2]}")
            and len(stem.partition("-")[2]) > len(name) // 2
        )
    return bool(own == name or own.startswith(f"{name}-"))


def _last(event: Mapping[str, Any]) -> str:
    """When an event was last seen, to the second: the core API and events.k8s.io keep it in
    different fields."""
    series = (event.get("series") or {}).get("lastObservedTime")
    times = (
        series,
        event.get("lastTimestamp"),
        event.get("eventTime"),
        event["metadata"].get("creationTimestamp"),
    )
    return next((str(time)[:19] for time in times if time), "")
