"""Queue of events about objects on a cluster; it survives dropped streams and expired versions."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from omnicore.cluster import timeouts
from omnicore.cluster.client import Cluster
from omnicore.cluster.names import Resource
from omnicore.cluster.retry import Backoff

GONE = 410
HEALTHY_STREAM = 10.0  # seconds after which the end of a stream is not a fault


@dataclass(frozen=True)
class Listed:
    """All objects there are now; a missing one was deleted, even if its event was missed."""

    resource: Resource
    items: list[dict[str, Any]]


@dataclass(frozen=True)
class Changed:
    """One event: ADDED, MODIFIED, or DELETED with the object as it last was."""

    resource: Resource
    event_type: str
    item: dict[str, Any]


@dataclass(frozen=True)
class WatchFault:
    """The cluster neither lists nor watches; `fatal` after OUTAGE seconds without a list."""

    resource: Resource
    error: Exception
    fatal: bool


Event = Listed | Changed | WatchFault


class Watcher(threading.Thread):
    """Thread that lists objects, then watches from the list's version.

    A stream that the server ends continues from the last version seen. After any fault all objects
    are listed anew, so no change is missed; where watching is refused, the lists alone report.
    Every refusal is retried: the objects exist, so a refusal comes from a server that restarts or a
    right that is being replaced.
    """

    def __init__(
        self,
        cluster: Cluster,
        resource: Resource,
        events: SimpleQueue[Event],
        selectors: dict[str, str],
    ) -> None:
        """Create a watcher that puts the events of the selected objects into a queue."""
        super().__init__(name=f"watch-{resource.plural}", daemon=True)
        self._cluster, self._resource = cluster, resource
        self._events, self._selectors = events, selectors
        self._fault_reported = False
        self.stopped = threading.Event()
        # When the first of the current series of failed lists was refused.
        self.unreachable_since: float | None = None

    def run(self) -> None:
        """Watch until `stopped` is set or an outage lasts too long."""
        try:
            self._watch_until_stopped()
        except Exception as bug:
            # Without this the launcher would wait for a thread that has died.
            self._events.put(WatchFault(self._resource, bug, fatal=True))
            raise

    def _watch_until_stopped(self) -> None:
        backoff, version = Backoff(), ""
        while not self.stopped.is_set():
            error: Exception | None = None
            opened = time.monotonic()
            try:
                if not version:
                    items, version = self._cluster.list_once(self._resource, self._selectors)
                    self.unreachable_since = None
                    self._events.put(Listed(self._resource, items))
                for event_type, item in self._cluster.watch(
                    self._resource, version, self._selectors
                ):
                    version = item["metadata"]["resourceVersion"]
                    backoff.reset()
                    self._fault_reported = False
                    if event_type != "BOOKMARK":
                        self._events.put(Changed(self._resource, event_type, item))
                    if self.stopped.is_set():
                        return
            except (ApiException, HTTPError) as caught:
                if self._report_fault(caught, listing=not version):
                    return
                error, version = caught, ""
            if error is None and time.monotonic() - opened > HEALTHY_STREAM:
                backoff.reset()
                self._fault_reported = False
            self.stopped.wait(backoff.next(error))

    def _report_fault(self, error: ApiException | HTTPError, *, listing: bool) -> bool:
        """Report a fault once; return whether the outage has lasted too long."""
        clock = time.monotonic()
        fatal = False
        if listing:
            self.unreachable_since = self.unreachable_since or clock
            fatal = clock - self.unreachable_since > timeouts.OUTAGE
        # A stream often breaks or expires, and the next list repairs it: not worth a report.
        refused = isinstance(error, ApiException) and error.status != GONE
        worth_reporting = (listing or refused) and not self._fault_reported
        if fatal or worth_reporting:
            self._events.put(WatchFault(self._resource, error, fatal))
            self._fault_reported = True
        return fatal
