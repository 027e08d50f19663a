"""Cases of a served model: what happens, and how the step that asks it ends."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from omnicore.errors import ClusterError, ConfigError, EngineError
from tests.kube_server import Fault, KubeServer
from tests.stub_server import Answer
from tests.unit.serve_scenarios import (
    BLOCKED,
    FAILED,
    IMPATIENT,
    PLURAL,
    Scenario,
    SimulatedCluster,
    after_created,
    alike,
    answered,
    crashes,
    dies,
    edit,
    failed,
    gated,
    in_turn,
    initializer_crashes,
    kill,
    left_behind,
    not_yet,
    once,
    other_labels,
    other_model,
    pause,
    remade,
    starts_late,
    unschedulable,
    until_seen,
    up,
)


@dataclass(frozen=True)
class Case:
    """What happens, and how it ends: `code` and `words` of the error; neither for a reply to each."""

    act: Scenario = SimulatedCluster.serves
    code: str = ""
    words: tuple[str, ...] = ()
    error: type[BaseException] = ClusterError
    timeouts: Mapping[str, float] = field(default_factory=dict)
    fault: Callable[[str, str, str, int], Fault | None] = lambda verb, resource, name, seen: None
    before: Callable[[KubeServer, dict[str, Any]], Any] = lambda kube, body: None
    engine: dict[str, Any] = field(default_factory=dict)
    reply: Callable[[dict[str, Any]], Answer] = answered
    picture: bool = False
    created: int = 1
    left: int = 0  # InferenceServices on the server afterwards: those of others


CASES = {
    "serves, answers all, and is removed": Case(),
    "canary sees the picture": Case(picture=True),
    "canary sees nothing": Case(
        words=("does not see pictures",), error=EngineError, reply=alike, picture=True
    ),
    "Ready of an older generation": Case(
        after_created(
            in_turn(
                lambda c: c.pod(),
                lambda c: c.status(observedGeneration=0),
                not_yet,
                lambda c: c.status(),
            )
        )
    ),
    "the Deployment counts generations of its own": Case(
        after_created(in_turn(lambda c: c.pod(), lambda c: c.status(observedGeneration=3)))
    ),
    "Ready before the model is loaded": Case(
        after_created(
            in_turn(
                lambda c: c.pod(),
                lambda c: c.status(model={"states": {"activeModelState": "Pending"}}),
                not_yet,
                lambda c: c.status(),
            )
        )
    ),
    "Ready with the model before this one": Case(
        after_created(
            in_turn(
                lambda c: c.pod(),
                lambda c: c.status(model={"transitionStatus": "InProgress"}),
                not_yet,
                lambda c: c.status(),
            )
        )
    ),
    "Ready without an address": Case(
        after_created(
            in_turn(
                lambda c: c.pod(), lambda c: c.status(address={}), not_yet, lambda c: c.status()
            )
        )
    ),
    "Ready while its only pod crashes": Case(
        after_created(in_turn(crashes, lambda c: c.status())),
        code="job-stuck",
        words=("CrashLoopBackOff", "OOMKilled", "engine.memory"),
    ),
    "Ready while its pod is not": Case(
        after_created(
            in_turn(lambda c: c.pod(False), lambda c: c.status(), not_yet, lambda c: c.pod())
        )
    ),
    "model fails to load": Case(
        after_created(
            in_turn(
                lambda c: c.kube.write_log(
                    c.pod(False, state={"terminated": {"exitCode": 1}}), "Traceback: no"
                ),
                BLOCKED,
            )
        ),
        code="served-model-failed",
        words=(
            "BlockedByFailedLoad: ModelLoadFailed: exit code 1: ValueError: 128 heads",
            "Traceback: no",
        ),
    ),
    "runtime is unknown": Case(
        after_created(
            failed("InvalidSpec", "RuntimeNotRecognized", "Waiting for runtime to become available")
        ),
        code="served-model-failed",
        words=("InvalidSpec: RuntimeNotRecognized",),
    ),
    "stopped by somebody": Case(
        after_created(lambda c: c.kube.condition(PLURAL, c.name, "Stopped")),
        code="served-model-failed",
        words=("serving.kserve.io/stop",),
    ),
    "server crashes": Case(
        after_created(crashes), code="job-stuck", words=("CrashLoopBackOff", "exit code 137")
    ),
    "checkpoint cannot be fetched": Case(
        after_created(initializer_crashes),
        code="job-stuck",
        words=("container storage-initializer: exit code 2", "nothing is published there"),
    ),
    "image cannot be pulled": Case(
        after_created(lambda c: c.pod(False, phase="Pending", waiting="ImagePullBackOff")),
        code="job-stuck",
        words=("ImagePullBackOff",),
        timeouts=IMPATIENT,
    ),
    "image is pulled at the second try": Case(
        after_created(
            in_turn(lambda c: c.pod(False, phase="Pending", waiting="ErrImagePull"), until_seen, up)
        )
    ),
    "image has no name": Case(
        after_created(lambda c: c.pod(False, phase="Pending", waiting="InvalidImageName")),
        code="job-stuck",
        words=("InvalidImageName",),
    ),
    "no node for it": Case(
        after_created(unschedulable),
        code="job-stuck",
        words=("Unschedulable", "engine.gpus", "0/3 nodes are available"),
        timeouts=IMPATIENT,
    ),
    "a node comes": Case(after_created(in_turn(unschedulable, until_seen, up))),
    "waits for its quota longer than it may take to start": Case(
        after_created(in_turn(gated, pause, pause, up)),
        engine={"start_seconds": 1},
        timeouts={"SCHEDULING": 0.2},
    ),
    "fetches longer than a node may take": Case(
        after_created(
            in_turn(lambda c: c.pod(False, phase="Pending", init={"running": {}}), pause, up)
        ),
        timeouts={"SCHEDULING": 0.2},
    ),
    "no controller": Case(
        after_created(lambda c: None),
        code="job-stuck",
        words=("InferenceService",),
        timeouts=IMPATIENT,
    ),
    "never serves": Case(
        after_created(in_turn(lambda c: c.pod(False), lambda c: c.status(Ready="False"))),
        code="job-stuck",
        words=("after 1 s (engine.start_seconds)",),
        engine={"start_seconds": 1},
    ),
    "ready, but nothing listens": Case(
        after_created(in_turn(lambda c: c.stub.stop(), up)),
        words=("is ready, but does not answer requests",),
        error=EngineError,
        timeouts=IMPATIENT,
    ),
    "ready, but serves another model": Case(
        after_created(in_turn(lambda c: c.listed("another"), up)),
        words=("'another'",),
        error=EngineError,
        timeouts=IMPATIENT,
    ),
    "listens a little later": Case(after_created(starts_late)),
    "dies while it is asked": Case(
        dies, error=EngineError, words=("OOMKilled", "device-side assert", "engine.memory")
    ),
    "deleted while it is asked": Case(
        in_turn(SimulatedCluster.slow, lambda c: c.kube.remove(PLURAL, c.name)),
        code="served-model-deleted",
    ),
    "made anew while it is asked": Case(
        in_turn(SimulatedCluster.slow, remade), code="job-replaced|served-model-deleted", left=1
    ),
    "another model is put under it while it is asked": Case(
        in_turn(SimulatedCluster.slow, edit), code="served-model-changed", words=("storageUri",)
    ),
    "cancelled while it starts": Case(
        after_created(kill(signal.SIGTERM)), error=SystemExit, words=("143",)
    ),
    "cancelled while it is asked": Case(
        in_turn(SimulatedCluster.slow, kill(signal.SIGTERM)), error=SystemExit, words=("143",)
    ),
    "interrupted while it starts": Case(
        after_created(kill(signal.SIGINT)), error=KeyboardInterrupt
    ),
    "interrupted while it is asked": Case(
        in_turn(SimulatedCluster.slow, kill(signal.SIGINT)), error=KeyboardInterrupt
    ),
    "adopts what its first try deployed": Case(
        lambda c: c.serves(0), before=left_behind, created=0
    ),
    "removes what its first try broke": Case(
        before=lambda kube, body: left_behind(kube, body, **FAILED)
    ),
    "name is another run's": Case(
        lambda c: None,
        code="job-name-taken",
        error=ConfigError,
        before=lambda kube, body: left_behind(kube, body, metadata=other_labels(body)),
        created=0,
        left=1,
    ),
    "its own labels on an older model": Case(
        lambda c: None,
        code="served-model-changed",
        words=("s3://b/inputs/old",),
        before=lambda kube, body: left_behind(kube, body, spec=other_model(body)),
        created=0,
    ),
    "no KServe": Case(
        lambda c: None,
        code="cluster-kind-missing",
        words=("install KServe",),
        error=ConfigError,
        before=lambda kube, body: setattr(kube, "served", kube.served - {PLURAL}),
        created=0,
    ),
    "no rights": Case(
        lambda c: None,
        code="cluster-forbidden",
        words=("create inferenceservices",),
        error=ConfigError,
        before=lambda kube, body: kube.forbidden.add(("create", PLURAL)),
        created=0,
    ),
    "a webhook refuses it": Case(
        lambda c: None,
        code="job-refused",
        fault=once("create", PLURAL, Fault(400), 99),
        created=0,
    ),
    "the answer to its creation is lost": Case(
        fault=once("create", PLURAL, Fault(reset=True, after=True))
    ),
    "the API server is busy": Case(
        fault=once("create", PLURAL, Fault(429, headers={"Retry-After": "0"}), 2)
    ),
    "the watch breaks": Case(
        after_created(in_turn(lambda c: c.kube.compact(), lambda c: c.kube.drop_streams(), up)),
    ),
    "its removal is refused for a while": Case(fault=once("delete", PLURAL, Fault(503), 3)),
}
