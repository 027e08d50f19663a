"""Delete orphaned jobs and InferenceServices: of runs that were cancelled, killed or forgotten.

Argo gives a cancelled step less than a second and keeps its Workflow object, so neither the
launcher nor an ownerReference reliably stops the GPUs. A CronJob runs this:
`omnicore cluster reap`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from kubernetes.client import ApiException

from omnicore.cluster import timeouts
from omnicore.cluster.client import Cluster
from omnicore.cluster.names import (
    APP,
    HEARTBEAT,
    INFERENCE_SERVICES,
    KINDS,
    RUN,
    TTL,
    WORKFLOWS,
    Resource,
    has_condition,
    label_value,
    workflow_owner,
)

# Seconds. A launcher sends a heartbeat every 30, so clocks may differ by minutes and the API server
# may be away for long.
STALE = 900.0
ENDED = frozenset({"Succeeded", "Failed", "Error"})  # phases of a Workflow
# Resources of a run, each with the conditions under which nothing of an object runs any more.
FINISHED_CONDITIONS: dict[Resource, tuple[str, ...]] = {
    **{kind.resource: (kind.succeeded, "Failed") for kind in KINDS.values()},
    INFERENCE_SERVICES: (),
}
# All rights that reaping needs and that its role must grant.
VERBS: frozenset[tuple[Resource, str]] = frozenset(
    {(resource, verb) for resource in FINISHED_CONDITIONS for verb in ("list", "delete")}
    | {(WORKFLOWS, "get")}
)


def reap(
    cluster: Cluster, *, run: str = "", stale: float = STALE, dry_run: bool = False
) -> list[str]:
    """Delete the orphans of a namespace.

    An orphan is an object with the labels of a run whose heartbeat is older than `stale` seconds,
    or whose Workflow has ended or is gone; with `run`, every object of that run. A finished job
    holds no GPU: it stays until its TTL has passed since the last heartbeat. An object that changes
    during the check, as by a heartbeat, stays.

    Args:
        cluster: The cluster.
        run: Id of a run that has ended.
        stale: Seconds.
        dry_run: Delete nothing.

    Returns:
        A line for each orphan, with the reason.

    Raises:
        ConfigError: Rights are missing.
        ClusterError: The cluster does not answer.
    """
    deleted: list[str] = []
    workflows = _Workflows(cluster)
    selector = f"{APP}=omnicore,{RUN}" + (f"={label_value(run)}" if run else "")
    for resource, finished_conditions in FINISHED_CONDITIONS.items():
        for item in _list_objects(cluster, resource, selector):
            finished = any(has_condition(item, condition) for condition in finished_conditions)
            reason = orphan_reason(item, stale, datetime.now(UTC), finished=finished)
            if not reason and not finished:
                reason = "left by its run" if run else workflows.end_reason(item)
            if reason and (dry_run or _delete_unchanged(cluster, resource, item)):
                deleted.append(f"{resource.plural} {item['metadata']['name']}: {reason}")
    return deleted


def orphan_reason(item: Mapping[str, Any], stale: float, now: datetime, *, finished: bool) -> str:
    """Return why an object's heartbeat makes it an orphan; empty where it does not."""
    annotations = item["metadata"].get("annotations") or {}
    try:
        age = (now - datetime.fromisoformat(annotations[HEARTBEAT])).total_seconds()
    except (KeyError, ValueError):
        return ""  # created by hand, or by a tool without heartbeats
    if finished:
        ttl = float(annotations.get(TTL, stale))
        return f"finished, its ttl of {ttl:.0f} s has passed" if age > ttl else ""
    return f"no heartbeat for {age:.0f} s" if age > stale else ""


class _Workflows:
    """Workflows of the namespace; each is read once."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._end_reasons: dict[tuple[str, str], str] = {}

    def end_reason(self, item: Mapping[str, Any]) -> str:
        """Return how the Workflow that owns an object ended; empty while it runs."""
        owner = workflow_owner(item)
        if owner is None:
            return ""
        if owner not in self._end_reasons:
            self._end_reasons[owner] = self._read(*owner)
        return self._end_reasons[owner]

    def _read(self, name: str, uid: str) -> str:
        workflow = self._cluster.get(WORKFLOWS, name)
        if workflow is None or workflow["metadata"]["uid"] != uid:
            return f"its workflow {name} is gone"
        phase = workflow.get("status", {}).get("phase", "")
        return f"its workflow {name} has ended: {phase}" if phase in ENDED else ""


def _list_objects(cluster: Cluster, resource: Resource, selector: str) -> list[dict[str, Any]]:
    """Return the selected objects; none where the cluster lacks the kind."""
    try:
        return cluster.list(resource, {"labelSelector": selector})[0]
    except ApiException as error:
        if error.status == 404:
            return []
        raise


def _delete_unchanged(cluster: Cluster, resource: Resource, item: Mapping[str, Any]) -> bool:
    """Delete an object unless it has changed; return whether it was deleted."""
    metadata = item["metadata"]
    return cluster.delete(
        resource,
        metadata["name"],
        retry_for=timeouts.CLEANUP,
        uid=metadata["uid"],
        version=metadata["resourceVersion"],
    )
