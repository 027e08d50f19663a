"""The component that ends every run: delete what the run has left on the cluster."""
