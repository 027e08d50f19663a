"""From a number in a report, or from any file, back to the step that made it, and from there to
weights, data, prompts and code.

The finished outputs below one directory are known by the digest in their `step.json`, and each
tells the digests of what it was made from. The walk believes none of them: an output whose files
are no longer those that its digest was taken of is said to be altered, and an input that is nowhere
is said to be missing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from omnicore.errors import DataError
from omnicore.lineage import model_card
from omnicore.lineage.step_record import read_step
from omnicore.storage.digests import STEP_FILE, digest_directory, model_directory, sha256_file
from omnicore.storage.files import read_json

NUMBER = re.compile(r"-?\d+(?:\.(\d+))?")
# Hold no figures of a whole: verdicts on single queries, what a model answered, settings; a release has copies of figures.
SKIPPED = re.compile(
    r"step\.json|manifest.*\.json|planted\.json|(checkpoint|release|media|lmms_eval)/.*"
)
ENDS = ("low", "high")  # of an interval: its value is the score
MOST = 40  # matches that are listed
WIDE = 100_000  # columns: a tree would cut its lines at the terminal's edge, or at 80 in a pipe, and a cut hash is none


class Output(NamedTuple):
    """A finished output of a step, and the content of its `step.json`."""

    directory: Path
    record: Mapping[str, Any]

    @property
    def identity(self) -> tuple[str, str]:
        """Digest and key: two models may answer alike, and then their evaluations have the same
        digest."""
        return str(self.record["digest"]), str(self.record["key"])


class Match(NamedTuple):
    """Where something was found: the file, the place in it, and what stands there.

    Equal `value`s may be copies.
    """

    output: Output
    file: Path
    where: str
    value: Any
    told: str = ""


@dataclass
class Tracer:
    """The outputs below `root`, and what a walk has found wrong.

    Raises DataError when there are none.
    """

    root: Path
    broken: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.outputs:
            raise DataError(
                f"{self.root}: no finished output of a step is there (no {STEP_FILE}); give --in"
                " the directory of a run"
            )

    @cached_property
    def outputs(self) -> dict[tuple[str, str], Output]:
        """By identity; where several directories hold the same, the one with the shortest path."""
        found: dict[tuple[str, str], Output] = {}
        for path in sorted(self.root.rglob(STEP_FILE), key=lambda path: (len(path.parts), path)):
            output = Output(path.parent, read_step(path.parent))
            found.setdefault(output.identity, output)
        return found

    def by_digest(self, digest: str) -> Output | None:
        return next(
            (output for identity, output in self.outputs.items() if identity[0] == digest), None
        )

    def inputs(self, output: Output) -> dict[str, Output | None]:
        """The outputs that one was made from, by role; None for what is nowhere.

        An older `step.json` tells digests alone.
        """
        keys = output.record.get("input_keys")
        digests = output.record.get("inputs", {}).items()
        return {
            role: self.outputs.get((of, keys[role])) if keys else self.by_digest(of)
            for role, of in digests
        }

    def made_from(self, output: Output) -> Iterator[Output]:
        """All outputs that one was made from, at however many steps' distance."""
        for source in self.inputs(output).values():
            if source:
                yield source
                yield from self.made_from(source)

    def name(self, output: Output) -> str:
        """The section, and of an evaluation what was evaluated."""
        record, asked = output.record, self.inputs(output).get("model")
        models = [str(asked.record["section"])] if asked else list(record.get("models", {}))
        return (
            " of ".join([str(record["section"]), *models[:1]])
            if record["step"] == "evaluate"
            else str(record["section"])
        )

    def find(self, wanted: str) -> tuple[list[Match], list[Match]]:
        """Where a number or file was made, and where it was copied to: into what was made from
        that.

        Raises DataError when it is nowhere.
        """
        number = NUMBER.fullmatch(wanted.removesuffix("%"))
        is_number = number and not Path(wanted).exists()
        found = list(
            self._numbers(wanted.removesuffix("%"), len((number and number[1]) or ""))
            if is_number
            else self._file(Path(wanted))
        )
        if not found:
            nowhere = (
                f"no figure in the outputs below {self.root} is shown so; give fewer digits, or"
                if is_number
                else ""
            )
            raise DataError(
                f"{wanted}: {nowhere or f'no finished output below {self.root} holds it;'} give"
                " --in the run that it is from"
            )
        holders = {
            match.value: {other.output.identity for other in found if other.value == match.value}
            for match in found
        }
        made = [
            m
            for m in found
            if holders[m.value].isdisjoint(of.identity for of in self.made_from(m.output))
        ]
        return made, [m for m in found if m not in made]

    def _numbers(self, wanted: str, digits: int) -> Iterator[Match]:
        """Figures that are shown so: as they are, or as a percentage."""
        for output in self.outputs.values():
            for path in sorted(output.directory.rglob("*.json")):
                if SKIPPED.fullmatch(path.relative_to(output.directory).as_posix()):
                    continue
                for where, value, told in _leaves(read_json(path), ()):
                    if wanted in (f"{value:.{digits}f}", f"{100 * value:.{digits}f}"):
                        yield Match(output, path, where, value, told)

    def _file(self, path: Path) -> Iterator[Match]:
        """The output that a file lies in; else those that hold the same bytes; else what the model
        card beside it names."""
        if not path.exists():
            raise DataError(
                f"{path}: no such file, and no number; write a number as it is shown, as in 89.1"
            )
        for parent in (path, *path.resolve().parents):
            if (parent / STEP_FILE).is_file():
                yield Match(
                    Output(parent, read_step(parent)),
                    path,
                    "",
                    sha256_file(path) if path.is_file() else parent,
                )
                return
        same = list(self._same(path)) if path.is_file() else []
        yield from same
        folder = path if path.is_dir() else path.parent
        made = (
            model_card.read_card(folder).made
            if not same and (folder / model_card.CARD_FILE).is_file()
            else None
        )
        if made and (named := self.outputs.get((made.digest, made.key))):
            yield Match(named, path, "named by the model card", made.digest)

    def _same(self, path: Path) -> Iterator[Match]:
        size, sha256 = path.stat().st_size, sha256_file(path)
        for output in self.outputs.values():
            for other in sorted(output.directory.rglob("*")):
                if (
                    other.is_file()
                    and other.stat().st_size == size
                    and sha256_file(other) == sha256
                ):
                    yield Match(output, other, "the same bytes", sha256)

    def tree(self, output: Output) -> Tree:
        """What an output was made from, back to the beginning.

        Code, recipe and prompts that are not told of a step are those of the one that it was an
        input of.
        """
        tree = Tree(Text(f"{self.name(output)}  {output.directory}", style="bold"))
        self._grow(tree, output, {}, set())
        return tree

    def _grow(
        self, tree: Tree, output: Output, above: Mapping[str, str], walked: set[tuple[str, str]]
    ) -> None:
        walked.add(output.identity)
        shared = self._shared(output)
        told = [f"{name} {text}" for name, text in shared.items() if above.get(name) != text]
        for text in [*self._facts(output), *told, *self._material(output)]:
            tree.add(Text(text))
        for role, source in self.inputs(output).items():
            if source is None:
                digest = output.record["inputs"][role]
                self.broken.append(
                    f"{role} of {self.name(output)} {output.directory}: no output below {self.root}"
                    f" has digest {digest}"
                )
                tree.add(Text(f"{role}: MISSING {digest}", style="red"))
                continue
            head = f"{role}: {self.name(source)}  {source.directory}"
            if source.identity in walked:
                tree.add(Text(f"{head}  (above)"))
            else:
                self._grow(tree.add(Text(head, style="bold")), source, shared, walked)

    def _facts(self, output: Output) -> Iterator[str]:
        record, (digest, key) = output.record, output.identity
        altered = digest_directory(output.directory) != digest
        if altered:
            self.broken.append(
                f"{output.directory}: its files are not those of its digest {digest}"
            )
        yield f"digest {digest}{'  ALTERED since it was finished' if altered else ''}"
        yield (
            f"made {record.get('started', 'at an unknown time')}, {record['seconds']:.1f} s, key"
            f" {key}"
        )
        yield f"config {_line(record.get('config', 'not recorded'))}"

    def _shared(self, output: Output) -> dict[str, str]:
        """What most steps of a run have in common."""
        record = output.record
        version, code = record.get("versions", {}).get("omnicore", "?"), record.get("code", {})
        commit = f", commit {code['revision']}" if code.get("revision") else ""
        return {
            "code": f"omnicore {version}, digest {code.get('digest', 'not recorded')}{commit}",
            "recipe": (
                f"{record.get('recipe', 'not recorded')} {record.get('recipe_hash', '')}, seed"
                f" {record.get('seed', '?')}"
            ),
            "prompts": (
                f"{_line(record.get('profile', 'not recorded'))}, hash"
                f" {record.get('profile_hash', '')}"
            ),
        }

    def _material(self, output: Output) -> Iterator[str]:
        """Models, training rows and weights."""
        record, directory = output.record, output.directory
        for name, digest in record.get("models", {}).items():
            place = model_directory(name)
            changed = place.is_dir() and digest_directory(place) != digest
            if changed:
                self.broken.append(
                    f"model {name}: its files are not those of digest {digest}, which {directory}"
                    " was made with"
                )
            yield f"model {name}, digest {digest}{'  ALTERED since' if changed else ''}"
        if (directory / model_card.CHECKPOINT / model_card.CARD_FILE).is_file():
            known = model_card.read_card(directory / model_card.CHECKPOINT)
            yield f"base {known.base.name}, digest {known.base.digest}"
            yield f"data {known.data.name}, {known.data.rows} rows, sha256 {known.data.sha256}"
        for path in sorted(directory.glob(f"{model_card.CHECKPOINT}/*.safetensors")):
            yield f"weights {path.relative_to(directory)}, sha256 {sha256_file(path)}"


