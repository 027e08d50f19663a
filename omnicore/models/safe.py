"""Which files of a checkpoint run nothing when they are read, by their names and what its JSON
says.

Needs no torch, no weights.
"""

from __future__ import annotations

import json
import pickletools
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import PurePosixPath
from zipfile import BadZipFile, ZipFile

from omnicore.errors import CheckpointError

# Weights, configuration and vocabulary, the template of a prompt, the card, the signature. A pickle or code is none of them.
SAFE = frozenset({".safetensors", ".json", ".txt", ".jinja", ".md", ".sig"})
# The talker's voices. `thinker.save` writes a file without any, since transformers' class of the whole Omni asks for it.
VOICES = "spk_dict.pt"
NOTHING = frozenset({"PROTO", "FRAME", "EMPTY_DICT", "BINPUT", "MEMOIZE", "STOP"})


def check_files(names: Iterable[str], read: Callable[[str], bytes], where: str) -> None:
    """Raises CheckpointError for a checkpoint with a file that may run code, with none of weights,
    or that asks for code of its own (`auto_map`).

    `names` are its files, `read` gives the content of a small one, `where` it lies.
    """
    files = sorted(names)
    unsafe = [
        name
        for name in files
        if PurePosixPath(name).suffix not in SAFE and not (name == VOICES and _empty(read(name)))
    ]
    if unsafe:
        raise CheckpointError(
            f"{where} holds {unsafe[0]}, which may run code when it is read: leave it out, or"
            " convert it"
        )
    if not any(name.endswith(".safetensors") for name in files):
        raise CheckpointError(f"{where} has no .safetensors weights")
    for name in (name for name in files if name.endswith("config.json")):
        refuse_code(read(name), f"{where}: {name}")


def refuse_code(content: bytes, where: str) -> None:
    """Raises CheckpointError for a JSON file that names code to be fetched and run, and for what is
    no JSON."""
    try:
        found = json.loads(content)
    except ValueError as error:
        raise CheckpointError(f"{where} is not JSON: {error}") from error
    if isinstance(found, dict) and "auto_map" in found:
        raise CheckpointError(
            f"{where} asks for remote code (auto_map), which is never run: remove the key"
        )


def _empty(content: bytes) -> bool:
    """Whether what torch.save has written is an empty dict.

    Nothing is unpickled: the opcodes of one are all that is there.
    """
    try:
        with ZipFile(BytesIO(content)) as archive:
            pickles = [archive.read(name) for name in archive.namelist() if name.endswith(".pkl")]
        return len(pickles) == 1 and all(
            opcode.name in NOTHING for opcode, _, _ in pickletools.genops(pickles[0])
        )
    except (BadZipFile, ValueError):
        return False
