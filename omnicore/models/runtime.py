"""Torch as a recipe wants it: threads, seeds, determinism."""

from __future__ import annotations

import os
import random

import numpy as np
import torch
from transformers.utils import logging

from omnicore import processes
from omnicore.config.recipe import Recipe


def set_up(recipe: Recipe, threads: int | None = None) -> None:
    """Call once at the start of a step that uses torch; `threads` where it shares its cores out
    among processes."""
    torch.set_num_threads(threads or recipe.cores)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would not survive a fork
    torch.set_flush_denormal(
        True
    )  # denormal weights of a converged tiny model make CPU steps several times slower
    os.environ.setdefault(
        "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
    )  # without it matrix products of a GPU are not deterministic
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Else every empty tensor is filled first: 40 % of the time of a CPU step, and nothing here reads one before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    logging.disable_progress_bar()
    random.seed(recipe.seed)
    np.random.seed(recipe.seed)
    torch.manual_seed(recipe.seed)


def device() -> torch.device:
    """Where a model of this process belongs: its GPU where there is one."""
    return (
        torch.device("cuda", processes.local_rank())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def accelerators() -> list[str]:
    """Return the names of the GPUs that torch sees."""
    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
