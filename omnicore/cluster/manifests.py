"""Job objects from values: the same JobSpec as a PyTorchJob v1 or as a TrainJob v1alpha1.

Pods obey Pod Security `restricted`, write only to memory and emptyDirs, and hold no cluster token.

A PyTorchJob has workers and no master. With a master, the operator (v1.9,
pkg/controller.v1/pytorch/initcontainer.go) adds an init container that runs as root to every
worker, which `restricted` refuses; with an elasticPolicy instead of a master, the job succeeds as
soon as one worker has. Without both it succeeds when every worker has, and torchrun finds its peers
by the PET_* variables set here.

A TrainJob patches its runtime through `runtimePatches` (v2.2 and later; the API server silently
drops `podSpecOverrides`). What no patch may set stands in the TrainingRuntime: priority class,
spread, ports, TTL, service links, token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from omnicore.cluster.names import KINDS, QUEUE, TTL
from omnicore.cluster.pod_spec import (
    GPU,
    NO_SIDECAR,
    Owner,
    container_security,
    environment,
    equal_resources,
    non_empty,
    owner_references,
    pod_security,
)
from omnicore.config import LauncherConfig
from omnicore.errors import ConfigError
from omnicore.progress import PROGRESS_FILE
from omnicore.telemetry.live import HOST, PORT

__all__ = [
    "GPU",
    "METRICS",
    "METRICS_PORT",
    "JobSpec",
    "Owner",
    "manifest",
    "pytorchjob",
    "training_runtime",
    "trainjob",
]

METRICS_PORT = 9400
METRICS = {PORT: str(METRICS_PORT), HOST: "0.0.0.0"}
# The operator's default, named since the operator gives every worker a service for it.
RENDEZVOUS_PORT = 23456
RESTARTS = 3  # of torchrun's processes in a pod; each starts the step again
MANAGER = "omnicore.dev/launcher"
PRIORITY = "kueue.x-k8s.io/priority-class"


class JobSpec(BaseModel):
    """One job.

    `command` runs in each pod, under torchrun where `distributed`; other jobs get one pod and one
    GPU.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    namespace: str
    labels: dict[str, str]
    annotations: dict[str, str] = {}
    command: tuple[str, ...]
    distributed: bool
    place: LauncherConfig
    owner: Owner | None = None

    @property
    def nodes(self) -> int:
        """Number of pods."""
        return self.place.nodes if self.distributed else 1

    @property
    def gpus(self) -> int:
        """GPUs of a pod."""
        return self.place.gpus_per_node if self.distributed else min(1, self.place.gpus_per_node)

    @property
    def processes(self) -> int:
        """Processes of a pod: one for each GPU, at least one."""
        return max(1, self.gpus)


def manifest(spec: JobSpec) -> dict[str, Any]:
    """Return the object of the kind that the recipe's launcher names.

    Raises:
        ConfigError: That kind cannot express a setting, or a secret is not written SECRET/KEY.
    """
    return {"pytorchjob": pytorchjob, "trainjob": trainjob}[spec.place.kind](spec)


def pytorchjob(spec: JobSpec) -> dict[str, Any]:
    """Return the PyTorchJob of a spec."""
    place, kind = spec.place, KINDS["pytorchjob"]
    torchrun = {
        "PET_NNODES": str(spec.nodes),
        "PET_NPROC_PER_NODE": str(spec.processes),
        "PET_RDZV_BACKEND": "c10d",
        "PET_RDZV_ENDPOINT": f"{spec.name}-worker-0:{RENDEZVOUS_PORT}",
        "PET_RDZV_ID": spec.name,
        "PET_MAX_RESTARTS": str(RESTARTS),
    }
    container = {
        "name": kind.container,
        "image": place.image,
        "command": list(_command(spec)),
        "env": _environment(spec, torchrun if spec.distributed else {}),
        "resources": _resources(spec),
        "ports": [
            {"name": "pytorchjob-port", "containerPort": RENDEZVOUS_PORT},
            {"name": "metrics", "containerPort": METRICS_PORT},
        ],
        "securityContext": container_security(),
        "volumeMounts": _mounts(spec),
    }
    pod = {
        **_pod(spec),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "containers": [container],
        **non_empty(
            topologySpreadConstraints=list(place.topology_spread),
            priorityClassName="" if place.queue else place.priority_class,
        ),
    }
    run_policy = {
        "activeDeadlineSeconds": place.deadline_seconds,
        "backoffLimit": 0,
        # The default, None, leaves the GPUs with the workers whose peer has failed.
        "cleanPodPolicy": "Running",
        "ttlSecondsAfterFinished": place.ttl_seconds,
    }
    worker = {
        "replicas": spec.nodes,
        # A failed pod fails the job: the step's own retry creates a new one, which resumes.
        "restartPolicy": "Never",
        "template": {"metadata": _pod_metadata(spec), "spec": pod},
    }
    return {
        "apiVersion": kind.resource.api_version,
        "kind": kind.kind,
        "metadata": _metadata(spec),
        "spec": {
            "nprocPerNode": str(spec.processes),
            "runPolicy": run_policy,
            "pytorchReplicaSpecs": {"Worker": worker},
        },
    }


