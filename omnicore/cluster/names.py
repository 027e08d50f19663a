"""Names of objects on a cluster: kinds of job, labels, annotations, conditions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from omnicore.config import digest

APP = "app.kubernetes.io/name"
RUN, STEP, KEY = "omnicore.dev/run", "omnicore.dev/step", "omnicore.dev/key"
HEARTBEAT, TTL = "omnicore.dev/heartbeat", "omnicore.dev/ttl-seconds"
QUEUE = "kueue.x-k8s.io/queue-name"
# A job's name begins the names of its pods and services (`<job>-worker-12`, `<job>-node-0-12`),
# which may have 63 characters.
MAX_JOB_NAME = 50
LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


class Resource(NamedTuple):
    """An API resource; `group` is empty for the core API."""

    group: str
    version: str
    plural: str

    @property
    def api_version(self) -> str:
        """Field `apiVersion` of the resource's objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def full_name(self) -> str:
        """Plural name with the group, as in `pytorchjobs.kubeflow.org`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str, name: str = "") -> str:
        """Return the URL path of the resource in a namespace, or of one object."""
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"
        collection = f"{root}/namespaces/{namespace}/{self.plural}"
        return f"{collection}/{name}" if name else collection


class Kind(NamedTuple):
    """A kind of job or served model.

    Attributes:
        kind: Field `kind` of its objects.
        resource: Its API resource.
        succeeded: Condition of an object that succeeded.
        container: Container that runs the step.
        pods: Label of an object's pods that holds the object's name.
    """

    kind: str
    resource: Resource
    succeeded: str
    container: str
    pods: str


PODS = Resource("", "v1", "pods")
LOGS = Resource("", "v1", "pods/log")
EVENTS = Resource("", "v1", "events")
WORKFLOWS = Resource("argoproj.io", "v1alpha1", "workflows")
INFERENCE_SERVICES = Resource("serving.kserve.io", "v1beta1", "inferenceservices")
KINDS = {
    "pytorchjob": Kind(
        "PyTorchJob",
        Resource("kubeflow.org", "v1", "pytorchjobs"),
        "Succeeded",
        "pytorch",
        "training.kubeflow.org/job-name",
    ),
    "trainjob": Kind(
        "TrainJob",
        Resource("trainer.kubeflow.org", "v1alpha1", "trainjobs"),
        "Complete",
        "node",
        "jobset.sigs.k8s.io/jobset-name",
    ),
}


def launch_verbs(resource: Resource) -> set[tuple[Resource, str]]:
    """Return the rights that a launcher of this resource needs."""
    verbs = {(resource, verb) for verb in ("create", "get", "list", "watch", "patch", "delete")}
    verbs |= {(PODS, verb) for verb in ("get", "list", "watch")}
    return verbs | {(LOGS, "get"), (EVENTS, "list")}


def job_name(run: str, section: str, key: str) -> str:
    """Return the unique name of a piece of work, a DNS-1035 label.

    Two launchers of the same work get the same name, others never do. `key` is the result's key, so
    two arms of a run in the same section have two jobs.
    """
    tail = digest([run, section, key])[:8]
    stem = re.sub(r"[^a-z0-9]+", "-", f"{section}-{run}".lower()).strip("-")
    stem = stem if stem[:1].isalpha() else f"job-{stem}".rstrip("-")
    return f"{stem[: MAX_JOB_NAME - len(tail) - 1].rstrip('-')}-{tail}"


def labels(run: str, section: str, key: str) -> dict[str, str]:
    """Return the labels of omnicore's objects; others are never adopted, changed or deleted."""
    return {
        APP: "omnicore",
        RUN: label_value(run),
        STEP: label_value(section),
        KEY: label_value(key[:16]),
    }


def label_value(text: str) -> str:
    """Return a text as a label value.

    A label value has 1 to 63 letters, digits, `-`, `_` or `.`, with a letter or digit at both ends.

    A text that is not such a value ends in a digest of it, so two texts never share a label.
    """
    if LABEL.fullmatch(text):
        return text
    tail = digest(text)[:16]
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", text)[: 63 - len(tail) - 1].strip("-_.")
    return f"{stem}-{tail}".lstrip("-")


def timestamp() -> str:
    """Return the current time as Kubernetes writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def has_condition(item: Mapping[str, Any], condition: str) -> bool:
    """Return whether an object has a condition with status True."""
    return any(c["type"] == condition and c["status"] == "True" for c in conditions(item))


def conditions(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the conditions of an object's status."""
    return list(item.get("status", {}).get("conditions") or [])


def workflow_owner(item: Mapping[str, Any] | None) -> tuple[str, str] | None:
    """Return name and uid of the Argo Workflow that owns an object; None where none does."""
    metadata = (item or {}).get("metadata", {})
    for owner in metadata.get("ownerReferences") or []:
        if owner["kind"] == "Workflow":
            return owner["name"], owner["uid"]
    return None
