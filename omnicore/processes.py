"""Processes that end with those who need them, and say nothing that a user cannot act on."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def die_with_parent() -> None:
    """Asks the Linux kernel to kill this process when its parent dies, also when that is killed
    itself."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


@contextmanager
def without_deprecations() -> Iterator[None]:
    """Keeps deprecations from the terminal: they are of libraries that this package calls, and a
    user cannot act on them.

    What
    `python -W` asks for is shown.
    """
    with warnings.catch_warnings():
        if not sys.warnoptions:
            for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
                warnings.simplefilter("ignore", category)
        yield
