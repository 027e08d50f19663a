"""The component of the step `prepare`."""
