"""Stands for a heavy module."""
