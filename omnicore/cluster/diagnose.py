"""What a cluster can run of a recipe: API kinds, rights, quota, GPUs. It only reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from kubernetes import client
from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from omnicore.cluster import launch, serve
from omnicore.cluster.client import Cluster, connect
from omnicore.cluster.names import INFERENCE_SERVICES, KINDS, Resource
from omnicore.cluster.pod_spec import GPU
from omnicore.cluster.retry import error_message
from omnicore.config.recipe import Recipe
from omnicore.errors import ClusterError
from omnicore.schema import Finding

KUEUE = "kueue.x-k8s.io"
LOCAL_QUEUES = Resource(KUEUE, "v1beta2", "localqueues")
JOB_SETS = Resource("jobset.x-k8s.io", "v1alpha2", "jobsets")
INSTALL = {
    "kubeflow.org": "install Kubeflow's Training Operator v1.9, or use launcher.kind=trainjob",
    "trainer.kubeflow.org": "install Kubeflow Trainer v2.2 or v2.3",
    "serving.kserve.io": "install KServe v0.18 to v0.21",
    KUEUE: "install Kueue v0.19 (with Trainer v2.2) or v0.20 (with v2.3)",
    "jobset.x-k8s.io": "install JobSet, which Kubeflow Trainer needs",
}


def diagnose_cluster(namespace: str, recipe: Recipe) -> list[Finding]:
    """Check the cluster of this pod or kubeconfig against a recipe.

    Args:
        namespace: Namespace of the jobs; empty for the context's own.
        recipe: Its launcher and engine say which kinds, queue and resources are needed; with
            launcher.kind=process both kinds of job are looked for and only one must be there.

    Returns:
        Findings, the API server first; only that one where the server cannot be reached.

    Raises:
        ConfigError: There is no kubeconfig, and this process is not in a pod.
    """
    cluster = connect(namespace or recipe.launcher.namespace)
    api = client.ApiClient(cluster.configuration)
    try:
        version = client.VersionApi(api).get_code(_request_timeout=10)
    except (ApiException, HTTPError) as error:
        reason = error_message(error) if isinstance(error, ApiException) else str(error)
        remedy = "check KUBECONFIG, the network and the credentials"
        return [Finding("API server", "fail", reason, remedy)]
    findings = [Finding("API server", "ok", f"Kubernetes {version.git_version}")]
    findings += _kinds(api, recipe)
    findings += _rights(api, cluster, recipe)
    if recipe.launcher.queue:
        findings += _quota(api, cluster, recipe)
    findings += _gpus(api, recipe)
    return findings


def _kinds(api: Any, recipe: Recipe) -> Iterator[Finding]:
    """Yield a finding for each API that the recipe needs, and for pairs that do not fit."""
    served = _served(api)
    wanted = recipe.launcher.kind
    jobs = [KINDS[wanted].resource] if wanted in KINDS else [k.resource for k in KINDS.values()]
    present = [resource for resource in jobs if resource.version in served.get(resource.group, ())]
    for resource in jobs:
        optional = wanted not in KINDS and bool(present)
        yield _kind(resource, served, optional=optional)
    if KINDS["trainjob"].resource in present:
        yield _kind(JOB_SETS, served)
    if recipe.launcher.queue or KUEUE in served:
        yield _kind(LOCAL_QUEUES, served)
    uses_kserve = "kserve" in {recipe.engine.kind, recipe.probe.engine.kind}
    yield _kind(INFERENCE_SERVICES, served, optional=not uses_kserve)


def _served(api: Any) -> dict[str, list[str]]:
    groups = client.ApisApi(api).get_api_versions(_request_timeout=10).groups
    return {group.name: [version.version for version in group.versions] for group in groups}


def _kind(resource: Resource, served: dict[str, list[str]], *, optional: bool = False) -> Finding:
    name = resource.full_name
    versions = served.get(resource.group, [])
    if resource.version in versions:
        return Finding(name, "ok", f"served as {resource.version}")
    state: Literal["warn", "fail"] = "warn" if optional else "fail"
    remedy = INSTALL[resource.group]
    if versions:
        found = f"served as {', '.join(versions)}, not as {resource.version}"
        return Finding(name, state, found, f"another version is needed: {remedy}")
    return Finding(name, state, "not installed", remedy)


def _rights(api: Any, cluster: Cluster, recipe: Recipe) -> Iterator[Finding]:
    """Yield what this account may not do, one finding for jobs and one for served models."""
    wanted = KINDS.get(recipe.launcher.kind)
    others = {kind.resource for kind in KINDS.values()} - ({wanted.resource} if wanted else set())
    # Without a launcher the account needs the rights on one kind of job; the newer one is checked.
    others -= set() if wanted else {KINDS["trainjob"].resource}
    for name, verbs in (("jobs", launch.VERBS), ("served models", serve.VERBS)):
        denied = [
            f"{verb} {resource.plural}"
            for resource, verb in sorted(verbs)
            if resource not in others and not _allowed(api, cluster.namespace, resource, verb)
        ]
        if denied:
            remedy = "bind the Role omnicore-runner to this account: k8s/base/runner.yaml"
            found = f"may not {', '.join(denied)} in {cluster.namespace}"
            yield Finding(f"rights for {name}", "fail", found, remedy)
        else:
            yield Finding(f"rights for {name}", "ok", f"granted in {cluster.namespace}")


def _allowed(api: Any, namespace: str, resource: Resource, verb: str) -> bool:
    plural, _, subresource = resource.plural.partition("/")
    attributes = {
        "namespace": namespace,
        "group": resource.group,
        "resource": plural,
        "subresource": subresource,
        "verb": verb,
    }
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    review = client.AuthorizationV1Api(api).create_self_subject_access_review(body)
    return bool(review.status.allowed)


def _quota(api: Any, cluster: Cluster, recipe: Recipe) -> Iterator[Finding]:
    """Yield whether the queue's quota can ever hold the whole job: Kueue admits it whole."""
    name = recipe.launcher.queue
    try:
        queue = cluster.get(LOCAL_QUEUES, name)
    except ClusterError as error:
        yield Finding(f"queue {name}", "warn", str(error), "ask for the right to read the queue")
        return
    if queue is None:
        yield Finding(
            f"queue {name}",
            "fail",
            f"no LocalQueue {name} in {cluster.namespace}",
            "create it (k8s/base/queues.yaml) or set launcher.queue",
        )
        return
    owner = queue["spec"]["clusterQueue"]
    objects = client.CustomObjectsApi(api)
    try:
        found = objects.get_cluster_custom_object(KUEUE, "v1beta2", "clusterqueues", owner)
    except ApiException as error:
        yield Finding(f"queue {name}", "warn", f"ClusterQueue {owner}: {error_message(error)}", "")
        return
    wanted = recipe.launcher.nodes * recipe.launcher.gpus_per_node
    largest = max(_nominal(found["spec"].get("resourceGroups", []), GPU), default=0)
    if wanted > largest:
        yield Finding(
            f"queue {name}",
            "fail",
            f"a job asks for {wanted} GPUs, and no flavor of {owner} has more than {largest}",
            "raise nominalQuota, or lower launcher.nodes or launcher.gpus_per_node",
        )
    else:
        yield Finding(f"queue {name}", "ok", f"{wanted} of at most {largest} GPUs in one flavor")


