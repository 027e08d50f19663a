"""The sections of a recipe: one pydantic model per step.

Unknown or mistyped fields are refused. `digest` of what a step reads is part of the key under which
its output is cached. The recipe as a whole: recipe.py.
"""

from omnicore.config import written
from omnicore.config.base import (
    SAVING,
    TRANSPORT,
    Config,
    EngineConfig,
    LauncherConfig,
    Profile,
    deciding,
    digest,
)
from omnicore.config.steps import (
    COLUMNS,
    CleanConfig,
    EvaluateConfig,
    PrepareConfig,
    ProbeConfig,
    PromoteConfig,
    ReportConfig,
    TrainingSource,
)
from omnicore.config.training import (
    PARTS,
    TRAINING,
    DistillConfig,
    LoraConfig,
    MixtureConfig,
    Part,
    RlvrConfig,
    SftConfig,
    TrackerConfig,
    TrainingConfig,
)

__all__ = [
    "COLUMNS",
    "PARTS",
    "SAVING",
    "TRAINING",
    "TRANSPORT",
    "CleanConfig",
    "Config",
    "DistillConfig",
    "EngineConfig",
    "EvaluateConfig",
    "LauncherConfig",
    "LoraConfig",
    "MixtureConfig",
    "Part",
    "PrepareConfig",
    "ProbeConfig",
    "Profile",
    "PromoteConfig",
    "ReportConfig",
    "RlvrConfig",
    "SftConfig",
    "TrackerConfig",
    "TrainingConfig",
    "TrainingSource",
    "deciding",
    "digest",
    "written",
]
