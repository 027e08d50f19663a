"""Entry point: `omnicore <step> --recipe tiny --set rlvr.steps=40 --input ROLE=DIR --output DIR`.

A command's imports happen when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import logging
import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence

from omnicore.cli import (
    audit,
    cluster,
    completion,
    doctor,
    manifest,
    recipe,
    results,
    runs,
    serve,
    steps,
)
from omnicore.cli.parser import Parser, check_command, unknown_option
from omnicore.errors import OmniError
from omnicore.logs import FORMATS, log_error, set_up
from omnicore.version import __version__

logger = logging.getLogger(__name__)
GROUPS = (
    steps,
    audit,
    serve,
    results,
    runs,
    manifest,
    recipe,
    doctor,
    cluster,
    completion,
)
ABOUT = """\
Audit omni-modal benchmarks for visual shortcuts, train a small omni-modal model in three
stages, and report the scores that survive the audit.

the flow, each arrow a directory that one step fills and the next ones read:
  prepare -> probe -> clean                 which queries can be solved without the sound
  prepare + clean -> evaluate               a model's score on the raw and on the clean view
  prepare -> sft -> rlvr                    bi-modal fine-tuning, then verifiable rewards
  rlvr -> distill -> sft                    the model's own right answers as training rows
  evaluate -> report, promote               one page of all results; champion or candidate"""

EXAMPLES = """\
examples:
  omnicore prepare  --output runs/a/prepare
  omnicore probe    --input queries=runs/a/prepare --output runs/a/probe
  omnicore clean    --input queries=runs/a/prepare --input draws=runs/a/probe --output runs/a/clean
  omnicore sft      --input data=runs/a/prepare --output runs/a/sft
  omnicore rlvr     --set rlvr.steps=40 --input data=runs/a/prepare --input model=runs/a/sft \\
                    --output runs/a/rlvr
  omnicore evaluate --input queries=runs/a/prepare --input manifest=runs/a/clean \\
                    --input model=runs/a/rlvr --output runs/a/evaluate-rlvr
  omnicore distill  --input data=runs/a/prepare --input model=runs/a/rlvr --output runs/a/distill
  omnicore sft      --section sft_distilled --input data=runs/a/distill --input model=runs/a/rlvr \\
                    --output runs/a/sft-distilled
  omnicore recipe show tiny --set seed=1

Re-run the same command to resume an interrupted step; a finished step returns at once.
An output that holds work of other settings is only replaced with --replace.
`omnicore <command> --help` lists the options of a command, and a step's inputs and files.
`eval "$(omnicore completion bash)"` completes commands and options in a shell."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The arguments, `sys.argv` by default.

    Returns:
        The exit status: 0, 2 for an error that the user can fix, 130 after Ctrl-C. Any other
        exception is a bug and keeps its traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        set_up()
        _run(arguments)
    except OmniError as error:
        log_error(error)
        return 2
    except KeyboardInterrupt:
        logger.warning("interrupted; re-run the same command to resume")
        return 130
    except BrokenPipeError:
        # `| head` has ended; Python must not flush the rest into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def create_parser() -> Parser:
    """Build the parser of all commands."""
    parser = Parser("omnicore", description=ABOUT, epilog=EXAMPLES)
    parser.add_argument("--version", action="version", version=f"omnicore {__version__}")
    _add_log_format(parser)
    for group in GROUPS:
        group.add_commands(parser)
    parser.set_defaults(root=parser)  # `completion` describes all commands
    return parser


def _run(arguments: Sequence[str]) -> None:
    first = ArgumentParser(add_help=False, allow_abbrev=False)
    _add_log_format(first)  # accepted before and after the command
    logging_options, rest = first.parse_known_args(arguments)
    set_up(logging_options.log_format)
    parser = create_parser()
    check_command(parser, rest)
    options, unknown = parser.parse_known_args(rest)
    if unknown:
        raise unknown_option(options.parser, unknown[0])
    options.run(options)


def _add_log_format(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--log-format",
        default="",
        metavar="|".join(FORMATS),
        help="of messages on stderr, for every command (default: OMNI_LOG_FORMAT, or text)",
    )
