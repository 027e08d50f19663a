"""torch as a recipe wants it: threads, seeds, determinism."""

from __future__ import annotations

import random

import numpy as np
import torch
from transformers.utils import logging

from omnicore.config import Recipe


def set_up(recipe: Recipe) -> None:
    """Call once at the start of a step that uses torch."""
    torch.set_num_threads(recipe.threads)
    torch.set_flush_denormal(True)  # denormal weights of a converged tiny model make CPU steps several times slower
    torch.use_deterministic_algorithms(True, warn_only=True)
    logging.disable_progress_bar()
    random.seed(recipe.seed)
    np.random.seed(recipe.seed)
    torch.manual_seed(recipe.seed)
