"""Prompts, training rows and benchmarks."""
