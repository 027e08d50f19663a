"""Run a pipeline on this machine: `python -m pipelines.run --recipe tiny --run runs/demo --seed 1`.

Every task is a subprocess of kfp.local's SubprocessRunner. The run directory holds the step cache,
the outputs of the last run, the log, and the report. The first task that is not cached starts one
warm worker (`omnicore.runtime.worker`), which imports what the heavy steps need. All processes end
with this one, and the same command resumes.
"""

import argparse
import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.live import Live
from rich.table import Table

from components.execute import CACHE, LOCK, RUN, WORKER
from omnicore.config.recipe import load_recipe
from omnicore.errors import OmniError, StepBusy
from omnicore.logs import log_error, set_up
from omnicore.storage.digests import METRICS_FILE
from omnicore.storage.files import read_json, storage_errors
from omnicore.telemetry.metrics import Metrics
from pipelines.board import Board, rows
from pipelines.containers import container_runner

logger = logging.getLogger(__name__)
PUBLISHED = {
    "omniclean": ("manifest.json", "audit.json", "report.html"),
    "omniboost": ("report.html", "report.json"),
}
POLL = 0.2  # seconds between two looks at the tasks
# glibc returns large arrays to the kernel and requests them again: a fifth of a step's time.
MALLOC = {"MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "1000000000"}
PATIENCE = 3.0  # seconds in which the tasks of a killed run are surely gone


def main() -> int:
    """Run the pipeline and return the exit status."""
    args = _arguments()
    set_up()
    console = Console(file=sys.stdout)  # not whatever sys.stdout is later
    overrides = [*args.set, *([] if args.seed is None else [f"seed={args.seed}"])]
    # A shell starts background jobs with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        load_recipe(args.recipe, overrides)  # a wrong field is told before anything starts
        with storage_errors(args.run), _held(args.run):
            return _run(args, overrides, console)
    except OmniError as error:
        log_error(error, "error")
        return 2
    except KeyboardInterrupt:
        logger.warning("interrupted; re-run the same command to resume")
        return 130
    finally:
        _reap()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="pipelines.run", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--pipeline", choices=sorted(PUBLISHED), default="omniboost")
    parser.add_argument(
        "--recipe", default="tiny", help="name of a shipped recipe, or path of a YAML file"
    )
    parser.add_argument(
        "--run",
        type=Path,
        required=True,
        metavar="DIR",
        help="directory of the run, as in runs/demo",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change one value of the recipe; repeatable",
    )
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--control",
        action="store_true",
        help="omniboost: also train with a random reward and show it in the report",
    )
    parser.add_argument(
        "--containers",
        action="store_true",
        help="run every task in its image, on Docker or on podman's socket: see images/README.md",
    )
    return parser.parse_args()


def _run(args: argparse.Namespace, overrides: list[str], console: Console) -> int:
    import kfp.local
    from google.protobuf.json_format import MessageToDict

    from pipelines.compile import PIPELINES

    state, outputs, log_file = args.run / "state", args.run / "outputs", args.run / "run.log"
    shutil.rmtree(outputs, ignore_errors=True)  # links into the cache
    for file in state.glob("*.*"):
        file.unlink()
    pipeline = PIPELINES[args.pipeline]
    for part in (pipeline.pipeline_spec.root, *pipeline.pipeline_spec.components.values()):
        for task in part.dag.tasks.values():
            # A task that fails here fails again, half a minute later.
            task.ClearField("retry_policy")
    arguments = {
        "recipe": args.recipe,
        "overrides": json.dumps(overrides),
        "run_name": args.run.name,
    }
    if args.pipeline == "omniboost":
        arguments["control"] = args.control
    board = Board(rows(MessageToDict(pipeline.pipeline_spec), args.control), state, console)
    failure = ""
    with (
        tempfile.TemporaryDirectory(prefix="omni-", ignore_cleanup_errors=True) as scratch,
        log_file.open("w", buffering=1) as log,
    ):
        socket = Path(scratch) / "worker"
        # KFP's launcher leaves a temporary directory for every task: these end with the run.
        places = {
            RUN: state.resolve(),
            CACHE: (args.run / "cache").resolve(),
            WORKER: socket,
            "TMPDIR": scratch,
        }
        os.environ.update({name: str(place) for name, place in places.items()})
        runner: Any = kfp.local.SubprocessRunner(use_venv=False)
        if args.containers:
            environment = {name: str(places[name]) for name in (RUN, CACHE)}
            user = f"{os.getuid()}:{os.getgid()}"
            runner = container_runner(user, [args.run.resolve()], environment)
        kfp.local.init(runner, str(outputs), str(Path(scratch) / "workspace"))
        try:
            with (
                _shown(board),
                _worker(socket, log) as start,
                _watched(board, None if args.containers else start),
                _into(log),
            ):
                pipeline(**arguments)
        except RuntimeError as error:
            failure = str(error)
    board.refresh()
    if failure:
        row = board.failed
        logger.error("%s", f"{row.title} failed: {row.report['error']}" if row else failure)
        logger.error("log: %s", log_file)
        return 1
    _publish(args.pipeline, outputs, args.run)
    _print_result(args.pipeline, args.run, console)
    return 0


