"""Scenarios of a served model, its pods and its client, on the mock API server."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from omnicore.cluster import names, serve
from omnicore.cluster.inferenceservice import INITIALIZER, KIND
from omnicore.config import EngineConfig
from omnicore.config.recipe import Recipe, load_recipe
from omnicore.engines import kserve
from omnicore.engines.base import Request, Sampling
from omnicore.engines.task import InferenceTask
from omnicore.schema import Media
from omnicore.storage.digests import sha256_file
from tests.kube_server import Fault, KubeServer, Log
from tests.stub_server import Answer, Stub, guess

PLURAL, SERVER = "inferenceservices", "kserve-container"
PICTURE = "picture.png"
# Shorter than any test, longer than any step of one.
PATIENT = {"NO_PROGRESS": 20.0}
IMPATIENT = {"IMAGE_PULL": 0.2, "SCHEDULING": 0.2, "NO_PROGRESS": 0.3}


def answered(request: dict[str, Any]) -> Answer:
    """As the stub guesses, under the name that was asked for."""
    answer = guess(request)
    return replace(
        answer, body=json.dumps({**json.loads(answer.body), "model": request["model"]}).encode()
    )


def alike(request: dict[str, Any]) -> Answer:
    """As a server that looks at no media."""
    return answered(
        {
            **request,
            "messages": [{"role": "user", "content": [{"type": "text", "text": "a b c d"}]}],
        }
    )


def recipe(**engine: Any) -> Recipe:
    found = load_recipe(
        "tiny",
        ["launcher.image=r/train@sha256:0", "launcher.storage=s3://b", "launcher.ttl_seconds=60"],
    )
    quick = {"concurrency": 4, "retries": 1, "timeout": 5.0, **engine}
    return found.model_copy(update={"engine": EngineConfig(kind="kserve", **quick)})


def asking(run: Recipe, folder: Path, *, picture: bool = False) -> InferenceTask:
    parts: tuple[Media | str, ...] = ("Which? red green blue grey",)
    if picture:
        Image.new("RGB", (8, 8), "red").save(folder / PICTURE)
        parts = (Media(kind="image", uri=PICTURE, sha256=sha256_file(folder / PICTURE)), *parts)
    requests = [Request((*parts[:-1], f"{number}: {parts[-1]}"), folder) for number in range(8)]
    return InferenceTask(run.engine, "model", requests, Sampling(0, 14), 4)


def body_of(run: Recipe, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The object that `served` would create."""
    made: list[dict[str, Any]] = []

    class Stop(Exception):
        pass

    class Built(serve.ServedModel):
        def start(self) -> None:
            made.append(dict(self.body))
            raise Stop

        def discard(self) -> None:
            pass

    with monkeypatch.context() as patch:
        patch.setattr(kserve, "ServedModel", Built)
        with (
            pytest.raises(Stop),
            kserve.deployed_engine(run.engine, "model", run, folder, "evaluate"),
        ):
            pass
    return made[0]


class SimulatedCluster:
    """Simulates KServe and the kubelet for one InferenceService."""

    def __init__(self, kube: KubeServer, stub: Stub) -> None:
        self.kube, self.stub = kube, stub
        self.name = ""
        self.early = 0  # times that it was asked before it could answer

    def created(self, times: int = 1) -> dict[str, Any]:
        self.kube.wait_for(lambda: len(self.kube.created) >= times and self.kube.all(PLURAL))
        found = self.kube.all(PLURAL)[0]
        self.name = found["metadata"]["name"]
        return found

    def pod(self, ready: bool = True, index: int = 0, **status: Any) -> str:
        """A pod of the server; `init` is the state of its storage-initializer."""
        if "init" in status:
            status["initContainerStatuses"] = [{"name": INITIALIZER, "state": status.pop("init")}]
        if "waiting" in status:
            status["state"] = {"waiting": {"reason": status.pop("waiting"), "message": "back-off"}}
        whole = {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": str(ready)}],
            **status,
        }
        return self.kube.pod(self.name, KIND.pods, index, SERVER, **whole)

    def status(self, **changed: Any) -> None:
        """As KServe writes it for a service that is up; `changed` are fields of it, `Ready` the
        condition."""
        ready = changed.pop("Ready", "True")
        model = {
            "transitionStatus": "UpToDate",
            "states": {"activeModelState": "Loaded", "targetModelState": "Loaded"},
        }
        whole = {
            "observedGeneration": 1,
            "conditions": [
                {"type": "PredictorReady", "status": ready},
                {"type": "Ready", "status": ready},
            ],
            "modelStatus": {**model, **changed.pop("model", {})},
            "address": {"url": self.stub.url.removesuffix("/v1")},
            **changed,
        }
        self.kube.change(PLURAL, self.name, lambda found: found.update(status=whole))

    def listed(self, name: str = "") -> None:
        """The server lists the model under the object's name, as `--served-model-name={{.Name}}`
        has it."""
        body = {"object": "list", "data": [{"id": name or self.name, "root": "/mnt/models"}]}
        self.stub.models = Answer(json.dumps(body).encode())

    def serves(self, created: int = 1) -> None:
        self.created(created)
        self.listed()
        self.pod()
        self.status()

    def asked(self, count: int = 1) -> None:
        self.kube.wait_for(lambda: self.stub.asked >= count)

    def watched(self) -> None:
        self.kube.wait_for(
            lambda: self.kube.count("watch", PLURAL) and self.kube.count("watch", "pods")
        )

    def slow(self) -> None:
        """Serves, but each answer takes until the test is over."""
        self.stub.service = 1.0
        self.serves()
        self.asked()


