"""Inference engines: a model in this process, behind an HTTP server, or deployed on KServe."""

from __future__ import annotations

from omnicore.config import EngineConfig, Profile
from omnicore.engines.base import Engine


def open_engine(config: EngineConfig, model: str, profile: Profile, *, workers: int = 1) -> Engine:
    """Open the engine that a recipe names, for `model`.

    A model deployed on KServe has to be removed after use: `engines.kserve.deployed_engine` opens
    it as a context.

    Args:
        config: How the model is reached; its kind is `transformers` or `http`.
        model: A checkpoint directory, an embedded model, or a model name of the server.
        profile: Shows media and writes prompts.
        workers: Processes that generate, for a model in this process on a CPU.

    Raises:
        CheckpointError: The model cannot be loaded.
        EngineError: The server does not answer or does not have the model.
    """
    assert config.kind != "kserve", "opened as a context"
    if config.kind == "http":
        from omnicore.engines.openai import OpenAIEngine

        return OpenAIEngine(config, model, profile)
    from omnicore.engines.transformers import TransformersEngine

    return TransformersEngine(model, profile, workers=workers)
