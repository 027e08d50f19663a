"""Run a step: in this process, in a warm worker, under torchrun, or on inputs in S3."""
