"""Finished outputs below one directory, by the digest in their `step.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from omnicore.errors import DataError
from omnicore.lineage.step_record import read_step
from omnicore.storage.digests import STEP_FILE


class Output(NamedTuple):
    """A finished output of a step, and the content of its `step.json`."""

    directory: Path
    record: Mapping[str, Any]

    @property
    def identity(self) -> tuple[str, str]:
        """Digest and key: evaluations of two models with equal answers have equal digests."""
        return str(self.record["digest"]), str(self.record["key"])


class OutputIndex:
    """The outputs below a directory, and what each was made from."""

    def __init__(self, root: Path) -> None:
        """Find the outputs.

        Raises:
            DataError: There are none.
        """
        self.root = root
        if not self.outputs:
            raise DataError(
                f"{root}: no finished output of a step is there (no {STEP_FILE}); set --in to the"
                " directory of a run",
                code="trace-no-outputs",
                path=root,
            )

    @cached_property
    def outputs(self) -> dict[tuple[str, str], Output]:
        """Outputs by identity; of equal ones, the one with the shortest path."""
        outputs: dict[tuple[str, str], Output] = {}
        for path in sorted(self.root.rglob(STEP_FILE), key=lambda path: (len(path.parts), path)):
            output = Output(path.parent, read_step(path.parent))
            outputs.setdefault(output.identity, output)
        return outputs

    def inputs(self, output: Output) -> dict[str, Output | None]:
        """Return the inputs of an output by role; None for one that is not below the root."""
        keys = output.record.get("input_keys")
        inputs: dict[str, Output | None] = {}
        for role, digest in output.record.get("inputs", {}).items():
            if keys:
                inputs[role] = self.outputs.get((digest, keys[role]))
            else:
                # An older `step.json` has only digests.
                inputs[role] = self._find_by_digest(digest)
        return inputs

    def _find_by_digest(self, digest: str) -> Output | None:
        for identity, output in self.outputs.items():
            if identity[0] == digest:
                return output
        return None

    def ancestors(self, output: Output) -> Iterator[Output]:
        """Yield all outputs that one was made from, over any number of steps."""
        for source in self.inputs(output).values():
            if source:
                yield source
                yield from self.ancestors(source)

    def name(self, output: Output) -> str:
        """Return the section; of an evaluation, also the evaluated model."""
        record = output.record
        section = str(record["section"])
        if record["step"] != "evaluate":
            return section
        model = self.inputs(output).get("model")
        models = [str(model.record["section"])] if model else list(record.get("models", {}))
        return " of ".join([section, *models[:1]])
