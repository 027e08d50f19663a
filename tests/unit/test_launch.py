"""A launcher against a mock API server over HTTP, driven through the real client: nothing ends
green on failure, no job stays."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from omnicore.cluster import launch, names, reap, step_job
from omnicore.cluster.client import Times, connect
from omnicore.cluster.launch import run_job
from omnicore.cluster.manifests import Owner, manifest
from omnicore.config.recipe import load_recipe
from omnicore.errors import ClusterError, ConfigError
from omnicore.storage.files import read_json
from tests.job_operator import NAME, QUICK, Operator, Play, spec
from tests.kube_server import NAMESPACE, Fault, KubeServer
from tests.unit import job_plays as plays

CALLS: set[tuple[str, str, str]] = set()  # all that any test of this file made the code ask for


@dataclass(frozen=True)
class Scenario:
    """What happens to the job, what the API server does, and how it must end: `words` of the error,
    or None for success."""

    play: Play
    words: str | None = None
    times: Times = QUICK
    fault: Callable[[str, str, str, int], Fault | None] = lambda verb, resource, name, seen: None
    before: Callable[[KubeServer], Any] = lambda kube: None
    error: type[Exception] = ClusterError
    shown: tuple[str, ...] = ()
    jobs: int = 1  # created on the server in all
    left: int = 0  # jobs on the server afterwards
    keep: bool = False
    deadline: float = 600
    kind: str = "pytorchjob"
    check: Callable[[KubeServer], bool] = lambda kube: True


SCENARIOS = {
    "succeeds": Scenario(
        plays.well, shown=("[worker-0] step 1\n[worker-0] step 2", f"job {NAME}: Succeeded")
    ),
    "a TrainJob succeeds": Scenario(plays.well, kind="trainjob", shown=("step 2",)),
    "a TrainJob fails": Scenario(
        lambda op: (op.created(), op.runs("bad"), op.fails()), "bad", kind="trainjob"
    ),
    "fails": Scenario(
        lambda op: (op.created(), op.runs("Traceback: boom"), op.fails(3)),
        r"exit code 3(?s:.)*Traceback: boom",
    ),
    "succeeded and failed at once": Scenario(plays.both_at_once, "Failed=True"),
    "Succeeded is there, but False": Scenario(plays.succeeded_false, "failed"),
    "one worker succeeds, one fails": Scenario(
        plays.one_worker_succeeds, r"worker-1(?s:.)*CUDA error: device lost"
    ),
    "out of memory": Scenario(
        plays.out_of_memory,
        r"exit code 137, OOMKilled(?s:.)*allocating 80 GiB(?s:.)*OOMKilling(?s:.)*remedy",
    ),
    "restarted, then given up": Scenario(
        plays.restarted, r"exit code 139, signal 11(?s:.)*the line before the crash"
    ),
    "evicted": Scenario(plays.evicted, "low on resource: ephemeral-storage"),
    "failed pods are gone": Scenario(plays.pods_gone, "Failed=True"),
    "deadline exceeded": Scenario(plays.deadline_exceeded, "launcher.deadline_seconds"),
    "kept on failure": Scenario(
        lambda op: (op.created(), op.runs(), op.fails()),
        "failed",
        keep=True,
        left=1,
        shown=("is kept",),
    ),
    "not kept when it cannot run": Scenario(
        plays.pending(conditions=[plays.UNSCHEDULABLE]),
        "Insufficient gpu",
        times=QUICK._replace(unschedulable=0.2),
        keep=True,
    ),
    "deleted underneath": Scenario(plays.deleted_underneath, "deleted by somebody else"),
    "deleted while the watch was away": Scenario(
        plays.deleted_while_the_watch_was_away, "deleted by somebody else"
    ),
    "deleted after it succeeded": Scenario(plays.deleted_after_success),
    "made anew by somebody else": Scenario(plays.made_anew, "made anew by somebody else", left=1),
    "streams break, versions expire": Scenario(
        plays.streams_break, shown=tuple(f"[worker-0] line {n}" for n in range(6))
    ),
    "a clock is set back": Scenario(
        plays.clock_is_set_back,
        shown=("[worker-0] twin\n" * 3 + "[worker-0] after the clock was set back",),
    ),
    "a node an hour ahead": Scenario(
        plays.a_skewed_node(3600), shown=("[worker-0] first\n[worker-0] second",)
    ),
    "a node a day behind": Scenario(
        plays.a_skewed_node(-86400), shown=("[worker-0] first\n[worker-0] second",)
    ),
    "a log that is not there yet": Scenario(plays.late_log, shown=("[worker-0] only line",)),
    "quota pending": Scenario(
        plays.quota_comes, shown=("waits for its quota: waits in queue gpu",)
    ),
    "preempted": Scenario(plays.preempted, shown=("preempted by a better job", "step 1 again")),
    "preempted for long": Scenario(
        plays.preempted_for_long, times=QUICK._replace(overtime=1), deadline=2
    ),
    "pods are seen late": Scenario(
        lambda op: (
            op.created(),
            op.kube.wait_for(lambda: op.kube.count("list", "pods")),
            plays.well(op),
        ),
        fault=lambda v, r, n, seen: (
            Fault(hold=plays.NEVER) if (v, r, seen) == ("list", "pods", 0) else None
        ),
        shown=("step 2",),
    ),
    "gated": Scenario(plays.gated, times=QUICK._replace(unschedulable=0.2)),
    "unschedulable": Scenario(
        plays.pending(conditions=[plays.UNSCHEDULABLE]),
        "Insufficient gpu",
        times=QUICK._replace(unschedulable=0.2),
    ),
    "scheduled, but never starts": Scenario(
        plays.pending(), "containers do not start", times=QUICK._replace(unschedulable=0.2)
    ),
    "an image that cannot be pulled": Scenario(
        plays.pending(state={"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}),
        r"ImagePullBackOff: not found(?s:.)*launcher.image",
        times=QUICK._replace(unpullable=0.2),
    ),
    "no image's name": Scenario(
        plays.pending(state={"waiting": {"reason": "InvalidImageName"}}), "InvalidImageName"
    ),
    "a secret that is missing": Scenario(
        plays.pending(
            state={
                "waiting": {
                    "reason": "CreateContainerConfigError",
                    "message": 'secret "s3" not found',
                }
            }
        ),
        r"secret \"s3\" not found(?s:.)*launcher.secrets",
        times=QUICK._replace(unpullable=0.2),
    ),
    "an image that comes late": Scenario(plays.pull_then_run, shown=("step 1",)),
    "no operator": Scenario(
        plays.silence, "is the operator of PyTorchJob up", times=QUICK._replace(unnoticed=0.3)
    ),
    "past its deadline": Scenario(
        plays.never_ends, "deadline of 0 s", times=QUICK._replace(overtime=0.3), deadline=0.1
    ),
    "progress": Scenario(plays.progress, shown=("[worker-0] a line",)),
    "heartbeat": Scenario(plays.beaten),
    "the same job is there": Scenario(
        lambda op: (op.watched(), op.runs("go on"), op.succeeds()),
        before=plays.was("Created"),
        jobs=0,
        shown=("is there already", "go on"),
    ),
    "the same TrainJob is there": Scenario(
        lambda op: (op.watched(), op.runs("go on"), op.succeeds()),
        before=plays.held(),
        jobs=0,
        shown=("go on",),
        kind="trainjob",
    ),
    "the same job has succeeded": Scenario(lambda op: None, before=plays.was("Succeeded"), jobs=0),
    "the same job had failed": Scenario(plays.well, before=plays.was("Failed")),
    "the same job is on its way out": Scenario(plays.deleting_ends, before=plays.deleting),
    "the same job does not go": Scenario(
        lambda op: None,
        "look at its finalizers",
        before=plays.deleting,
        times=QUICK._replace(goodbye=0.2),
        jobs=0,
        left=1,
    ),
    "another run has the name": Scenario(
        lambda op: None,
        "is not of this run",
        before=plays.held(**{names.RUN: "other"}),
        error=ConfigError,
        jobs=0,
        left=1,
    ),
    "another recipe has the name": Scenario(
        lambda op: None,
        "is not of this run",
        before=plays.held(**{names.KEY: "other"}),
        error=ConfigError,
        jobs=0,
        left=1,
    ),
    "creation is refused for a while": Scenario(
        plays.well,
        fault=plays.fault_of(
            "create", "pytorchjobs", until=3, status=429, headers={"Retry-After": "0"}
        ),
    ),
    "the answer to the creation is lost": Scenario(
        plays.well,
        fault=plays.fault_of("create", "pytorchjobs", until=1, reset=True, after=True),
        shown=("is there already",),
    ),
    "creation is forbidden": Scenario(
        lambda op: None,
        "does not allow",
        before=lambda k: k.forbidden.add(("create", "pytorchjobs")),
        error=ConfigError,
        jobs=0,
    ),
    "a quota forbids it": Scenario(
        lambda op: None,
        "refused job",
        fault=plays.fault_of("create", "pytorchjobs", until=9, status=403),
        jobs=0,
    ),
    "a webhook refuses it": Scenario(
        lambda op: None,
        "refused job",
        fault=plays.fault_of("create", "pytorchjobs", until=9, status=422),
        jobs=0,
    ),
    "the kind is not installed": Scenario(
        lambda op: None,
        "no pytorchjobs.kubeflow.org",
        before=lambda k: setattr(k, "served", {"pods"}),
        error=ConfigError,
        jobs=0,
    ),
    "watching is forbidden": Scenario(
        lambda op: (op.created(), op.runs("step 2"), op.watched(5), op.succeeds()),
        before=lambda k: k.forbidden.add(("watch", "pytorchjobs")),
        shown=("is not heard for now: pytorchjobs: pytorchjobs is forbidden", "step 2"),
    ),
    "creation is refused, the same job is there": Scenario(
        lambda op: (op.watched(), op.runs("go on"), op.succeeds()),
        before=plays.held(),
        fault=plays.fault_of(
            "create", "pytorchjobs", until=9, status=403, message="exceeded quota"
        ),
        jobs=0,
        shown=("is there already", "go on"),
    ),
    "all is refused, the same job is there": Scenario(
        lambda op: None,
        "does not know this process",
        before=plays.held(),
        fault=lambda v, r, n, seen: Fault(401, "Unauthorized") if v != "delete" else None,
        error=ConfigError,
        jobs=0,
        left=1,
    ),
    "the token is not known": Scenario(
        lambda op: None,
        "does not know this process",
        fault=plays.fault_of("create", "pytorchjobs", until=9, status=401, message="Unauthorized"),
        error=ConfigError,
        jobs=0,
    ),
    "a webhook is away": Scenario(
        lambda op: None,
        "gave no other answer(?s:.)*failed calling webhook",
        fault=plays.fault_of(
            "create", "pytorchjobs", until=9999, status=500, message=plays.WEBHOOK
        ),
        times=QUICK._replace(unnoticed=0.3),
        jobs=0,
        shown=(f"{plays.WEBHOOK} (500); retried",),
    ),
    "the API is away for longer than any patience": Scenario(
        plays.runs_while_the_api_is_away, times=QUICK._replace(unnoticed=0.4), shown=("step 1",)
    ),
    "it is being deleted, but stays": Scenario(
        plays.deletion_hangs, "deleted by somebody else", left=1
    ),
    "its pods are refused": Scenario(
        plays.pods_refused,
        "its pods are refused(?s:.)*violates PodSecurity",
        times=QUICK._replace(uncreated=0.3),
        kind="trainjob",
        shown=(f"{NAME}-node-0: FailedCreate: {plays.PODSECURITY}",),
    ),
    "its pods were refused for a moment": Scenario(
        lambda op: (plays.pods_refused(op), op.runs("step 1"), op.succeeds()),
        kind="trainjob",
        shown=("step 1",),
    ),
    "its quota says why it waits": Scenario(
        plays.workload_waits,
        kind="trainjob",
        shown=("Pending: couldn't assign flavors to pod set node", "waits for its quota"),
    ),
    **{
        f"{verb} of {resource} is answered {answer.status}{' by a proxy' if answer.plain else ''}": Scenario(
            plays.well, fault=plays.stray(verb, resource, answer), shown=("step 2",)
        )
        for verb, resource, answer in plays.STRAYS
    },
    "logs are forbidden": Scenario(
        plays.well,
        before=lambda k: k.forbidden.add(("get", "pods/log")),
        shown=("its log cannot be read",),
    ),
    "events are forbidden": Scenario(
        plays.out_of_memory,
        "events cannot be read",
        before=lambda k: k.forbidden.add(("list", "events")),
    ),
    "watches are busy": Scenario(
        plays.well, fault=plays.fault_of("watch", "pytorchjobs", until=4, status=500)
    ),
    "watches time out": Scenario(
        plays.well, fault=plays.fault_of("watch", "pytorchjobs", until=2, status=504)
    ),
    "watches break after one event": Scenario(
        plays.well,
        fault=lambda v, r, n, seen: Fault(cut=1) if v == "watch" and seen < 20 else None,
        shown=("step 2",),
    ),
    "lists are away": Scenario(
        plays.well, fault=plays.fault_of("list", "pytorchjobs", until=5, reset=True)
    ),
    "the API stays away": Scenario(
        plays.silence,
        "did not answer",
        fault=lambda v, r, n, seen: Fault(503) if v in {"list", "watch"} else None,
        times=QUICK._replace(outage=0.3),
    ),
    "logs break after every line": Scenario(
        lambda op: (op.created(), op.runs(*(f"n{n}" for n in range(9))), op.succeeds()),
        fault=lambda v, r, n, seen: Fault(cut=seen + 1) if r == "pods/log" and seen < 9 else None,
        shown=tuple(f"[worker-0] n{n}" for n in range(9)),
    ),
    "logs break before they have caught up": Scenario(
        lambda op: (op.created(), op.runs(*(f"n{n}" for n in range(9))), op.succeeds()),
        fault=lambda v, r, n, seen: (
            Fault(cut=(5, 2, 3)[seen]) if r == "pods/log" and seen < 3 else None
        ),
        shown=tuple(f"[worker-0] n{n}" for n in range(9)),
    ),
    "heartbeats fail": Scenario(
        plays.beaten, fault=plays.fault_of("patch", "pytorchjobs", until=99, status=500)
    ),
    "deletion fails for a while": Scenario(
        plays.well, fault=plays.fault_of("delete", "pytorchjobs", until=3, status=500)
    ),
    "the answer to the deletion is lost": Scenario(
        plays.well, fault=plays.fault_of("delete", "pytorchjobs", until=1, reset=True, after=True)
    ),
    "a failed job cannot be deleted": Scenario(
        lambda op: (op.created(), op.runs(), op.fails()),
        "exit code 1",
        fault=plays.fault_of("delete", "pytorchjobs", until=9999, status=500),
        times=QUICK._replace(goodbye=0.3),
        left=1,
        shown=("the reaper will",),
    ),
}


@pytest.mark.parametrize("case", SCENARIOS)
def test_scenarios(
    case: str, config: Path, kube: KubeServer, capfd: pytest.CaptureFixture[str]
) -> None:
    scenario = SCENARIOS[case]
    kube.fault = scenario.fault
    scenario.before(kube)
    kube.created.clear()
    op = Operator(kube, scenario.kind)
    problems: list[BaseException] = []

    def play() -> None:
        try:
            scenario.play(op)
        except BaseException as error:
            problems.append(error)

    actor = threading.Thread(target=play, daemon=True)
    actor.start()
    body = manifest(spec(scenario.kind))
    cluster = connect(NAMESPACE, scenario.times)
    kind = names.KINDS[scenario.kind]
    if scenario.words is None:
        run_job(cluster, kind, body, deadline=scenario.deadline, keep_on_failure=scenario.keep)
    else:
        with pytest.raises(scenario.error, match=scenario.words):
            run_job(cluster, kind, body, deadline=scenario.deadline, keep_on_failure=scenario.keep)
    actor.join(30)
    assert not problems
    out = capfd.readouterr().out
    logs = "\n".join(line for line in out.splitlines() if line.startswith("["))
    for text in scenario.shown:
        assert (logs if text.startswith("[") else out).count(text) == 1, out
    assert len(kube.created) == scenario.jobs
    assert len(kube.all(kind.resource.plural)) == scenario.left
    assert not [pod for pod in kube.all("pods") if not scenario.left]


LAUNCHER = """
import json, sys
from omnicore.cluster.client import Times, connect
from omnicore.cluster.launch import run_job
from omnicore.cluster.names import KINDS
body = json.loads(sys.argv[1])
run_job(connect("team", Times(beat=0.05, first_wait=0.01, longest_wait=0.1)), KINDS["pytorchjob"], body, deadline=600)
print("green", flush=True)
"""


@pytest.fixture
def launcher(config: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts a launcher of the job in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", LAUNCHER, json.dumps(manifest(spec()))]
        started.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_sigterm_sends_the_delete_at_once(
    kube: KubeServer, launcher: Callable[[], subprocess.Popen[str]]
) -> None:
    process, op = launcher(), Operator(kube)
    op.created()
    op.runs("step 1")
    op.followed()
    before = len(kube.requests)
    process.send_signal(signal.SIGTERM)
    kube.wait_for(lambda: not kube.all("pytorchjobs"))
    asked = [
        verb
        for verb, resource, _ in kube.requests[before:]
        if resource == "pytorchjobs" and verb not in {"patch", "watch", "list"}
    ]
    assert asked[0] == "delete"
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert "green" not in out
    assert not kube.all("pods")


def test_sigterm_during_the_creation_leaves_no_job(
    kube: KubeServer, launcher: Callable[[], subprocess.Popen[str]]
) -> None:
    """The object is made, but its answer has not come: nothing is known yet but the name."""
    answered = threading.Event()

    def slow(verb: str, resource: str, name: str, seen: int) -> Fault | None:
        return Fault(hold=answered) if verb == "create" else None

    kube.fault = slow
    process, op = launcher(), Operator(kube)
    op.created()
    process.send_signal(signal.SIGTERM)
    kube.wait_for(lambda: not kube.all("pytorchjobs"))
    answered.set()
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM


def test_sigterm_deletes_the_job_before_the_last_lines_are_awaited(
    kube: KubeServer, launcher: Callable[[], subprocess.Popen[str]]
) -> None:
    """The log of a job that has ended does not end, and the launcher would wait ten seconds for it.

    One DELETE goes out at once, one when all is put away, which insists.
    """
    kube.fault = lambda verb, resource, name, seen: (
        Fault(hold=plays.NEVER) if (verb, resource, seen) == ("list", "pods", 1) else None
    )
    process, op = launcher(), Operator(kube)
    op.created()
    op.runs("a log that does not end")
    op.followed()
    op.says("Succeeded")
    kube.wait_for(lambda: kube.count("list", "pods") >= 2)
    process.send_signal(signal.SIGTERM)
    kube.wait_for(lambda: not kube.all("pytorchjobs"))
    process.communicate(timeout=30)
    assert kube.count("delete", "pytorchjobs") == 2
    assert process.returncode == 128 + signal.SIGTERM


def test_ctrl_c_deletes_the_job(
    kube: KubeServer, launcher: Callable[[], subprocess.Popen[str]]
) -> None:
    process, op = launcher(), Operator(kube)
    op.created()
    op.watched()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert not kube.all("pytorchjobs")


def test_a_launcher_that_is_killed_leaves_an_orphan_that_is_adopted_or_reaped(
    kube: KubeServer, launcher: Callable[[], subprocess.Popen[str]]
) -> None:
    first, op = launcher(), Operator(kube)
    uid = op.created()["metadata"]["uid"]
    op.runs("step 1")
    op.watched()
    op.followed()
    first.kill()
    first.wait()
    assert reap.reap(connect(NAMESPACE, QUICK), stale=900) == []
    second = launcher()
    op.followed(2)
    op.succeeds()
    out, _ = second.communicate(timeout=30)
    assert out.count("green") == 1
    assert "is there already" in out
    assert len(kube.created) == 1
    assert kube.get("pytorchjobs", NAME) is None, uid


def test_two_launchers_at_once_share_one_job(
    kube: KubeServer, launcher: Callable[[], subprocess.Popen[str]]
) -> None:
    both, op = [launcher(), launcher()], Operator(kube)
    op.created()
    op.runs("step 1")
    op.followed(2)
    op.succeeds()
    assert [process.communicate(timeout=30)[0].count("green") for process in both] == [1, 1]
    assert len(kube.created) == 1
    assert not kube.all("pytorchjobs")


def test_one_of_two_launchers_that_is_cancelled_takes_the_other_down_red(
    kube: KubeServer, launcher: Callable[[], subprocess.Popen[str]]
) -> None:
    both, op = [launcher(), launcher()], Operator(kube)
    op.created()
    op.runs("step 1")
    op.followed(2)
    both[0].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=30) for process in both]
    assert "green" not in outputs[0][0] + outputs[1][0]
    assert "deleted by somebody else" in outputs[1][1]
    assert not kube.all("pytorchjobs")


def test_progress_of_the_job_is_this_process_own(
    config: Path, kube: KubeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OMNI_PROGRESS", str(tmp_path / "progress"))
    op = Operator(kube)
    threading.Thread(target=plays.progress, args=[op], daemon=True).start()
    run_job(connect(NAMESPACE, QUICK), op.kind, manifest(spec()), deadline=600)
    assert read_json(tmp_path / "progress") == {
        "label": "rlvr",
        "done": 4,
        "total": 4,
        "facts": {"loss": 0.5},
    }


def test_the_job_belongs_to_the_workflow_of_the_own_pod(
    config: Path, kube: KubeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "name": "omniboost-x7",
        "uid": "u-1",
    }
    kube.put("pods", {"metadata": {"name": "omniboost-x7-step-1", "ownerReferences": [owner]}})
    recipe, cluster = load_recipe("tiny"), connect(NAMESPACE, QUICK)
    monkeypatch.delenv(step_job.POD_NAME, raising=False)
    monkeypatch.delenv(step_job.RUN_ID, raising=False)
    assert step_job.pipeline_run(cluster, recipe) == ("tiny", None)
    monkeypatch.setenv(step_job.POD_NAME, "omniboost-x7-step-1")
    assert step_job.pipeline_run(cluster, recipe) == (
        "omniboost-x7",
        Owner(name="omniboost-x7", uid="u-1"),
    )
    monkeypatch.setenv(step_job.RUN_ID, "5b6f")
    assert step_job.pipeline_run(cluster, recipe)[0] == "5b6f"


def test_the_rights_listed_are_those_used() -> None:
    """Runs last: all that the mock server was asked for in this file, by launchers, and nothing
    else."""
    if len(CALLS) < 10:
        pytest.skip("only with the whole file")
    launchers, reapers = (
        {(resource.group, resource.plural, verb) for resource, verb in verbs}
        for verbs in (launch.VERBS, reap.VERBS)
    )
    assert launchers <= CALLS <= launchers | reapers  # one test reaps what a launcher left
