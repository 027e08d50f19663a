"""How long the launcher waits for a cluster, in seconds."""

HEARTBEAT_INTERVAL = 30.0  # between two heartbeats of a launcher
REQUEST = 30.0  # for an answer that is not a stream
WATCH = 240.0  # for a watch, which the server then ends
FIRST_RETRY = 0.5  # doubles with each try, with jitter
LONGEST_RETRY = 30.0
OUTAGE = 3600.0  # while the API server is away; the job keeps running
CLEANUP = 120.0  # the same, once the job is only to be deleted
SCHEDULING = 1800.0  # a node pool that scales up from zero takes many minutes
IMAGE_PULL = 600.0  # registries have short outages
NO_PROGRESS = 600.0  # for a job that no operator reconciles, or that has no pod alive any more
POD_CREATION = 120.0  # while pods are refused, as by a webhook that restarts
DEADLINE_GRACE = 120.0  # past the job's deadline, which the operator enforces
LOG_DRAIN = 10.0  # for the last lines of logs
