"""The component of the step `report`."""
