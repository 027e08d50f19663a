"""Argument parser of the command line and what its commands share.

argparse and shtab (completion scripts, loaded by `omnicore completion` only) start in 10 ms; typer
and cyclopts load pydantic or rich before the first command.
"""

from __future__ import annotations

import re
from argparse import Action, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from omnicore.errors import ConfigError, missing_package

S3 = ", or s3://bucket/prefix"
RENAMED = {
    "recipes": "recipe list",
    "reap": "cluster reap",
    "submit": "cluster submit",
    "deploy": "cluster deploy",
}


class Parser(ArgumentParser):
    """Parser of one command; holds its subcommands and raises ConfigError for wrong usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", RawDescriptionHelpFormatter)
        self.commands: dict[str, Parser] = {}
        self.path_arguments: list[Action] = []  # a shell completes them by file names
        super().__init__(*args, **kwargs)
        # The parser of the chosen command: a message about an unknown option names its options.
        self.set_defaults(parser=self)

    def add_argument(self, *names: str, **options: Any) -> Action:
        """Add an argument, and remember it if it is a path."""
        action = super().add_argument(*names, **options)
        if options.get("type") is Path or options.get("metavar") in ("DIR", "FILE"):
            self.path_arguments.append(action)
        return action

    def add_command(
        self,
        name: str,
        summary: str,
        run: Callable[[Namespace], None] | None = None,
        description: str = "",
    ) -> Parser:
        """Add a command.

        Args:
            name: The word that chooses it.
            summary: Its line in the list of commands.
            run: Function that runs it; None for a group of further commands.
            description: Text of its own help; `summary` by default.
        """
        if not self.commands:
            title = "commands" if self.prog.count(" ") else "steps and other commands"
            self._group = self.add_subparsers(required=True, metavar="command", title=title)
        command = self._group.add_parser(name, help=summary, description=description or summary)
        if run:
            command.set_defaults(run=run)
        self.commands[name] = command
        return command

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError: argparse's own way prints the usage and exits."""
        raise ConfigError(
            f"{self.prog}: {message}; see `{self.prog} --help`",
            code="cli-usage",
        )

    def options(self) -> list[str]:
        """Return the names of all options."""
        return ["--help", *re.findall(r"--[a-z0-9-]+", self.format_usage())]


def check_command(parser: Parser, arguments: Sequence[str]) -> None:
    """Check the words that choose a command, and name the nearest one for a typo.

    Raises:
        ConfigError: The command is unknown or has another name now.
    """
    if arguments and arguments[0] in RENAMED:
        new = f"omnicore {RENAMED[arguments[0]]}"
        raise ConfigError(
            f"omnicore {arguments[0]} was renamed: run `{new}`",
            code="cli-command-renamed",
            field=arguments[0],
        )
    for word in arguments:
        if word.startswith("-") or not parser.commands:
            return
        if word not in parser.commands:
            raise ConfigError(
                f"{parser.prog} has no command {word!r}{did_you_mean(word, parser.commands)}"
                f" Its commands: {', '.join(parser.commands)}",
                code="cli-unknown-command",
                field=word,
            )
        parser = parser.commands[word]


def unknown_option(parser: Parser, given: str) -> ConfigError:
    """Return the error for an option that a command does not have."""
    name = given.partition("=")[0]
    known = parser.options()
    return ConfigError(
        f"{parser.prog} has no option {given}{did_you_mean(name, known)}"
        f" Its options: {', '.join(known)}",
        code="cli-unknown-option",
        field=name,
    )


def did_you_mean(word: str, known: Sequence[str] | dict[str, Any]) -> str:
    """Return the end of a sentence that names the nearest of the known words, if one is near."""
    nearest = get_close_matches(word, list(known), 1)
    return f"; did you mean {nearest[0]}?" if nearest else "."


@contextmanager
def extra_required(command: str, extra: str) -> Iterator[None]:
    """Turn a missing module into an error that names the extra which installs it.

    Raises:
        ConfigError: A module outside this package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] == "omnicore":
            raise
        raise missing_package(error.name, extra, command) from error


def add_set(parser: ArgumentParser) -> None:
    """Add `--set`, which changes single values of the recipe."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a value: rlvr.steps=40; repeat",
    )


def add_recipe(parser: ArgumentParser, text: str) -> None:
    """Add `--recipe` and `--set`."""
    parser.add_argument("--recipe", default="tiny", help=text)
    add_set(parser)
