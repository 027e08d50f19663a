"""A launcher against a mock API server over HTTP, driven through the real client: nothing ends green on failure, no job stays."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from omnicore.cli import main
from omnicore.cluster import launch, names, reap, step
from omnicore.cluster.client import Times, connect
from omnicore.cluster.launch import run_job
from omnicore.cluster.manifests import JobSpec, Owner, manifest
from omnicore.config import LauncherConfig
from omnicore.errors import ClusterError, ConfigError
from omnicore.journal import read_json
from omnicore.recipe import load_recipe, parse_recipe, recipe_from_json
from omnicore.run import _deciding, step_key
from omnicore.telemetry import LINE, track
from tests.kube_server import NAMESPACE, Fault, KubeServer, Log

QUICK = Times(beat=0.05, request=5, stream=5, first_wait=0.01, longest_wait=0.05, outage=30, goodbye=5)
RUN, KEY = "omniboost-x7", "k" * 64
CALLS: set[tuple[str, str, str]] = set()  # all that any test of this file made the code ask for


def spec(kind: str = "pytorchjob", step: str = "rlvr", key: str = KEY) -> JobSpec:
    place = LauncherConfig(kind=kind, image="r/train@sha256:0", storage="s3://b/runs", namespace=NAMESPACE)
    return JobSpec(
        name=names.job_name(RUN, step, key),
        namespace=NAMESPACE,
        labels=names.labels(RUN, step, key),
        command=("omnicore", step),
        distributed=True,
        place=place,
    )


NAME = spec().name
NEVER = threading.Event()
POD = f"{NAME}-worker-0"


@pytest.fixture
def kube() -> Iterator[KubeServer]:
    with KubeServer() as server:
        yield server
    CALLS.update(server.calls)


@pytest.fixture
def config(kube: KubeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig(tmp_path / "kubeconfig")))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    return tmp_path


class Operator:
    """Plays the training operator, the kubelet and the rest of the world for one job."""

    def __init__(self, kube: KubeServer, kind: str = "pytorchjob") -> None:
        self.kube, self.kind = kube, names.KINDS[kind]
        self.plural = self.kind.resource.plural
        self.name = spec(kind).name

    def created(self, times: int = 1) -> dict[str, Any]:
        self.kube.wait_for(lambda: len(self.kube.created) >= times and self.kube.get(self.plural, self.name))
        return self.kube.get(self.plural, self.name) or {}

    def says(self, condition: str, status: str = "True", reason: str = "Because", message: str = "") -> None:
        self.kube.condition(self.plural, self.name, condition, status, reason, message)

    def pod(self, index: int = 0, **status: Any) -> str:
        return self.kube.pod(self.name, self.kind.pods, index, self.kind.container, **status)

    def runs(self, *lines: str, index: int = 0) -> str:
        pod = self.pod(index, phase="Running", state={"running": {}})
        self.says("Running")
        self.kube.say(pod, *lines)
        return pod

    def ends(self, code: int = 0, reason: str = "Completed", index: int = 0) -> None:
        how = {"exitCode": code, "reason": reason}
        pod = self.pod(index, phase="Failed" if code else "Succeeded", state={"terminated": how})
        self.kube.end_log(pod)

    def succeeds(self) -> None:
        self.ends()
        self.says("Running", "False")
        self.says(self.kind.succeeded)

    def fails(self, code: int = 1, reason: str = "Error") -> None:
        self.ends(code, reason)
        self.says("Failed", reason="PyTorchJobFailed", message="1 Worker replica(s) failed")

    def watched(self, times: int = 1) -> None:
        self.kube.wait_for(lambda: self.kube.count("watch", self.plural) >= times and self.kube.count("watch", "pods") >= 1)

    def followed(self, times: int = 1) -> None:
        self.kube.wait_for(lambda: self.kube.count("get", "pods/log") >= times)


Play = Callable[[Operator], None]


@dataclass(frozen=True)
class Scenario:
    """What happens to the job, what the API server does, and how it must end: `words` of the error, or None for success."""

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


def well(op: Operator) -> None:
    op.created()
    op.runs("step 1", "step 2")
    op.succeeds()


def fault_of(verb: str, resource: str, *, until: int, **fault: Any) -> Callable[[str, str, str, int], Fault | None]:
    """The first `until` requests of a kind fail."""
    return lambda v, r, n, seen: Fault(**fault) if (v, r) == (verb, resource) and seen < until else None


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
    op.kube.change(op.plural, op.name, lambda job: job.update(status={"conditions": [met("Succeeded"), met("Failed")]}))


def met(kind: str, status: str = "True") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": "Because", "message": ""}


def succeeded_false(op: Operator) -> None:
    op.created()
    op.says("Succeeded", "False")
    op.says("Failed", reason="PyTorchJobFailed")


def one_worker_succeeds(op: Operator) -> None:
    op.created()
    op.runs("fine")
    op.ends()
    op.runs("CUDA error: device lost", index=1)
    op.ends(1, "Error", index=1)
    op.says("Failed", reason="PyTorchJobFailed")


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
    op.says("Failed", reason="BackoffLimitExceeded")


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
        op.kube.put(op.plural, {key: job[key] for key in ("apiVersion", "kind", "metadata", "spec")})
        op.says("Succeeded")
        op.kube.compact()


def streams_break(op: Operator) -> None:
    """Everything that is open breaks off again and again; then the version expires, too."""
    op.created()
    op.runs("line 0")
    for round_ in range(1, 6):
        op.followed(round_)
        op.kube.drop_streams()
        op.kube.say(POD, f"line {round_}")
    op.kube.compact()
    op.succeeds()


def clock_is_set_back(op: Operator) -> None:
    """Twins at one time, then a node's clock set back by an hour, with reconnects between: each line once."""
    op.created()
    op.runs()
    noon = time.time()
    op.kube.say(POD, "twin", "twin", at=noon)
    op.followed()
    op.kube.drop_streams()
    op.kube.say(POD, "twin", at=noon)
    op.kube.say(POD, "after the clock was set back", at=noon - 100)
    op.followed(2)
    op.kube.drop_streams()
    op.followed(3)
    op.succeeds()


