"""Shared fixtures.

torch is imported only by the fixtures that need it.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from omnicore import logs
from omnicore.config.recipe import Recipe, load_recipe

# A shell starts background jobs with SIGINT ignored, and so would be every command that a test
# starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def log_records() -> None:
    """Log to stderr as a command does, and to `caplog` (until the test itself calls `main`)."""
    logs.set_up("text")
    for name in logs.LOGGERS:
        logging.getLogger(name).propagate = True


@pytest.fixture(scope="session")
def small_recipe() -> Recipe:
    """The embedded default at a twentieth of its size, on the dev split."""
    return load_recipe("tiny", ["prepare.split=dev", "prepare.scale=0.05", "threads=1"])


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, small_recipe: Recipe) -> Path:
    """A finished, small prepare output (without step.json)."""
    from omnicore.steps import prepare

    output = tmp_path_factory.mktemp("prepare")
    prepare.run(small_recipe, small_recipe.prepare, {}, output)
    return output


@pytest.fixture(scope="session")
def encoder() -> Any:
    from omnicore.models import tiny
    from omnicore.models.processor import Encoder

    return Encoder(tiny.build_processor())


@pytest.fixture
def no_grad() -> Iterator[None]:
    import torch

    with torch.no_grad():
        yield


@pytest.fixture
def random_model(encoder: Any) -> Any:
    """A freshly initialised tiny thinker."""
    from omnicore.models import tiny

    return tiny.build_model(encoder.tokenizer, seed=0)
