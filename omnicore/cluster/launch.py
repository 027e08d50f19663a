"""Run a job from its creation to its end.

`run_job` returns only for a job that has succeeded, and leaves no job running. Three things stop
the GPUs of a job whose launcher is gone: the DELETE that SIGTERM sends at once (Argo gives a
cancelled step less than a second), the job's own deadline, and `omnicore cluster reap`, which looks
at the heartbeat.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from omnicore.cluster.client import Cluster
from omnicore.cluster.job import Job
from omnicore.cluster.job_state import JobFailed
from omnicore.cluster.names import KINDS, Kind, Resource, launch_verbs

logger = logging.getLogger(__name__)
# All rights that a launcher needs and that its role must grant; `run_job` of one kind needs no
# rights on the other.
VERBS: frozenset[tuple[Resource, str]] = frozenset().union(
    *(launch_verbs(kind.resource) for kind in KINDS.values())
)


def run_job(
    cluster: Cluster,
    kind: Kind,
    body: Mapping[str, Any],
    *,
    deadline: float,
    keep_on_failure: bool = False,
) -> None:
    """Create a job, or adopt the same one, and return when it has succeeded.

    Lines of its pods are printed as they come, and its progress is shown as this process's own. At
    the end the job is deleted. Once the job exists, refusals are retried for OUTAGE seconds.
    SIGTERM deletes the job and raises SystemExit.

    Args:
        cluster: The cluster.
        kind: Kind of the job.
        body: The object.
        deadline: Seconds from when it first runs.
        keep_on_failure: Keep a failed job until its TTL ends.

    Raises:
        ClusterError: The job failed, cannot start, was deleted or replaced, or the cluster does
            not answer; with all that is known of it.
        ConfigError: Another run's object has the name, or the cluster lacks the kind or rights.
    """
    job = Job(cluster, kind, body, deadline)
    keep = False
    with delete_on_sigterm(job):
        try:
            job.start()
            job.wait()
        except JobFailed:
            keep = keep_on_failure
            raise
        finally:
            try:
                job.close()
            finally:
                # Also when a signal comes while the last lines are awaited.
                if keep:
                    logger.info(
                        "job %s is kept: kubectl describe %s %s",
                        job.name,
                        kind.resource.plural,
                        job.name,
                    )
                else:
                    job.discard()


@contextmanager
def delete_on_sigterm(job: Job) -> Iterator[None]:
    """Let SIGTERM delete the job at once and end this process while the block runs."""
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread receives signals.
        yield
        return

    def delete_and_exit(number: int, frame: object) -> None:  # noqa: ARG001
        job.discard_now()
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, delete_and_exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
