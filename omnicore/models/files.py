"""Check the files of a checkpoint before any weight is loaded.

Only safetensors are loaded. Every weight of the index must be in the shard that it names, which
must be as large as the index says: transformers would fill a missing weight with random numbers,
or stop half-way with an error of its own.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from safetensors import SafetensorError, safe_open

from omnicore.errors import CheckpointError
from omnicore.models import safe

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
REMEDY = "fetch or make the checkpoint again"
# Bytes of the dtypes that can train; a quantised weight needs its scale to be a number.
_BYTES = {"BF16": 2, "F16": 2, "F32": 4}


def check_checkpoint(directory: Path) -> None:
    """Check the files of a checkpoint.

    Raises:
        CheckpointError: It has remote code, an adapter, no safetensors, a missing or truncated
            shard, weights that are not where the index has them, sizes other than the index has, or
            a dtype that is not a float. The error names the file.
    """
    for path in sorted(directory.glob("*.json")):
        safe.refuse_code(path.read_bytes(), str(path))
    # transformers would load the model that an adapter names.
    if (directory / "adapter_config.json").exists():
        raise CheckpointError(
            f"{directory} holds an adapter, adapter_config.json: merge it into its model and give"
            " that directory",
            code="checkpoint-is-adapter",
            path=directory,
        )
    if not any(directory.glob("*.safetensors")):
        raise CheckpointError(
            f"{directory} has no .safetensors weights; pickled weights are never loaded: convert"
            " them",
            code="checkpoint-no-weights",
            path=directory,
        )
    index, weights = directory / INDEX, directory / WEIGHTS
    if index.exists() and weights.exists():
        raise CheckpointError(
            f"{directory} has {INDEX} and {WEIGHTS}, which may be two models: remove the one that"
            " does not belong to it",
            code="checkpoint-two-models",
            path=directory,
        )
    if index.exists():
        _check_index(index)
    elif weights.exists():
        weight_sizes(weights)
    else:
        raise CheckpointError(
            f"{directory} has neither {WEIGHTS} nor {INDEX}, which lists the weights of its"
            f" shards: {REMEDY}",
            code="checkpoint-no-index",
            path=directory,
        )


def _check_index(index: Path) -> None:
    """Compare the shards with the index; raise CheckpointError for a difference."""
    weights_by_shard, listed_size = _read_index(index)
    size = 0
    for shard, weights in sorted(weights_by_shard.items()):
        path = index.parent / shard
        if Path(shard).name != shard or not path.is_file():
            raise CheckpointError(
                f"{index} names {shard}, which is not in its directory: {REMEDY}",
                code="checkpoint-missing-shard",
                path=index,
                field=shard,
            )
        sizes = weight_sizes(path)
        different = weights ^ sizes.keys()
        if different:
            raise CheckpointError(
                f"{path} and {index.name} list different weights: only one of them has"
                f" {min(different)}; {REMEDY}",
                code="checkpoint-index-mismatch",
                path=path,
                field=min(different),
            )
        size += sum(sizes.values())
    if listed_size not in (None, size):
        raise CheckpointError(
            f"{index} gives {listed_size} bytes of weights, and the shards hold {size}: {REMEDY}",
            code="checkpoint-size-mismatch",
            path=index,
        )


def _read_index(index: Path) -> tuple[dict[str, set[str]], int | None]:
    """Return the weights of each shard, and the bytes of all if the index has them."""
    content = json.loads(index.read_text())
    weights_by_shard: dict[str, set[str]] = {}
    try:
        for weight, shard in content["weight_map"].items():
            weights_by_shard.setdefault(shard, set()).add(weight)
        return weights_by_shard, content.get("metadata", {}).get("total_size")
    except (KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{index} has no weight_map from weights to shards: {REMEDY}",
            code="checkpoint-invalid-index",
            path=index,
        ) from error


def weight_sizes(shard: Path) -> dict[str, int]:
    """Return the bytes of each weight of a shard, by its header.

    Raises:
        CheckpointError: The file is not as long as its header says, or holds a weight that is no
            float.
    """
    shapes = {}
    try:
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                part = file.get_slice(name)
                shapes[name] = (part.get_dtype(), part.get_shape())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{shard} is damaged or truncated ({error}): {REMEDY}",
            code="checkpoint-damaged-shard",
            path=shard,
        ) from error
    sizes = {}
    for name, (dtype, shape) in shapes.items():
        if dtype not in _BYTES:
            raise CheckpointError(
                f"{shard} holds {name} as {dtype}: weights that train are {', '.join(_BYTES)}; take"
                " unquantised ones",
                code="checkpoint-unsupported-dtype",
                path=shard,
                field=name,
            )
        sizes[name] = _BYTES[dtype] * math.prod(shape)
    return sizes
