"""Heavy steps as jobs on a Kubernetes cluster; no other room imports `kubernetes`."""
