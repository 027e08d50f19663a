"""Tree of what an output was made from, back to weights, data, prompts and code.

The walk verifies everything: an output whose files no longer match its digest is marked as altered,
and an input that is not below the root as missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text
from rich.tree import Tree

from omnicore.lineage import model_card
from omnicore.lineage.output_index import Output, OutputIndex
from omnicore.storage.digests import digest_directory, model_directory, sha256_file


class TreeBuilder:
    """Builds trees; `broken` lists the altered and missing parts."""

    def __init__(self, index: OutputIndex) -> None:
        """Start with nothing broken."""
        self.index = index
        self.broken: list[str] = []

    def build(self, output: Output) -> Tree:
        """Return the tree of an output.

        Code, recipe and prompts that a step does not show are those of the output above it.
        """
        headline = f"{self.index.name(output)}  {output.directory}"
        tree = Tree(Text(headline, style="bold"))
        self._grow(tree, output, {}, set())
        return tree

    def _grow(
        self, tree: Tree, output: Output, above: Mapping[str, str], visited: set[tuple[str, str]]
    ) -> None:
        visited.add(output.identity)
        shared = _shared_facts(output)
        changed = [f"{name} {text}" for name, text in shared.items() if above.get(name) != text]
        for text in [*self._facts(output), *changed, *self._materials(output)]:
            tree.add(Text(text))
        for role, source in self.index.inputs(output).items():
            if source is None:
                tree.add(self._missing(role, output))
                continue
            headline = f"{role}: {self.index.name(source)}  {source.directory}"
            if source.identity in visited:
                tree.add(Text(f"{headline}  (above)"))
            else:
                self._grow(tree.add(Text(headline, style="bold")), source, shared, visited)

    def _missing(self, role: str, output: Output) -> Text:
        digest = output.record["inputs"][role]
        self.broken.append(
            f"{role} of {self.index.name(output)} {output.directory}: no output below"
            f" {self.index.root} has digest {digest}"
        )
        return Text(f"{role}: MISSING {digest}", style="red")

    def _facts(self, output: Output) -> Iterator[str]:
        record, (digest, key) = output.record, output.identity
        altered = ""
        if digest_directory(output.directory) != digest:
            altered = "  ALTERED since it was finished"
            self.broken.append(f"{output.directory}: its files do not match its digest {digest}")
        yield f"digest {digest}{altered}"
        started = record.get("started", "at an unknown time")
        yield f"made {started}, {record['seconds']:.1f} s, key {key}"
        yield f"config {_one_line(record.get('config', 'not recorded'))}"

    def _materials(self, output: Output) -> Iterator[str]:
        """Yield models, training rows and weights."""
        directory = output.directory
        for name, digest in output.record.get("models", {}).items():
            place = model_directory(name)
            altered = ""
            if place.is_dir() and digest_directory(place) != digest:
                altered = "  ALTERED since"
                self.broken.append(
                    f"model {name}: its files do not match digest {digest}, with which {directory}"
                    " was made"
                )
            yield f"model {name}, digest {digest}{altered}"
        checkpoint = directory / model_card.CHECKPOINT
        if (checkpoint / model_card.CARD_FILE).is_file():
            card = model_card.read_card(checkpoint)
            yield f"base {card.base.name}, digest {card.base.digest}"
            yield f"data {card.data.name}, {card.data.rows} rows, sha256 {card.data.sha256}"
        for path in sorted(checkpoint.glob("*.safetensors")):
            yield f"weights {path.relative_to(directory)}, sha256 {sha256_file(path)}"


def _shared_facts(output: Output) -> dict[str, str]:
    """Return the facts that most steps of a run have in common."""
    record = output.record
    version, code = record.get("versions", {}).get("omnicore", "?"), record.get("code", {})
    commit = f", commit {code['revision']}" if code.get("revision") else ""
    recipe, recipe_hash = record.get("recipe", "not recorded"), record.get("recipe_hash", "")
    profile = _one_line(record.get("profile", "not recorded"))
    return {
        "code": f"omnicore {version}, digest {code.get('digest', 'not recorded')}{commit}",
        "recipe": f"{recipe} {recipe_hash}, seed {record.get('seed', '?')}",
        "prompts": f"{profile}, hash {record.get('profile_hash', '')}",
    }


def _one_line(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
