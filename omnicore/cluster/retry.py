"""Retries of Kubernetes API calls, and what an API error means."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from omnicore.cluster import timeouts
from omnicore.errors import ClusterError

T = TypeVar("T")
logger = logging.getLogger(__name__)
# Statuses that a retry may fix: 408 from a proxy that gave up, 429 for too many requests, 5xx from
# a server that starts or fails over. A watch answers 410 and 504 by listing anew.
BUSY = frozenset({408, 429, 500, 502, 503, 504})


class Backoff:
    """Seconds between retries: doubling, with jitter, so that many launchers spread out."""

    def __init__(self) -> None:
        """Start with the first retry."""
        self._tries = 0

    def next(self, error: Exception | None = None) -> float:
        """Return the next pause in seconds, at least the error's Retry-After."""
        self._tries += 1
        doubled = timeouts.FIRST_RETRY * 2.0 ** min(self._tries - 1, 30)
        longest = min(timeouts.LONGEST_RETRY, doubled)
        retry_after = (getattr(error, "headers", None) or {}).get("Retry-After", "")
        least = 0.0
        if retry_after.isdigit():
            least = min(float(retry_after), timeouts.LONGEST_RETRY)
        return max(least, longest * random.uniform(0.5, 1))

    def reset(self) -> None:
        """Start over after a success."""
        self._tries = 0


def retry(
    call: Callable[[], T], seconds: float, what: str, is_final: Callable[[ApiException], bool]
) -> T:
    """Call until there is a final answer; log once why the call is retried.

    Args:
        call: The API call.
        seconds: How long to retry. A failed admission webhook belongs to an operator that is down,
            so it gets at most NO_PROGRESS, as a job that no operator reconciles does.
        what: The call in words, for messages.
        is_final: Whether an API error would be the same after a retry.

    Raises:
        ApiException: A final refusal.
        ClusterError: No final answer came in time.
    """
    backoff, since, logged = Backoff(), time.monotonic(), False
    while True:
        try:
            return call()
        except (ApiException, HTTPError) as error:
            if isinstance(error, ApiException) and is_final(error):
                raise
            message = error_message(error)
            is_webhook = "failed calling webhook" in message
            limit = min(seconds, timeouts.NO_PROGRESS) if is_webhook else seconds
            pause = backoff.next(error)
            if time.monotonic() + pause - since > limit:
                raise ClusterError(
                    f"{what}: the cluster's API {outage_message(error)} for {limit:.0f} s:"
                    f" {message}",
                    code="cluster-api-timeout",
                ) from error
            if not logged:
                logger.warning("%s: %s; retrying for up to %.0f s", what, message, limit)
                logged = True
            time.sleep(pause)


def outage_message(error: Exception) -> str:
    """Return what an API server did that was asked again and again."""
    message = error_message(error)
    busy = isinstance(error, ApiException) and error.status in BUSY and "webhook" not in message
    return "did not answer" if busy or isinstance(error, HTTPError) else "gave no other answer"


def is_refusal(error: ApiException) -> bool:
    """Return whether a retry would get the same answer."""
    return error.status not in BUSY


def never_final(error: ApiException) -> bool:  # noqa: ARG001
    """Return False: every refusal is retried."""
    return False


def is_missing(error: ApiException) -> bool:
    """Return whether a 404 says that this very object does not exist.

    A proxy, and a server that has not loaded a kind yet, answer 404 without a `Status` that names
    the object.
    """
    try:
        status = json.loads(error.body)
        names_object = status["kind"] == "Status" and bool(status["details"]["name"])
    except (TypeError, ValueError, KeyError):
        return False
    return bool(error.status == 404 and names_object)


def is_missing_or_replaced(error: ApiException) -> bool:
    """Return whether a refusal says that a known object is gone or has been replaced."""
    return is_missing(error) or error.status == 409


def error_message(error: Exception) -> str:
    """Return one line about an error: the server's own message where it sent one."""
    if not isinstance(error, ApiException):
        return f"{type(error).__name__}: {error}".splitlines()[0]
    try:
        message = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        message = error.reason
    return f"{message} ({error.status})"
