"""Journals, digests, and stores of files (local directories, S3)."""
