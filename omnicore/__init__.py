"""Omnicore: audit omni-modal benchmarks for visual shortcuts and post-train small omni-modal
models."""

import os

# Read by OpenMP when torch loads. Threads that wait by spinning take the core from each other as soon as anything else runs
# beside: ten times the time of a step on two cores.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

__version__ = "0.1.0"
