"""The InferenceService of one checkpoint, as an object, and where its checkpoint is published.

The same spec gives the same object. KServe v0.20 in Standard mode: a Deployment and a Service, no
Knative. KServe copies annotations of the object into the pod template, and a changed template
restarts the server: every heartbeat would. The predictor's own annotations take precedence (kserve,
components/predictor.go: labels and annotations priority), so it has a constant one of that name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from omnicore.cluster.names import HEARTBEAT, INFERENCE_SERVICES, QUEUE, TTL, Kind
from omnicore.cluster.pod_spec import (
    NO_SIDECAR,
    Owner,
    container_security,
    environment,
    equal_resources,
    non_empty,
    owner_references,
    pod_security,
)
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
# KServe's own names, which its status looks for.
INITIALIZER, VOLUME = "storage-initializer", "kserve-provision-location"
MODEL_PATH, SCRATCH_PATH = "/mnt/models", "/mnt/model"
GIB = 1 << 30


class PublishedCheckpoint(NamedTuple):
    """A checkpoint in S3.

    Attributes:
        address: The publication that holds it.
        uri: Folder of the checkpoint's objects, which never change: other content has another.
        digest: Digest of the publication.
        size: Bytes of the publication.
        inside: Folder of the checkpoint in the publication.
    """

    address: str
    uri: str
    digest: str
    size: int
    inside: str


def publish_checkpoint(model: str, root: str) -> PublishedCheckpoint:
    """Return where a checkpoint is published; publish a local one where it is missing.

    Args:
        model: s3:// address of a publication, a directory, or embedded:NAME.
        root: s3:// address below which local models are published.

    Raises:
        ConfigError: A local model needs a root.
        CheckpointError: The model holds no checkpoint.
        DataError: Nothing is published at the address.
        StorageError: As `store` raises it.
    """
    if store.is_s3(model):
        address = model.rstrip("/")
        publication = store.require(address)
    else:
        address, publication = _publish_local(model, root)
    inside = _checkpoint_folder(publication.names)
    if inside is None:
        raise CheckpointError(
            f"{model} holds no checkpoint: neither config.json nor checkpoint/config.json is"
            " published there",
            code="checkpoint-not-published",
            path=address,
        )
    uri = f"{address}/{publication.folder}/{inside}".rstrip("/")
    return PublishedCheckpoint(address, uri, publication.digest, publication.size, inside)


def _checkpoint_folder(names: set[str]) -> str | None:
    if "checkpoint/config.json" in names:
        return "checkpoint"
    return "" if "config.json" in names else None


def _publish_local(model: str, root: str) -> tuple[str, store.Publication]:
    """Publish a local model below `root` unless it is there; return its address."""
    path, digest = _directory_to_publish(model)
    if not root.startswith("s3://"):
        raise ConfigError(
            f"engine.kind=kserve serves {model} from S3: set launcher.storage, as in"
            " s3://bucket/runs",
            code="launcher-storage-missing",
            field="launcher.storage",
        )
    address = f"{root.rstrip('/')}/inputs/{digest[:32]}"
    publication = store.stat(address)
    if publication is None or not store.verify(address, publication):
        publication = store.publish(path, address)
    return address, publication


def _directory_to_publish(model: str) -> tuple[Path, str]:
    """Return the directory to publish for a local model, and its digest.

    For the checkpoint of a step that is the step's whole output, as for a job that takes it as
    input.
    """
    path = model_directory(model)
    if not (path / "config.json").is_file():
        raise CheckpointError(
            f"{model} is not a checkpoint: {path / 'config.json'} is missing",
            code="checkpoint-config-missing",
            path=path / "config.json",
        )
    output = path.parent
    if path.name == "checkpoint" and (output / STEP_FILE).is_file():
        return output, read_step(output)["digest"]
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
    """Return the object.

    Raises:
        ConfigError: A secret is not written SECRET/KEY.
    """
    return {
        "apiVersion": INFERENCE_SERVICES.api_version,
        "kind": KIND.kind,
        "metadata": _metadata(spec),
        "spec": {"predictor": _predictor(spec)},
    }


def _metadata(spec: ServeSpec) -> dict[str, Any]:
    labels = dict(spec.labels)
    # With an outside host, a long name would never become Ready.
    labels["networking.kserve.io/visibility"] = "cluster-local"
    labels |= non_empty(**{QUEUE: spec.place.queue})
    return {
        "name": spec.name,
        "namespace": spec.namespace,
        "labels": labels,
        "annotations": {
            "serving.kserve.io/deploymentMode": "Standard",
            "serving.kserve.io/autoscalerClass": "none",
            "serving.kserve.io/enable-prometheus-scraping": "true",
            TTL: str(spec.place.ttl_seconds),
        },
        **owner_references(spec.owner),
    }


def _predictor(spec: ServeSpec) -> dict[str, Any]:
    place, engine = spec.place, spec.engine
    mount = {
        "name": VOLUME,
        "mountPath": MODEL_PATH,
        "subPath": f"model/{spec.model.inside}".rstrip("/"),
        "readOnly": True,
    }
    server = {
        "modelFormat": {"name": "vllm"},
        "runtime": engine.runtime,
        "storageUri": spec.model.uri,
        # KServe appends them to the runtime's own.
        "args": [f"--tensor-parallel-size={max(1, engine.gpus)}"],
        "resources": equal_resources(engine.cpu, engine.memory, engine.gpus),
        "volumeMounts": [mount],
    }
    return {
        "annotations": {**NO_SIDECAR, HEARTBEAT: "see the InferenceService"},
        "labels": NO_SIDECAR,
        "minReplicas": 1,
        "maxReplicas": 1,
        "serviceAccountName": engine.service_account,
        "automountServiceAccountToken": False,
        "securityContext": pod_security(),
        "initContainers": [initializer(spec)],
        "volumes": [
            {"name": VOLUME, "emptyDir": {"sizeLimit": fetch_storage(spec.model.size)}},
            {"name": "scratch", "emptyDir": {}},
        ],
        "model": server,
        **non_empty(
            nodeSelector=place.node_selector,
            tolerations=list(place.tolerations),
            affinity=place.affinity,
        ),
    }


def initializer(spec: ServeSpec) -> dict[str, Any]:
    """Return the container that fetches the checkpoint before the server starts."""
    place, model = spec.place, spec.model
    # A server must not be able to sign.
    secrets = {name: source for name, source in place.secrets.items() if name != SIGNING_KEY}
    limits = {"cpu": "2", "memory": fetch_memory(model.size)}
    # The disk is requested here, where the scheduler adds up the pod, and limited by the volume:
    # a limit here would also count what the server writes later.
    requests = {**limits, "ephemeral-storage": fetch_storage(model.size)}
    fetch = ["python", "-m", "omnicore.cluster.fetch"]
    return {
        "name": INITIALIZER,
        "image": place.image,
        "command": [*fetch, model.address, model.digest, f"{SCRATCH_PATH}/model"],
        "env": environment({"HOME": "/tmp", **place.env}, secrets),
        "resources": {"requests": requests, "limits": limits},
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": VOLUME, "mountPath": SCRATCH_PATH},
            {"name": "scratch", "mountPath": "/tmp"},
        ],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def fetch_storage(size: int) -> str:
    """Return the disk for a checkpoint of `size` bytes: a tenth and 1 GiB more."""
    return f"{-(-size * 11 // (10 * GIB)) + 1}Gi"


def fetch_memory(size: int) -> str:
    """Return the memory to fetch `size` bytes.

    1 GiB for the process, and a tenth for pages that wait to be written, which count as its own.
    """
    return f"{-(-size // (10 * GIB)) + 1}Gi"
