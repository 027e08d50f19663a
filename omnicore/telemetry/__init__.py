"""Metrics for Prometheus: definitions, the running step, and finished steps."""
