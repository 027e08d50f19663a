"""Benchmarks: one file each turns native annotations and media into `schema.Query`."""
