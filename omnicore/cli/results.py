"""Commands that read finished outputs: compare, trace, card."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from omnicore.cli.parser import S3, Parser

COMPARE = """\
Paired differences between outputs of evaluate, with clustered 95 % intervals. Two models get all
rows of raw, clean, strict and official scores; more are compared with the first one.

examples:
  omnicore compare runs/a/evaluate-sft runs/a/evaluate-rlvr
  omnicore compare BASE SFT RLVR --by type --page compare.html
  omnicore compare BASE SFT RLVR --csv > compare.csv
  omnicore compare BASE RLVR --json -"""


def add_commands(parser: Parser) -> None:
    """Add `compare`, `trace` and `card`."""
    summary = "paired differences between outputs of evaluate: is B, or C, better than A?"
    command = parser.add_command("compare", summary, run_compare, COMPARE)
    command.add_argument("a", type=Path, metavar="A", help="output of evaluate")
    command.add_argument(
        "others",
        type=Path,
        nargs="+",
        metavar="B",
        help="outputs of evaluate with the same profile, queries and manifest",
    )
    command.add_argument(
        "--by", choices=("benchmark", "type", "wording"), default="benchmark", help="groups of rows"
    )
    command.add_argument("--csv", action="store_true", help="print CSV: a line a group and model")
    command.add_argument("--page", type=Path, metavar="FILE", help="also write an HTML page there")
    command.add_argument(
        "--manifest",
        type=Path,
        metavar="DIR",
        help="output of clean that decides what is clean for both",
    )
    command.add_argument(
        "--json", metavar="FILE", help="also write all rows there; - prints them alone"
    )

    summary = "how small a difference a set of queries can show, and how many more need"
    command = parser.add_command("power", summary, run_power)
    command.add_argument("a", type=Path, metavar="A", help="output of evaluate")
    command.add_argument("b", type=Path, nargs="?", metavar="B", help="another model's, as a pilot")
    command.add_argument(
        "--effect",
        type=float,
        default=2.0,
        metavar="POINTS",
        help="difference to find (default: 2)",
    )
    command.add_argument(
        "--power", type=float, default=0.8, metavar="P", help="chance to find it (default: 0.8)"
    )
    command.add_argument("--view", choices=("raw", "clean"), default="clean")

    summary = "write an evaluation as a log of inspect_ai, for `inspect view`"
    command = parser.add_command("export", summary, run_export)
    command.add_argument("evaluation", type=Path, metavar="DIR", help="output of evaluate")
    command.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="a new .eval or .json file"
    )

    summary = "from a score or a file back to weights, data, prompts and code"
    command = parser.add_command("trace", summary, run_trace)
    command.add_argument(
        "wanted",
        metavar="NUMBER-or-FILE",
        help="a figure as it is shown, as in 89.1 or 0.891, or any file",
    )
    command.add_argument(
        "--in",
        dest="root",
        type=Path,
        required=True,
        metavar="DIR",
        help="directory that holds the outputs of the steps",
    )

    summary = "push a clean manifest or a checkpoint to the Hugging Face hub"
    command = parser.add_command("push", summary, run_push)
    command.add_argument(
        "output_folder",
        type=Path,
        metavar="DIR",
        help="output of clean, sft, rlvr or promote, or a released checkpoint",
    )
    command.add_argument(
        "--repo", required=True, metavar="OWNER/NAME", help="repository of the hub"
    )
    command.add_argument("--public", action="store_true", help="create a public repository")
    command.add_argument("--dry-run", action="store_true", help="list what would be sent")

    summary = "a checkpoint's model card; with its scores, and a copy to release"
    command = parser.add_command("card", summary, run_card)
    command.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help=f"output of sft or rlvr, or a released checkpoint{S3}",
    )
    command.add_argument(
        "--scores",
        default="",
        metavar="DIR",
        help=f"output of evaluate, or a directory that contains it{S3}",
    )
    command.add_argument(
        "--output",
        default="",
        metavar="DIR",
        help=f"new directory for the checkpoint with that card, signed{S3}",
    )


def run_push(options: Namespace) -> None:
    """Push an output to the hub, or list what would be sent."""
    from omnicore.runtime.push import planned_push, push

    with planned_push(options.output_folder, options.repo) as (plan, folder):
        if options.dry_run:
            print(f"{plan.kind} repository {plan.repository}\n{plan.message}")
            for name, size in plan.files.items():
                print(f"{size:>12,}  {name}")
            return
        print(push(plan, folder, private=not options.public))


def run_compare(options: Namespace) -> None:
    """Print the paired differences of two evaluations, or of several against the first."""
    from omnicore.evaluation import leaderboard

    folders = [options.a, *options.others]
    several = len(folders) > 2 or options.csv or options.page or options.by != "benchmark"
    if not several:
        _compare_two(options)
        return
    board = leaderboard.build_leaderboard(folders, options.by, options.manifest)
    if options.page:
        from omnicore.report.leaderboard import render_leaderboard

        options.page.write_text(render_leaderboard(board))
    if options.json == "-":
        print(board.model_dump_json(indent=1))
        return
    if options.json:
        Path(options.json).write_text(board.model_dump_json(indent=1) + "\n")
    text = leaderboard.leaderboard_csv if options.csv else leaderboard.format_leaderboard
    print(text(board).rstrip())


def _compare_two(options: Namespace) -> None:
    from omnicore.evaluation.compare import compare_evaluations, print_comparison
    from omnicore.storage.files import write_json

    comparison = compare_evaluations(options.a, options.others[0], options.manifest)
    if options.json == "-":
        from pydantic_core import to_json

        print(to_json(comparison, indent=1).decode())
        return
    if options.json:
        write_json(Path(options.json), comparison)
    print_comparison(comparison)


def run_power(options: Namespace) -> None:
    """Print what a set of queries can show."""
    from omnicore.evaluation.power import DISCORDANCES, evaluation_power

    effect = options.effect / 100
    estimates = evaluation_power(options.a, options.b, options.view, effect, options.power)
    first = estimates[0]
    print(f"{first.queries} {options.view} queries in {first.clusters} clusters")
    if not options.b:
        print(f"no second model: assumed shares of changed queries {DISCORDANCES}")
    for estimate in estimates:
        print(
            f"changed {100 * estimate.discordance:.1f} %  design effect"
            f" {estimate.design_effect:.2f}  detectable {100 * estimate.detectable:.2f} points "
            f" {options.effect:g} points need {estimate.needed:,} queries"
        )


def run_export(options: Namespace) -> None:
    """Write a log of inspect_ai."""
    from omnicore.evaluation.inspect_log import write_inspect_log

    count = write_inspect_log(options.evaluation, options.output)
    print(f"{options.output}: {count} samples")


def run_trace(options: Namespace) -> None:
    """Print what made a figure or a file."""
    from omnicore.lineage.trace import trace

    trace(options.wanted, options.root)


def run_card(options: Namespace) -> None:
    """Print a checkpoint's card, or release a copy of the checkpoint with it."""
    from omnicore.lineage.model_card import render_markdown
    from omnicore.lineage.release import release

    card = release(options.checkpoint, options.scores, options.output)
    if not options.output:
        print(render_markdown(card), end="")
