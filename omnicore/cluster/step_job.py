"""A step as a job: send missing inputs to S3, run the step's command in pods, fetch the output.

Inputs lie under `<storage>/inputs/<digest>` and results under `<storage>/results/<section>-<key>`,
so nothing is sent or computed twice, by any run.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from omnicore.cluster.client import Cluster, connect
from omnicore.cluster.launch import run_job
from omnicore.cluster.manifests import JobSpec, manifest
from omnicore.cluster.names import KINDS, PODS, job_name, labels, workflow_owner
from omnicore.cluster.pod_spec import Owner
from omnicore.config import TRAINING, LauncherConfig
from omnicore.config.recipe import Recipe
from omnicore.errors import ClusterError
from omnicore.lineage.signing import SIGNING_KEY
from omnicore.lineage.step_record import read_step
from omnicore.storage import store
from omnicore.storage.digests import STEP_FILE
from omnicore.telemetry.live import GATEWAY

# Set in a component's pod: its name, and the id of its run.
POD_NAME, RUN_ID = "KFP_POD_NAME", "KFP_RUN_ID"
# The job reaches the store and the Pushgateway the same way. Keys are not passed on: they come from
# Secrets or the service account.
PASSED_ON = ("OMNI_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_REGION", GATEWAY)


def run_as_job(
    step: str, section: str, recipe: Recipe, inputs: Mapping[str, Path], output: Path, key: str
) -> None:
    """Fill `output` with the finished result of a key, `step.json` last.

    A result that is in the store already is only fetched; else a job of the kind that the recipe
    names computes it.

    Args:
        step: The step.
        section: Section of the recipe.
        recipe: The recipe.
        inputs: Directories of the inputs by role.
        output: Directory of the output.
        key: Key of the result.

    Raises:
        ClusterError: The job's image holds other code than this process, or `run_job` raises it.
        ConfigError: As `run_job` raises it.
        StorageError: As `store.publish` and `store.fetch` raise it.
    """
    place = recipe.launcher
    root = place.storage.rstrip("/")
    result = f"{root}/results/{section}-{key[:32]}"
    if not _has_result(result, key):
        _launch(step, section, recipe, inputs, result, key)
    fetched = output.with_name(f"{output.name}.job")
    shutil.rmtree(fetched, ignore_errors=True)
    store.fetch(result, fetched)
    record = read_step(fetched)
    if record["key"] != key:
        raise ClusterError(
            f"the job of {section} ran other code than this process: its result in {result} has the"
            f" key {record['key'][:16]}, not {key[:16]}. Set launcher.image to the image that is"
            " built from the same commit",
            code="job-code-mismatch",
            field="launcher.image",
        )
    _move_output(fetched, output)


def _launch(
    step: str, section: str, recipe: Recipe, inputs: Mapping[str, Path], result: str, key: str
) -> None:
    place = recipe.launcher
    root = place.storage.rstrip("/")
    cluster = connect(place.namespace)
    run, owner = pipeline_run(cluster, recipe)
    addresses = {role: _publish_input(path, root) for role, path in sorted(inputs.items())}
    environment = {**passed_on(), **place.env}
    spec = JobSpec(
        name=job_name(run, section, key),
        namespace=cluster.namespace,
        labels=labels(run, section, key),
        command=command(step, section, recipe, addresses, result),
        distributed=step in TRAINING,
        place=place.model_copy(update={"env": environment, "secrets": secrets(step, place)}),
        owner=owner,
    )
    run_job(
        cluster,
        KINDS[place.kind],
        manifest(spec),
        deadline=place.deadline_seconds,
        keep_on_failure=place.keep_on_failure,
    )


def _move_output(fetched: Path, output: Path) -> None:
    """Move the files of a fetched result into `output`, `step.json` last."""
    files = [file for file in fetched.rglob("*") if file.is_file() and file != fetched / STEP_FILE]
    for file in [*files, fetched / STEP_FILE]:
        target = output / file.relative_to(fetched)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)
    shutil.rmtree(fetched)


def command(
    step: str, section: str, recipe: Recipe, inputs: Mapping[str, str], output: str
) -> tuple[str, ...]:
    """Return the command of a pod.

    Its recipe runs in the pod's own process: a job that launched jobs would never end.
    """
    plain = recipe.model_copy(update={"launcher": LauncherConfig()}).model_dump_json()
    arguments = ["omnicore", step, "--section", section, "--recipe-json", plain]
    for role, uri in inputs.items():
        arguments += ["--input", f"{role}={uri}"]
    return (*arguments, "--output", output)


def secrets(step: str, place: LauncherConfig) -> dict[str, str]:
    """Return the Secrets of a step's pods; only a training step may sign its checkpoint."""
    if step in TRAINING:
        return dict(place.secrets)
    return {name: source for name, source in place.secrets.items() if name != SIGNING_KEY}


def pipeline_run(cluster: Cluster, recipe: Recipe) -> tuple[str, Owner | None]:
    """Return the run of this process, and the Workflow that its job is deleted with.

    Both are those of this component's pod. Outside of a pipeline the run is the recipe's name.
    """
    pod = cluster.get(PODS, os.environ[POD_NAME]) if POD_NAME in os.environ else None
    workflow = workflow_owner(pod)
    owner = Owner(name=workflow[0], uid=workflow[1]) if workflow else None
    run = os.environ.get(RUN_ID)
    if not run:
        run = owner.name if owner else recipe.name
    return run, owner


def passed_on() -> dict[str, str]:
    """Return the environment that a job or served model inherits."""
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ}


def _has_result(result: str, key: str) -> bool:
    """Return whether the store holds a whole result of this key."""
    publication = store.stat(result)
    if publication is None or not store.verify(result, publication):
        return False
    if STEP_FILE not in publication.names:
        return False
    return bool(json.loads(store.read_file(result, publication, STEP_FILE))["key"] == key)


def _publish_input(path: Path, root: str) -> str:
    """Publish an input unless it is in the store; return its address."""
    uri = f"{root}/inputs/{read_step(path)['digest'][:32]}"
    publication = store.stat(uri)
    if publication is None or not store.verify(uri, publication):
        store.publish(path, uri)
    return uri