def a_skewed_node(ahead: float) -> Play:
    def play(op: Operator) -> None:
        op.created()
        op.kube.logs[POD] = Log(skew=ahead)
        op.runs("first")
        op.followed()
        op.kube.drop_streams()
        op.kube.say(POD, "second")
        op.followed(2)
        op.succeeds()

    return play


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
    op.says("Suspended", message="waits in queue gpu")
    op.watched()
    op.says("Suspended", "False")
    op.runs("step 1")
    op.succeeds()


def preempted(op: Operator) -> None:
    """Its quota is taken away and given back."""
    op.created()
    op.runs("step 1")
    op.says("Running", "False")
    op.says("Suspended", message="preempted by a better job")
    op.kube.remove("pods", POD)
    op.watched()
    op.says("Suspended", "False")
    op.runs("step 1 again")
    op.succeeds()


def preempted_for_long(op: Operator) -> None:
    """Longer than its deadline, which counts from the last start."""
    op.created()
    op.runs("step 1")
    op.watched()
    op.says("Suspended", message="preempted by a better job")
    op.kube.remove("pods", POD)
    time.sleep(4)
    op.says("Suspended", "False")
    op.runs("step 1 again")
    op.succeeds()


def pending(**status: Any) -> Play:
    def play(op: Operator) -> None:
        op.created()
        op.says("Created")
        op.pod(phase="Pending", **status)

    return play


UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes: 3 Insufficient gpu"}


def pull_then_run(op: Operator) -> None:
    """A registry that was away for a moment."""
    op.created()
    op.pod(phase="Pending", state={"waiting": {"reason": "ErrImagePull"}})
    op.watched()
    op.pod(phase="Pending", state={"waiting": {"reason": "ImagePullBackOff"}})
    op.runs("step 1")
    op.succeeds()


def gated(op: Operator) -> None:
    """Kueue's gate is no failure of scheduling."""
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
    pod = op.pod(phase="Failed", reason="Evicted", message="The node was low on resource: ephemeral-storage")
    op.kube.end_log(pod)
    op.says("Failed", reason="PyTorchJobFailed")


