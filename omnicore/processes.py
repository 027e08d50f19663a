"""Processes that end with those who need them."""

from __future__ import annotations

import signal
import sys


def die_with_parent() -> None:
    """Asks the Linux kernel to kill this process when its parent dies, also when that is killed itself."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
