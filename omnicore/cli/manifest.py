"""`omnicore manifest`: show, compare, export and import manifests."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from omnicore.cli.parser import Parser
from omnicore.errors import ConfigError

_FILE = "manifest.json, or the output of clean that holds it"
_TABLE = "a .csv, .jsonl or .parquet file"
_SIDES = ("kept", "removed")


def add_commands(parser: Parser) -> None:
    """Add the group `manifest`."""
    group = parser.add_command("manifest", "show, compare, export and import manifests")

    command = group.add_command("show", "who judged and how; counts by benchmark", run_show)
    command.add_argument("file", type=Path, help=_FILE)

    command = group.add_command("diff", "what moved between two manifests, and why", run_diff)
    command.add_argument("first", type=Path, help=_FILE)
    command.add_argument("second", type=Path, help=_FILE)

    command = group.add_command("export", "write a manifest as a table", run_export)
    command.add_argument("file", type=Path, help=_FILE)
    command.add_argument(
        "--listed",
        choices=_SIDES,
        help="only the ids of these (default: every verdict with its evidence)",
    )
    command.add_argument("--output", type=Path, required=True, metavar="FILE", help=_TABLE)

    summary = "make a manifest of any table of (benchmark, native id)"
    command = group.add_command("import", summary, run_import)
    command.add_argument("file", type=Path, help=_TABLE)
    command.add_argument(
        "--queries",
        type=Path,
        required=True,
        metavar="DIR",
        help="output of prepare that holds the queries",
    )
    command.add_argument(
        "--listed", choices=_SIDES, required=True, help="which queries the table lists"
    )
    command.add_argument(
        "--columns",
        default="benchmark,id",
        metavar="A,B",
        help="its columns (default: benchmark,id)",
    )
    command.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="new or empty; `evaluate` takes it as its manifest",
    )


def run_show(options: Namespace) -> None:
    """Print a manifest's method and counts."""
    from omnicore.audit import manifest_io
    from omnicore.evaluation.verdicts import read_manifest

    print(manifest_io.format_manifest(read_manifest(options.file)))


def run_diff(options: Namespace) -> None:
    """Print the verdicts that differ between two manifests."""
    from omnicore.audit import manifest_io
    from omnicore.evaluation.verdicts import read_manifest

    print(manifest_io.diff_manifests(read_manifest(options.first), read_manifest(options.second)))


def run_export(options: Namespace) -> None:
    """Write a manifest as a table."""
    from omnicore.audit import manifest_table
    from omnicore.evaluation.verdicts import read_manifest

    manifest = read_manifest(options.file)
    count = manifest_table.export_table(manifest, options.output, options.listed)
    print(f"{options.output}: {count} rows")


def run_import(options: Namespace) -> None:
    """Make a manifest of a table and print it."""
    from omnicore.audit import manifest_io, manifest_table

    columns = tuple(options.columns.split(","))
    if len(columns) != 2:
        raise ConfigError(
            f"--columns {options.columns!r}: name two, as in --columns benchmark,id",
            code="cli-columns-invalid",
            field="--columns",
        )
    manifest, counts = manifest_table.import_table(
        options.file, columns, options.listed, options.queries
    )
    manifest_table.save_imported(manifest, counts, (options.file, options.queries), options.output)
    totals = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items())
    print(f"{manifest_io.format_manifest(manifest)}\n\n{totals}")
    print(f"use it: omnicore evaluate --input manifest={options.output}")
