"""The InferenceService of one checkpoint, as an object, and where its checkpoint lies.

The same spec gives the same object. KServe v0.20 in Standard mode: a Deployment and a Service, no
Knative. Annotations of the object go into the pod template, where a changed one restarts the
server: the heartbeat would, every time, but the predictor's own annotations go before them (kserve,
components/predictor.go: labels and annotations priority).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from omnicore.cluster.manifests import GPU, Owner, container_security, pod_security
from omnicore.cluster.names import HEARTBEAT, INFERENCE_SERVICES, TTL, Kind
from omnicore.config import EngineConfig, LauncherConfig
from omnicore.errors import CheckpointError, ConfigError
from omnicore.lineage.signing import SIGNING_KEY
from omnicore.lineage.step_record import read_step
from omnicore.storage import store
from omnicore.storage.digests import STEP_FILE, digest_directory, model_directory

KIND = Kind(
    "InferenceService",
    INFERENCE_SERVICES,
    "Ready",
    "kserve-container",
    "serving.kserve.io/inferenceservice",
)
INITIALIZER, VOLUME = (
    "storage-initializer",
    "kserve-provision-location",
)  # KServe's own names: its status looks at them
MODEL, SCRATCH = "/mnt/models", "/mnt/model"
GIB = 1 << 30


class PublishedCheckpoint(NamedTuple):
    """A checkpoint in S3: the publication at `address` with its `digest` and `size` in bytes, and
    the folder `inside` of it.

    `uri` is the folder of the checkpoint's objects, which never change: other content has another.
    """

    address: str
    uri: str
    digest: str
    size: int
    inside: str


def publish_checkpoint(model: str, root: str) -> PublishedCheckpoint:
    """Where `model` is published: an s3:// address as it is; a directory, or embedded:NAME, below `root`, sent where it is not
    there yet.

    Raises ConfigError without a root, CheckpointError for what holds no checkpoint, and what `store` raises.
    """
    if store.is_s3(model):
        address = model.rstrip("/")
        published = store.require(address)
    else:
        path, digest = _directory(model)
        if not root.startswith("s3://"):
            raise ConfigError(
                f"engine.kind=kserve serves {model} from S3: give launcher.storage, as in"
                " s3://bucket/runs"
            )
        address = f"{root.rstrip('/')}/inputs/{digest[:32]}"
        found = store.stat(address)
        published = (
            found if found and store.verify(address, found) else store.publish(path, address)
        )
    names = {file.name for file in published.files}
    inside = next(
        (folder for folder in ("checkpoint", "") if f"{folder}/config.json".lstrip("/") in names),
        None,
    )
    if inside is None:
        raise CheckpointError(
            f"{model} holds no checkpoint: neither config.json nor checkpoint/config.json is"
            " published there"
        )
    uri = f"{address}/{published.folder}/{inside}".rstrip("/")
    return PublishedCheckpoint(
        address, uri, published.digest, sum(file.size for file in published.files), inside
    )


def _directory(model: str) -> tuple[Path, str]:
    """What is to be published of a local model, and its digest: the whole output of the step that
    made it, where there is one, as a job that takes it as input does."""
    path = model_directory(model)
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{model} is no checkpoint: {path / 'config.json'} is missing")
    made = path.parent
    if path.name == "checkpoint" and (made / STEP_FILE).is_file():
        return made, read_step(made)["digest"]
    return path, digest_directory(path)


class ServeSpec(BaseModel):
    """One served checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    namespace: str
    labels: dict[str, str]
    model: PublishedCheckpoint
    engine: EngineConfig
    place: LauncherConfig
    owner: Owner | None = None