def trace(wanted: str, root: Path) -> None:
    """Prints where a number or a file comes from.

    Raises DataError when it is nowhere, or its chain is broken; the tree is printed before that.
    """
    tracer = Tracer(root)
    made, copies = tracer.find(wanted)
    console = Console(highlight=False, width=WIDE)
    for line in [*_list(tracer, made, ""), *_list(tracer, copies, "copied to ")]:
        console.print(line, markup=False)
    console.print()
    outputs = {match.output.identity: match.output for match in made}
    if len(outputs) > 1:
        console.print(f"{len(outputs)} outputs have it of their own: trace one by its file")
        return
    for output in outputs.values():
        console.print(tracer.tree(output))
    if tracer.broken:
        raise DataError(
            "\n".join(
                ["the chain is broken:", *(f"  {line}" for line in dict.fromkeys(tracer.broken))]
            )
        )


def _list(tracer: Tracer, found: Sequence[Match], what: str) -> Iterator[str]:
    for match in found[:MOST]:
        parts = (f"{what}{tracer.name(match.output)}", str(match.file), match.where, match.told)
        yield "  ".join(part for part in parts if part)
    if len(found) > MOST:
        yield f"{what}{len(found) - MOST} more"


def _leaves(value: Any, at: tuple[str, ...]) -> Iterator[tuple[str, float, str]]:
    """Numbers of a JSON value: their place, themselves, and the interval of an estimate."""
    if isinstance(value, dict):
        interval = {*ENDS, "value"} <= value.keys()
        for name, inner in value.items():
            if interval and name == "value":
                ends = (
                    f"{100 * inner:.2f} [{100 * value['low']:.2f}, {100 * value['high']:.2f}], n"
                    f" {value.get('n', '?')}"
                )
                yield ".".join(at), float(inner), ends
            elif not (interval and name in ENDS):
                yield from _leaves(inner, (*at, str(name)))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _leaves(inner, (*at, str(number)))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield ".".join(at), float(value), str(value)


def _line(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
