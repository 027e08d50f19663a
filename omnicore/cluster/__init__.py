"""Heavy steps as jobs on a Kubernetes cluster.

Nothing else in omnicore imports `kubernetes`.
"""
