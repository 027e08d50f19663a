"""Logs of a job's pods: followed line by line, without repeats over reconnects; progress read out
of them."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import ExitStack, suppress

from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from omnicore.cluster.client import Cluster, Waits, absent, said
from omnicore.progress import LINE, Progress, track

TAIL = 30  # lines of a failed container that an error shows
# Read again before the last line seen, so that no late one is missed.
OVERLAP = 600


class Follower(threading.Thread):
    """Hands each line of a container's log to `take`, once, until the container has ended and its
    last line is there.

    Which lines were seen is known by their whole text with its time stamp, never by comparing
    times: clocks of nodes are skewed and set back, and many lines share a time. After a reconnect
    the lines of the last minutes come again, and as many of each as were seen before are passed
    over.
    """

    def __init__(
        self, cluster: Cluster, pod: str, container: str, take: Callable[[str, str], None]
    ) -> None:
        super().__init__(name=f"log-{pod}", daemon=True)
        self.pod, self.container = pod, container
        self.ended = (
            threading.Event()
        )  # set when the container has ended: then a stream's end is the end of the log
        self.stopped = threading.Event()
        self.tail: deque[str] = deque(maxlen=TAIL)
        self._cluster, self._take = cluster, take
        self._seen: Counter[str] = Counter()

    def run(self) -> None:
        waits, last, refused = Waits(self._cluster.times), None, False
        while not self.stopped.is_set():
            since: dict[str, int] = (
                {} if last is None else {"sinceSeconds": int(time.monotonic() - last) + OVERLAP}
            )
            over = self.ended.is_set()
            again, self._seen = self._seen, Counter()
            error: Exception | None = None
            try:
                for line in self._cluster.log(
                    self.pod, container=self.container, follow=True, timestamps=True, **since
                ):
                    last = time.monotonic()
                    self._seen[line] += 1
                    if again[line] > 0:
                        again[line] -= 1
                        continue
                    waits.reset()
                    text = line.partition(" ")[2]
                    self.tail.append(text)
                    self._take(self.pod, text)
                    if self.stopped.is_set():
                        return
            except (ApiException, HTTPError) as caught:
                if isinstance(caught, ApiException) and absent(caught):
                    return  # the pod is gone, and its log with it
                if isinstance(caught, ApiException) and caught.status in {401, 403}:
                    if not refused:
                        self._take(self.pod, f"its log cannot be read for now: {said(caught)}")
                    if over:
                        return
                    refused = True
                error = caught
                self._seen += again  # not come again yet, since the stream dropped
            if over and error is None:
                return
            self.ended.wait(waits.next(error)) if not over else time.sleep(waits.next(error))


def tail(cluster: Cluster, pod: str, container: str) -> list[str]:
    """The last lines of a container that has ended, as far as the cluster still has them; one that
    restarts has those of its last life in `previous`."""
    for previous in (False, True):
        with suppress(ApiException, HTTPError):
            lines = list(cluster.log(pod, container=container, tailLines=TAIL, previous=previous))
            if lines:
                return lines
    return []


class JobProgress:
    """The job's own progress, out of the progress lines of its log, shown as this process's own.

    Called by one thread a pod.
    """

    def __init__(self) -> None:
        self._lock, self._stack = threading.Lock(), ExitStack()
        self._now: Progress | None = None

    def read(self, text: str) -> bool:
        """Whether a line was one of progress."""
        if not text.startswith(LINE):
            return False
        with suppress(ValueError, KeyError, TypeError), self._lock:
            told = json.loads(text.removeprefix(LINE))
            label, total, done = str(told["label"]), int(told["total"]), int(told["done"])
            if self._now is None or (self._now.label, self._now.total) != (label, total):
                self._stack.close()
                self._now = self._stack.enter_context(track(total, label))
            # A job that restarted from a checkpoint falls back: the step is then negative.
            self._now.advance(done - self._now.done, **told["facts"])
        return True

    def close(self) -> None:
        with self._lock:
            self._stack.close()
