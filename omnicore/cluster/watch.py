"""What happens to objects on a cluster, as a queue of events that survives dropped streams and expired versions."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from omnicore.cluster.client import BUSY, Cluster, Waits
from omnicore.cluster.names import Resource
from omnicore.errors import OmniError

GONE = 410
LONG = 10.0  # seconds after which a stream has been a stream, and its end no fault


@dataclass(frozen=True)
class Listed:
    """All objects there are now: one that is missing was deleted, whether or not its event was seen."""

    resource: Resource
    items: list[dict[str, Any]]


@dataclass(frozen=True)
class Changed:
    """One event; `how` is ADDED, MODIFIED or DELETED, the last with the object as it was."""

    resource: Resource
    how: str
    item: dict[str, Any]


@dataclass(frozen=True)
class Broken:
    """The watch is over: no further try can mend it."""

    error: Exception


Event = Listed | Changed | Broken


class Watcher(threading.Thread):
    """Lists, then watches from the list's version. A stream that the server ends goes on from the last version seen; after any
    fault (410 the version is too old, 429 and 5xx, a dropped connection) all is listed anew, so that nothing is missed."""

    def __init__(self, cluster: Cluster, resource: Resource, events: SimpleQueue[Event], selectors: dict[str, str]) -> None:
        super().__init__(name=f"watch-{resource.plural}", daemon=True)
        self._cluster, self._resource, self._events, self._selectors = cluster, resource, events, selectors
        self.stopped = threading.Event()

    def run(self) -> None:
        waits, version = Waits(self._cluster.times), ""
        while not self.stopped.is_set():
            error: Exception | None = None
            opened = time.monotonic()
            try:
                if not version:
                    items, version = self._cluster.list(self._resource, self._selectors)
                    self._events.put(Listed(self._resource, items))
                for how, item in self._cluster.watch(self._resource, version, self._selectors):
                    version = item["metadata"]["resourceVersion"]
                    waits.reset()
                    if how != "BOOKMARK":
                        self._events.put(Changed(self._resource, how, item))
                    if self.stopped.is_set():
                        return
            except ApiException as caught:
                if caught.status not in BUSY | {GONE}:
                    self._events.put(Broken(caught))
                    return
                error, version = caught, ""
            except HTTPError as caught:
                error, version = caught, ""
            except OmniError as caught:
                self._events.put(Broken(caught))
                return
            if error is None and time.monotonic() - opened > LONG:
                waits.reset()
            self.stopped.wait(waits.next(error))
