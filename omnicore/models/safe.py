"""Which files of a checkpoint run nothing when they are read, by their names and what its JSON says. Needs no torch, no weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

from omnicore.errors import CheckpointError

# Weights, configuration and vocabulary, the template of a prompt, the card, the signature. A pickle or code is none of them.
SAFE = frozenset({".safetensors", ".json", ".txt", ".jinja", ".md", ".sig"})


def check(names: Iterable[str], read: Callable[[str], bytes], where: str) -> None:
    """Raises CheckpointError for a checkpoint with a file that may run code, with none of weights, or that asks for code of its own
    (`auto_map`). `names` are its files, `read` gives the content of a small one, `where` it lies."""
    files = sorted(names)
    if unsafe := [name for name in files if PurePosixPath(name).suffix not in SAFE]:
        raise CheckpointError(f"{where} holds {unsafe[0]}, which may run code when it is read: leave it out, or convert it")
    if not any(name.endswith(".safetensors") for name in files):
        raise CheckpointError(f"{where} has no .safetensors weights")
    for name in (name for name in files if name.endswith("config.json")):
        try:
            found = json.loads(read(name))
        except ValueError as error:
            raise CheckpointError(f"{where}: {name} is not JSON: {error}") from error
        if "auto_map" in found:
            raise CheckpointError(f"{where}: {name} asks for remote code (auto_map), which is never run: remove the key")
