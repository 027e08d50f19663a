"""The component of the step `rlvr`."""
