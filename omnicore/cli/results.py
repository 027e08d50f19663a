"""Commands that read finished outputs: compare, trace, card."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from omnicore.cli.parser import S3, Parser


def add_commands(parser: Parser) -> None:
    """Add `compare`, `trace` and `card`."""
    summary = "paired differences between two outputs of evaluate: is B better than A?"
    command = parser.add_command("compare", summary, run_compare)
    command.add_argument("a", type=Path, metavar="A", help="output of evaluate")
    command.add_argument(
        "b",
        type=Path,
        metavar="B",
        help="output of evaluate with the same profile, queries and manifest",
    )
    command.add_argument(
        "--manifest",
        type=Path,
        metavar="DIR",
        help="output of clean that decides what is clean for both",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="also write all rows there")

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


def run_compare(options: Namespace) -> None:
    """Print the paired differences of two evaluations."""
    from omnicore.evaluation.compare import compare_evaluations, print_comparison
    from omnicore.storage.files import write_json

    comparison = compare_evaluations(options.a, options.b, options.manifest)
    if options.json:
        write_json(options.json, comparison)
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
