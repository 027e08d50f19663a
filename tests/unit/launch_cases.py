"""Cases of a job launcher: what happens, what the API server answers, how the launcher ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from omnicore.cluster import names
from omnicore.errors import ClusterError, ConfigError, OmniError
from tests.job_operator import NAME, Scenario
from tests.kube_server import Fault, KubeServer
from tests.unit import job_scenarios as scenarios


@dataclass(frozen=True)
class Case:
    """What happens to the job, what the API server does, and how the launcher ends.

    `code` and `words` are those of the error; no code means success.
    """

    act: Scenario
    code: str | None = None
    words: tuple[str, ...] = ()
    timeouts: Mapping[str, float] = field(default_factory=dict)
    fault: Callable[[str, str, str, int], Fault | None] = lambda verb, resource, name, seen: None
    before: Callable[[KubeServer], Any] = lambda kube: None
    error: type[OmniError] = ClusterError
    shown: tuple[str, ...] = ()
    jobs: int = 1  # created on the server in all
    left: int = 0  # jobs on the server afterwards
    keep: bool = False
    deadline: float = 600
    kind: str = "pytorchjob"
    check: Callable[[KubeServer], bool] = lambda kube: True


CASES = {
    "succeeds": Case(
        scenarios.well, shown=("[worker-0] step 1\n[worker-0] step 2", f"job {NAME}: Succeeded")
    ),
    "a TrainJob succeeds": Case(scenarios.well, kind="trainjob", shown=("step 2",)),
    "a TrainJob fails": Case(
        lambda op: (op.created(), op.runs("bad"), op.fails()),
        code="job-failed",
        words=("bad",),
        kind="trainjob",
    ),
    "fails": Case(
        lambda op: (op.created(), op.runs("Traceback: boom"), op.fails(3)),
        code="job-failed",
        words=(
            "exit code 3",
            "Traceback: boom",
        ),
    ),
    "succeeded and failed at once": Case(
        scenarios.both_at_once, code="job-failed", words=("Failed=True",)
    ),
    "Succeeded is there, but False": Case(scenarios.succeeded_false, code="job-failed"),
    "one worker succeeds, one fails": Case(
        scenarios.one_worker_succeeds,
        code="job-failed",
        words=(
            "worker-1",
            "CUDA error: device lost",
        ),
    ),
    "out of memory": Case(
        scenarios.out_of_memory,
        code="job-failed",
        words=(
            "exit code 137, OOMKilled",
            "allocating 80 GiB",
            "OOMKilling",
            "remedy",
        ),
    ),
    "restarted, then given up": Case(
        scenarios.restarted,
        code="job-failed",
        words=(
            "exit code 139, signal 11",
            "the line before the crash",
        ),
    ),
    "evicted": Case(
        scenarios.evicted, code="job-failed", words=("low on resource: ephemeral-storage",)
    ),
    "failed pods are gone": Case(scenarios.pods_gone, code="job-failed", words=("Failed=True",)),
    "deadline exceeded": Case(
        scenarios.deadline_exceeded, code="job-failed", words=("launcher.deadline_seconds",)
    ),
    "kept on failure": Case(
        lambda op: (op.created(), op.runs(), op.fails()),
        code="job-failed",
        keep=True,
        left=1,
        shown=("is kept",),
    ),
    "not kept when it cannot run": Case(
        scenarios.pending(conditions=[scenarios.UNSCHEDULABLE]),
        code="job-stuck",
        words=("Insufficient gpu",),
        timeouts={"SCHEDULING": 0.2},
        keep=True,
    ),
    "deleted underneath": Case(scenarios.deleted_underneath, code="job-deleted"),
    "deleted while the watch was away": Case(
        scenarios.deleted_while_the_watch_was_away, code="job-deleted"
    ),
    "deleted after it succeeded": Case(scenarios.deleted_after_success),
    "made anew by somebody else": Case(scenarios.made_anew, code="job-replaced", left=1),
    "streams break, versions expire": Case(
        scenarios.streams_break, shown=tuple(f"[worker-0] line {n}" for n in range(6))
    ),
    "a clock is set back": Case(
        scenarios.clock_is_set_back,
        shown=("[worker-0] twin\n" * 3 + "[worker-0] after the clock was set back",),
    ),
    "a node an hour ahead": Case(
        scenarios.a_skewed_node(3600), shown=("[worker-0] first\n[worker-0] second",)
    ),
    "a node a day behind": Case(
        scenarios.a_skewed_node(-86400), shown=("[worker-0] first\n[worker-0] second",)
    ),
    "a log that is not there yet": Case(scenarios.late_log, shown=("[worker-0] only line",)),
    "quota pending": Case(
        scenarios.quota_comes, shown=("waits for its quota: waits in queue gpu",)
    ),
    "preempted": Case(scenarios.preempted, shown=("preempted by a better job", "step 1 again")),
    "preempted for long": Case(
        scenarios.preempted_for_long, timeouts={"DEADLINE_GRACE": 1}, deadline=2
    ),
    "pods are seen late": Case(
        lambda op: (
            op.created(),
            op.kube.wait_for(lambda: op.kube.count("list", "pods")),
            scenarios.well(op),
        ),
        fault=lambda v, r, n, seen: (
            Fault(hold=scenarios.NEVER) if (v, r, seen) == ("list", "pods", 0) else None
        ),
        shown=("step 2",),
    ),
    "gated": Case(scenarios.gated, timeouts={"SCHEDULING": 0.2}),
    "unschedulable": Case(
        scenarios.pending(conditions=[scenarios.UNSCHEDULABLE]),
        code="job-stuck",
        words=("Insufficient gpu",),
        timeouts={"SCHEDULING": 0.2},
    ),
    "scheduled, but never starts": Case(
        scenarios.pending(),
        code="job-stuck",
        words=("containers do not start",),
        timeouts={"SCHEDULING": 0.2},
    ),
    "an image that cannot be pulled": Case(
        scenarios.pending(
            state={"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
        ),
        code="job-stuck",
        words=(
            "ImagePullBackOff: not found",
            "launcher.image",
        ),
        timeouts={"IMAGE_PULL": 0.2},
    ),
    "no image's name": Case(
        scenarios.pending(state={"waiting": {"reason": "InvalidImageName"}}),
        code="job-stuck",
        words=("InvalidImageName",),
    ),
    "a secret that is missing": Case(
        scenarios.pending(
            state={
                "waiting": {
                    "reason": "CreateContainerConfigError",
                    "message": 'secret "s3" not found',
                }
            }
        ),
        code="job-stuck",
        words=(
            'secret "s3" not found',
            "launcher.secrets",
        ),
        timeouts={"IMAGE_PULL": 0.2},
    ),
    "an image that comes late": Case(scenarios.pull_then_run, shown=("step 1",)),
    "no operator": Case(
        scenarios.silence,
        code="job-stuck",
        words=("is the operator of PyTorchJob up",),
        timeouts={"NO_PROGRESS": 0.3},
    ),
    "past its deadline": Case(
        scenarios.never_ends,
        code="job-stuck",
        words=("deadline of 0 s",),
        timeouts={"DEADLINE_GRACE": 0.3},
        deadline=0.1,
    ),
    "progress": Case(scenarios.progress, shown=("[worker-0] a line",)),
    "heartbeat": Case(scenarios.beaten),
    "the same job is there": Case(
        lambda op: (op.watched(), op.runs("go on"), op.succeeds()),
        before=scenarios.was("Created"),
        jobs=0,
        shown=("exists already", "go on"),
    ),
    "the same TrainJob is there": Case(
        lambda op: (op.watched(), op.runs("go on"), op.succeeds()),
        before=scenarios.held(),
        jobs=0,
        shown=("go on",),
        kind="trainjob",
    ),
    "the same job has succeeded": Case(lambda op: None, before=scenarios.was("Succeeded"), jobs=0),
    "the same job had failed": Case(scenarios.well, before=scenarios.was("Failed")),
    "the same job is on its way out": Case(scenarios.deleting_ends, before=scenarios.deleting),
    "the same job does not go": Case(
        lambda op: None,
        code="job-deletion-stuck",
        before=scenarios.deleting,
        timeouts={"CLEANUP": 0.2},
        jobs=0,
        left=1,
    ),
    "another run has the name": Case(
        lambda op: None,
        code="job-name-taken",
        before=scenarios.held(**{names.RUN: "other"}),
        error=ConfigError,
        jobs=0,
        left=1,
    ),
    "another recipe has the name": Case(
        lambda op: None,
        code="job-name-taken",
        before=scenarios.held(**{names.KEY: "other"}),
        error=ConfigError,
        jobs=0,
        left=1,
    ),
    "creation is refused for a while": Case(
        scenarios.well,
        fault=scenarios.fault_of(
            "create", "pytorchjobs", until=3, status=429, headers={"Retry-After": "0"}
        ),
    ),
    "the answer to the creation is lost": Case(
        scenarios.well,
        fault=scenarios.fault_of("create", "pytorchjobs", until=1, reset=True, after=True),
        shown=("exists already",),
    ),
    "creation is forbidden": Case(
        lambda op: None,
        code="cluster-forbidden",
        before=lambda k: k.forbidden.add(("create", "pytorchjobs")),
        error=ConfigError,
        jobs=0,
    ),
    "a quota forbids it": Case(
        lambda op: None,
        code="job-refused",
        fault=scenarios.fault_of("create", "pytorchjobs", until=9, status=403),
        jobs=0,
    ),
    "a webhook refuses it": Case(
        lambda op: None,
        code="job-refused",
        fault=scenarios.fault_of("create", "pytorchjobs", until=9, status=422),
        jobs=0,
    ),
    "the kind is not installed": Case(
        lambda op: None,
        code="cluster-kind-missing",
        words=("no pytorchjobs.kubeflow.org",),
        before=lambda k: setattr(k, "served", {"pods"}),
        error=ConfigError,
        jobs=0,
    ),
    "watching is forbidden": Case(
        lambda op: (op.created(), op.runs("step 2"), op.watched(5), op.succeeds()),
        before=lambda k: k.forbidden.add(("watch", "pytorchjobs")),
        shown=("is unreachable for now: pytorchjobs: pytorchjobs is forbidden", "step 2"),
    ),
    "creation is refused, the same job is there": Case(
        lambda op: (op.watched(), op.runs("go on"), op.succeeds()),
        before=scenarios.held(),
        fault=scenarios.fault_of(
            "create", "pytorchjobs", until=9, status=403, message="exceeded quota"
        ),
        jobs=0,
        shown=("exists already", "go on"),
    ),
    "all is refused, the same job is there": Case(
        lambda op: None,
        code="cluster-unauthenticated",
        before=scenarios.held(),
        fault=lambda v, r, n, seen: Fault(401, "Unauthorized") if v != "delete" else None,
        error=ConfigError,
        jobs=0,
        left=1,
    ),
    "the token is not known": Case(
        lambda op: None,
        code="cluster-unauthenticated",
        fault=scenarios.fault_of(
            "create", "pytorchjobs", until=9, status=401, message="Unauthorized"
        ),
        error=ConfigError,
        jobs=0,
    ),
    "a webhook is away": Case(
        lambda op: None,
        code="cluster-api-timeout",
        words=(
            "gave no other answer",
            "failed calling webhook",
        ),
        fault=scenarios.fault_of(
            "create", "pytorchjobs", until=9999, status=500, message=scenarios.WEBHOOK
        ),
        timeouts={"NO_PROGRESS": 0.3},
        jobs=0,
        shown=(f"{scenarios.WEBHOOK} (500); retrying",),
    ),
    "the API is away for longer than any patience": Case(
        scenarios.runs_while_the_api_is_away, timeouts={"NO_PROGRESS": 0.4}, shown=("step 1",)
    ),
    "it is being deleted, but stays": Case(scenarios.deletion_hangs, code="job-deleted", left=1),
    "its pods are refused": Case(
        scenarios.pods_refused,
        code="job-stuck",
        words=(
            "its pods are refused",
            "violates PodSecurity",
        ),
        timeouts={"POD_CREATION": 0.3},
        kind="trainjob",
        shown=(f"{NAME}-node-0: FailedCreate: {scenarios.PODSECURITY}",),
    ),
    "its pods were refused for a moment": Case(
        lambda op: (scenarios.pods_refused(op), op.runs("step 1"), op.succeeds()),
        kind="trainjob",
        shown=("step 1",),
    ),
    "its quota says why it waits": Case(
        scenarios.workload_waits,
        kind="trainjob",
        shown=("Pending: couldn't assign flavors to pod set node", "waits for its quota"),
    ),
    **{
        f"{verb} of {resource} is answered {answer.status}{' by a proxy' if answer.plain else ''}": Case(
            scenarios.well, fault=scenarios.stray(verb, resource, answer), shown=("step 2",)
        )
        for verb, resource, answer in scenarios.STRAYS
    },
    "logs are forbidden": Case(
        scenarios.well,
        before=lambda k: k.forbidden.add(("get", "pods/log")),
        shown=("its log cannot be read",),
    ),
    "events are forbidden": Case(
        scenarios.out_of_memory,
        code="job-failed",
        words=("events cannot be read",),
        before=lambda k: k.forbidden.add(("list", "events")),
    ),
    "watches are busy": Case(
        scenarios.well, fault=scenarios.fault_of("watch", "pytorchjobs", until=4, status=500)
    ),
    "watches time out": Case(
        scenarios.well, fault=scenarios.fault_of("watch", "pytorchjobs", until=2, status=504)
    ),
    "watches break after one event": Case(
        scenarios.well,
        fault=lambda v, r, n, seen: Fault(cut=1) if v == "watch" and seen < 20 else None,
        shown=("step 2",),
    ),
    "lists are away": Case(
        scenarios.well, fault=scenarios.fault_of("list", "pytorchjobs", until=5, reset=True)
    ),
    "the API stays away": Case(
        scenarios.silence,
        code="cluster-api-timeout",
        words=("did not answer",),
        fault=lambda v, r, n, seen: Fault(503) if v in {"list", "watch"} else None,
        timeouts={"OUTAGE": 0.3},
    ),
    "logs break after every line": Case(
        lambda op: (op.created(), op.runs(*(f"n{n}" for n in range(9))), op.succeeds()),
        fault=lambda v, r, n, seen: Fault(cut=seen + 1) if r == "pods/log" and seen < 9 else None,
        shown=tuple(f"[worker-0] n{n}" for n in range(9)),
    ),
    "logs break before they have caught up": Case(
        lambda op: (op.created(), op.runs(*(f"n{n}" for n in range(9))), op.succeeds()),
        fault=lambda v, r, n, seen: (
            Fault(cut=(5, 2, 3)[seen]) if r == "pods/log" and seen < 3 else None
        ),
        shown=tuple(f"[worker-0] n{n}" for n in range(9)),
    ),
    "heartbeats fail": Case(
        scenarios.beaten, fault=scenarios.fault_of("patch", "pytorchjobs", until=99, status=500)
    ),
    "deletion fails for a while": Case(
        scenarios.well, fault=scenarios.fault_of("delete", "pytorchjobs", until=3, status=500)
    ),
    "the answer to the deletion is lost": Case(
        scenarios.well,
        fault=scenarios.fault_of("delete", "pytorchjobs", until=1, reset=True, after=True),
    ),
    "a failed job cannot be deleted": Case(
        lambda op: (op.created(), op.runs(), op.fails()),
        code="job-failed",
        words=("exit code 1",),
        fault=scenarios.fault_of("delete", "pytorchjobs", until=9999, status=500),
        timeouts={"CLEANUP": 0.3},
        left=1,
        shown=("`omnicore cluster reap` will delete it",),
    ),
}
