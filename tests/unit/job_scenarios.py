"""Scenarios of a job, its pods and the watch over both, for a `job_operator.Operator`."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

from omnicore.cluster import names
from omnicore.cluster.manifests import manifest
from omnicore.progress import LINE
from tests.job_operator import NAME, POD, Operator, Scenario, spec
from tests.kube_server import Fault, KubeServer, Log

NEVER = threading.Event()


def well(op: Operator) -> None:
    op.created()
    op.runs("step 1", "step 2")
    op.succeeds()


def fault_of(
    verb: str, resource: str, *, until: int, **fault: Any
) -> Callable[[str, str, str, int], Fault | None]:
    """The first `until` requests of a kind fail."""
    return lambda v, r, n, seen: (
        Fault(**fault) if (v, r) == (verb, resource) and seen < until else None
    )


def held(**changed: Any) -> Callable[[KubeServer], Any]:
    """A job of the same name is there already; `changed` are labels of it."""

    def put(kube: KubeServer) -> None:
        for kind in names.KINDS:
            body = manifest(spec(kind))
            body["metadata"]["labels"] |= changed
            kube.put(f"{kind}s", body)

    return put


def was(*how: str) -> Callable[[KubeServer], Any]:
    """The same job is there already, left by an earlier launcher, with conditions."""

    def put(kube: KubeServer) -> None:
        held()(kube)
        for condition in how:
            kube.condition("pytorchjobs", NAME, condition)

    return put


def both_at_once(op: Operator) -> None:
    op.created()
    op.kube.change(
        op.plural,
        op.name,
        lambda job: job.update(status={"conditions": [met("Succeeded"), met("Failed")]}),
    )


def met(kind: str, status: str = "True") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": "Because", "message": ""}


def succeeded_false(op: Operator) -> None:
    op.created()
    op.set_condition("Succeeded", "False")
    op.set_condition("Failed", reason="PyTorchJobFailed")


def one_worker_succeeds(op: Operator) -> None:
    op.created()
    op.runs("fine")
    op.ends()
    op.runs("CUDA error: device lost", index=1)
    op.ends(1, "Error", index=1)
    op.set_condition("Failed", reason="PyTorchJobFailed")


def out_of_memory(op: Operator) -> None:
    op.created()
    op.runs("step 1", "allocating 80 GiB")
    op.kube.event(POD, "OOMKilling", "Memory cgroup out of memory")
    op.fails(137, "OOMKilled")


def restarted(op: Operator) -> None:
    """The container that failed is in its next life when the job gives up."""
    op.created()
    op.runs()
    op.kube.logs[POD].previous = ["the line before the crash"]
    last = {"terminated": {"exitCode": 139, "signal": 11, "reason": "Error"}}
    op.pod(phase="Running", state={"running": {}}, lastState=last)
    op.kube.end_log(POD)
    op.set_condition("Failed", reason="BackoffLimitExceeded")


def deleted_underneath(op: Operator) -> None:
    op.created()
    op.runs("step 1")
    op.watched()
    op.kube.remove(op.plural, op.name)


def deleted_while_the_watch_was_away(op: Operator) -> None:
    op.created()
    op.runs("step 1")
    op.watched()
    op.kube.remove(op.plural, op.name)
    op.kube.compact()


def deleted_after_success(op: Operator) -> None:
    """By its other launcher, or by its TTL: both events come at once."""
    op.created()
    op.runs()
    op.watched()
    with op.kube.change_made:
        op.succeeds()
        op.kube.remove(op.plural, op.name)


def made_anew(op: Operator) -> None:
    op.created()
    op.watched()
    with op.kube.change_made:
        job = op.kube.get(op.plural, op.name)
        op.kube.remove(op.plural, op.name)
        op.kube.put(
            op.plural, {key: job[key] for key in ("apiVersion", "kind", "metadata", "spec")}
        )
        op.set_condition("Succeeded")
        op.kube.compact()


def streams_break(op: Operator) -> None:
    """Everything that is open breaks off again and again; then the version expires, too."""
    op.created()
    op.runs("line 0")
    for round_ in range(1, 6):
        op.followed(round_)
        op.kube.drop_streams()
        op.kube.write_log(POD, f"line {round_}")
    op.kube.compact()
    op.succeeds()


def clock_is_set_back(op: Operator) -> None:
    """Twins at one time, then a node's clock set back by an hour, with reconnects between: each
    line once."""
    op.created()
    op.runs()
    noon = time.time()
    op.kube.write_log(POD, "twin", "twin", at=noon)
    op.followed()
    op.kube.drop_streams()
    op.kube.write_log(POD, "twin", at=noon)
    op.kube.write_log(POD, "after the clock was set back", at=noon - 100)
    op.followed(2)
    op.kube.drop_streams()
    op.followed(3)
    op.succeeds()


def a_skewed_node(ahead: float) -> Scenario:
    def run(op: Operator) -> None:
        op.created()
        op.kube.logs[POD] = Log(skew=ahead)
        op.runs("first")
        op.followed()
        op.kube.drop_streams()
        op.kube.write_log(POD, "second")
        op.followed(2)
        op.succeeds()

    return run


def late_log(op: Operator) -> None:
    """A log is asked for before the kubelet has it."""
    op.created()
    op.kube.logs[POD] = Log(started=False)
    op.runs("only line")
    op.followed(2)
    op.kube.logs[POD].started = True
    op.succeeds()


def quota_comes(op: Operator) -> None:
    op.created()
    op.set_condition("Suspended", message="waits in queue gpu")
    op.watched()
    op.set_condition("Suspended", "False")
    op.runs("step 1")
    op.succeeds()


def preempted(op: Operator) -> None:
    """Its quota is taken away and given back."""
    op.created()
    op.runs("step 1")
    op.set_condition("Running", "False")
    op.set_condition("Suspended", message="preempted by a better job")
    op.kube.remove("pods", POD)
    op.watched()
    op.set_condition("Suspended", "False")
    op.runs("step 1 again")
    op.succeeds()


def preempted_for_long(op: Operator) -> None:
    """Longer than its deadline, which counts from the last start."""
    op.created()
    op.runs("step 1")
    op.watched()
    op.set_condition("Suspended", message="preempted by a better job")
    op.kube.remove("pods", POD)
    time.sleep(4)
    op.set_condition("Suspended", "False")
    op.runs("step 1 again")
    op.succeeds()


def pending(**status: Any) -> Scenario:
    def run(op: Operator) -> None:
        op.created()
        op.set_condition("Created")
        op.pod(phase="Pending", **status)

    return run


UNSCHEDULABLE = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/3 nodes: 3 Insufficient gpu",
}


def pull_then_run(op: Operator) -> None:
    """A registry that was away for a moment."""
    op.created()
    op.pod(phase="Pending", state={"waiting": {"reason": "ErrImagePull"}})
    op.watched()
    op.pod(phase="Pending", state={"waiting": {"reason": "ImagePullBackOff"}})
    op.runs("step 1")
    op.succeeds()


def gated(op: Operator) -> None:
    """Kueue's gate is not a scheduling failure."""
    pending(conditions=[{**UNSCHEDULABLE, "reason": "SchedulingGated"}])(op)
    op.kube.wait_for(lambda: op.kube.count("patch", op.plural) >= 8)
    op.runs()
    op.succeeds()


