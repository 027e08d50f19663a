"""Each state of a job ends in time or says what it waits for: conditions x pods x deletion.

The test sets the clock; the cluster is called over HTTP.
"""

from __future__ import annotations

import copy
import logging
import math
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from omnicore.cluster import names, timeouts
from omnicore.cluster.client import connect
from omnicore.cluster.job import Job
from omnicore.cluster.manifests import manifest
from omnicore.errors import ClusterError
from tests.errors import refused
from tests.job_operator import NAME, spec, suspend
from tests.kube_server import NAMESPACE, KubeServer, Log

DEADLINE = 7200.0
RUNS = DEADLINE + timeouts.DEADLINE_GRACE


class Pods(NamedTuple):
    """Pods of a job, how long they may stay so, words of the message, and whether one is alive."""

    statuses: tuple[dict[str, Any], ...]
    limit: float
    words: str
    alive: bool = True


def main(name: str = "MAIN", **state: Any) -> dict[str, Any]:
    return {"name": name, "restartCount": 0, "state": state}


def unscheduled(reason: str) -> dict[str, Any]:
    return {
        "phase": "Pending",
        "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": reason, "message": "full"}
        ],
    }


def held(reason: str) -> dict[str, Any]:
    return {
        "phase": "Pending",
        "containerStatuses": [main(waiting={"reason": reason, "message": "no"})],
    }


RUNNING = {"phase": "Running", "containerStatuses": [main(running={})]}
SIDECAR = main("istio-proxy", running={})
DEAD, DONE = (
    main(terminated={"exitCode": 3, "reason": "Error"}),
    main(terminated={"exitCode": 0, "reason": "Completed"}),
)
NONE_ALIVE, DELETED = "had no pod alive", {"deleted": True}
PODS = {
    "none": Pods((), timeouts.NO_PROGRESS, "had no pod alive|was not reconciled", alive=False),
    "gated": Pods((unscheduled("SchedulingGated"),), math.inf, "waits for its quota"),
    "no node": Pods((unscheduled("Unschedulable"),), timeouts.SCHEDULING, "Unschedulable: full"),
    "not started": Pods(({"phase": "Pending"},), timeouts.SCHEDULING, "containers do not start"),
    "no image": Pods((held("ImagePullBackOff"),), timeouts.IMAGE_PULL, "ImagePullBackOff: no"),
    "no secret": Pods(
        (held("CreateContainerConfigError"),), timeouts.IMAGE_PULL, "CreateContainerConfigError: no"
    ),
    "crashes": Pods(
        ({**held("CrashLoopBackOff"), "phase": "Running"},),
        timeouts.IMAGE_PULL,
        "CrashLoopBackOff: no",
    ),
    "no image name": Pods((held("InvalidImageName"),), 0, "InvalidImageName: no"),
    "runs": Pods((RUNNING,), RUNS, "runs longer than its deadline"),
    "one runs, one cannot": Pods(
        (RUNNING, unscheduled("Unschedulable")), timeouts.SCHEDULING, "Unschedulable"
    ),
    "one runs, one failed": Pods(
        (RUNNING, {"phase": "Failed", "containerStatuses": [DEAD]}),
        timeouts.NO_PROGRESS,
        "exit code 3",
    ),
    "all failed": Pods(
        ({"phase": "Failed", "containerStatuses": [DEAD]},) * 2,
        timeouts.NO_PROGRESS,
        "exit code 3",
        alive=False,
    ),
    "evicted": Pods(
        ({"phase": "Failed", "reason": "Evicted"},), timeouts.NO_PROGRESS, NONE_ALIVE, alive=False
    ),
    "all succeeded": Pods(
        ({"phase": "Succeeded", "containerStatuses": [DONE]},),
        timeouts.NO_PROGRESS,
        NONE_ALIVE,
        alive=False,
    ),
    "failed beside a sidecar": Pods(
        ({"phase": "Running", "containerStatuses": [DEAD, SIDECAR]},),
        timeouts.NO_PROGRESS,
        "exit code 3",
        alive=False,
    ),
    "done beside a sidecar": Pods(
        ({"phase": "Running", "containerStatuses": [SIDECAR, DONE]},),
        timeouts.NO_PROGRESS,
        NONE_ALIVE,
        alive=False,
    ),
    "node lost": Pods(
        ({**RUNNING, "phase": "Unknown"},), timeouts.NO_PROGRESS, NONE_ALIVE, alive=False
    ),
    "terminating": Pods(({**RUNNING, **DELETED},), timeouts.NO_PROGRESS, NONE_ALIVE, alive=False),
    "terminating, was pending": Pods(
        ({"phase": "Pending", **DELETED},), timeouts.NO_PROGRESS, NONE_ALIVE, alive=False
    ),
    "terminating, was gated": Pods(
        ({**unscheduled("SchedulingGated"), **DELETED},),
        timeouts.NO_PROGRESS,
        NONE_ALIVE,
        alive=False,
    ),
    "one is terminating, one runs": Pods(
        ({**RUNNING, **DELETED}, RUNNING), RUNS, "runs longer than its deadline"
    ),
}
# What the spec asks for, and the conditions that the operator has last written.
CONDITIONS: dict[str, tuple[bool, dict[str, str]]] = {
    "none": (False, {}),
    "created": (False, {"Created": "True"}),
    "running": (False, {"Created": "True", "Running": "True"}),
    "restarting": (False, {"Running": "False", "Restarting": "True"}),
    "not succeeded": (False, {"Succeeded": "False", "Complete": "False", "Failed": "False"}),
    "suspended": (True, {"Suspended": "True"}),
    "suspended, not yet seen": (True, {}),
    "resumed": (False, {"Suspended": "False"}),
    "resumed, not yet seen": (False, {"Suspended": "True"}),
}


