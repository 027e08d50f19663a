"""Pass a KFP task's resources and placement on to the job that its component launches.

A task's CPU, memory, GPUs, tolerations, node selector, affinity, environment and volumes come as
`dsl.TaskConfig` to the component, which runs in a small pod of its own. They are defaults: values
of the recipe's `launcher` take precedence.
"""

import os
from collections.abc import Mapping
from typing import Any

from kfp import dsl

from omnicore.config import LauncherConfig
from omnicore.config.recipe import Recipe

GPU = "nvidia.com/gpu"


def placed(recipe: Recipe, config: dsl.TaskConfig | None) -> Recipe:
    """Return the recipe with its launcher completed from the task's settings, if there are any."""
    task = settings(config) if config else {}
    if not task:
        return recipe
    launcher = recipe.launcher.model_dump(exclude_unset=True)
    for name in ("env", "secrets", "node_selector"):
        launcher[name] = task.get(name, {}) | launcher.get(name, {})
    for name in ("tolerations", "volumes", "volume_mounts"):
        launcher[name] = (*task.get(name, ()), *launcher.get(name, ()))
    return recipe.model_copy(update={"launcher": LauncherConfig.model_validate(task | launcher)})


def settings(config: dsl.TaskConfig) -> dict[str, Any]:
    """Return the LauncherConfig fields that a TaskConfig sets.

    Limits precede requests, since a job's pods have equal ones. Of the environment, plain values
    and keys of existing Secrets go to the job: a missing optional one would keep the job's pods
    from starting. Values that KFP reads from its own pod have no meaning in another.
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
