"""Engines: who answers."""

from __future__ import annotations

from omnicore.config import EngineConfig, Profile
from omnicore.engines.base import Engine


def open_engine(config: EngineConfig, model: str, profile: Profile, *, workers: int = 1) -> Engine:
    """The engine that a recipe names.

    Raises CheckpointError for a model that cannot be loaded, EngineError for a server that does not
    answer. A server of KServe, which has to be removed again, is `engines.kserve.served`.
    """
    assert config.kind != "kserve", "opened as a context"
    if config.kind == "http":
        from omnicore.engines.openai import OpenAIEngine

        return OpenAIEngine(config, model, profile)
    from omnicore.engines.transformers import TransformersEngine

    return TransformersEngine(model, profile, workers=workers)
