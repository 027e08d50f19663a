"""The component of the step `probe`."""
