"""One job that this process creates, keeps alive and deletes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from omnicore.cluster import timeouts
from omnicore.cluster.client import Cluster
from omnicore.cluster.job_state import JobState
from omnicore.cluster.names import HEARTBEAT, KEY, KINDS, PODS, RUN, STEP, Kind, timestamp
from omnicore.cluster.retry import error_message
from omnicore.cluster.watch import Watcher
from omnicore.errors import ClusterError, ConfigError, OmniError

logger = logging.getLogger(__name__)


class Job(JobState):
    """A job with its launcher: created or adopted, kept alive by heartbeats, deleted at the end."""

    def __init__(
        self, cluster: Cluster, kind: Kind, body: Mapping[str, Any], deadline: float
    ) -> None:
        """Prepare a job; arguments as of `JobState`."""
        super().__init__(cluster, kind, body, deadline)
        self._ended = threading.Event()
        # Whether a job of ours may exist although its uid is unknown.
        self._may_exist = True

    def start(self) -> None:
        """Create or adopt the job, then start its heartbeat and the watches.

        Raises:
            ConfigError: Another run's object has the name, or the cluster lacks the kind or rights.
            ClusterError: The cluster refuses, or an earlier job of that name is not deleted in
                time.
        """
        deleting_since: float | None = None
        while not self.uid:
            existing = self._create_or_get()
            if existing is None:
                continue  # created, or deleted in between
            self._refuse_foreign(existing)
            if existing["metadata"].get("deletionTimestamp"):
                deleting_since = deleting_since or time.monotonic()
                self._wait_for_deletion(deleting_since)
            elif self.failure_reason(existing):
                # Left by an earlier try: adopting it would fail every retry of the step.
                self._delete(existing["metadata"]["uid"])
            else:
                self._take(existing, "exists already; adopted by this process")
        threading.Thread(target=self._send_heartbeats, name="heartbeat", daemon=True).start()
        own_item = {"fieldSelector": f"metadata.name={self.name}"}
        for resource, selector in ((self.resource, own_item), (PODS, self.pod_selector)):
            watcher = Watcher(self.cluster, resource, self._events, selector)
            self._watchers.append(watcher)
            watcher.start()

    def discard(self) -> None:
        """Delete the job and its pods, unless it is gone or another object has taken its name."""
        uid = self.uid
        try:
            if not uid and self._may_exist:
                # Cancelled during the creation: the object may exist all the same.
                existing = self.cluster.get(self.resource, self.name)
                if existing and self._is_ours(existing):
                    uid = existing["metadata"]["uid"]
            if uid:
                self._delete(uid, retry_refusals=True)
        except (OmniError, ApiException) as error:
            logger.warning(
                "%s %s could not be deleted; `omnicore cluster reap` will delete it: %s",
                self.noun,
                self.name,
                error,
            )

    def discard_now(self) -> None:
        """Send one DELETE before anything else happens."""
        if self.uid:
            with suppress(ApiException, HTTPError, OmniError):
                self.cluster.delete_now(self.resource, self.name, self.uid)

    def close(self) -> None:
        """Stop the threads after the last lines of the logs."""
        self._ended.set()
        for watcher in self._watchers:
            watcher.stopped.set()
        limit = time.monotonic()
        if self.has_succeeded() or self.failure_reason(self.item):
            limit += min(timeouts.LOG_DRAIN, timeouts.CLEANUP)
        for follower in self._followers.values():
            follower.ended.set()
        for follower in self._followers.values():
            follower.join(max(0.0, limit - time.monotonic()))
            follower.stopped.set()
        self._progress.close()

    def _delete(self, uid: str, *, retry_refusals: bool = False) -> None:
        self.cluster.delete(
            self.resource,
            self.name,
            retry_for=timeouts.CLEANUP,
            uid=uid,
            retry_refusals=retry_refusals,
        )

    def _wait_for_deletion(self, since: float) -> None:
        if time.monotonic() - since > timeouts.CLEANUP:
            raise ClusterError(
                f"{self.noun} {self.name} is being deleted and does not disappear: look at its"
                " finalizers, then re-run",
                code="job-deletion-stuck",
            )
        time.sleep(timeouts.FIRST_RETRY)

    def _body_with_heartbeat(self) -> dict[str, Any]:
        metadata = dict(self.body["metadata"])
        metadata["annotations"] = {**metadata.get("annotations", {}), HEARTBEAT: timestamp()}
        return {**self.body, "metadata": metadata}

    def _create_or_get(self) -> dict[str, Any] | None:
        """Create the job, or return the object that has its name.

        A refusal ends the launcher only where no such object exists: the answer to an earlier try
        may have been lost, and a quota also refuses an object that exists.
        """
        refusal: ApiException | ConfigError
        try:
            self._take(self.cluster.create(self.resource, self._body_with_heartbeat()), "created")
            return None
        except (ApiException, ConfigError) as error:
            refusal = error
        name_taken = isinstance(refusal, ApiException) and refusal.status == 409
        try:
            existing = self.cluster.get(self.resource, self.name)
        except (ConfigError, ClusterError):
            if name_taken:
                self._may_exist = False
                raise
            existing = None
        if existing is None and not name_taken:
            self._may_exist = False
            if isinstance(refusal, ConfigError):
                raise refusal
            raise self._creation_error(refusal) from refusal
        return existing

    def _take(self, item: dict[str, Any], how: str) -> None:
        """Store the object as this process's own."""
        self.item, self.uid = item, item["metadata"]["uid"]
        self._log_once("launcher", how)

    def _creation_error(self, error: ApiException) -> OmniError:
        if error.status == 404:
            return ConfigError(
                f"this cluster has no {self.resource.full_name}, or no namespace"
                f" {self.cluster.namespace}: {self._missing_kind_remedy()}",
                code="cluster-kind-missing",
                field="launcher.kind",
            )
        return ClusterError(
            f"the cluster refused {self.noun} {self.name}: {error_message(error)}",
            code="job-refused",
        )

    def _missing_kind_remedy(self) -> str:
        others = [name for name, kind in KINDS.items() if kind != self.kind]
        return (
            f"install the operator of {self.kind.kind}, or set launcher.kind to"
            f" {' or '.join(others)}"
        )

    def _is_ours(self, item: Mapping[str, Any]) -> bool:
        """Return whether an object has the labels of this run, step and key."""
        found, wanted = item["metadata"].get("labels") or {}, self.body["metadata"]["labels"]
        return all(found.get(name) == wanted[name] for name in (RUN, STEP, KEY))

    def _refuse_foreign(self, item: Mapping[str, Any]) -> None:
        if not self._is_ours(item):
            self._may_exist = False
            raise ConfigError(
                f"{self.kind.kind} {self.name} exists in namespace {self.cluster.namespace} and"
                " belongs to another run or step (its labels:"
                f" {item['metadata'].get('labels') or {}}): delete it, or rename the run",
                code="job-name-taken",
            )

    def _send_heartbeats(self) -> None:
        """Tell `omnicore cluster reap` that a launcher looks after the job."""
        while not self._ended.wait(timeouts.HEARTBEAT_INTERVAL):
            # A lost heartbeat does no harm: reap waits for many.
            with suppress(ApiException, HTTPError, OmniError):
                annotations = {HEARTBEAT: timestamp()}
                self.cluster.annotate(self.resource, self.name, self.uid, annotations)
