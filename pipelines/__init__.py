"""The pipelines: what depends on what.

What a step does is in `omnicore`, what it needs on a cluster in `NEEDS`.
"""

from typing import NamedTuple

from kfp import dsl, kubernetes

from components.images import TRAIN
from components.reap.component import reap
from components.reap.run import RUN_ID
from omnicore.lineage.signing import SIGNING_KEY
from omnicore.telemetry.live import GATEWAY, HOST, PORT

STORAGE = (  # Secret and ConfigMap of k8s/base: keys (none where pods have a role), and where the server is
    "omnicore-s3"
)
SIGNING = "omnicore-signing"  # Secret, where checkpoints are signed: the key of who trains
MONITORING = "omnicore-monitoring"  # ConfigMap of k8s/base: where figures are served and pushed


class Need(NamedTuple):
    """What a step asks of a cluster, and how many hours one try may take, the wait for a quota
    included.

    A light step runs in its own pod. The pod of a heavy one (with GPUs) only watches: what is asked
    goes on to its job, where the recipe's `launcher` does not say otherwise. A retry is safe
    everywhere: a launcher finds the job that runs, or a new one begins the step again.
    """

    cpu: str
    memory: str
    gpus: int
    hours: int
    retries: int
    bucket: bool = False  # a light step that reads S3 itself, as a heavy one does
    signs: bool = False  # a light step that writes a checkpoint; jobs are given the key by the recipe's launcher


NEEDS = {
    "prepare": Need("2", "8Gi", 0, hours=12, retries=3, bucket=True),  # downloads
    "probe": Need("8", "64Gi", 1, hours=48, retries=2),
    "clean": Need("1", "4Gi", 0, hours=2, retries=2),
    "evaluate": Need("8", "64Gi", 1, hours=48, retries=2),
    "sft": Need("8", "64Gi", 1, hours=72, retries=2),
    "rlvr": Need("8", "64Gi", 1, hours=168, retries=2),
    "distill": Need("8", "64Gi", 1, hours=48, retries=2),
    "report": Need("1", "4Gi", 0, hours=2, retries=2),
    "promote": Need("1", "4Gi", 0, hours=2, retries=2, signs=True),
    "reap": Need("250m", "512Mi", 0, hours=1, retries=3),
}


def place(task: dsl.PipelineTask, title: str) -> dsl.PipelineTask:
    """Names a task and says what it needs on a cluster; a local run ignores all of it but the
    title."""
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
    """What is in this block is followed by the removal of all that it left on the cluster, however
    it ended."""
    return dsl.ExitHandler(
        place(reap().set_caching_options(enable_caching=False), "clean up"), name="steps"
    )
