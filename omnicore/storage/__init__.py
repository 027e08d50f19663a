"""Journals, digests, and stores of files: local directories and S3."""
