"""`omnicore runs`: list the steps of a run, remove some, prune what nothing uses."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnicore.cli.parser import Parser

if TYPE_CHECKING:
    from omnicore.lineage.runs import StepOutput

DESCRIPTION = """\
List the steps of a run: name, state, time, settings that differ within a section, figures.

examples:
  omnicore runs list runs/demo
  omnicore runs list runs --json
  omnicore runs rm runs/demo evaluate-rlvr
  omnicore runs prune runs/demo"""
FIGURES = 4  # of a step's summary that fit into a line


def add_commands(parser: Parser) -> None:
    """Add the group `runs`."""
    group = parser.add_command(
        "runs", "list, remove and prune the steps of runs", None, DESCRIPTION
    )
    command = group.add_command("list", "list the steps below a directory", run_list)
    command.add_argument("root", type=Path, nargs="?", default=Path("runs"), metavar="DIR")
    command.add_argument("--json", action="store_true", help="print all facts as JSON")
    command = group.add_command("rm", "delete steps by name", run_remove)
    command.add_argument("root", type=Path, metavar="DIR")
    command.add_argument("names", nargs="+", metavar="NAME", help="as `omnicore runs list` shows")
    summary = "delete superseded cache entries and lock files that nobody holds"
    command = group.add_command("prune", summary, run_prune)
    command.add_argument("root", type=Path, metavar="DIR")


def run_list(options: Namespace) -> None:
    """Print the steps as a table or as JSON."""
    from omnicore.lineage.runs import differing_settings, find_steps

    steps = find_steps(options.root)
    if options.json:
        from pydantic_core import to_json

        print(to_json(steps, indent=1).decode())
        return
    _print_table(steps, differing_settings(steps))


def run_remove(options: Namespace) -> None:
    """Delete steps and print what was deleted."""
    from omnicore.lineage.runs import remove

    for path in remove(options.root, options.names):
        print(path)


def run_prune(options: Namespace) -> None:
    """Delete what nothing uses and print it."""
    from omnicore.lineage.runs import prune

    for path in prune(options.root):
        print(path)


def _print_table(steps: list[StepOutput], settings: dict[str, dict[str, Any]]) -> None:
    """Print two lines a step: facts in columns, then differing settings and figures."""
    width = max((len(step.name) for step in steps), default=0)
    for step in steps:
        started = step.started[:16].replace("T", " ")
        seconds = f"{step.seconds:8.1f} s" if step.state == "finished" else " " * 10
        size = f"{step.bytes / 1e6:8.1f} MB"
        print(f"{step.name:<{width}}  {step.state:<11}  {started:<16}{seconds}{size}")
        given = settings[step.name].items()
        differing = [f"{field}={value}" for field, value in given if value is not None]
        print("  " + "  ".join([*differing, *_figures(step)]))


def _figures(step: StepOutput) -> list[str]:
    figures = [
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in step.figures.items()
        if not name.startswith("canary")
    ]
    return figures[:FIGURES]