Scenario = Callable[[SimulatedCluster], None]


def after_created(act: Scenario) -> Scenario:
    def run(cluster: SimulatedCluster) -> None:
        cluster.created()
        cluster.listed()
        cluster.watched()
        act(cluster)

    return run


def in_turn(*acts: Scenario) -> Scenario:
    def run(cluster: SimulatedCluster) -> None:
        for act in acts:
            act(cluster)

    return run


def until_seen(cluster: SimulatedCluster) -> None:
    """What was changed last has reached the launcher's watch."""
    version = cluster.kube.version
    cluster.kube.wait_for(lambda: cluster.kube.version > version + 1)  # two heartbeats


def not_yet(cluster: SimulatedCluster) -> None:
    until_seen(cluster)
    cluster.early += cluster.stub.pings


def failed(state: str, reason: str, message: str, code: int = 0) -> Scenario:
    info = {"reason": reason, "message": message, "exitCode": code}
    return lambda c: c.status(
        Ready="False", model={"transitionStatus": state, "lastFailureInfo": info}
    )


def crashes(c: SimulatedCluster) -> None:
    how = {"exitCode": 137, "reason": "OOMKilled"}
    c.pod(
        False,
        state={"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
        lastState={"terminated": how},
    )


def initializer_crashes(c: SimulatedCluster) -> None:
    pod = f"{c.name}-worker-0"
    c.kube.logs[pod] = Log(previous=["omnicore: s3://b/inputs/ab: nothing is published there"])
    states = {
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 2, "reason": "Error"}},
    }
    c.pod(False, phase="Pending", initContainerStatuses=[{"name": INITIALIZER, **states}])


def unschedulable(c: SimulatedCluster) -> None:
    c.kube.event(
        f"{c.name}-worker-0",
        "FailedScheduling",
        "0/3 nodes are available: 3 Insufficient nvidia.com/gpu",
    )
    scheduled = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "Insufficient nvidia.com/gpu",
    }
    c.pod(phase="Pending", conditions=[scheduled])


def gated(c: SimulatedCluster) -> None:
    c.pod(
        phase="Pending",
        conditions=[{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}],
    )


def pause(c: SimulatedCluster) -> None:
    """Longer than any patience that a scenario shortens."""
    threading.Event().wait(0.6)


def up(c: SimulatedCluster) -> None:
    c.pod()
    c.status()


def edit(c: SimulatedCluster) -> None:
    c.kube.change(
        PLURAL,
        c.name,
        lambda o: o["spec"]["predictor"]["model"].update(storageUri="s3://b/inputs/other"),
    )


def remade(c: SimulatedCluster) -> None:
    body = c.kube.created[0]
    c.kube.remove(PLURAL, c.name)
    c.kube.put(PLURAL, body)


def dies(c: SimulatedCluster) -> None:
    c.slow()
    c.stub.stop()
    c.kube.write_log(f"{c.name}-worker-0", "CUDA error: device-side assert triggered")
    how = {"exitCode": 137, "reason": "OOMKilled"}
    c.pod(False, state={"terminated": how})


def starts_late(c: SimulatedCluster) -> None:
    c.stub.stop()
    up(c)
    until_seen(c)
    c.stub.start()


def kill(number: int) -> Scenario:
    return lambda c: os.kill(os.getpid(), number)


def left_behind(kube: KubeServer, body: dict[str, Any], **changed: Any) -> None:
    """What an earlier try of the same step has left: it failed, so it is in the way."""
    kube.put(PLURAL, {**body, **changed})


FAILED = {"status": {"modelStatus": {"transitionStatus": "BlockedByFailedLoad"}}}
BLOCKED = failed("BlockedByFailedLoad", "ModelLoadFailed", "ValueError: 128 heads", 1)


def other_labels(body: dict[str, Any]) -> dict[str, Any]:
    return {**body["metadata"], "labels": {**body["metadata"]["labels"], names.RUN: "another"}}


def other_model(body: dict[str, Any]) -> dict[str, Any]:
    model = {**body["spec"]["predictor"]["model"], "storageUri": "s3://b/inputs/old/checkpoint"}
    return {"predictor": {**body["spec"]["predictor"], "model": model}}


def once(
    verb: str, resource: str, fault: Fault, times: int = 1
) -> Callable[[str, str, str, int], Fault | None]:
    return lambda v, r, name, seen: fault if (v, r) == (verb, resource) and seen < times else None
