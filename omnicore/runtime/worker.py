"""A warm process for laptop runs: import what heavy steps need once, then fork for every step.

Each step of a local pipeline is a process of its own, and importing torch, transformers and trl
takes about nine seconds of CPU. `python -m omnicore.runtime.worker SOCKET` imports them once, while
light steps run, listens on a unix socket and forks a child per request; `call` is the client. The
child writes to the requester's stdout and stderr, and returns its summary or error as one line of
JSON.

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

# Every heavy step needs the first, so no request is served before it is imported; the others follow
# while there is no request.
MODULES = ("omnicore.engines.transformers", "omnicore.training.sft", "omnicore.training.rlvr")
logger = logging.getLogger(__name__)
POLL = 0.1  # seconds between two looks at ended children
Work = Callable[[Mapping[str, Any]], dict[str, Any]]


def run_request(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run one step and return its summary; cache and locks are the requester's."""
    from omnicore.config.recipe import parse_recipe
    from omnicore.runtime.run import run_in_process

    recipe = parse_recipe(request["recipe"], request["recipe"]["name"])
    inputs = {role: Path(path) for role, path in request["inputs"].items()}
    return run_in_process(
        request["step"], request["section"], recipe, inputs, Path(request["output"])
    )


def call(address: str, request: Mapping[str, Any], *, patience: float = 20) -> dict[str, Any]:
    """Let the worker at a socket run a request and return its summary.

    Args:
        address: Path of the socket.
        request: Arguments of `run_request`.
        patience: Seconds to wait for a worker that is starting.

    Raises:
        OmniError: The step's own error, of the same class; or no worker replies, or the step was
            killed.
        RuntimeError: A bug in the step; its traceback is on this process's stderr.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        _connect(connection, address, patience)
        content = dict(request) | {"cwd": str(Path.cwd()), "env": dict(os.environ)}
        line = json.dumps(content).encode() + b"\n"
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
        f"the step was killed {killed}: if memory ran out, free some; re-run the same command to"
        " resume",
        code="step-killed",
    )


def _connect(connection: socket.socket, address: str, patience: float) -> None:
    for attempts_left in range(int(patience / POLL), -1, -1):
        try:
            connection.connect(address)
            return
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if not attempts_left:
                raise errors.OmniError(
                    f"no worker replies on {address}: read the run's log, then re-run",
                    code="worker-unreachable",
                    path=address,
                ) from error
            time.sleep(POLL)


def serve_requests(
    address: str, work: Work = run_request, modules: Sequence[str] = MODULES
) -> None:
    """Listen on a unix socket until stdin ends, which ends the process."""
    die_with_parent()
    logs.set_up()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's would start its threads at import
    # Ctrl-C reaches every process of the terminal; the parent ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    todo, children = list(modules), dict[int, socket.socket]()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        if todo:
            warm(todo.pop(0))
        while True:
            ready = select.select([listener, sys.stdin], [], [], 0 if todo else POLL)[0]
            if sys.stdin in ready:
                os._exit(0)  # children see their own parent die
            reap_children(children)
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
    """Import a module and freeze the garbage collector, so that children share its memory pages."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        # The step that needs it raises the error.
        logger.warning("worker: %s is left out: %s", module, error)
    gc.freeze()


def reap_children(children: dict[int, socket.socket]) -> None:
    """Close the connections of ended children, and reply for those that were killed."""
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with children.pop(pid) as connection, contextlib.suppress(OSError):
            if os.WIFSIGNALED(status):
                connection.sendall(json.dumps({"signal": os.WTERMSIG(status)}).encode() + b"\n")


def become(connection: socket.socket, work: Work) -> None:
    """In the child: take the requester's output, environment and directory, work, reply, exit."""
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
    """End this process when the other end of a connection is closed."""
    with contextlib.suppress(OSError):
        connection.recv(1)
    os._exit(1)


if __name__ == "__main__":
    serve_requests(sys.argv[1])
