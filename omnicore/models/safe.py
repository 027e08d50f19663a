"""Check by their names and JSON that no file of a checkpoint runs code when it is loaded.

It needs neither torch nor the weights.
"""

from __future__ import annotations

import json
import pickletools
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import PurePosixPath
from zipfile import BadZipFile, ZipFile

from omnicore.errors import CheckpointError

# Weights, configuration and vocabulary, the prompt template, the card, the signature; no pickle and
# no code.
SAFE = frozenset({".safetensors", ".json", ".txt", ".jinja", ".md", ".sig"})
# The talker's voices. `thinker.save` writes a file without any, since transformers' class of the
# whole Omni requires it.
VOICES = "spk_dict.pt"
NOTHING = frozenset({"PROTO", "FRAME", "EMPTY_DICT", "BINPUT", "MEMOIZE", "STOP"})


def check_files(names: Iterable[str], read: Callable[[str], bytes], where: str) -> None:
    """Check the files of a checkpoint.

    Args:
        names: Its files.
        read: Returns the content of a small file.
        where: Where the checkpoint lies, for errors.

    Raises:
        CheckpointError: A file may run code, there are no weights, or a config asks for remote code
            (`auto_map`).
    """
    files = sorted(names)
    unsafe = [
        name
        for name in files
        if PurePosixPath(name).suffix not in SAFE and not (name == VOICES and _empty(read(name)))
    ]
    if unsafe:
        raise CheckpointError(
            f"{where} holds {unsafe[0]}, which may run code when it is read: remove it, or convert"
            " it",
            code="checkpoint-unsafe-file",
            path=unsafe[0],
        )
    if not any(name.endswith(".safetensors") for name in files):
        raise CheckpointError(
            f"{where} has no .safetensors weights: convert other weights",
            code="checkpoint-no-weights",
            path=where,
        )
    for name in files:
        if name.endswith("config.json"):
            refuse_code(read(name), f"{where}: {name}")


def refuse_code(content: bytes, where: str) -> None:
    """Check that a JSON file names no remote code.

    Raises:
        CheckpointError: It names code to be fetched and run, or is not JSON.
    """
    try:
        config = json.loads(content)
    except ValueError as error:
        raise CheckpointError(
            f"{where} is not JSON: {error}", code="checkpoint-invalid-json", path=where
        ) from error
    if isinstance(config, dict) and "auto_map" in config:
        raise CheckpointError(
            f"{where} asks for remote code (auto_map), which is never run: remove the key",
            code="checkpoint-remote-code",
            path=where,
            field="auto_map",
        )


def _empty(content: bytes) -> bool:
    """Return whether a file of torch.save holds an empty dict.

    Nothing is unpickled: the pickle may have only the opcodes of an empty dict.
    """
    try:
        with ZipFile(BytesIO(content)) as archive:
            pickles = [archive.read(name) for name in archive.namelist() if name.endswith(".pkl")]
        return len(pickles) == 1 and all(
            opcode.name in NOTHING for opcode, _, _ in pickletools.genops(pickles[0])
        )
    except (BadZipFile, ValueError):
        return False
