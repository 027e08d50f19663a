"""Logs of a job's pods: followed line by line without repeats; progress read out of them."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import ExitStack, suppress

from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from omnicore.cluster.client import Cluster
from omnicore.cluster.retry import Backoff, error_message, is_missing
from omnicore.progress import LINE, Progress, track

TAIL = 30  # lines of a failed container that an error shows
OVERLAP = (
    600  # seconds before the last line seen that are read again, so that no late one is missed
)


def print_line(line: str) -> None:
    """Print a whole line in one write, since threads of several pods print at the same time."""
    print(f"{line}\n", end="", flush=True)


class LogFollower(threading.Thread):
    """Thread that passes each line of a container's log to a callback once.

    Lines are identified by their whole text with its time stamp and never by comparing times:
    clocks of nodes are skewed and set back, and many lines share a time. After a reconnect the
    lines of the last minutes come again, and as many of each as were seen before are skipped.
    """

    def __init__(
        self, cluster: Cluster, pod: str, container: str, show: Callable[[str, str], None]
    ) -> None:
        """Create a follower.

        Args:
            cluster: The cluster.
            pod: Name of the pod.
            container: Name of the container.
            show: Called with the pod and each line.
        """
        super().__init__(name=f"log-{pod}", daemon=True)
        self.pod, self.container = pod, container
        # Set when the container has ended: the end of a stream is then the end of the log.
        self.ended = threading.Event()
        self.stopped = threading.Event()
        self.tail: deque[str] = deque(maxlen=TAIL)
        self._cluster, self._show = cluster, show
        self._seen: Counter[str] = Counter()
        self._repeats: Counter[str] = Counter()
        self._last_line: float | None = None
        self._refusal_shown = False
        self._backoff = Backoff()

    def run(self) -> None:
        """Follow the log until the container has ended and its last line is shown."""
        while not self.stopped.is_set():
            ended = self.ended.is_set()
            # Lines seen so far come again over the new stream.
            self._repeats, self._seen = self._seen, Counter()
            error: Exception | None = None
            try:
                self._read_stream()
            except (ApiException, HTTPError) as caught:
                if isinstance(caught, ApiException):
                    if is_missing(caught):
                        return  # the pod and its log are gone
                    if caught.status in {401, 403}:
                        self._show_refusal(caught)
                        if ended:
                            return
                error = caught
                self._seen += self._repeats  # the stream dropped before these came again
            if self.stopped.is_set() or (ended and error is None):
                return
            if ended:
                time.sleep(self._backoff.next(error))
            else:
                self.ended.wait(self._backoff.next(error))

    def _read_stream(self) -> None:
        query: dict[str, int] = {}
        if self._last_line is not None:
            query["sinceSeconds"] = int(time.monotonic() - self._last_line) + OVERLAP
        for line in self._cluster.log(
            self.pod, container=self.container, follow=True, timestamps=True, **query
        ):
            self._last_line = time.monotonic()
            self._seen[line] += 1
            if self._repeats[line] > 0:
                self._repeats[line] -= 1
                continue
            self._backoff.reset()
            text = line.partition(" ")[2]
            self.tail.append(text)
            self._show(self.pod, text)
            if self.stopped.is_set():
                return

    def _show_refusal(self, error: ApiException) -> None:
        if not self._refusal_shown:
            self._show(self.pod, f"its log cannot be read for now: {error_message(error)}")
        self._refusal_shown = True


def last_lines(cluster: Cluster, pod: str, container: str) -> list[str]:
    """Return the last lines of a container that has ended, as far as the cluster still has them.

    A restarted container has the lines of its last life in `previous`.
    """
    for previous in (False, True):
        with suppress(ApiException, HTTPError):
            lines = list(cluster.log(pod, container=container, tailLines=TAIL, previous=previous))
            if lines:
                return lines
    return []


class JobProgress:
    """The job's progress, read from its log and shown as this process's own.

    One thread for each pod calls it.
    """

    def __init__(self) -> None:
        """Start without progress."""
        self._lock, self._stack = threading.Lock(), ExitStack()
        self._current: Progress | None = None

    def read_line(self, text: str) -> bool:
        """Show a line of progress; return whether the line was one."""
        if not text.startswith(LINE):
            return False
        with suppress(ValueError, KeyError, TypeError), self._lock:
            record = json.loads(text.removeprefix(LINE))
            label, total, done = str(record["label"]), int(record["total"]), int(record["done"])
            current = self._current
            if current is None or (current.label, current.total) != (label, total):
                self._stack.close()
                current = self._current = self._stack.enter_context(track(total, label))
            # A job that restarts from a checkpoint falls back: the advance is then negative.
            current.advance(done - current.done, **record["facts"])
        return True

    def close(self) -> None:
        """End the shown progress."""
        with self._lock:
            self._stack.close()
