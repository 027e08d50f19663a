"""Removes what nobody looks after any more: jobs and served models of runs that were cancelled,
killed or forgotten.

Argo leaves a cancelled step less than a second, and keeps its Workflow object, so neither the
launcher nor an ownerReference stops the GPUs for certain. A CronJob runs this: `omnicore reap`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from kubernetes.client import ApiException

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
    label,
    true,
)

STALE = 900.0  # seconds; a launcher beats every 30, so clocks may be minutes apart and the API server away for long
ENDED = frozenset({"Succeeded", "Failed", "Error"})  # phases of a Workflow
# Objects of a run, with the conditions under which nothing of one runs any more.
REAPED: dict[Resource, tuple[str, ...]] = {
    **{kind.resource: (kind.succeeded, "Failed") for kind in KINDS.values()},
    INFERENCE_SERVICES: (),
}
# What a reaper asks of the cluster, and all that its role must grant.
VERBS: frozenset[tuple[Resource, str]] = frozenset(
    {*((resource, verb) for resource in REAPED for verb in ("list", "delete")), (WORKFLOWS, "get")}
)


def reap(
    cluster: Cluster, *, run: str = "", stale: float = STALE, dry_run: bool = False
) -> list[str]:
    """Deletes orphans of a namespace; returns a line for each, with its reason.

    With `dry_run` it only says.
        An orphan is an object of a run (labels of `names.labels`) whose heartbeat is older than `stale` seconds, or whose Workflow
        has ended or is gone; with `run`, every object of that run, which says itself that it is over. One that has finished holds
        no GPU: it stays until its TTL has passed since the last heartbeat. An object that changes while it is looked at, as by a
        heartbeat, stays.

        Raises ConfigError for missing rights, ClusterError when the cluster does not answer.
    """
    told: list[str] = []
    workflows: dict[tuple[str, str], str] = {}
    for resource, over in REAPED.items():
        try:
            found, _ = cluster.list(
                resource,
                {"labelSelector": f"{APP}=omnicore,{RUN}" + (f"={label(run)}" if run else "")},
            )
        except ApiException as error:
            if error.status == 404:
                continue  # this cluster has no such kind
            raise
        for item in found:
            owner = workflow(item)
            if owner and not run and owner not in workflows:
                workflows[owner] = ended(cluster, *owner)
            finished = any(true(item, condition) for condition in over)
            reason = orphaned(item, stale, datetime.now(UTC), finished=finished)
            if not reason and not finished:
                reason = "left by its run" if run else workflows.get(owner, "") if owner else ""
            if not reason:
                continue
            metadata = item["metadata"]
            gone = dry_run or cluster.delete(
                resource,
                metadata["name"],
                patience=cluster.times.goodbye,
                uid=metadata["uid"],
                version=metadata["resourceVersion"],
            )
            if gone:
                told.append(f"{resource.plural} {metadata['name']}: {reason}")
    return told


def orphaned(item: Mapping[str, Any], stale: float, clock: datetime, *, finished: bool) -> str:
    """Why an object has nobody by its own marks; empty where it has."""
    notes = item["metadata"].get("annotations") or {}
    try:
        age = (clock - datetime.fromisoformat(notes[HEARTBEAT])).total_seconds()
    except (KeyError, ValueError):
        return ""  # made by hand, or by what has no heartbeat
    if finished:
        ttl = float(notes.get(TTL, stale))
        return f"finished, its ttl of {ttl:.0f} s has passed" if age > ttl else ""
    return f"no heartbeat for {age:.0f} s" if age > stale else ""


def workflow(item: Mapping[str, Any]) -> tuple[str, str] | None:
    """Name and uid of the Workflow that an object belongs to."""
    owners = item["metadata"].get("ownerReferences") or []
    return next(
        ((owner["name"], owner["uid"]) for owner in owners if owner["kind"] == "Workflow"), None
    )


def ended(cluster: Cluster, name: str, uid: str) -> str:
    """How a Workflow ended; empty while it runs."""
    found = cluster.get(WORKFLOWS, name)
    if found is None or found["metadata"]["uid"] != uid:
        return f"its workflow {name} is gone"
    phase = found.get("status", {}).get("phase", "")
    return f"its workflow {name} has ended: {phase}" if phase in ENDED else ""
