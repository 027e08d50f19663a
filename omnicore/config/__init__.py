"""The sections of a recipe: one pydantic model per step.

Unknown or mistyped fields are refused. `digest` of the fields that a step reads is part of the key
under which its output is cached. recipe.py holds the recipe as a whole.
"""

from omnicore.config import raw_yaml
from omnicore.config.base import (
    SAVING,
    TRANSPORT,
    Config,
    EngineConfig,
    LauncherConfig,
    Profile,
    digest,
    flat_fields,
    result_fields,
)
from omnicore.config.steps import (
    COLUMNS,
    BenchmarkSource,
    CleanConfig,
    EvaluateConfig,
    PrepareConfig,
    ProbeConfig,
    PromoteConfig,
    ReportConfig,
    TrainingSource,
)
from omnicore.config.training import (
    MODULE_GROUPS,
    TRAINING,
    DistillConfig,
    LoraConfig,
    MixtureConfig,
    ModuleGroup,
    RlvrConfig,
    SftConfig,
    TrackerConfig,
    TrainingConfig,
)

__all__ = [
    "COLUMNS",
    "MODULE_GROUPS",
    "SAVING",
    "TRAINING",
    "TRANSPORT",
    "BenchmarkSource",
    "CleanConfig",
    "Config",
    "DistillConfig",
    "EngineConfig",
    "EvaluateConfig",
    "LauncherConfig",
    "LoraConfig",
    "MixtureConfig",
    "ModuleGroup",
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
    "digest",
    "flat_fields",
    "raw_yaml",
    "result_fields",
]
