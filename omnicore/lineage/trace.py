"""Trace a number in a report, or any file, to the step that made it and to that step's origins."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from omnicore.errors import DataError
from omnicore.lineage import model_card
from omnicore.lineage.output_index import Output, OutputIndex
from omnicore.lineage.step_record import read_step
from omnicore.lineage.trace_tree import TreeBuilder
from omnicore.storage.digests import STEP_FILE, sha256_file
from omnicore.storage.files import read_json

NUMBER = re.compile(r"-?\d+(?:\.(\d+))?")
# These hold no aggregate figures: verdicts on single queries, replies, settings; a release has
# copies of figures.
SKIPPED = re.compile(
    r"step\.json|manifest.*\.json|planted\.json|(checkpoint|release|media|lmms_eval)/.*"
)
INTERVAL_ENDS = ("low", "high")
MATCHES_SHOWN = 40
# Columns. A narrower console would truncate lines at the terminal's edge, or at 80 in a pipe, and a
# truncated hash is useless.
WIDTH = 100_000


class Match(NamedTuple):
    """Where something was found.

    Attributes:
        output: The output that holds it.
        file: The file.
        where: The place in the file.
        value: What stands there; equal values may be copies.
        text: The value in words.
    """

    output: Output
    file: Path
    where: str
    value: Any
    text: str = ""


def trace(wanted: str, root: Path) -> None:
    """Print where a number or a file comes from.

    Args:
        wanted: A number as it is shown, or the path of a file.
        root: Directory of a run.

    Raises:
        DataError: It is not found, or a part of its origin is altered or missing; the tree is
            printed before that.
    """
    index = OutputIndex(root)
    origins, copies = find(wanted, index)
    console = Console(highlight=False, width=WIDTH)
    for line in [*_match_lines(index, origins, ""), *_match_lines(index, copies, "copied to ")]:
        console.print(line, markup=False)
    console.print()
    outputs = {match.output.identity: match.output for match in origins}
    if len(outputs) > 1:
        console.print(f"{len(outputs)} outputs hold it independently: trace one by its file")
        return
    builder = TreeBuilder(index)
    for output in outputs.values():
        console.print(builder.build(output))
    if builder.broken:
        problems = [f"  {line}" for line in dict.fromkeys(builder.broken)]
        raise DataError("\n".join(["the chain is broken:", *problems]), code="trace-chain-broken")


def find(wanted: str, index: OutputIndex) -> tuple[list[Match], list[Match]]:
    """Return where a number or file was made, and the outputs made from that which hold copies.

    Raises:
        DataError: It is not found.
    """
    number = NUMBER.fullmatch(wanted.removesuffix("%"))
    if number and not Path(wanted).exists():
        matches = list(_find_number(wanted.removesuffix("%"), len(number[1] or ""), index))
        if not matches:
            raise DataError(
                f"{wanted}: no figure in the outputs below {index.root} is shown so; use fewer"
                " digits, or set --in to the run that it is from",
                code="trace-number-not-found",
            )
    else:
        matches = list(_find_file(Path(wanted), index))
        if not matches:
            raise DataError(
                f"{wanted}: no finished output below {index.root} holds it; set --in to the run"
                " that it is from",
                code="trace-file-not-found",
                path=wanted,
            )
    copies = [match for match in matches if _is_copy(match, matches, index)]
    return [match for match in matches if match not in copies], copies


def _is_copy(match: Match, matches: Sequence[Match], index: OutputIndex) -> bool:
    """Return whether an ancestor of the match's output holds the same value."""
    holders = {other.output.identity for other in matches if other.value == match.value}
    ancestors = {output.identity for output in index.ancestors(match.output)}
    return bool(holders & ancestors)


def _find_number(wanted: str, digits: int, index: OutputIndex) -> Iterator[Match]:
    """Yield the figures that are shown so, as they are or as a percentage."""
    for output in index.outputs.values():
        for path in sorted(output.directory.rglob("*.json")):
            if SKIPPED.fullmatch(path.relative_to(output.directory).as_posix()):
                continue
            for where, value, text in _numbers(read_json(path), ()):
                if wanted in (f"{value:.{digits}f}", f"{100 * value:.{digits}f}"):
                    yield Match(output, path, where, value, text)


def _find_file(path: Path, index: OutputIndex) -> Iterator[Match]:
    """Yield the output that holds a file.

    Otherwise those with the same bytes; otherwise the one that the model card beside it names.
    """
    if not path.exists():
        raise DataError(
            f"{path}: no such file, and not a number; write a number as it is shown, as in 89.1",
            code="trace-argument-invalid",
            path=path,
        )
    for parent in (path, *path.resolve().parents):
        if (parent / STEP_FILE).is_file():
            value = sha256_file(path) if path.is_file() else parent
            yield Match(Output(parent, read_step(parent)), path, "", value)
            return
    same = list(_find_same_bytes(path, index)) if path.is_file() else []
    yield from same
    folder = path if path.is_dir() else path.parent
    if same or not (folder / model_card.CARD_FILE).is_file():
        return
    step = model_card.read_card(folder).made
    output = index.outputs.get((step.digest, step.key)) if step else None
    if step and output:
        yield Match(output, path, "named by the model card", step.digest)


def _find_same_bytes(path: Path, index: OutputIndex) -> Iterator[Match]:
    size, sha256 = path.stat().st_size, sha256_file(path)
    for output in index.outputs.values():
        for other in sorted(output.directory.rglob("*")):
            if not other.is_file() or other.stat().st_size != size:
                continue
            if sha256_file(other) == sha256:
                yield Match(output, other, "the same bytes", sha256)


def _match_lines(index: OutputIndex, matches: Sequence[Match], prefix: str) -> Iterator[str]:
    for match in matches[:MATCHES_SHOWN]:
        name = index.name(match.output)
        parts = (f"{prefix}{name}", str(match.file), match.where, match.text)
        yield "  ".join(filter(None, parts))
    if len(matches) > MATCHES_SHOWN:
        yield f"{prefix}{len(matches) - MATCHES_SHOWN} more"


def _numbers(value: Any, at: tuple[str, ...]) -> Iterator[tuple[str, float, str]]:
    """Yield the numbers of a JSON value: place, number, and text, with the interval if any."""
    if isinstance(value, dict):
        is_estimate = {*INTERVAL_ENDS, "value"} <= value.keys()
        for name, inner in value.items():
            if is_estimate and name == "value":
                low, high = 100 * value["low"], 100 * value["high"]
                text = f"{100 * inner:.2f} [{low:.2f}, {high:.2f}], n {value.get('n', '?')}"
                yield ".".join(at), float(inner), text
            elif not (is_estimate and name in INTERVAL_ENDS):
                yield from _numbers(inner, (*at, str(name)))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _numbers(inner, (*at, str(number)))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield ".".join(at), float(value), str(value)
