"""Work in a process of its own: a fork of this one, which has torch imported already."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from typing import Any


def fork(work: Callable[[], Any]) -> int:
    """The id of a process that does the work; its status is 0 unless the work raises."""
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def ended(child: int) -> int:
    """Its status, when it has one."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_a_fork(work: Callable[[], Any]) -> int:
    return ended(fork(work))
