"""A small Kubernetes API server for tests: objects with versions, watches, pod logs, faults.

It serves HTTP on 127.0.0.1 and does what breaks real clients: creation with fieldValidation=Strict is checked against
upstream's schemas, a strategic merge patch of a custom resource gets 415, a watch from a version
that was compacted gets 410, deletion obeys preconditions and takes the pods along, a log of a
container that has not started gets 400. Tests simulate the operator and the kubelet: `put`, `change`,
`pod`, `say`.
"""

from __future__ import annotations

import copy
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from typing import Any, Self

import yaml

from omnicore.cluster.names import Resource
from tests.kube_handler import Handler, stamp

NAMESPACE = "team"
SERVED = frozenset({"pytorchjobs", "trainjobs", "inferenceservices", "workflows", "pods", "events"})


def rights(*verbs: Iterable[tuple[Resource, str]]) -> set[tuple[str, str, str]]:
    """The (group, resource, verb) of `VERBS`, as `KubeServer.calls` records them."""
    return {(resource.group, resource.plural, verb) for resource, verb in chain(*verbs)}


@dataclass(frozen=True)
class Fault:
    """Replacement of a request's answer.

    `reset`: the connection is closed; `after`: only once the work is done, as when an answer is
    lost; `plain`: text in place of a `Status`; `hold`: the answer waits for an event; `cut`: a
    stream breaks after as many lines.
    """

    status: int = 500
    message: str = "as the test wants it"
    plain: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    reset: bool = False
    after: bool = False
    hold: threading.Event | None = None
    cut: int | None = None


@dataclass
class Log:
    """Lines of one container with the kubelet's time stamps; `skew` is how far the node's clock is
    ahead, in seconds."""

    lines: list[tuple[float, str]] = field(default_factory=list)
    ended: bool = False
    started: bool = True
    skew: float = 0.0
    previous: list[str] = field(default_factory=list)


