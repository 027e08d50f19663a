"""Parts of pods that jobs and served models share: security, owner, environment, resources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from omnicore.errors import ConfigError

GPU = "nvidia.com/gpu"
# A sidecar keeps a job from ending, and its mTLS breaks NCCL, the scraping of metrics and clients
# outside the mesh; it also delays the fetch of a model.
NO_SIDECAR = {"sidecar.istio.io/inject": "false"}


class Owner(BaseModel):
    """The Argo Workflow that an object is deleted with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    uid: str


def owner_references(owner: Owner | None) -> dict[str, Any]:
    """Return the metadata field that names the owner; empty without one."""
    if owner is None:
        return {}
    reference = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "controller": False,
        "blockOwnerDeletion": False,
        **owner.model_dump(),
    }
    return {"ownerReferences": [reference]}


def pod_security() -> dict[str, Any]:
    """Return the security context of a pod under Pod Security `restricted`.

    The image sets the user, by number.
    """
    return {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def container_security() -> dict[str, Any]:
    """Return the security context of a container under Pod Security `restricted`."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def environment(values: Mapping[str, str], secrets: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the environment of a container.

    Args:
        values: Plain values by variable.
        secrets: Sources by variable, written SECRET/KEY.

    Raises:
        ConfigError: A source has another form.
    """
    entries: list[dict[str, Any]] = [
        {"name": name, "value": value} for name, value in values.items()
    ]
    for name, source in secrets.items():
        secret, _, key = source.partition("/")
        if not (secret and key):
            raise ConfigError(
                f"launcher.secrets.{name}={source!r}: write SECRET/KEY, as in omnicore-s3/{name}",
                code="launcher-secret-invalid",
                field=f"launcher.secrets.{name}",
            )
        reference = {"secretKeyRef": {"name": secret, "key": key}}
        entries.append({"name": name, "valueFrom": reference})
    return entries


def equal_resources(cpu: str, memory: str, gpus: int) -> dict[str, Any]:
    """Return requests with equal limits.

    Such a pod is evicted last, and a quota counts what it uses.
    """
    sizes = {"cpu": cpu, "memory": memory}
    if gpus:
        sizes[GPU] = str(gpus)
    return {"requests": sizes, "limits": dict(sizes)}


def non_empty(**fields: Any) -> dict[str, Any]:
    """Return the fields that have a value."""
    return {name: value for name, value in fields.items() if value}
