"""Kubeflow components, one folder a step.

A body parses, calls `omnicore.runtime.run.run_step` and writes artefacts; no logic.
"""