def pods_gone(op: Operator) -> None:
    """The pod that failed is cleaned away before the job says so; its last lines were seen."""
    op.created()
    op.runs("the last words")
    op.followed()
    op.ends(9, "Error")
    op.kube.wait_for(lambda: op.kube.count("patch", op.plural) >= 6)
    op.kube.remove("pods", POD)
    op.says("Failed", reason="PyTorchJobFailed")


def progress(op: Operator) -> None:
    op.created()
    told = {"label": "rlvr", "total": 4, "facts": {"loss": 0.5}}
    op.runs(*(LINE + json.dumps({**told, "done": done}) for done in (1, 3, 2, 4)), LINE + "no json", "a line")
    op.succeeds()


def deadline_exceeded(op: Operator) -> None:
    op.created()
    op.runs("step 1")
    op.ends(143, "Error")
    op.says("Failed", reason="DeadlineExceeded", message="active longer than specified deadline")


def beaten(op: Operator) -> None:
    op.created()
    op.runs()
    op.kube.wait_for(lambda: op.kube.count("patch", op.plural) >= 3)
    op.succeeds()


def deleting(kube: KubeServer) -> None:
    """The job of a cancelled try is still on its way out."""
    was("Failed")(kube)
    kube.change("pytorchjobs", NAME, lambda job: job["metadata"].update(deletionTimestamp="x", finalizers=["operator"]))


def deleting_ends(op: Operator) -> None:
    op.kube.wait_for(lambda: op.kube.count("create", op.plural) >= 3)
    op.kube.remove(op.plural, op.name)
    well(op)


