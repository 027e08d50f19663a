"""Every state that a job can be in ends in time, or says truly what it waits for: the product of
conditions, pods and deletion.

The clock is the test's, so that half an hour takes a moment; the cluster is asked over HTTP as
always.
"""

from __future__ import annotations

import copy
import math
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from omnicore.cluster import names
from omnicore.cluster.client import Times, connect
from omnicore.cluster.launch import Job
from omnicore.cluster.manifests import manifest
from omnicore.errors import ClusterError
from tests.job_operator import NAME, spec, suspend
from tests.kube_server import NAMESPACE, KubeServer, Log

DEADLINE = 7200.0
TIMES = Times()
RUNS = DEADLINE + TIMES.overtime


class Pods(NamedTuple):
    """Pods of a job, how long they may stay so, a part of what is said of it, and whether any is
    alive."""

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
    "none": Pods((), TIMES.unnoticed, "had no pod alive|was not taken up", alive=False),
    "gated": Pods((unscheduled("SchedulingGated"),), math.inf, "waits for its quota"),
    "no node": Pods((unscheduled("Unschedulable"),), TIMES.unschedulable, "Unschedulable: full"),
    "not started": Pods(({"phase": "Pending"},), TIMES.unschedulable, "containers do not start"),
    "no image": Pods((held("ImagePullBackOff"),), TIMES.unpullable, "ImagePullBackOff: no"),
    "no secret": Pods(
        (held("CreateContainerConfigError"),), TIMES.unpullable, "CreateContainerConfigError: no"
    ),
    "crashes": Pods(
        ({**held("CrashLoopBackOff"), "phase": "Running"},),
        TIMES.unpullable,
        "CrashLoopBackOff: no",
    ),
    "no image name": Pods((held("InvalidImageName"),), 0, "InvalidImageName: no"),
    "runs": Pods((RUNNING,), RUNS, "runs longer than its deadline"),
    "one runs, one cannot": Pods(
        (RUNNING, unscheduled("Unschedulable")), TIMES.unschedulable, "Unschedulable"
    ),
    "one runs, one failed": Pods(
        (RUNNING, {"phase": "Failed", "containerStatuses": [DEAD]}), TIMES.unnoticed, "exit code 3"
    ),
    "all failed": Pods(
        ({"phase": "Failed", "containerStatuses": [DEAD]},) * 2,
        TIMES.unnoticed,
        "exit code 3",
        alive=False,
    ),
    "evicted": Pods(
        ({"phase": "Failed", "reason": "Evicted"},), TIMES.unnoticed, NONE_ALIVE, alive=False
    ),
    "all succeeded": Pods(
        ({"phase": "Succeeded", "containerStatuses": [DONE]},),
        TIMES.unnoticed,
        NONE_ALIVE,
        alive=False,
    ),
    "failed beside a sidecar": Pods(
        ({"phase": "Running", "containerStatuses": [DEAD, SIDECAR]},),
        TIMES.unnoticed,
        "exit code 3",
        alive=False,
    ),
    "done beside a sidecar": Pods(
        ({"phase": "Running", "containerStatuses": [SIDECAR, DONE]},),
        TIMES.unnoticed,
        NONE_ALIVE,
        alive=False,
    ),
    "node lost": Pods(({**RUNNING, "phase": "Unknown"},), TIMES.unnoticed, NONE_ALIVE, alive=False),
    "terminating": Pods(({**RUNNING, **DELETED},), TIMES.unnoticed, NONE_ALIVE, alive=False),
    "terminating, was pending": Pods(
        ({"phase": "Pending", **DELETED},), TIMES.unnoticed, NONE_ALIVE, alive=False
    ),
    "terminating, was gated": Pods(
        ({**unscheduled("SchedulingGated"), **DELETED},), TIMES.unnoticed, NONE_ALIVE, alive=False
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


class Hand:
    """A clock that stands still until it is set."""

    now = 0.0

    def tick(self, *, heard: bool) -> float:
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
def test_states_end_or_say_what_they_wait_for(
    kind: str, condition: str, config: Path, kube: KubeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    for pods, deleted in product(PODS, (False, True)):
        kube.objects.clear()
        held = put(kube, kind, condition, pods)
        job, clock = Job(connect(NAMESPACE, TIMES), names.KINDS[kind], held, DEADLINE), Hand()
        job._clock = clock  # type: ignore[assignment]
        job._take(held, "created")
        if deleted:
            kube.change(
                f"{kind}s",
                NAME,
                lambda job: job["metadata"].update(deletionTimestamp="2026-01-01T00:00:00Z"),
            )
            with pytest.raises(ClusterError, match="was deleted by somebody else"):
                job._refresh()
            continue
        job._refresh()
        kube.history.clear()
        capsys.readouterr()
        limit, words = PODS[pods].limit, PODS[pods].words
        if CONDITIONS[condition][0] and not PODS[pods].alive:
            limit, words = math.inf, "waits for its quota"
        elif CONDITIONS[condition][0] and pods == "one runs, one failed":
            limit, words = (
                RUNS,
                "runs longer than its deadline",
            )  # it is being stopped: that is no failure
        steps = [t + d for t in (0, TIMES.unnoticed, TIMES.unschedulable, RUNS) for d in (0, 40)]
        for clock.now in (now for now in steps if now < limit):
            job.look()
        if limit == math.inf:
            assert words in capsys.readouterr().out, (condition, pods)
        else:
            clock.now = limit
            with pytest.raises(ClusterError, match=words):
                job.look()
