"""Table of a local run: each task's state, progress, time and time left, live or line by line."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

MARKS = {
    "waiting": "[dim]·",
    "started": "[cyan]…",
    "running": "[cyan]▶",
    "done": "[green]✓",
    "failed": "[red]✗",
}


@dataclass
class Row:
    """One task.

    `key` names its files in the state directory, `report` is the content of its state file. `part`
    is the piece of work that its progress file describes.
    """

    key: str
    title: str
    report: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    part_begun: float = 0.0

    @property
    def state(self) -> str:
        """waiting, started, running, done or failed."""
        return str(self.report.get("state", "waiting"))

    @property
    def seconds(self) -> float:
        """Seconds from the task's start to its end, or until now."""
        if self.state == "waiting":
            return 0.0
        end = self.report["time"] if self.state in {"done", "failed"} else time.time()
        return float(end - self.report["started"])

    @property
    def left(self) -> float | None:
        """Seconds left of the present part at its pace so far; None before there is a pace."""
        done, total = int(self.progress.get("done", 0)), int(self.progress.get("total", 0))
        if self.state != "running" or not 0 < done < total:
            return None
        return (time.time() - self.part_begun) * (total - done) / done

    def read(self, directory: Path) -> None:
        """Read the task's files in the state directory again."""
        self.report = _read(directory / f"{self.key}.json") or self.report
        progress = _read(directory / f"{self.key}.progress")
        if progress and progress["label"] != self.progress.get("label"):
            self.part_begun = time.time()
        self.progress = progress or self.progress


class Board:
    """The tasks of a run in their order, read again from the state directory by `refresh`."""

    def __init__(self, rows: list[Row], directory: Path, console: Console) -> None:
        """Show `rows` from the state directory on a console."""
        self.rows, self.directory, self.console = rows, directory, console
        self.begun = time.time()
        self._printed: set[tuple[str, str]] = set()

    def refresh(self) -> None:
        """Read all rows again; print changes where the console is not a terminal."""
        for row in self.rows:
            row.read(self.directory)
        if not self.console.is_terminal:
            self._print_changes()

    @property
    def working(self) -> bool:
        """Whether a task runs that is not cached."""
        return any(row.state == "running" for row in self.rows)

    @property
    def failed(self) -> Row | None:
        """The first failed task."""
        return next((row for row in self.rows if row.state == "failed"), None)

    def table(self) -> Table:
        """Render the tasks as a table."""
        table = Table(
            box=None,
            pad_edge=False,
            caption=f"{_clock(time.time() - self.begun)} in all",
            caption_justify="left",
        )
        for header in ("", "step", "progress", "time", "left", ""):
            table.add_column(
                header, justify="right" if header in {"time", "left"} else "left", no_wrap=True
            )
        for row in self.rows:
            left = "" if row.left is None else _clock(row.left)
            table.add_row(
                MARKS[row.state],
                row.title,
                _bar(row),
                _clock(row.seconds) if row.report else "",
                left,
                _facts(row),
            )
        return table

    def _print_changes(self) -> None:
        for row in self.rows:
            if row.state in {"waiting", "started"} or (row.key, row.state) in self._printed:
                continue
            self._printed.add((row.key, row.state))
            outcome = row.state
            if row.state == "done":
                source = "from cache" if row.report["cached"] else "done"
                outcome = f"{source} in {_clock(row.seconds)}"
            line = f"{_clock(time.time() - self.begun):>6}  {row.title}: {outcome}  {_facts(row)}"
            self.console.print(line.rstrip(), highlight=False, markup=False, soft_wrap=True)


def rows(spec: Mapping[str, Any], control: bool) -> list[Row]:
    """Return the tasks of a compiled pipeline in the order of their dependencies.

    Nested pipelines are unfolded. Of the two branches on the parameter `control` only the one that
    will run is listed; the clean-up task is left out.
    """

    def unfold(tasks: Mapping[str, Any]) -> Iterator[Row]:
        order = TopologicalSorter(
            {name: task.get("dependentTasks", []) for name, task in tasks.items()}
        )
        order.prepare()
        while ready := sorted(order.get_ready()):
            order.done(*ready)
            for name in ready:
                trigger = tasks[name].get("triggerPolicy", {})
                condition = trigger.get("condition")
                if "strategy" in trigger or (condition and condition.startswith("!") == control):
                    continue
                component = tasks[name]["componentRef"]["name"]
                if dag := spec["components"][component].get("dag"):
                    yield from unfold(dag["tasks"])
                else:
                    yield Row(component.removeprefix("comp-"), tasks[name]["taskInfo"]["name"])

    return list(unfold(spec["root"]["dag"]["tasks"]))


def _read(path: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        return dict(json.loads(path.read_bytes()))
    return None


def _bar(row: Row, width: int = 16) -> str:
    if row.state == "done":
        return "[dim]from cache" if row.report["cached"] else ""
    if row.state != "running" or not row.progress.get("total"):
        return ""
    share = row.progress["done"] / row.progress["total"]
    full = round(share * width)
    return (
        f"[cyan]{'━' * full}[/][dim]{'━' * (width - full)}[/] {share:4.0%} {row.progress['label']}"
    )


def _facts(row: Row) -> str:
    facts = (
        row.report.get("summary", {})
        if row.state == "done"
        else row.progress.get("facts", {})
        if row.state == "running"
        else {}
    )
    figures = [
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in facts.items()
    ]
    return "  ".join(figures[:4])


def _clock(seconds: float) -> str:
    return (
        f"{seconds:.1f} s" if seconds < 100 else f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    )