class ManualClock:
    """A clock that the test sets."""

    now = 0.0

    def tick(self, *, reachable: bool) -> float:
        return self.now


def put(kube: KubeServer, kind: str, condition: str, pods: str) -> dict[str, Any]:
    asked, told = CONDITIONS[condition]
    body = manifest(spec(kind))
    suspend(body, asked)
    body["status"] = {
        "conditions": [
            {"type": name, "status": status, "reason": "X"} for name, status in told.items()
        ]
    }
    for number, status in enumerate(PODS[pods].statuses):
        status = copy.deepcopy(status)
        metadata: dict[str, Any] = {
            "name": f"{NAME}-node-0-{number}",
            "labels": {names.KINDS[kind].pods: NAME},
        }
        if status.pop("deleted", False):
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        for container in status.get("containerStatuses", []):
            container["name"] = container["name"].replace("MAIN", names.KINDS[kind].container)
        kube.logs[metadata["name"]] = Log(ended=True)
        kube.put("pods", {"metadata": metadata, "status": status})
    return kube.put(f"{kind}s", body)


@pytest.mark.parametrize("kind", names.KINDS)
@pytest.mark.parametrize("condition", CONDITIONS)
def test_state_ends_or_names_its_wait(
    kind: str, condition: str, config: Path, kube: KubeServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="omnicore")
    for pods, deleted in product(PODS, (False, True)):
        kube.objects.clear()
        held = put(kube, kind, condition, pods)
        job, clock = Job(connect(NAMESPACE), names.KINDS[kind], held, DEADLINE), ManualClock()
        job._clock = clock  # type: ignore[assignment]
        job._take(held, "created")
        if deleted:
            kube.change(
                f"{kind}s",
                NAME,
                lambda job: job["metadata"].update(deletionTimestamp="2026-01-01T00:00:00Z"),
            )
            with refused(ClusterError, "job-deleted"):
                job.refresh()
            continue
        job.refresh()
        kube.history.clear()
        caplog.clear()
        limit, words = PODS[pods].limit, PODS[pods].words
        if CONDITIONS[condition][0] and not PODS[pods].alive:
            limit, words = math.inf, "waits for its quota"
        elif CONDITIONS[condition][0] and pods == "one runs, one failed":
            limit, words = (
                RUNS,
                "runs longer than its deadline",
            )  # it is being stopped, which is not a failure
        steps = [
            t + d for t in (0, timeouts.NO_PROGRESS, timeouts.SCHEDULING, RUNS) for d in (0, 40)
        ]
        for clock.now in (now for now in steps if now < limit):
            job.poll()
        if limit == math.inf:
            assert words in caplog.text, (condition, pods)
        else:
            clock.now = limit
            with pytest.raises(ClusterError, match=words):
                job.poll()
