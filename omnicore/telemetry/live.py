"""Metrics of the running step, served to Prometheus and pushed when the step ends.

`active_step` marks the step that this process executes and serves its metrics on the port in
OMNI_METRICS_PORT; `serve_metrics` keeps the port open before and after a step. `set_gauge`,
`increment` and `log_step` update the metrics; without an active step they do nothing, so code that
has a value to report needs no other condition. `push_metrics` sends the last values to the
Pushgateway in OMNI_PUSHGATEWAY. In a distributed training only rank 0 reports.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, NamedTuple

from omnicore import processes
from omnicore.progress import observed_by
from omnicore.telemetry.metrics import Metrics
from omnicore.telemetry.step_metrics import set_training_metrics

if TYPE_CHECKING:
    from prometheus_client.core import Metric as MetricFamily

logger = logging.getLogger(__name__)

# Environment variables.
PORT, HOST, GATEWAY = "OMNI_METRICS_PORT", "OMNI_METRICS_HOST", "OMNI_PUSHGATEWAY"
LOOPBACK = "127.0.0.1"  # default host: a laptop serves only itself; a pod sets HOST to 0.0.0.0
PUSH_TIMEOUT = 10.0  # seconds


class _ActiveStep(NamedTuple):
    metrics: Metrics
    labels: dict[str, str]


_active: _ActiveStep | None = None
_serving = False


@contextmanager
def active_step(step: str, stage: str) -> Iterator[None]:
    """Mark the step that this process executes in the block, and serve its metrics.

    If the step fails, its last metrics are pushed, because its pod ends before the next scrape.
    """
    global _active
    if not processes.is_main():
        yield
        return
    _active = _ActiveStep(Metrics(), {"step": step, "stage": stage})
    try:
        with serve_metrics(), observed_by(lambda done: set_gauge("omni_step_progress_ratio", done)):
            yield
    except Exception:
        set_gauge("omni_step_succeeded", 0)
        push_metrics(_active.metrics, step, stage, replace=False)
        raise
    finally:
        _active = None


def set_gauge(name: str, value: float, **labels: str) -> None:
    """Set a gauge of the active step."""
    if _active:
        _active.metrics.set(name, value, **labels, **_active.labels)


def increment(name: str, amount: float, **labels: str) -> None:
    """Increment a counter of the active step."""
    if _active:
        _active.metrics.increment(name, amount, **labels, **_active.labels)


def log_step(record: Mapping[str, Any]) -> None:
    """Set the metrics of a training from a record of `curves.jsonl`, complete or partial."""
    if _active:
        set_training_metrics(_active.metrics, record, _active.labels)
        for name in {"samples", "tokens"} & record.keys():
            increment(f"omni_{name}_total", record[name])


def push_metrics(metrics: Metrics, step: str, stage: str, *, replace: bool = True) -> None:
    """Push metrics to the Pushgateway; a failure is logged and ignored.

    No label names a run, because the gateway never forgets a series.

    Args:
        metrics: Values to push.
        step: Label of the values.
        stage: Label of the values.
        replace: Whether all metrics of this step and stage are replaced, or only those of the same
            names.
    """
    gateway = os.environ.get(GATEWAY)
    if not gateway or not processes.is_main():
        return
    from prometheus_client import push_to_gateway, pushadd_to_gateway

    push = push_to_gateway if replace else pushadd_to_gateway
    labels = {"step": step, "stage": stage}
    try:
        push(gateway, "omnicore", metrics.registry, grouping_key=labels, timeout=PUSH_TIMEOUT)
    except (OSError, ValueError, HTTPException) as error:
        logger.warning(f"cannot push the metrics of {step} to {gateway} ({GATEWAY}): {error}")


class _ActiveCollector:
    """Collects the metrics of the active step, if there is one."""

    def collect(self) -> Iterable[MetricFamily]:
        return _active.metrics.registry.collect() if _active else ()


@contextmanager
def serve_metrics() -> Iterator[None]:
    """Serve /metrics within the block; nested calls do nothing.

    It also spans the download of inputs and the upload of the result, with no metrics: if the
    target of a pod is down, Prometheus reports a process that hangs or is lost.
    """
    global _serving
    port, host = os.environ.get(PORT), os.environ.get(HOST, LOOPBACK)
    if not port or _serving or not processes.is_main():
        yield
        return
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(_ActiveCollector())
    try:
        server, thread = start_http_server(int(port), host, registry)
    # A step must not fail because of its monitoring.
    except (OSError, ValueError, OverflowError) as error:
        logger.warning(f"cannot serve metrics at {host}:{port} ({PORT}): {error}")
        yield
        return
    logger.info(f"metrics at http://{host}:{server.server_port}/metrics")
    _serving = True
    try:
        yield
    finally:
        _serving = False
        server.shutdown()
        server.server_close()
        thread.join()
