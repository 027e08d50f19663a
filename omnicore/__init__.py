"""Audit omni-modal benchmarks for visual shortcuts and post-train small omni-modal models.

The names of `__all__` are the public API. Each is imported when it is first used, so that
`omnicore --help` and `import omnicore` load neither pydantic nor numpy.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from omnicore.version import __version__

if TYPE_CHECKING:
    from omnicore.audit import build_manifest
    from omnicore.audit.in_memory import audit_draws
    from omnicore.config.recipe import Recipe, load_recipe
    from omnicore.errors import (
        CheckpointError,
        ClusterError,
        ConfigError,
        DataError,
        EngineError,
        OmniError,
        StepBusy,
        StorageError,
        TooLongError,
        TrainingError,
    )
    from omnicore.evaluation.frames import Run, load_run
    from omnicore.runtime.run import run_step
    from omnicore.schema import Draw, Manifest, Query, Response, Verdict, View
    from omnicore.scoring.verify import judge

# OpenMP reads this when torch loads. Threads that spin while they wait take the cores from other
# processes: a step on two cores takes ten times as long.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

__all__ = [
    "CheckpointError",
    "ClusterError",
    "ConfigError",
    "DataError",
    "Draw",
    "EngineError",
    "Manifest",
    "OmniError",
    "Query",
    "Recipe",
    "Response",
    "Run",
    "StepBusy",
    "StorageError",
    "TooLongError",
    "TrainingError",
    "Verdict",
    "View",
    "__version__",
    "audit_draws",
    "build_manifest",
    "judge",
    "load_recipe",
    "load_run",
    "run_step",
]
_MODULES = {
    "Draw": "omnicore.schema",
    "Manifest": "omnicore.schema",
    "Query": "omnicore.schema",
    "Recipe": "omnicore.config.recipe",
    "Response": "omnicore.schema",
    "Run": "omnicore.evaluation.frames",
    "Verdict": "omnicore.schema",
    "View": "omnicore.schema",
    "audit_draws": "omnicore.audit.in_memory",
    "build_manifest": "omnicore.audit",
    "judge": "omnicore.scoring.verify",
    "load_recipe": "omnicore.config.recipe",
    "load_run": "omnicore.evaluation.frames",
    "run_step": "omnicore.runtime.run",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'omnicore' has no attribute {name!r}")
    value = getattr(import_module(_MODULES.get(name, "omnicore.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
