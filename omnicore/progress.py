"""Progress of long work: a bar on a terminal, a file for a pipeline's live table, or log lines."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from omnicore import processes

logger = logging.getLogger(__name__)
PROGRESS_FILE = "OMNI_PROGRESS"
INTERVAL = 0.2  # seconds between two writes of the progress file
LINE = "omni-progress "  # start of a progress line in a log
LINE_INTERVAL = 5.0  # seconds between two progress lines
_observer: Callable[[float], None] | None = None


@contextmanager
def observed_by(observer: Callable[[float], None]) -> Iterator[None]:
    """Within the block, call `observer` with the share of work done (0 to 1) at each advance."""
    global _observer
    _observer = observer
    try:
        yield
    finally:
        _observer = None


class Progress:
    """Count of finished pieces of work; cheap enough to advance for every batch."""

    def __init__(self, total: int, label: str, show: Callable[[Progress], None]) -> None:
        """Start at 0 of `total`; `show` is called at each advance."""
        self.total, self.label, self.done, self._show = total, label, 0, show
        self.facts: dict[str, float | str] = {}

    def advance(self, n: int = 1, **facts: float | str) -> None:
        """Count `n` more pieces; `facts` are the latest figures to show, as in loss=0.31."""
        self.done += n
        self.facts.update(facts)
        if _observer:
            _observer(self.done / max(1, self.total))
        self._show(self)


def format_figures(figures: Mapping[str, Any]) -> str:
    """Return figures on one line: `queries 1600  raw 0.62`."""
    words = []
    for name, value in figures.items():
        words.append(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}")
    return "  ".join(words)


@contextmanager
def track(total: int, label: str) -> Iterator[Progress]:
    """Yield the progress of `total` pieces of work, and show it.

    OMNI_PROGRESS names a file that gets {"label", "done", "total", "facts"} for a pipeline's live
    table; with `-` these are lines of the log, for the launcher of a job. Otherwise a terminal
    shows a bar, and anything else gets one line at the end. Only rank 0 shows anything.
    """
    file = os.environ.get(PROGRESS_FILE) if processes.is_main() else None
    bar = processes.is_main() and not file and sys.stderr.isatty()
    with _display(total, label, file, bar) as show:
        progress = Progress(total, label, show)
        show(progress)
        yield progress
    if processes.is_main() and not bar:
        line = f"{label}: {progress.done} of {total}  {format_figures(progress.facts)}"
        logger.info("%s", line.rstrip())


def _display(
    total: int, label: str, file: str | None, bar: bool
) -> AbstractContextManager[Callable[[Progress], None]]:
    if bar:
        return _bar(total, label)
    return nullcontext(_file_writer(file) if file else lambda _: None)


def _file_writer(file: str) -> Callable[[Progress], None]:
    """Return a function that writes progress every 0.2 s, to a log every 5 s, and at the end."""
    interval = LINE_INTERVAL if file == "-" else INTERVAL
    written = -interval
    path = Path(file)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")

    def show(progress: Progress) -> None:
        nonlocal written
        if progress.done < progress.total and time.monotonic() - written < interval:
            return
        written = time.monotonic()
        values = {
            "label": progress.label,
            "done": progress.done,
            "total": progress.total,
            "facts": progress.facts,
        }
        text = to_json(values, inf_nan_mode="null")
        if file == "-":
            # Not a log record: the launcher of the job parses this line.
            print(LINE + text.decode(), file=sys.stderr, flush=True)
            return
        # A step must not fail because its progress cannot be shown.
        with suppress(OSError):
            temporary.write_bytes(text)
            temporary.replace(path)

    return show


@contextmanager
def _bar(total: int, label: str) -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    ]
    with Bars(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(label, total=total, figures="")

        def show(progress: Progress) -> None:
            figures = format_figures(progress.facts)
            bars.update(task, completed=progress.done, figures=figures)

        yield show