@contextlib.contextmanager
def _held(directory: Path) -> Iterator[None]:
    """Lock the run directory.

    Its tasks wait for this lock, and end when they get it: see `components.execute`.
    """
    lock_file = directory / "state" / LOCK
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file, timeout=PATIENCE, poll_interval=POLL)
    try:
        lock.acquire()
    except Timeout as error:
        raise StepBusy(
            f"another run works in {directory}: wait for it, end it, or give another --run",
            code="run-busy",
            field="--run",
            path=directory,
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _worker(socket: Path, log: IO[str]) -> Iterator[Callable[[], None]]:
    """Yield a function that starts the warm worker once, and end the worker."""
    process: subprocess.Popen[bytes] | None = None

    def start() -> None:
        nonlocal process
        if process is None:
            command = [sys.executable, "-m", "omnicore.runtime.worker", str(socket)]
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env={**os.environ, **MALLOC}
            )

    try:
        yield start
    finally:
        if process:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def _watched(board: Board, start_worker: Callable[[], None] | None) -> Iterator[None]:
    """Refresh the board in a thread; the first task that is not cached starts the worker."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(POLL):
            board.refresh()
            if board.working and start_worker:
                start_worker()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        board.refresh()


@contextlib.contextmanager
def _into(log: IO[str]) -> Iterator[None]:
    """Send the output of KFP and the tasks to the log; drop KFP's warnings of cluster settings."""
    with (
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def _shown(board: Board) -> contextlib.AbstractContextManager[Any]:
    if not board.console.is_terminal:
        return contextlib.nullcontext()
    return Live(
        get_renderable=board.table,
        console=board.console,
        redirect_stdout=False,
        redirect_stderr=False,
    )


def _reap() -> None:
    """Wait for processes that end because this one released the run's lock."""
    end = time.monotonic() + PATIENCE
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < end:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(0.02)


def _publish(pipeline: str, outputs: Path, directory: Path) -> None:
    """Copy the results into the run directory; edits of a link would change the cache."""
    for name in PUBLISHED[pipeline]:
        source = next(outputs.rglob(name))
        shutil.copyfile(source, directory / f"{name}.tmp")
        (directory / f"{name}.tmp").replace(directory / name)
    metrics = Metrics()
    for file in sorted(outputs.rglob(METRICS_FILE)):
        metrics.read(file)
    metrics.write(directory / METRICS_FILE)


def _print_result(pipeline: str, directory: Path, console: Console) -> None:
    if pipeline == "omniboost":
        report = read_json(directory / "report.json")
        table = Table("stage", "raw, macro", "clean, macro", box=None, pad_edge=False)
        for stage, views in report["stages"].items():
            table.add_row(stage, *(_estimate(views[view]["macro"]) for view in ("raw", "clean")))
        console.print(table)
        for policy, audit in report["audit"].items():
            told = "  ".join(
                f"{name} {audit[name]:.3g}"
                for name in ("precision", "recall", "kept", "removed", "clean_lost")
            )
            console.print(f"audit, {policy}: {told}", highlight=False, soft_wrap=True)
    for name in (*PUBLISHED[pipeline], METRICS_FILE):
        console.print(str(directory / name), highlight=False, soft_wrap=True)


def _estimate(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.1%}  [dim]{estimate['low']:.1%} to {estimate['high']:.1%}"


if __name__ == "__main__":
    sys.exit(main())