def never_ends(op: Operator) -> None:
    op.created()
    op.runs("step 1")


def silence(op: Operator) -> None:
    op.created()


def evicted(op: Operator) -> None:
    op.created()
    op.runs("step 1")
    pod = op.pod(
        phase="Failed", reason="Evicted", message="The node was low on resource: ephemeral-storage"
    )
    op.kube.end_log(pod)
    op.set_condition("Failed", reason="PyTorchJobFailed")


def pods_gone(op: Operator) -> None:
    """The pod that failed is cleaned away before the job says so; its last lines were seen."""
    op.created()
    op.runs("the last words")
    op.followed()
    op.ends(9, "Error")
    op.kube.wait_for(lambda: op.kube.count("patch", op.plural) >= 6)
    op.kube.remove("pods", POD)
    op.set_condition("Failed", reason="PyTorchJobFailed")


def progress(op: Operator) -> None:
    op.created()
    told = {"label": "rlvr", "total": 4, "facts": {"loss": 0.5}}
    op.runs(
        *(LINE + json.dumps({**told, "done": done}) for done in (1, 3, 2, 4)),
        LINE + "no json",
        "a line",
    )
    op.succeeds()


def deadline_exceeded(op: Operator) -> None:
    op.created()
    op.runs("step 1")
    op.ends(143, "Error")
    op.set_condition(
        "Failed", reason="DeadlineExceeded", message="active longer than specified deadline"
    )


