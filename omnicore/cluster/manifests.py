"""Objects from values, no more: the same JobSpec as a PyTorchJob v1 or as a TrainJob v1alpha1.

Pods obey Pod Security `restricted`, write to memory and emptyDirs alone, and hold no token of the
cluster.

A PyTorchJob has workers and no master. With a master the operator (v1.9,
pkg/controller.v1/pytorch/initcontainer.go) puts an init container into every worker that runs as
root, which `restricted` refuses; and with an elasticPolicy in place of a master the job counts as
succeeded as soon as one worker has. Without both it succeeds when every worker has, and torchrun
finds its peers by the PET_* variables given here.

A TrainJob patches its runtime through `runtimePatches` (v2.2 and later; the API server drops
`podSpecOverrides` without a word). What no patch may set stands in the TrainingRuntime: priority
class, spread, ports, TTL, service links, token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from omnicore.cluster.names import KINDS, TTL
from omnicore.config import LauncherConfig
from omnicore.errors import ConfigError
from omnicore.progress import PROGRESS_FILE
from omnicore.telemetry.live import HOST, PORT

GPU = "nvidia.com/gpu"
METRICS_PORT = 9400
METRICS = {PORT: str(METRICS_PORT), HOST: "0.0.0.0"}
RENDEZVOUS_PORT = (
    23456  # the operator's default; named, since it gives every worker a service for it
)
RESTARTS = 3  # of torchrun's processes in a pod; each begins the step again
MANAGER = "omnicore.dev/launcher"


class Owner(BaseModel):
    """The Argo Workflow that a job goes with when it is deleted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    uid: str


class JobSpec(BaseModel):
    """One job.

    `command` is what runs in each pod, under torchrun in a `distributed` one; others take one pod
    and one GPU.
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
        return self.place.nodes if self.distributed else 1

    @property
    def gpus(self) -> int:
        return self.place.gpus_per_node if self.distributed else min(1, self.place.gpus_per_node)


def manifest(spec: JobSpec) -> dict[str, Any]:
    """The object of the kind that the recipe's launcher names.

    Raises ConfigError for what that kind cannot express.
    """
    return {"pytorchjob": pytorchjob, "trainjob": trainjob}[spec.place.kind](spec)


def pytorchjob(spec: JobSpec) -> dict[str, Any]:
    place, kind = spec.place, KINDS["pytorchjob"]
    torchrun = {
        "PET_NNODES": str(spec.nodes),
        "PET_NPROC_PER_NODE": str(max(1, spec.gpus)),
        "PET_RDZV_BACKEND": "c10d",
        "PET_RDZV_ENDPOINT": f"{spec.name}-worker-0:{RENDEZVOUS_PORT}",
        "PET_RDZV_ID": spec.name,
        "PET_MAX_RESTARTS": str(RESTARTS),
    }
    container = {
        "name": kind.container,
        "image": place.image,
        "command": list(_command(spec)),
        "env": _env(spec, torchrun if spec.distributed else {}),
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
        **_present(topologySpreadConstraints=list(place.topology_spread)),
        **_present(priorityClassName="" if place.queue else place.priority_class),
    }
    return {
        "apiVersion": f"{kind.resource.group}/{kind.resource.version}",
        "kind": kind.kind,
        "metadata": _metadata(spec),
        "spec": {
            "nprocPerNode": str(max(1, spec.gpus)),
            "runPolicy": {
                "activeDeadlineSeconds": place.deadline_seconds,
                "backoffLimit": 0,
                # The default, None, leaves the GPUs with the workers whose peer has failed.
                "cleanPodPolicy": "Running",
                "ttlSecondsAfterFinished": place.ttl_seconds,
            },
            "pytorchReplicaSpecs": {
                "Worker": {
                    "replicas": spec.nodes,
                    # A failed pod fails the job: the step's own retry makes a new one, which resumes.
                    "restartPolicy": "Never",
                    "template": {"metadata": _pod_metadata(spec), "spec": pod},
                }
            },
        },
    }


def trainjob(spec: JobSpec) -> dict[str, Any]:
    place, kind = spec.place, KINDS["trainjob"]
    stuck = ["topology_spread"] if place.topology_spread else []
    stuck += (
        ["priority_class (without a queue)"] if place.priority_class and not place.queue else []
    )
    if stuck:
        raise ConfigError(
            f"launcher.{', launcher.'.join(stuck)}: a TrainJob cannot set it; set it in"
            f" TrainingRuntime {place.runtime}"
        )
    patch = {
        **_pod(spec),
        "containers": [
            {
                "name": kind.container,
                "securityContext": container_security(),
                "volumeMounts": _mounts(spec),
            }
        ],
    }
    template = {"metadata": _pod_metadata(spec), "spec": patch}
    jobs = [{"name": kind.container, "template": {"spec": {"template": template}}}]
    return {
        "apiVersion": f"{kind.resource.group}/{kind.resource.version}",
        "kind": kind.kind,
        "metadata": _metadata(spec),
        "spec": {
            "activeDeadlineSeconds": place.deadline_seconds,
            "runtimeRef": {
                "apiGroup": kind.resource.group,
                "kind": "TrainingRuntime",
                "name": place.runtime,
            },
            "trainer": {
                "image": place.image,
                "command": list(_command(spec)),
                "env": _env(spec, {"PET_MAX_RESTARTS": str(RESTARTS)} if spec.distributed else {}),
                "numNodes": spec.nodes,
                "numProcPerNode": max(1, spec.gpus),
                "resourcesPerNode": _resources(spec),
            },
            "runtimePatches": [
                {
                    "manager": MANAGER,
                    "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": jobs}}},
                }
            ],
        },
    }


def training_runtime(name: str, namespace: str, image: str) -> dict[str, Any]:
    """The project's own runtime for TrainJobs: those that come with Trainer do not obey
    `restricted`.

    Its JobSet has no `ttlSecondsAfterFinished`: Trainer 2.3.0 creates the JobSet of a failed
    TrainJob again once it has gone by its TTL, and runs the job a second time
    (kubeflow/trainer#3737). `launcher.ttl_seconds` is an annotation that `omnicore reap` obeys.
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
    return {
        "apiVersion": f"{kind.resource.group}/{kind.resource.version}",
        "kind": "TrainingRuntime",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "mlPolicy": {"numNodes": 1, "torch": {}},
            "template": {
                "spec": {
                    "failurePolicy": {"maxRestarts": 0},
                    "replicatedJobs": [{"name": kind.container, "template": job}],
                }
            },
        },
    }


