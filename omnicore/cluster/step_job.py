"""A step as a job: inputs go to S3 where they are not there yet, a job's pods run the same command
as a laptop would, and what they publish becomes the output here.

Inputs lie under `<storage>/inputs/<digest>` and results under `<storage>/results/<section>-<key>`,
so that nothing is sent or made twice, by whichever run.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from omnicore.cluster.client import Cluster, connect
from omnicore.cluster.launch import run_job
from omnicore.cluster.manifests import JobSpec, Owner, manifest
from omnicore.cluster.names import KINDS, PODS, job_name, labels
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
# How to reach the store and the Pushgateway is the same for the job; keys are not handed on: they come from Secrets or the service
# account.
PASSED_ON = ("OMNI_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_REGION", GATEWAY)


def run_as_job(
    step: str, section: str, recipe: Recipe, inputs: Mapping[str, Path], output: Path, key: str
) -> None:
    """Fills `output` with the finished result of this key, `step.json` last, by a job of the kind
    that the recipe names.

    A result that is in the store already is only fetched. Raises what `run_job`, `store.publish`
    and `store.fetch` raise, and ClusterError when the job's image holds other code than this
    process.
    """
    place = recipe.launcher
    root = place.storage.rstrip("/")
    result = f"{root}/results/{section}-{key[:32]}"
    if not _there(result, key):
        cluster = connect(place.namespace)
        run, owner = pipeline_run(cluster, recipe)
        sent = {role: _send(path, root) for role, path in sorted(inputs.items())}
        spec = JobSpec(
            name=job_name(run, section, key),
            namespace=cluster.namespace,
            labels=labels(run, section, key),
            command=command(step, section, recipe, sent, result),
            distributed=step in TRAINING,
            place=place.model_copy(
                update={"env": {**_passed_on(), **place.env}, "secrets": secrets(step, place)}
            ),
            owner=owner,
        )
        kind = KINDS[place.kind]
        run_job(
            cluster,
            kind,
            manifest(spec),
            deadline=place.deadline_seconds,
            keep_on_failure=place.keep_on_failure,
        )
    fetched = output.with_name(f"{output.name}.job")
    shutil.rmtree(fetched, ignore_errors=True)
    store.fetch(result, fetched)
    record = read_step(fetched)
    if record["key"] != key:
        raise ClusterError(
            f"the job of {section} ran other code than this process: its result in {result} has the"
            f" key {record['key'][:16]}, not {key[:16]}. Give launcher.image the image that is"
            " built from the same commit"
        )
    files = [file for file in fetched.rglob("*") if file.is_file() and file != fetched / STEP_FILE]
    for file in [*files, fetched / STEP_FILE]:
        target = output / file.relative_to(fetched)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)
    shutil.rmtree(fetched)


def command(
    step: str, section: str, recipe: Recipe, inputs: Mapping[str, str], output: str
) -> tuple[str, ...]:
    """What a pod runs.

    Its recipe runs in its own process: a job that launched jobs would never end.
    """
    plain = recipe.model_copy(update={"launcher": LauncherConfig()}).model_dump_json()
    given = [part for role, uri in inputs.items() for part in ("--input", f"{role}={uri}")]
    return (
        "omnicore",
        step,
        "--section",
        section,
        "--recipe-json",
        plain,
        *given,
        "--output",
        output,
    )


def secrets(step: str, place: LauncherConfig) -> dict[str, str]:
    """What a pod is given of Secrets: only what writes a checkpoint may sign."""
    return {
        name: source
        for name, source in place.secrets.items()
        if step in TRAINING or name != SIGNING_KEY
    }


def pipeline_run(cluster: Cluster, recipe: Recipe) -> tuple[str, Owner | None]:
    """The run that this process belongs to, and the Workflow that its job is deleted with: those of
    this component's pod.

    Outside of a pipeline the run is the recipe's name.
    """
    pod = cluster.get(PODS, os.environ[POD_NAME]) if POD_NAME in os.environ else None
    owners = (pod or {}).get("metadata", {}).get("ownerReferences") or []
    owner = next(
        (Owner(name=o["name"], uid=o["uid"]) for o in owners if o["kind"] == "Workflow"), None
    )
    return os.environ.get(RUN_ID) or (owner.name if owner else recipe.name), owner


def _there(result: str, key: str) -> bool:
    """Whether the store holds a whole result of this key."""
    published = store.stat(result)
    if published is None or not store.verify(result, published):
        return False
    if STEP_FILE not in {file.name for file in published.files}:
        return False
    return bool(json.loads(store.read_file(result, published, STEP_FILE))["key"] == key)


def _send(path: Path, root: str) -> str:
    """The address of an input in the store, published where it is not there yet."""
    uri = f"{root}/inputs/{read_step(path)['digest'][:32]}"
    published = store.stat(uri)
    if published is None or not store.verify(uri, published):
        store.publish(path, uri)
    return uri


def _passed_on() -> dict[str, str]:
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ}
