"""`omnicore completion`: print a completion script for a shell."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator

from omnicore.cli.parser import Parser

DESCRIPTION = """\
Print a script that completes commands and options in a shell.

  bash: eval "$(omnicore completion bash)", in ~/.bashrc
  zsh:  omnicore completion zsh > "${fpath[1]}/_omnicore", once"""


def add_commands(parser: Parser) -> None:
    """Add `completion`."""
    summary = "print a completion script for bash or zsh"
    command = parser.add_command("completion", summary, run_completion, DESCRIPTION)
    command.add_argument("shell", choices=("bash", "zsh"))


def run_completion(options: Namespace) -> None:
    """Print the script of one shell."""
    import shtab

    parser: Parser = options.root
    for command in _with_subcommands(parser):
        for argument in command.path_arguments:
            argument.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, options.shell))


def _with_subcommands(parser: Parser) -> Iterator[Parser]:
    yield parser
    for command in parser.commands.values():
        yield from _with_subcommands(command)
