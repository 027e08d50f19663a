"""Where the job of a heavy step runs: what KFP says of the task, handed on to the recipe's
launcher.

A task's CPU, memory, GPUs, tolerations, node selector, affinity, environment and volumes come as
`dsl.TaskConfig` to the component, which runs in a small pod of its own. They are defaults: what the
recipe's `launcher` says itself goes before them.
"""

import os
from collections.abc import Mapping
from typing import Any

from kfp import dsl

from omnicore.config import LauncherConfig
from omnicore.config.recipe import Recipe

GPU = "nvidia.com/gpu"


def placed(recipe: Recipe, config: dsl.TaskConfig | None) -> Recipe:
    """The recipe with its launcher filled up from the task's settings; unchanged where there are
    none, as in a local run."""
    told = settings(config) if config else {}
    if not told:
        return recipe
    said = recipe.launcher.model_dump(exclude_unset=True)
    for name in ("env", "secrets", "node_selector"):
        said[name] = {**told.get(name, {}), **said.get(name, {})}
    for name in ("tolerations", "volumes", "volume_mounts"):
        said[name] = (*told.get(name, ()), *said.get(name, ()))
    return recipe.model_copy(update={"launcher": LauncherConfig.model_validate({**told, **said})})


def settings(config: dsl.TaskConfig) -> dict[str, Any]:
    """Fields of LauncherConfig that a TaskConfig says.

    Limits go before requests: a job's pods have both alike.
        Of the environment, plain values go to the job, and keys of Secrets that are there: an optional one that is missing would
        keep the job's pods from starting. What KFP reads off its own pod has no meaning in another.
    """
    sizes: Mapping[str, Any] = {
        **((config.resources or {}).get("requests") or {}),
        **((config.resources or {}).get("limits") or {}),
    }
    env = config.env or []
    keys = {entry["name"]: (entry.get("valueFrom") or {}).get("secretKeyRef") for entry in env}
    found = {
        "cpu": str(sizes.get("cpu", "")),
        "memory": str(sizes.get("memory", "")),
        "gpus_per_node": int(sizes.get(GPU, 0)),
        "node_selector": config.node_selector,
        "tolerations": tuple(config.tolerations or ()),
        "affinity": config.affinity,
        "env": {entry["name"]: entry["value"] for entry in env if "value" in entry},
        "secrets": {
            name: f"{ref['name']}/{ref['key']}"
            for name, ref in keys.items()
            if ref and name in os.environ
        },
        "volumes": tuple(config.volumes or ()),
        "volume_mounts": tuple(config.volume_mounts or ()),
    }
    return {name: value for name, value in found.items() if value}