class KubeServer:
    """Serves while the context is open.

    `fault(verb, resource, name, seen)` may give a request a `Fault`; `seen` counts how often the
    same was asked before. `calls` are the (group, resource, verb) that were asked.
    """

    def __init__(
        self,
        fault: Callable[[str, str, str, int], Fault | None] = lambda verb, resource, name, seen: (
            None
        ),
    ) -> None:
        self.fault = fault
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.history: list[tuple[int, str, str, dict[str, Any]]] = []
        self.version, self.compacted = 100, 0
        self.logs: dict[str, Log] = {}
        self.calls: set[tuple[str, str, str]] = set()
        self.requests: list[tuple[str, str, str]] = []  # verb, resource, name in their order
        self.created: list[dict[str, Any]] = []
        self.queries: list[tuple[str, str, dict[str, str]]] = []
        self.forbidden: set[tuple[str, str]] = set()
        self.served = SERVED
        self.epoch = 0  # raised to drop all streams
        self.change_made = threading.Condition(threading.RLock())

    def __enter__(self) -> Self:
        self.http = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("BoundHandler", (Handler,), {"kube": self})
        )
        self.http.daemon_threads = True
        self.http.block_on_close = False
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.drop_streams()
        self.http.shutdown()
        self.http.server_close()

    def kubeconfig(self, path: Path) -> Path:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [
                {
                    "name": "test",
                    "context": {"cluster": "test", "user": "test", "namespace": NAMESPACE},
                }
            ],
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "test", "user": {"token": "t"}}],
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def wait_for(self, condition: Callable[[], Any], seconds: float = 30) -> Any:
        """Return the value of `condition` once it is true; it is checked after every change."""
        limit = time.monotonic() + seconds
        with self.change_made:
            while not (found := condition()):
                assert time.monotonic() < limit, "the test's operator waited too long"
                self.change_made.wait(0.05)
            return found

    def get(self, plural: str, name: str) -> dict[str, Any] | None:
        with self.change_made:
            return copy.deepcopy(self.objects.get((plural, name)))

    def all(self, plural: str) -> list[dict[str, Any]]:
        with self.change_made:
            return [
                copy.deepcopy(found) for (kind, _), found in self.objects.items() if kind == plural
            ]

    def count(self, verb: str, resource: str) -> int:
        return sum(1 for asked in self.requests if asked[:2] == (verb, resource))

    def put(self, plural: str, found: dict[str, Any]) -> dict[str, Any]:
        """Create an object with a new uid."""
        with self.change_made:
            made = copy.deepcopy(found)
            made["metadata"] |= {"uid": str(uuid.uuid4()), "namespace": NAMESPACE}
            made["metadata"].setdefault("creationTimestamp", stamp(time.time())[:19] + "Z")
            self.objects[plural, made["metadata"]["name"]] = made
            self._record(plural, "ADDED", made)
            return copy.deepcopy(made)

    def change(self, plural: str, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        with self.change_made:
            found = self.objects[plural, name]
            change(found)
            self._record(plural, "MODIFIED", found)

    def remove(self, plural: str, name: str) -> None:
        """Delete an object, then the pods of a job."""
        with self.change_made:
            self._record(plural, "DELETED", self.objects.pop((plural, name)))
            for kind, pod in list(self.objects):
                if kind == "pods" and plural.endswith("jobs") and pod.startswith(f"{name}-"):
                    self.logs.setdefault(pod, Log()).ended = True
                    self._record("pods", "DELETED", self.objects.pop((kind, pod)))

    def condition(
        self,
        plural: str,
        name: str,
        kind: str,
        status: str = "True",
        reason: str = "Because",
        message: str = "",
    ) -> None:
        """Set one condition of an object's status; keep the others."""

        def apply(found: dict[str, Any]) -> None:
            others = [
                c for c in found.setdefault("status", {}).get("conditions", []) if c["type"] != kind
            ]
            found["status"]["conditions"] = [
                *others,
                {"type": kind, "status": status, "reason": reason, "message": message},
            ]

        self.change(plural, name, apply)

    def pod(
        self, job: str, label: str, index: int = 0, container: str = "pytorch", **status: Any
    ) -> str:
        """Create or change a pod of a job; `state` and `lastState` are those of its container."""
        name = f"{job}-worker-{index}"
        state = {key: status.pop(key) for key in ("state", "lastState") if key in status}
        whole = (
            {**status, "containerStatuses": [{"name": container, "restartCount": 0, **state}]}
            if state
            else status
        )
        with self.change_made:
            self.logs.setdefault(name, Log())
            if ("pods", name) in self.objects:
                self.change("pods", name, lambda pod: pod.update(status=whole))
            else:
                self.put(
                    "pods", {"metadata": {"name": name, "labels": {label: job}}, "status": whole}
                )
        return name

    def event(self, name: str, reason: str, message: str, kind: str = "Pod") -> None:
        metadata = {"name": f"{name}.{uuid.uuid4().hex[:8]}"}
        fields = {
            "type": "Warning",
            "reason": reason,
            "message": message,
            "lastTimestamp": stamp(time.time())[:19] + "Z",
        }
        self.put(
            "events",
            {"metadata": metadata, "involvedObject": {"kind": kind, "name": name}, **fields},
        )

    def write_log(self, pod: str, *lines: str, at: float | None = None) -> None:
        with self.change_made:
            log = self.logs.setdefault(pod, Log())
            log.lines += [((time.time() if at is None else at) + log.skew, line) for line in lines]
            self.change_made.notify_all()

    def end_log(self, pod: str) -> None:
        with self.change_made:
            self.logs[pod].ended = True
            self.change_made.notify_all()

    def drop_streams(self) -> None:
        """Break every open watch and log in the middle."""
        with self.change_made:
            self.epoch += 1
            self.change_made.notify_all()

    def compact(self) -> None:
        """Forget all events so far: an older watch gets 410."""
        with self.change_made:
            self.history, self.compacted = [], self.version
            self.change_made.notify_all()

    def _record(self, plural: str, how: str, found: dict[str, Any]) -> None:
        self.version += 1
        found["metadata"]["resourceVersion"] = str(self.version)
        self.history.append((self.version, plural, how, copy.deepcopy(found)))
        self.change_made.notify_all()
