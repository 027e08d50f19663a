"""What happens to objects on a cluster, as a queue of events that survives dropped streams and
expired versions."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from omnicore.cluster.client import Cluster, Waits
from omnicore.cluster.names import Resource

GONE = 410
LONG = 10.0  # seconds after which a stream has been a stream, and its end no fault


@dataclass(frozen=True)
class Listed:
    """All objects there are now: one that is missing was deleted, whether or not its event was
    seen."""

    resource: Resource
    items: list[dict[str, Any]]


@dataclass(frozen=True)
class Changed:
    """One event; `how` is ADDED, MODIFIED or DELETED, the last with the object as it was."""

    resource: Resource
    how: str
    item: dict[str, Any]


@dataclass(frozen=True)
class Unheard:
    """The cluster does not list or does not watch for now.

    `over`: it has listed nothing for the whole of an outage.
    """

    resource: Resource
    error: Exception
    over: bool


Event = Listed | Changed | Unheard


class Watcher(threading.Thread):
    """Lists, then watches from the list's version.

    A stream that the server ends goes on from the last version seen; after any fault all is listed anew, so that nothing is missed, and where no watch is had the lists alone tell what happens.

    Every refusal is retried: the objects exist, so one comes from a server that rolls or a right that is being replaced.
    """

    def __init__(
        self,
        cluster: Cluster,
        resource: Resource,
        events: SimpleQueue[Event],
        selectors: dict[str, str],
    ) -> None:
        super().__init__(name=f"watch-{resource.plural}", daemon=True)
        self._cluster, self._resource, self._events, self._selectors = (
            cluster,
            resource,
            events,
            selectors,
        )
        self._told = False
        self.stopped = threading.Event()
        self.deaf_since: float | None = (
            None  # when the first of the lists was refused that none has followed
        )

    def run(self) -> None:
        try:
            self._listen()
        except Exception as bug:  # a thread that died in silence would leave its launcher waiting
            self._events.put(Unheard(self._resource, bug, over=True))
            raise

    def _listen(self) -> None:
        waits, version = Waits(self._cluster.times), ""
        while not self.stopped.is_set():
            error: Exception | None = None
            opened = time.monotonic()
            try:
                if not version:
                    items, version = self._cluster.list_once(self._resource, self._selectors)
                    self.deaf_since = None
                    self._events.put(Listed(self._resource, items))
                for how, item in self._cluster.watch(self._resource, version, self._selectors):
                    version = item["metadata"]["resourceVersion"]
                    waits.reset()
                    self._told = False
                    if how != "BOOKMARK":
                        self._events.put(Changed(self._resource, how, item))
                    if self.stopped.is_set():
                        return
            except (ApiException, HTTPError) as caught:
                if self._fault(caught, listing=not version):
                    return
                error, version = caught, ""
            if error is None and time.monotonic() - opened > LONG:
                waits.reset()
                self._told = False
            self.stopped.wait(waits.next(error))

    def _fault(self, error: ApiException | HTTPError, *, listing: bool) -> bool:
        """Report a fault once; return whether the outage has lasted too long."""
        clock = time.monotonic()
        if listing:
            self.deaf_since = self.deaf_since or clock
        over = listing and clock - (self.deaf_since or clock) > self._cluster.times.outage
        # A stream that breaks or expires is common, and the next list mends it.
        if over or (
            not self._told
            and (listing or (isinstance(error, ApiException) and error.status != GONE))
        ):
            self._events.put(Unheard(self._resource, error, over))
            self._told = True
        return over
