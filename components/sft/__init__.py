"""The component of the step `sft`."""
