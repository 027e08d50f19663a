"""The pipelines: order of the steps, and the resources of each on a cluster (`NEEDS`)."""

from typing import NamedTuple

from kfp import dsl, kubernetes

from components.images import TRAIN
from components.reap.component import reap
from components.reap.run import RUN_ID
from omnicore.lineage.signing import SIGNING_KEY
from omnicore.telemetry.live import GATEWAY, HOST, PORT

# Secret and ConfigMap of k8s/base: keys (none where pods have a role), and the server's address.
STORAGE = "omnicore-s3"
SIGNING = "omnicore-signing"  # Secret with the key that signs checkpoints
MONITORING = "omnicore-monitoring"  # ConfigMap of k8s/base: addresses of the metrics


class ResourceRequest(NamedTuple):
    """Resources of a step on a cluster, and the hours of one attempt, queueing included.

    A light step runs in its own pod. The pod of a heavy one (with GPUs) only watches: its request
    goes to its job, unless the recipe's `launcher` sets other values. Every step may be retried: a
    launcher finds the running job, or a new one restarts the step.
    """

    cpu: str
    memory: str
    gpus: int
    hours: int
    retries: int
    bucket: bool = False  # a light step that reads S3 itself
    signs: bool = False  # a light step that signs a checkpoint; jobs get the key by the launcher


NEEDS = {
    "prepare": ResourceRequest("2", "8Gi", 0, hours=12, retries=3, bucket=True),  # downloads
    "probe": ResourceRequest("8", "64Gi", 1, hours=48, retries=2),
    "clean": ResourceRequest("1", "4Gi", 0, hours=2, retries=2),
    "evaluate": ResourceRequest("8", "64Gi", 1, hours=48, retries=2),
    "sft": ResourceRequest("8", "64Gi", 1, hours=72, retries=2),
    "rlvr": ResourceRequest("8", "64Gi", 1, hours=168, retries=2),
    "distill": ResourceRequest("8", "64Gi", 1, hours=48, retries=2),
    "report": ResourceRequest("1", "4Gi", 0, hours=2, retries=2),
    "promote": ResourceRequest("1", "4Gi", 0, hours=2, retries=2, signs=True),
    "reap": ResourceRequest("250m", "512Mi", 0, hours=1, retries=3),
}


def place(task: dsl.PipelineTask, title: str) -> dsl.PipelineTask:
    """Name a task and set its resources on a cluster; a local run uses the title only."""
    need = NEEDS[task.component_spec.name]
    task.set_display_name(title).set_cpu_request(need.cpu).set_memory_request(
        need.memory
    ).set_memory_limit(need.memory)
    if need.gpus:
        task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(need.gpus)
        task.set_env_variable("OMNI_TRAIN_IMAGE", TRAIN)
    if need.gpus or need.bucket:
        for use, names in (
            (kubernetes.use_secret_as_env, ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")),
            (kubernetes.use_config_map_as_env, ("OMNI_S3_ENDPOINT", "AWS_REGION")),
        ):
            use(task, STORAGE, {name: name for name in names}, optional=True)
    if need.signs:
        kubernetes.use_secret_as_env(task, SIGNING, {SIGNING_KEY: SIGNING_KEY}, optional=True)
    kubernetes.use_config_map_as_env(
        task, MONITORING, {name: name for name in (PORT, HOST, GATEWAY)}, optional=True
    )
    task.set_retry(
        num_retries=need.retries,
        backoff_duration="30s",
        backoff_factor=2,
        backoff_max_duration="600s",
    )
    kubernetes.set_timeout(task, need.hours * 3600)
    kubernetes.set_security_context(task, run_as_non_root=True)
    kubernetes.use_field_path_as_env(task, RUN_ID, "metadata.labels['pipeline/runid']")
    return task


def cleaning_up() -> dsl.ExitHandler:
    """Return a block after which everything that it left on the cluster is deleted."""
    return dsl.ExitHandler(
        place(reap().set_caching_options(enable_caching=False), "clean up"), name="steps"
    )
