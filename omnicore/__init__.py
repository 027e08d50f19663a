"""omnicore: audit omni-modal benchmarks for visual shortcuts and post-train small omni-modal models."""

__version__ = "0.1.0"