SCENARIOS = {
    "succeeds": Scenario(well, shown=("[worker-0] step 1\n[worker-0] step 2", f"job {NAME}: Succeeded")),
    "a TrainJob succeeds": Scenario(well, kind="trainjob", shown=("step 2",)),
    "a TrainJob fails": Scenario(lambda op: (op.created(), op.runs("bad"), op.fails()), "bad", kind="trainjob"),
    "fails": Scenario(lambda op: (op.created(), op.runs("Traceback: boom"), op.fails(3)), r"exit code 3(?s:.)*Traceback: boom"),
    "succeeded and failed at once": Scenario(both_at_once, "Failed=True"),
    "Succeeded is there, but False": Scenario(succeeded_false, "failed"),
    "one worker succeeds, one fails": Scenario(one_worker_succeeds, r"worker-1(?s:.)*CUDA error: device lost"),
    "out of memory": Scenario(out_of_memory, r"exit code 137, OOMKilled(?s:.)*allocating 80 GiB(?s:.)*OOMKilling(?s:.)*remedy"),
    "restarted, then given up": Scenario(restarted, r"exit code 139, signal 11(?s:.)*the line before the crash"),
    "evicted": Scenario(evicted, "low on resource: ephemeral-storage"),
    "failed pods are gone": Scenario(pods_gone, "Failed=True"),
    "deadline exceeded": Scenario(deadline_exceeded, "launcher.deadline_seconds"),
    "kept on failure": Scenario(lambda op: (op.created(), op.runs(), op.fails()), "failed", keep=True, left=1, shown=("is kept",)),
    "not kept when it cannot run": Scenario(
        pending(conditions=[UNSCHEDULABLE]), "Insufficient gpu", times=QUICK._replace(unschedulable=0.2), keep=True
    ),
    "deleted underneath": Scenario(deleted_underneath, "deleted by somebody else"),
    "deleted while the watch was away": Scenario(deleted_while_the_watch_was_away, "deleted by somebody else"),
    "deleted after it succeeded": Scenario(deleted_after_success),
    "made anew by somebody else": Scenario(made_anew, "made anew by somebody else", left=1),
    "streams break, versions expire": Scenario(streams_break, shown=tuple(f"[worker-0] line {n}" for n in range(6))),
    "a clock is set back": Scenario(
        clock_is_set_back, shown=("[worker-0] twin\n" * 3 + "[worker-0] after the clock was set back",)
    ),
    "a node an hour ahead": Scenario(a_skewed_node(3600), shown=("[worker-0] first\n[worker-0] second",)),
    "a node a day behind": Scenario(a_skewed_node(-86400), shown=("[worker-0] first\n[worker-0] second",)),
    "a log that is not there yet": Scenario(late_log, shown=("[worker-0] only line",)),
    "quota pending": Scenario(quota_comes, shown=("waits for its quota: waits in queue gpu",)),
    "preempted": Scenario(preempted, shown=("preempted by a better job", "step 1 again")),
    "preempted for long": Scenario(preempted_for_long, times=QUICK._replace(overtime=1), deadline=2),
    "pods are seen late": Scenario(
        well, fault=lambda v, r, n, seen: Fault(hold=NEVER) if (v, r, seen) == ("list", "pods", 0) else None, shown=("step 2",)
    ),
    "gated": Scenario(gated, times=QUICK._replace(unschedulable=0.2)),
    "unschedulable": Scenario(pending(conditions=[UNSCHEDULABLE]), "Insufficient gpu", times=QUICK._replace(unschedulable=0.2)),
    "scheduled, but never starts": Scenario(pending(), "containers do not start", times=QUICK._replace(unschedulable=0.2)),
    "an image that cannot be pulled": Scenario(
        pending(state={"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}),
        r"ImagePullBackOff: not found(?s:.)*launcher.image",
        times=QUICK._replace(unpullable=0.2),
    ),
    "no image's name": Scenario(pending(state={"waiting": {"reason": "InvalidImageName"}}), "InvalidImageName"),
    "a secret that is missing": Scenario(
        pending(state={"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "s3" not found'}}),
        r"secret \"s3\" not found(?s:.)*launcher.secrets",
        times=QUICK._replace(unpullable=0.2),
    ),
    "an image that comes late": Scenario(pull_then_run, shown=("step 1",)),
    "no operator": Scenario(silence, "is the operator of PyTorchJob up", times=QUICK._replace(unnoticed=0.3)),
    "past its deadline": Scenario(never_ends, "deadline of 0 s", times=QUICK._replace(overtime=0.3), deadline=0.1),
    "progress": Scenario(progress, shown=("[worker-0] a line",)),
    "heartbeat": Scenario(beaten),
    "the same job is there": Scenario(
        lambda op: (op.watched(), op.runs("go on"), op.succeeds()),
        before=was("Created"),
        jobs=0,
        shown=("is there already", "go on"),
    ),
    "the same TrainJob is there": Scenario(
        lambda op: (op.watched(), op.runs("go on"), op.succeeds()), before=held(), jobs=0, shown=("go on",), kind="trainjob"
    ),
    "the same job has succeeded": Scenario(lambda op: None, before=was("Succeeded"), jobs=0),
    "the same job had failed": Scenario(well, before=was("Failed")),
    "the same job is on its way out": Scenario(deleting_ends, before=deleting),
    "the same job does not go": Scenario(
        lambda op: None, "look at its finalizers", before=deleting, times=QUICK._replace(goodbye=0.2), jobs=0, left=1
    ),
    "another run has the name": Scenario(
        lambda op: None, "is not of this run", before=held(**{names.RUN: "other"}), error=ConfigError, jobs=0, left=1
    ),
    "another recipe has the name": Scenario(
        lambda op: None, "is not of this run", before=held(**{names.KEY: "other"}), error=ConfigError, jobs=0, left=1
    ),
    "creation is refused for a while": Scenario(
        well, fault=fault_of("create", "pytorchjobs", until=3, status=429, headers={"Retry-After": "0"})
    ),
    "the answer to the creation is lost": Scenario(
        well, fault=fault_of("create", "pytorchjobs", until=1, reset=True, after=True), shown=("is there already",)
    ),
    "creation is forbidden": Scenario(
        lambda op: None, "does not allow", before=lambda k: k.forbidden.add(("create", "pytorchjobs")), error=ConfigError, jobs=0
    ),
    "a quota forbids it": Scenario(
        lambda op: None, "refused job", fault=fault_of("create", "pytorchjobs", until=9, status=403), jobs=0
    ),
    "a webhook refuses it": Scenario(
        lambda op: None, "refused job", fault=fault_of("create", "pytorchjobs", until=9, status=422), jobs=0
    ),
    "the kind is not installed": Scenario(
        lambda op: None, "no pytorchjobs.kubeflow.org", before=lambda k: setattr(k, "served", {"pods"}), error=ConfigError, jobs=0
    ),
    "watching is forbidden": Scenario(
        silence, "does not allow", before=lambda k: k.forbidden.add(("watch", "pytorchjobs")), error=ConfigError
    ),
    "logs are forbidden": Scenario(well, before=lambda k: k.forbidden.add(("get", "pods/log")), shown=("its log cannot be read",)),
    "events are forbidden": Scenario(out_of_memory, "events cannot be read", before=lambda k: k.forbidden.add(("list", "events"))),
    "watches are busy": Scenario(well, fault=fault_of("watch", "pytorchjobs", until=4, status=500)),
    "watches time out": Scenario(well, fault=fault_of("watch", "pytorchjobs", until=2, status=504)),
    "watches break after one event": Scenario(
        well, fault=lambda v, r, n, seen: Fault(cut=1) if v == "watch" and seen < 20 else None, shown=("step 2",)
    ),
    "lists are away": Scenario(well, fault=fault_of("list", "pytorchjobs", until=5, reset=True)),
    "the API stays away": Scenario(
        silence,
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
        fault=lambda v, r, n, seen: Fault(cut=(5, 2, 3)[seen]) if r == "pods/log" and seen < 3 else None,
        shown=tuple(f"[worker-0] n{n}" for n in range(9)),
    ),
    "heartbeats fail": Scenario(beaten, fault=fault_of("patch", "pytorchjobs", until=99, status=500)),
    "deletion fails for a while": Scenario(well, fault=fault_of("delete", "pytorchjobs", until=3, status=500)),
    "the answer to the deletion is lost": Scenario(well, fault=fault_of("delete", "pytorchjobs", until=1, reset=True, after=True)),
    "a failed job cannot be deleted": Scenario(
        lambda op: (op.created(), op.runs(), op.fails()),
        "exit code 1",
        fault=fault_of("delete", "pytorchjobs", until=9999, status=500),
        times=QUICK._replace(goodbye=0.3),
        left=1,
        shown=("the reaper will",),
    ),
}


@pytest.mark.parametrize("case", SCENARIOS)
def test_scenarios(case: str, config: Path, kube: KubeServer, capfd: pytest.CaptureFixture[str]) -> None:
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
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_sigterm_sends_the_delete_at_once(kube: KubeServer, launcher: Callable[[], subprocess.Popen[str]]) -> None:
    process, op = launcher(), Operator(kube)
    op.created()
    op.runs("step 1")
    op.followed()
    before = len(kube.requests)
    process.send_signal(signal.SIGTERM)
    kube.wait_for(lambda: not kube.all("pytorchjobs"))
    asked = [
        verb for verb, resource, _ in kube.requests[before:] if resource == "pytorchjobs" and verb not in {"patch", "watch", "list"}
    ]
    assert asked[0] == "delete"
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert "green" not in out
    assert not kube.all("pods")


def test_sigterm_during_the_creation_leaves_no_job(kube: KubeServer, launcher: Callable[[], subprocess.Popen[str]]) -> None:
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
    """The log of a job that has ended does not end, and the launcher would wait ten seconds for it. One DELETE goes out at once,
    one when all is put away, which insists."""
    kube.fault = lambda verb, resource, name, seen: Fault(hold=NEVER) if (verb, resource, seen) == ("list", "pods", 1) else None
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


def test_ctrl_c_deletes_the_job(kube: KubeServer, launcher: Callable[[], subprocess.Popen[str]]) -> None:
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


def test_two_launchers_at_once_share_one_job(kube: KubeServer, launcher: Callable[[], subprocess.Popen[str]]) -> None:
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
    threading.Thread(target=progress, args=[op], daemon=True).start()
    run_job(connect(NAMESPACE, QUICK), op.kind, manifest(spec()), deadline=600)
    assert read_json(tmp_path / "progress") == {"label": "rlvr", "done": 4, "total": 4, "facts": {"loss": 0.5}}


def test_progress_lines_are_what_track_writes(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNI_PROGRESS", "-")
    with track(3, "sft") as told:
        told.advance(3, loss=0.25)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith(LINE)]
    assert [json.loads(line.removeprefix(LINE))["done"] for line in lines] == [0, 3]
    monkeypatch.setenv("RANK", "1")
    with track(3, "sft") as told:
        told.advance(3)
    assert LINE not in capfd.readouterr().err


def test_the_job_belongs_to_the_workflow_of_the_own_pod(config: Path, kube: KubeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "omniboost-x7", "uid": "u-1"}
    kube.put("pods", {"metadata": {"name": "omniboost-x7-step-1", "ownerReferences": [owner]}})
    recipe, cluster = load_recipe("tiny"), connect(NAMESPACE, QUICK)
    monkeypatch.delenv(step.POD_NAME, raising=False)
    monkeypatch.delenv(step.RUN_ID, raising=False)
    assert step.origin(cluster, recipe) == ("tiny", None)
    monkeypatch.setenv(step.POD_NAME, "omniboost-x7-step-1")
    assert step.origin(cluster, recipe) == ("omniboost-x7", Owner(name="omniboost-x7", uid="u-1"))
    monkeypatch.setenv(step.RUN_ID, "5b6f")
    assert step.origin(cluster, recipe)[0] == "5b6f"


def ago(**time: float) -> str:
    return (datetime.now(UTC) - timedelta(**time)).isoformat()


@dataclass(frozen=True)
class Orphan:
    """One job; what a reaper says of it, empty for one that stays."""

    heartbeat: str | None = ""
    condition: str = ""
    owner: str = ""
    ttl: str = "3600"
    words: str = ""
    ours: bool = True
    run: str = ""


REAPED = {
    "looked after": Orphan(),
    "its launcher is dead": Orphan(ago(minutes=16), words="no heartbeat for"),
    "a launcher's clock is minutes behind": Orphan(ago(minutes=10)),
    "a launcher's clock is ahead": Orphan(ago(minutes=-30)),
    "made by hand": Orphan(None),
    "not ours": Orphan(ago(days=9), ours=False),
    "its workflow runs": Orphan(owner="running"),
    "its workflow has ended": Orphan(owner="failed", words="workflow failed has ended: Failed"),
    "its workflow is gone": Orphan(owner="gone", words="workflow gone is gone"),
    "its workflow is another of that name": Orphan(owner="anew", words="workflow anew is gone"),
    "failed, kept for a look": Orphan(ago(minutes=30), "Failed", owner="failed"),
    "failed, its ttl is over": Orphan(ago(minutes=61), "Failed", words="ttl of 3600 s"),
    "succeeded, its ttl is over": Orphan(ago(minutes=2), "Succeeded", ttl="60", words="ttl of 60 s"),
    "its run says that it is over": Orphan(run=RUN, words="left by its run"),
    "another run says that it is over": Orphan(run="other"),
    "failed, its run says that it is over": Orphan(condition="Failed", run=RUN),
}


@pytest.mark.parametrize("case", REAPED)
def test_the_reaper_takes_orphans_and_nothing_else(case: str, config: Path, kube: KubeServer) -> None:
    orphan, body = REAPED[case], manifest(spec())
    for name, phase in {"running": "Running", "failed": "Failed", "anew": "Running"}.items():
        kube.put("workflows", {"metadata": {"name": name}, "status": {"phase": phase}})
    marks = body["metadata"]
    marks["annotations"][names.TTL] = orphan.ttl
    if orphan.heartbeat is not None:
        marks["annotations"][names.HEARTBEAT] = orphan.heartbeat or names.now()
    if orphan.owner:
        found = kube.get("workflows", orphan.owner)
        uid = found["metadata"]["uid"] if found and orphan.owner != "anew" else "another"
        marks["ownerReferences"] = [{"kind": "Workflow", "name": orphan.owner, "uid": uid}]
    if not orphan.ours:
        marks["labels"] = {names.APP: "omnicore"}
    kube.put("pytorchjobs", body)
    if orphan.condition:
        kube.condition("pytorchjobs", NAME, orphan.condition)
    cluster = connect(NAMESPACE, QUICK)
    would = reap.reap(cluster, run=orphan.run, dry_run=True)
    assert len(kube.all("pytorchjobs")) == 1
    told = reap.reap(cluster, run=orphan.run)
    assert [line.rstrip("0123456789 s") for line in told] == [line.rstrip("0123456789 s") for line in would]
    assert len(told) == bool(orphan.words) == (not kube.all("pytorchjobs"))
    assert orphan.words in "".join(told)


def test_a_heartbeat_between_the_look_and_the_deletion_saves_a_job(config: Path, kube: KubeServer) -> None:
    body = manifest(spec())
    body["metadata"]["annotations"][names.HEARTBEAT] = ago(hours=1)
    kube.put("pytorchjobs", body)

    def beat(verb: str, resource: str, name: str, seen: int) -> None:
        if verb == "delete":
            kube.change("pytorchjobs", NAME, lambda job: job["metadata"]["annotations"].update({names.HEARTBEAT: names.now()}))

    kube.fault = beat
    assert reap.reap(connect(NAMESPACE, QUICK)) == []
    assert kube.all("pytorchjobs")


def test_the_reaper_takes_served_models_and_does_without_kinds_that_are_not_installed(config: Path, kube: KubeServer) -> None:
    marks = {"labels": names.labels(RUN, "evaluate", KEY), "annotations": {names.HEARTBEAT: ago(hours=1)}}
    kube.put("inferenceservices", {"metadata": {"name": "eval-x7", **marks}})
    kube.served = frozenset({"inferenceservices", "workflows"})
    assert main(["reap", "--namespace", NAMESPACE]) == 0
    assert not kube.all("inferenceservices")


def test_reap_says_what_right_it_lacks(config: Path, kube: KubeServer, capsys: pytest.CaptureFixture[str]) -> None:
    kube.forbidden.add(("list", "trainjobs"))
    assert main(["reap", "--namespace", NAMESPACE]) == 2
    assert "list trainjobs.trainer.kubeflow.org in namespace team" in capsys.readouterr().err


def test_without_a_cluster_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match="KUBECONFIG"):
        connect()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "pytorchjob"}, "launcher.image and launcher.storage"),
        ({"kind": "pytorchjob", "image": "a", "storage": "/tmp"}, "s3://"),
        ({"kind": "slurm"}, "launcher.kind"),
        ({"kind": "process", "gpus": 4}, "launcher.gpus"),
    ],
)
def test_a_launcher_that_cannot_be_is_refused(fields: dict[str, Any], words: str) -> None:
    values = load_recipe("tiny").model_dump(mode="json")
    with pytest.raises(ConfigError, match=words):
        parse_recipe({**values, "launcher": fields}, "mine")