def beaten(op: Operator) -> None:
    op.created()
    op.runs()
    op.kube.wait_for(lambda: op.kube.count("patch", op.plural) >= 3)
    op.succeeds()


def deleting(kube: KubeServer) -> None:
    """The job of a cancelled try is still on its way out."""
    was("Failed")(kube)
    kube.change(
        "pytorchjobs",
        NAME,
        lambda job: job["metadata"].update(deletionTimestamp="x", finalizers=["operator"]),
    )


def deleting_ends(op: Operator) -> None:
    op.kube.wait_for(lambda: op.kube.count("create", op.plural) >= 3)
    op.kube.remove(op.plural, op.name)
    well(op)


STRAYS = [
    (verb, resource, Fault(status, plain=plain))
    for verb in ("list", "watch")
    for resource in ("pytorchjobs", "pods")
    for status, plain in [
        (400, False),
        (401, False),
        (403, False),
        (404, False),
        (404, True),
        (408, True),
        (409, False),
        (200, True),
    ]
]
WEBHOOK = (
    'Internal error occurred: failed calling webhook "validator.trainjob": no endpoints available'
)
PODSECURITY = 'Error creating: pods "x" is forbidden: violates PodSecurity "restricted:latest"'


def stray(verb: str, resource: str, answer: Fault) -> Callable[[str, str, str, int], Fault | None]:
    """The first three answers are refusals, as while an API server rolls."""
    return lambda v, r, n, seen: answer if (v, r) == (verb, resource) and seen < 3 else None


def runs_while_the_api_is_away(op: Operator) -> None:
    """Nothing of the job was seen when the API goes; when it comes back the job has run for
    long."""
    op.created()
    op.watched()
    away = threading.Event()
    op.kube.fault = lambda v, r, n, seen: None if away.is_set() else Fault(503)
    op.kube.drop_streams()
    time.sleep(1)
    op.runs("step 1")
    away.set()
    op.followed()
    op.succeeds()


def deletion_hangs(op: Operator) -> None:
    op.created()
    op.runs("step 1")
    op.watched()
    op.kube.change(
        op.plural,
        op.name,
        lambda job: job["metadata"].update(deletionTimestamp="x", finalizers=["operator"]),
    )


def pods_refused(op: Operator) -> None:
    """TrainJob and JobSet say nothing; the batch Job's controller does."""
    op.created()
    op.kube.event(f"{op.name}-node-0", "FailedCreate", PODSECURITY, kind="Job")
    op.kube.wait_for(lambda: op.kube.count("list", "events") >= 2)


def workload_waits(op: Operator) -> None:
    """Kueue cuts the names of its Workloads at 63 characters, the hash included."""
    op.created()
    op.set_condition("Suspended")
    own = f"{f'trainjob-{op.name}'[:57]}-1a2b3"
    op.kube.event(own, "Pending", "couldn't assign flavors to pod set node", kind="Workload")
    op.kube.wait_for(lambda: op.kube.count("list", "events") >= 3)
    op.set_condition("Suspended", "False")
    op.runs("step 1")
    op.succeeds()