def _nominal(groups: Sequence[dict[str, Any]], resource: str) -> Iterator[int]:
    for group in groups:
        for flavor in group["flavors"]:
            for entry in flavor["resources"]:
                if entry["name"] == resource:
                    yield int(entry["nominalQuota"])


def _gpus(api: Any, recipe: Recipe) -> Iterator[Finding]:
    """Yield whether a node has the GPUs that one pod asks for; a pool may scale up from none."""
    wanted = recipe.launcher.gpus_per_node
    selector = ",".join(f"{k}={v}" for k, v in recipe.launcher.node_selector.items())
    try:
        nodes = client.CoreV1Api(api).list_node(label_selector=selector, _request_timeout=10).items
    except ApiException as error:
        yield Finding("GPU nodes", "warn", f"cannot list nodes: {error_message(error)}", "")
        return
    counts = [int((node.status.allocatable or {}).get(GPU, 0)) for node in nodes]
    largest = max(counts, default=0)
    chosen = f" with {selector}" if selector else ""
    found = f"{sum(count > 0 for count in counts)} of {len(nodes)} nodes{chosen}, {largest} a node"
    if wanted > largest:
        remedy = "label GPU nodes, install the device plugin, or rely on a pool that scales up"
        yield Finding("GPU nodes", "warn", f"{found}; a pod asks for {wanted}", remedy)
    else:
        yield Finding("GPU nodes", "ok", found)