def test_where_a_step_runs_is_no_part_of_its_key(tmp_path: Path) -> None:
    place = LauncherConfig(kind="trainjob", image="a", storage="s3://b/c")
    recipe = load_recipe("tiny")
    keys = {step_key("prepare", r, {}, tmp_path) for r in (recipe, recipe.model_copy(update={"launcher": place}))}
    assert len(keys) == 1
    assert _deciding(recipe.model_dump(mode="json")) == _deciding(
        recipe.model_copy(update={"launcher": place}).model_dump(mode="json")
    )


def test_a_pod_runs_the_step_in_its_own_process() -> None:
    """Else each job would launch the next."""
    place = LauncherConfig(kind="trainjob", image="a", storage="s3://b/c")
    recipe = load_recipe("tiny").model_copy(update={"launcher": place})
    words = step.command("sft", "sft_distilled", recipe, {"data": "s3://b/d"}, "s3://b/o")
    assert words[:4] == ("omnicore", "sft", "--section", "sft_distilled")
    assert words[-4:] == ("--input", "data=s3://b/d", "--output", "s3://b/o")
    sent = recipe_from_json(words[5])
    assert sent == load_recipe("tiny")


def test_the_rights_listed_are_those_used() -> None:
    """Runs last: all that the mock server was asked for in this file, by launchers and reapers, and nothing else."""
    listed = {(resource.group, resource.plural, verb) for resource, verb in launch.VERBS | reap.VERBS}
    if len(CALLS) < 10:
        pytest.skip("only with the whole file")
    assert listed == CALLS
