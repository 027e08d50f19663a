"""The files of a checkpoint, looked at before any weight is read.

Only safetensors are loaded. What the index promises must be there, in the shard that it names and
as large as it says: transformers would fill a weight that it does not find with random numbers, or
stop in the middle with an error of its own.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from safetensors import SafetensorError, safe_open

from omnicore.errors import CheckpointError
from omnicore.models import safe

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
AGAIN = "fetch or make the checkpoint again"
_BYTES = {
    "BF16": 2,
    "F16": 2,
    "F32": 4,
}  # of what can train; a quantised weight is no number without its scale


def check_checkpoint(directory: Path) -> None:
    """Raises CheckpointError naming the file and what is wrong with it: remote code, pickled
    weights, a shard that is missing or cut off, weights that are not where the index has them or
    not as large together as it says, a dtype that is no float."""
    for path in sorted(directory.glob("*.json")):
        safe.refuse_code(path.read_bytes(), str(path))
    if (
        directory / "adapter_config.json"
    ).exists():  # transformers would load the model that it names instead
        raise CheckpointError(
            f"{directory} holds an adapter, adapter_config.json: merge it into its model and give"
            " that directory"
        )
    if not any(directory.glob("*.safetensors")):
        raise CheckpointError(
            f"{directory} has no .safetensors weights; pickled weights are never loaded: convert"
            " them"
        )
    index = directory / INDEX
    if not index.exists():
        if not (directory / WEIGHTS).exists():
            raise CheckpointError(
                f"{directory} has neither {WEIGHTS} nor {INDEX}, which says what its shards hold:"
                f" {AGAIN}"
            )
        weight_sizes(directory / WEIGHTS)
        return
    if (directory / WEIGHTS).exists():
        raise CheckpointError(
            f"{directory} has {INDEX} and {WEIGHTS}, which may be two models: remove what is left"
            " over"
        )
    _check_index(index)


def _check_index(index: Path) -> None:
    found = json.loads(index.read_text())
    listed: dict[str, set[str]] = {}
    try:
        for weight, shard in found["weight_map"].items():
            listed.setdefault(shard, set()).add(weight)
        total = found.get("metadata", {}).get("total_size")
    except (KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{index} has no weight_map from weights to shards: {AGAIN}"
        ) from error
    there = 0
    for shard, weights in sorted(listed.items()):
        path = index.parent / shard
        if Path(shard).name != shard or not path.is_file():
            raise CheckpointError(f"{index} names {shard}, which is not in its directory: {AGAIN}")
        held = weight_sizes(path)
        if unlike := weights ^ held.keys():
            raise CheckpointError(
                f"{path} is not as {index.name} says: {min(unlike)} is in one of them alone;"
                f" {AGAIN}"
            )
        there += sum(held.values())
    if total not in (None, there):
        raise CheckpointError(
            f"{index} says that the weights take {total} bytes, and the shards hold {there}:"
            f" {AGAIN}"
        )


def weight_sizes(shard: Path) -> dict[str, int]:
    """Bytes of each weight by its header.

    Raises CheckpointError where the file is not as long as its header says, or holds what is no
    float.
    """
    try:
        with safe_open(shard, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            shapes = {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{shard} is damaged or truncated ({error}): {AGAIN}") from error
    for name, (dtype, _) in shapes.items():
        if dtype not in _BYTES:
            raise CheckpointError(
                f"{shard} holds {name} as {dtype}: weights that train are {', '.join(_BYTES)}; take"
                " them unquantised"
            )
    return {name: _BYTES[dtype] * math.prod(shape) for name, (dtype, shape) in shapes.items()}
