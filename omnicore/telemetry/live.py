"""What a step tells Prometheus while it works, from wherever a figure arises, and once when it has
ended.

`working` names the step that this process works on, and serves its figures where OMNI_METRICS_PORT
names a port; `serving` serves from before a step to after it. `show`, `count` and `trained` set the
figures; where no step is at work they do nothing, so that whoever has a figure need not know who
listens. `push` sends the last ones to the Pushgateway that OMNI_PUSHGATEWAY names. Of the processes
of a training the first speaks for all.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, NamedTuple

from omnicore import processes
from omnicore.progress import observed_by
from omnicore.telemetry.metrics import Metrics
from omnicore.telemetry.step_metrics import set_training_metrics

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

PORT, HOST, GATEWAY = "OMNI_METRICS_PORT", "OMNI_METRICS_HOST", "OMNI_PUSHGATEWAY"
LOOPBACK = "127.0.0.1"  # a laptop's figures are nobody else's; a pod's HOST says 0.0.0.0
PATIENCE = 10.0  # seconds for the Pushgateway to answer


class _Work(NamedTuple):
    metrics: Metrics
    labels: dict[str, str]


_work: _Work | None = None
_serving = False


@contextmanager
def active_step(step: str, stage: str) -> Iterator[None]:
    """Within the block this process works on a step.

    One that fails is gone before anybody can ask it why: its last figures are
    pushed.
    """
    global _work
    if not processes.is_main():
        yield
        return
    _work = _Work(Metrics(), {"step": step, "stage": stage})
    try:
        with serve_metrics(), observed_by(lambda done: set_gauge("omni_step_progress_ratio", done)):
            yield
    except Exception:
        set_gauge("omni_step_succeeded", 0)
        push_metrics(_work.metrics, step, stage, replace=False)
        raise
    finally:
        _work = None


def set_gauge(name: str, value: float, **labels: str) -> None:
    """The present value of a gauge."""
    if _work:
        _work.metrics.set(name, value, **labels, **_work.labels)


def increment(name: str, more: float, **labels: str) -> None:
    """So many more of what a counter counts."""
    if _work:
        _work.metrics.add(name, more, **labels, **_work.labels)


def log_step(record: Mapping[str, Any]) -> None:
    """A record as `curves.jsonl` holds it, whole or not yet."""
    if _work:
        set_training_metrics(_work.metrics, record, _work.labels)
        for name in {"samples", "tokens"} & record.keys():
            increment(f"omni_{name}_total", record[name])


def push_metrics(metrics: Metrics, step: str, stage: str, *, replace: bool = True) -> None:
    """Sends figures to the Pushgateway, in place of all that it has of this step and stage, or only
    of those of the same names.

    No label names a run: the gateway forgets nothing. One that does not take them is a warning.
    """
    gateway = os.environ.get(GATEWAY)
    if not gateway or not processes.is_main():
        return
    from prometheus_client import push_to_gateway, pushadd_to_gateway

    send = push_to_gateway if replace else pushadd_to_gateway
    try:
        send(
            gateway,
            "omnicore",
            metrics.registry(),
            grouping_key={"step": step, "stage": stage},
            timeout=PATIENCE,
        )
    except (OSError, ValueError, HTTPException) as error:
        print(
            f"the metrics of {step} were not pushed to {gateway} ({GATEWAY}): {error}",
            file=sys.stderr,
            flush=True,
        )


class _Present:
    """The figures of the step that is at work, if any, as prometheus_client takes them from a
    collector."""

    def collect(self) -> Iterable[Family]:
        return _work.metrics.collect() if _work else ()


@contextmanager
def serve_metrics() -> Iterator[None]:
    """Serve /metrics within the block.

    Inside another such block it does nothing.     Around the fetching of inputs and the publishing
    of a result it keeps the pod's target up, with no figures: a target that is     down is a
    process that hangs or is lost.
    """
    global _serving
    port, host = os.environ.get(PORT), os.environ.get(HOST, LOOPBACK)
    if not port or _serving or not processes.is_main():
        yield
        return
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(_Present())
    try:
        server, thread = start_http_server(int(port), host, registry)
    except (OSError, ValueError, OverflowError) as error:  # no work fails for who watches it
        print(f"no metrics at {host}:{port} ({PORT}): {error}", file=sys.stderr, flush=True)
        yield
        return
    print(f"metrics at http://{host}:{server.server_port}/metrics", file=sys.stderr, flush=True)
    _serving = True
    try:
        yield
    finally:
        _serving = False
        server.shutdown()
        server.server_close()
        thread.join()
