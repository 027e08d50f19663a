"""The component of the step `distill`."""
