"""A warm process for laptop runs: what heavy steps import is imported once, then every step is a
fork of it.

Each step of a local pipeline is a process of its own, and importing torch, transformers and trl
costs each about nine seconds of CPU. `python -m omnicore.runtime.worker SOCKET` pays once: it
imports while light steps run, listens on a unix socket and forks a child per request; `call` is the
other end. The child writes to the requester's stdout and stderr, and its summary or error goes back
as one line of JSON.

No torch operation runs before a fork: OpenMP threads do not survive it, and a child that needs them
would hang. A child dies when its requester's connection closes or the worker dies; the worker dies
with the process that started it (end of its stdin everywhere, the kernel's parent-death signal on
Linux, so also when that is killed).
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omnicore import errors, logs
from omnicore.processes import die_with_parent

# The first is needed by every heavy step, so no request is served before it is there; the rest come while nobody asks.
MODULES = ("omnicore.engines.transformers", "omnicore.training.sft", "omnicore.training.rlvr")
logger = logging.getLogger(__name__)
POLL = 0.1  # seconds between two looks at ended children
Work = Callable[[Mapping[str, Any]], dict[str, Any]]


def run_request(request: Mapping[str, Any]) -> dict[str, Any]:
    """The work of one step, without `run_step`'s cache and locks, which are the requester's.

    Returns the step's summary.
    """
    from omnicore.config.recipe import parse_recipe
    from omnicore.runtime.run import in_process

    recipe = parse_recipe(request["recipe"], request["recipe"]["name"])
    inputs = {role: Path(path) for role, path in request["inputs"].items()}
    return in_process(request["step"], request["section"], recipe, inputs, Path(request["output"]))


def call(address: str, request: Mapping[str, Any], *, patience: float = 20) -> dict[str, Any]:
    """Has the worker at a socket run a request and returns its summary.

    Waits up to `patience` seconds for a worker that is just starting. Raises what the step raised:
    an OmniError of the same class and message, or RuntimeError for a bug, whose traceback stands in
    this process's stderr; OmniError when the step was killed.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        for left in range(int(patience / POLL), -1, -1):
            try:
                connection.connect(address)
                break
            except (FileNotFoundError, ConnectionRefusedError) as error:
                if not left:
                    raise errors.OmniError(
                        f"no worker answers on {address}: see the run's log, then run again"
                    ) from error
                time.sleep(POLL)
        line = (
            json.dumps({**request, "cwd": str(Path.cwd()), "env": dict(os.environ)}).encode()
            + b"\n"
        )
        sys.stdout.flush()
        sys.stderr.flush()
        socket.send_fds(connection, [line[:1]], [1, 2])
        connection.sendall(line[1:])
        with connection.makefile("rb") as file, contextlib.suppress(ConnectionResetError):
            answer = json.loads(file.readline() or b"{}")
    if "summary" in answer:
        return dict(answer["summary"])
    if "error" in answer:
        if answer["error"]:
            kind: type[errors.OmniError] = getattr(errors, answer["error"])
            raise kind(answer["message"], **answer["details"])
        raise RuntimeError(answer["message"])
    killed = f"by signal {answer['signal']}" if "signal" in answer else "with its worker"
    raise errors.OmniError(
        f"the step was killed {killed}: if memory ran out, free some; the same command goes on"
        " where it was"
    )


def serve(address: str, work: Work = run_request, modules: Sequence[str] = MODULES) -> None:
    """Listens on a unix socket until stdin ends.

    Never returns.
    """
    die_with_parent()
    logs.set_up()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's would start its threads at import
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole terminal; who started this process ends it
    todo, children = list(modules), dict[int, socket.socket]()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        warm(todo.pop(0)) if todo else None
        while True:
            ready = select.select([listener, sys.stdin], [], [], 0 if todo else POLL)[0]
            if sys.stdin in ready:
                os._exit(0)  # children see their own parent die
            reap(children)
            if listener in ready:
                connection = listener.accept()[0]
                pid = os.fork()
                if not pid:
                    listener.close()
                    become(connection, work)
                children[pid] = connection
            elif todo:
                warm(todo.pop(0))


def warm(module: str) -> None:
    """Imports a module and takes it out of the garbage collector's sight, so that children share
    its memory pages."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        # The step that needs it raises the error.
        logger.warning("worker: %s is left out: %s", module, error)
    gc.freeze()


def reap(children: dict[int, socket.socket]) -> None:
    """Closes the connections of ended children; one that was killed could not answer, so the answer
    is given here."""
    while children and (ended := os.waitpid(-1, os.WNOHANG))[0]:
        pid, status = ended
        with children.pop(pid) as connection, contextlib.suppress(OSError):
            if os.WIFSIGNALED(status):
                connection.sendall(json.dumps({"signal": os.WTERMSIG(status)}).encode() + b"\n")


def become(connection: socket.socket, work: Work) -> None:
    """In the child: takes over the requester's output, environment and directory, works, answers.

    Never returns.
    """
    die_with_parent()
    first, fds, _, _ = socket.recv_fds(connection, 1, 2)
    for number, fd in enumerate(fds, 1):
        os.dup2(fd, number)
        os.close(fd)
    with connection.makefile("rb") as file:
        request = json.loads(first + file.readline())
    threading.Thread(target=end_with, args=(connection,), daemon=True).start()
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    logs.set_up()
    try:
        answer: dict[str, Any] = {"summary": work(request)}
    except errors.OmniError as error:
        answer = {
            "error": type(error).__name__,
            "message": str(error),
            "details": error.details(),
        }
    except BaseException as error:
        traceback.print_exc()
        answer = {"error": "", "message": f"{type(error).__name__}: {error}"}
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(json.dumps(answer).encode() + b"\n")
    os._exit(0)


def end_with(connection: socket.socket) -> None:
    """Ends this process when the other end of a connection is closed."""
    with contextlib.suppress(OSError):
        connection.recv(1)
    os._exit(1)


if __name__ == "__main__":
    serve(sys.argv[1])
