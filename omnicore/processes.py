"""Child processes, and which process of a distributed run this one is.

The ranks are read from the environment variables that torchrun sets; a single process is rank 0.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def die_with_parent() -> None:
    """Make the Linux kernel kill this process when its parent dies, even if that is killed."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


@contextmanager
def without_deprecations() -> Iterator[None]:
    """Hide deprecation warnings within the block, unless `python -W` asks for warnings.

    They come from libraries that this package calls, and a user cannot act on them.
    """
    with warnings.catch_warnings():
        if not sys.warnoptions:
            for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
                warnings.simplefilter("ignore", category)
        yield


def rank() -> int:
    """Return the rank of this process, 0 for a single process."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes on all nodes together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Return the rank of this process among those of its node."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def node_rank() -> int:
    """Return the rank of this process's node; the ranks of a node follow each other."""
    return rank() // int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size())))


def is_main() -> bool:
    """Return whether this process has rank 0: only that one prints, writes and publishes."""
    return rank() == 0
