"""The component of the step `clean`."""