def inference_service(spec: ServeSpec) -> dict[str, Any]:
    """The object.

    Raises ConfigError for a secret that is not written SECRET/KEY.
    """
    place, engine = spec.place, spec.engine
    # A sidecar would want mTLS of whoever asks, and holds up the fetching of the model.
    off = {"sidecar.istio.io/inject": "false"}
    owner = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "controller": False,
        "blockOwnerDeletion": False,
    }
    sizes = {
        "cpu": engine.cpu,
        "memory": engine.memory,
        **({GPU: str(engine.gpus)} if engine.gpus else {}),
    }
    server = {
        "modelFormat": {"name": "vllm"},
        "runtime": engine.runtime,
        "storageUri": spec.model.uri,
        # KServe appends them to the runtime's own.
        "args": [f"--tensor-parallel-size={max(1, engine.gpus)}"],
        "resources": {"requests": sizes, "limits": dict(sizes)},
        "volumeMounts": [
            {
                "name": VOLUME,
                "mountPath": MODEL,
                "subPath": f"model/{spec.model.inside}".rstrip("/"),
                "readOnly": True,
            },
        ],
    }
    predictor = {
        "annotations": {**off, HEARTBEAT: "see the InferenceService"},
        "labels": off,
        "minReplicas": 1,
        "maxReplicas": 1,
        "serviceAccountName": engine.service_account,
        "automountServiceAccountToken": False,
        "securityContext": pod_security(),
        "initContainers": [initializer(spec)],
        "volumes": [
            {"name": VOLUME, "emptyDir": {"sizeLimit": storage(spec.model.size)}},
            {"name": "scratch", "emptyDir": {}},
        ],
        "model": server,
        **({"nodeSelector": place.node_selector} if place.node_selector else {}),
        **({"tolerations": list(place.tolerations)} if place.tolerations else {}),
        **({"affinity": place.affinity} if place.affinity else {}),
    }
    return {
        "apiVersion": f"{INFERENCE_SERVICES.group}/{INFERENCE_SERVICES.version}",
        "kind": KIND.kind,
        "metadata": {
            "name": spec.name,
            "namespace": spec.namespace,
            "labels": {
                **spec.labels,
                "networking.kserve.io/visibility": (
                    "cluster-local"
                ),  # a name too long for an outside host would never be Ready
                **({"kueue.x-k8s.io/queue-name": place.queue} if place.queue else {}),
            },
            "annotations": {
                "serving.kserve.io/deploymentMode": "Standard",
                "serving.kserve.io/autoscalerClass": "none",
                "serving.kserve.io/enable-prometheus-scraping": "true",
                TTL: str(place.ttl_seconds),
            },
            **({"ownerReferences": [{**owner, **spec.owner.model_dump()}]} if spec.owner else {}),
        },
        "spec": {"predictor": predictor},
    }


def initializer(spec: ServeSpec) -> dict[str, Any]:
    """The container that fetches the checkpoint before the server starts, in place of KServe's."""
    place = spec.place
    secret = []
    for name, source in place.secrets.items():
        if name == SIGNING_KEY:  # who serves must not be able to sign
            continue
        where, _, key = source.partition("/")
        if not (where and key):
            raise ConfigError(
                f"launcher.secrets.{name}={source!r}: write SECRET/KEY, as in omnicore-s3/{name}"
            )
        secret.append({"name": name, "valueFrom": {"secretKeyRef": {"name": where, "key": key}}})
    memory = {"cpu": "2", "memory": fetching(spec.model.size)}
    return {
        "name": INITIALIZER,
        "image": place.image,
        "command": [
            "python",
            "-m",
            "omnicore.cluster.fetch",
            spec.model.address,
            spec.model.digest,
            f"{SCRATCH}/model",
        ],
        "env": [
            *(
                {"name": name, "value": value}
                for name, value in {"HOME": "/tmp", **place.env}.items()
            ),
            *secret,
        ],
        # The volume's bytes are asked for here, where the scheduler adds up the pod, and limited by the volume itself: as a limit
        # here they would also count what the server writes later.
        "resources": {
            "requests": {**memory, "ephemeral-storage": storage(spec.model.size)},
            "limits": memory,
        },
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": VOLUME, "mountPath": SCRATCH},
            {"name": "scratch", "mountPath": "/tmp"},
        ],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def storage(size: int) -> str:
    """Disk for a checkpoint of `size` bytes, with a tenth and 1 GiB to spare."""
    return f"{-(-size * 11 // (10 * GIB)) + 1}Gi"


def fetching(size: int) -> str:
    """Memory to fetch `size` bytes: 1 GiB for the process, and a tenth for pages that wait to be
    written, which count as its own."""
    return f"{-(-size // (10 * GIB)) + 1}Gi"
