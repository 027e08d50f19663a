"""Scores of an evaluation, and comparisons of several."""
