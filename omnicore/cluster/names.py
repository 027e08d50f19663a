"""What objects on a cluster are called: the kinds of job, labels, annotations, names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from omnicore.config import digest

APP, RUN, STEP, KEY = (
    "app.kubernetes.io/name",
    "omnicore.dev/run",
    "omnicore.dev/step",
    "omnicore.dev/key",
)
HEARTBEAT, TTL = "omnicore.dev/heartbeat", "omnicore.dev/ttl-seconds"
# A job's name is the start of its pods' and services' (`<job>-worker-12`, `<job>-node-0-12`), which share the limit of 63.
LONGEST = 50
LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


class Resource(NamedTuple):
    """An API resource; `group` is empty for the core API."""

    group: str
    version: str
    plural: str

    def path(self, namespace: str, name: str = "") -> str:
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        return f"{root}/namespaces/{namespace}/{self.plural}" + (f"/{name}" if name else "")


class Kind(NamedTuple):
    """A kind of training job.

    `succeeded` is the condition that says so, `container` runs the step, `pods` is the label of a
    job's pods that holds the job's name.
    """

    kind: str
    resource: Resource
    succeeded: str
    container: str
    pods: str


PODS, LOGS, EVENTS = (
    Resource("", "v1", "pods"),
    Resource("", "v1", "pods/log"),
    Resource("", "v1", "events"),
)
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


def job_name(run: str, section: str, key: str) -> str:
    """The one name of a piece of work, a DNS-1035 label: two launchers of the same work meet at it,
    others never do.

    `key` is that of the result, so that two arms of a run in the same section have two jobs.
    """
    tail = digest([run, section, key])[:8]
    stem = re.sub(r"[^a-z0-9]+", "-", f"{section}-{run}".lower()).strip("-")
    stem = stem if stem[:1].isalpha() else f"job-{stem}".rstrip("-")
    return f"{stem[: LONGEST - len(tail) - 1].rstrip('-')}-{tail}"


def labels(run: str, section: str, key: str) -> dict[str, str]:
    """What marks an object as ours; an object without these very labels is never adopted, changed
    or deleted."""
    return {APP: "omnicore", RUN: label(run), STEP: label(section), KEY: label(key[:16])}


def label(text: str) -> str:
    """As a label's value: at most 63 letters, digits, `-`, `_`, `.`, the first and the last a
    letter or digit.

    A text that is no such value ends in a digest of it, so that two texts never have one label, and
    none is empty.
    """
    if LABEL.fullmatch(text):
        return text
    tail = digest(text)[:16]
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", text)[: 63 - len(tail) - 1].strip("-_.")
    return f"{stem}-{tail}".lstrip("-")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def true(found: Mapping[str, Any], condition: str) -> bool:
    """Whether an object has a condition whose status is True."""
    return any(c["type"] == condition and c["status"] == "True" for c in conditions(found))


def conditions(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(found.get("status", {}).get("conditions") or [])
