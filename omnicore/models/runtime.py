"""Set up torch as a recipe says: threads, seeds, determinism."""

from __future__ import annotations

import os
import random

import numpy as np
import torch
from transformers.utils import logging

from omnicore import processes
from omnicore.config.recipe import Recipe


def set_up_torch(recipe: Recipe, threads: int | None = None) -> None:
    """Set up torch, once at the start of a step that uses it.

    Args:
        recipe: Names seed and threads.
        threads: Threads of this process, if the step divides the cores among processes.
    """
    torch.set_num_threads(threads or recipe.cores)
    # The tokenizer's threads would not survive a fork.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Denormal weights of a converged tiny model make CPU steps several times slower.
    torch.set_flush_denormal(True)
    # Without it matrix products of a GPU are not deterministic.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Otherwise every empty tensor is filled first, which takes 40 % of the time of a CPU step;
    # nothing here reads one before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    logging.disable_progress_bar()
    random.seed(recipe.seed)
    np.random.seed(recipe.seed)
    torch.manual_seed(recipe.seed)


def device() -> torch.device:
    """Return the device of this process's model: its GPU if there is one."""
    return (
        torch.device("cuda", processes.local_rank())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def accelerators() -> list[str]:
    """Return the names of the GPUs that torch sees."""
    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
