"""Progress of long work, for people: a bar, a file for a pipeline's live table, or lines of a
log."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from omnicore import processes

logger = logging.getLogger(__name__)
PROGRESS_FILE = "OMNI_PROGRESS"
INTERVAL = 0.2  # seconds between two writes of the progress file
LINE, LINE_INTERVAL = (
    "omni-progress ",
    5.0,
)  # start of a progress line in a log, and seconds between two


_observer: Callable[[float], None] | None = None


@contextmanager
def observed_by(observer: Callable[[float], None]) -> Iterator[None]:
    """Within the block, call `observer` with the share of work done (0 to 1) whenever it
    advances."""
    global _observer
    _observer = observer
    try:
        yield
    finally:
        _observer = None


class Progress:
    """How far a piece of work is; cheap enough to advance for every batch."""

    def __init__(self, total: int, label: str, show: Callable[[Progress], None]) -> None:
        self.total, self.label, self.done, self._show = total, label, 0, show
        self.facts: dict[str, float | str] = {}

    def advance(self, n: int = 1, **facts: float | str) -> None:
        """`n` more of `total` are done; `facts` are the latest figures to show, as in loss=0.31."""
        self.done += n
        self.facts.update(facts)
        if _observer:
            _observer(self.done / max(1, self.total))
        self._show(self)


def told(facts: Mapping[str, Any]) -> str:
    """Figures in one line: `queries 1600  raw 0.62`."""
    return "  ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in facts.items()
    )


@contextmanager
def track(total: int, label: str) -> Iterator[Progress]:
    """Progress of `total` pieces of work, shown as a bar on a terminal, or in the file that
    OMNI_PROGRESS names ({"label", "done", "total", "facts"}, for a pipeline's live table; `-`: as
    lines of the log, for who launched this as a job), or else by one line at the end."""
    file = (
        os.environ.get(PROGRESS_FILE) if processes.is_main() else None
    )  # one voice for all processes of a training
    bar = processes.is_main() and not file and sys.stderr.isatty()
    display = (
        nullcontext(_writer(file) if file else lambda _: None) if not bar else _bar(total, label)
    )
    with display as show:
        progress = Progress(total, label, show)
        show(progress)
        yield progress
    if processes.is_main() and not bar:
        line = f"{label}: {progress.done} of {total}  {told(progress.facts)}"
        logger.info("%s", line.rstrip())


def _writer(file: str) -> Callable[[Progress], None]:
    """Writes at most five times a second, to a log every five seconds, and always the end."""
    interval = LINE_INTERVAL if file == "-" else INTERVAL
    written = -interval
    path = Path(file)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")

    def show(progress: Progress) -> None:
        nonlocal written
        if progress.done < progress.total and time.monotonic() - written < interval:
            return
        written = time.monotonic()
        text = to_json(
            {name: getattr(progress, name) for name in ("label", "done", "total", "facts")},
            inf_nan_mode="null",
        )
        if file == "-":
            print(LINE + text.decode(), file=sys.stderr, flush=True)
            return
        with suppress(OSError):  # a courtesy: no work fails for it
            temporary.write_bytes(text)
            temporary.replace(path)

    return show


@contextmanager
def _bar(total: int, label: str) -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    label_and_bar = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    columns = *label_and_bar, TimeRemainingColumn(), TextColumn("{task.fields[told]}")
    with Bars(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(label, total=total, told="")
        yield lambda progress: bars.update(task, completed=progress.done, told=told(progress.facts))
