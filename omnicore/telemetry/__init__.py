"""Prometheus metrics of steps."""