def trainjob(spec: JobSpec) -> dict[str, Any]:
    """Return the TrainJob of a spec.

    Raises:
        ConfigError: A setting belongs into the TrainingRuntime.
    """
    place, kind = spec.place, KINDS["trainjob"]
    _refuse_runtime_settings(place)
    container = {
        "name": kind.container,
        "securityContext": container_security(),
        "volumeMounts": _mounts(spec),
    }
    patch = {**_pod(spec), "containers": [container]}
    template = {"metadata": _pod_metadata(spec), "spec": patch}
    jobs = [{"name": kind.container, "template": {"spec": {"template": template}}}]
    torchrun = {"PET_MAX_RESTARTS": str(RESTARTS)} if spec.distributed else {}
    trainer = {
        "image": place.image,
        "command": list(_command(spec)),
        "env": _environment(spec, torchrun),
        "numNodes": spec.nodes,
        "numProcPerNode": spec.processes,
        "resourcesPerNode": _resources(spec),
    }
    runtime_patch = {
        "manager": MANAGER,
        "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": jobs}}},
    }
    return {
        "apiVersion": kind.resource.api_version,
        "kind": kind.kind,
        "metadata": _metadata(spec),
        "spec": {
            "activeDeadlineSeconds": place.deadline_seconds,
            "runtimeRef": {
                "apiGroup": kind.resource.group,
                "kind": "TrainingRuntime",
                "name": place.runtime,
            },
            "trainer": trainer,
            "runtimePatches": [runtime_patch],
        },
    }


def _refuse_runtime_settings(place: LauncherConfig) -> None:
    settings = ["topology_spread"] if place.topology_spread else []
    if place.priority_class and not place.queue:
        settings.append("priority_class (without a queue)")
    if settings:
        raise ConfigError(
            f"launcher.{', launcher.'.join(settings)}: a TrainJob cannot set it; set it in"
            f" TrainingRuntime {place.runtime}",
            code="launcher-trainjob-setting",
            field=f"launcher.{settings[0].partition(' ')[0]}",
        )


def training_runtime(name: str, namespace: str, image: str) -> dict[str, Any]:
    """Return the project's own runtime for TrainJobs; Trainer's do not obey `restricted`.

    Its JobSet has no `ttlSecondsAfterFinished`: Trainer 2.3.0 re-creates the JobSet of a failed
    TrainJob after its TTL and runs the job a second time (kubeflow/trainer#3737).
    `launcher.ttl_seconds` is an annotation that `omnicore cluster reap` obeys.
    """
    kind = KINDS["trainjob"]
    container = {
        "name": kind.container,
        "image": image,
        "ports": [{"name": "metrics", "containerPort": METRICS_PORT}],
        "securityContext": container_security(),
    }
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "securityContext": pod_security(),
        "containers": [container],
    }
    job = {
        "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
        "spec": {"backoffLimit": 0, "template": {"spec": pod}},
    }
    job_set = {
        "failurePolicy": {"maxRestarts": 0},
        "replicatedJobs": [{"name": kind.container, "template": job}],
    }
    return {
        "apiVersion": kind.resource.api_version,
        "kind": "TrainingRuntime",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"mlPolicy": {"numNodes": 1, "torch": {}}, "template": {"spec": job_set}},
    }


def _metadata(spec: JobSpec) -> dict[str, Any]:
    place = spec.place
    labels = dict(spec.labels)
    if place.queue:
        labels[QUEUE] = place.queue
        labels |= non_empty(**{PRIORITY: place.priority_class})
    return {
        "name": spec.name,
        "namespace": spec.namespace,
        "labels": labels,
        "annotations": {**spec.annotations, TTL: str(place.ttl_seconds)},
        **owner_references(spec.owner),
    }


def _pod_metadata(spec: JobSpec) -> dict[str, Any]:
    return {"labels": {**spec.labels, **NO_SIDECAR}, "annotations": dict(NO_SIDECAR)}


def _pod(spec: JobSpec) -> dict[str, Any]:
    """Return the fields of a pod that both kinds may set."""
    place = spec.place
    volumes = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": place.shared_memory}},
        {"name": "work", "emptyDir": {}},
        *place.volumes,
    ]
    return {
        "serviceAccountName": place.service_account,
        "securityContext": pod_security(),
        "volumes": volumes,
        **non_empty(
            nodeSelector=place.node_selector,
            tolerations=list(place.tolerations),
            affinity=place.affinity,
        ),
    }


def _mounts(spec: JobSpec) -> list[dict[str, Any]]:
    own = [{"name": "shm", "mountPath": "/dev/shm"}, {"name": "work", "mountPath": "/tmp"}]
    return [*own, *spec.place.volume_mounts]


def _command(spec: JobSpec) -> tuple[str, ...]:
    return ("torchrun", "--no-python", *spec.command) if spec.distributed else spec.command


def _environment(spec: JobSpec, torchrun: Mapping[str, str]) -> list[dict[str, Any]]:
    # HOME: caches of compilers and libraries belong where a pod may write.
    values = {"HOME": "/tmp", PROGRESS_FILE: "-", **METRICS, **torchrun, **spec.place.env}
    return environment(values, spec.place.secrets)


def _resources(spec: JobSpec) -> dict[str, Any]:
    return equal_resources(spec.place.cpu, spec.place.memory, spec.gpus)