def pod_security() -> dict[str, Any]:
    """Of a pod under Pod Security `restricted`; the image says which user, by number."""
    return {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def container_security() -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def _metadata(spec: JobSpec) -> dict[str, Any]:
    place = spec.place
    marked = {
        **spec.labels,
        **_present(**{"kueue.x-k8s.io/queue-name": place.queue}),
        **_present(
            **{"kueue.x-k8s.io/priority-class": place.priority_class if place.queue else ""}
        ),
    }
    owner = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "controller": False,
        "blockOwnerDeletion": False,
        **(spec.owner.model_dump() if spec.owner else {}),
    }
    return {
        "name": spec.name,
        "namespace": spec.namespace,
        "labels": marked,
        "annotations": {**spec.annotations, TTL: str(place.ttl_seconds)},
        **({"ownerReferences": [owner]} if spec.owner else {}),
    }


def _pod_metadata(spec: JobSpec) -> dict[str, Any]:
    # A sidecar never ends, so the job never would; and its mTLS breaks NCCL and the scraping of metrics.
    off = {"sidecar.istio.io/inject": "false"}
    return {"labels": {**spec.labels, **off}, "annotations": off}


def _pod(spec: JobSpec) -> dict[str, Any]:
    """What both kinds may say of a pod."""
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
        **_present(
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


def _env(spec: JobSpec, torchrun: Mapping[str, str]) -> list[dict[str, Any]]:
    # HOME: caches of compilers and libraries belong where a pod may write.
    plain = {"HOME": "/tmp", PROGRESS_FILE: "-", **METRICS, **torchrun, **spec.place.env}
    secret = []
    for name, source in spec.place.secrets.items():
        where, slash, key = source.partition("/")
        if not (where and slash and key):
            raise ConfigError(
                f"launcher.secrets.{name}={source!r}: write SECRET/KEY, as in omnicore-s3/{name}"
            )
        secret.append({"name": name, "valueFrom": {"secretKeyRef": {"name": where, "key": key}}})
    return [*({"name": name, "value": value} for name, value in plain.items()), *secret]


def _resources(spec: JobSpec) -> dict[str, Any]:
    """Limits equal to requests: the pod is the last to be evicted, and a quota counts what is
    used."""
    sizes = {
        "cpu": spec.place.cpu,
        "memory": spec.place.memory,
        **({GPU: str(spec.gpus)} if spec.gpus else {}),
    }
    return {"requests": sizes, "limits": dict(sizes)}


def _present(**fields: Any) -> dict[str, Any]:
    """Without what is empty."""
    return {name: value for name, value in fields.items() if value}
