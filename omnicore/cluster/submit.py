"""Create a run of a pipeline on a cluster once: `omnicore cluster submit`, for people and CronJobs.

KFP accepts any number of runs of one name. Each submitter therefore lists the runs again after it
has created one, and is done only when it sees no other that is alive: of two runs created at the
same time, the later listing shows both. A submitter that sees an older run terminates its own; the
one with the oldest run waits until the others have done so.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from omnicore.cluster.kubeflow import OVER, KfpServer, RunSpec
from omnicore.cluster.request import IMAGE, PIPELINE, read_request
from omnicore.config import raw_yaml
from omnicore.config.recipe import load_recipe, recipe_names
from omnicore.errors import ClusterError, ConfigError
from omnicore.storage.store import FOLDER_DIGITS

if TYPE_CHECKING:
    from omnicore.cluster.kubeflow import KfpPipeline, KfpRun, KfpVersion

BY_HAND = frozenset({"CANCELED", "CANCELING"})
# Seconds between two listings, each times a random factor of 0.5 to 1.5.
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)


def submit(
    pipeline: str,
    run: str,
    recipe: str,
    overrides: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    *,
    version: str = "",
    host: str = "",
    namespace: str = "",
    service_account: str = "omnicore-runner",
    again: bool = True,
) -> str:
    """Create the run, or find the one of this name that is alive or has succeeded.

    Args:
        pipeline: Name of a pipeline of the cluster.
        run: Name of the run.
        recipe: A recipe of the pipeline's image, by name or path.
        overrides: Changes of single recipe values, as in `rlvr.steps=40`.
        parameters: Further parameters of the pipeline.
        version: Name of a PipelineVersion; the newest one by default.
        host: Address of KFP's API.
        namespace: Namespace of a profile where KFP serves many users.
        service_account: Account of the run's pods.
        again: Whether to create another run if the last one failed or was cancelled.

    Returns:
        A line with the address of the run.

    Raises:
        ConfigError: The recipe, a parameter, the pipeline, the host or the rights are wrong.
        ClusterError: The server failed or is unreachable.
    """
    if recipe in recipe_names():
        # A wrong field is reported before anything starts; the image of jobs is the pipeline's own.
        load_recipe(recipe, [IMAGE, *overrides])
    server = KfpServer(host, namespace)
    found = server.pipeline(pipeline)
    chosen = server.version(found, version)
    arguments = {
        "recipe": recipe,
        "overrides": json.dumps(list(overrides)) if overrides else "",
        "run_name": run,
    }
    arguments |= parameters or {}
    arguments = _typed_arguments(pipeline, chosen, arguments)
    version_id = chosen.pipeline_version_id
    spec = RunSpec(run, pipeline, found.pipeline_id, version_id, arguments, service_account)
    submission = _Submission(server, spec, again)
    remaining = submission.ensure_one_run()
    if remaining.run_id != submission.own_id:
        return _existing_run_line(server, remaining, found)
    return f"run {run} of {chosen.display_name} is created: {server.link(remaining)}"


def submit_request(
    file: Path, run: str, *, newest: bool, parameters: Mapping[str, Any], again: bool, **target: str
) -> str:
    """Create the run of a retrain request, or find it.

    Args:
        file: The request.
        run: Name of the run; empty for the name that follows from the request's content.
        newest: Whether to use the newest published version of each data set that it pins.
        parameters: Further parameters of the pipeline.
        again: Whether to create another run if the last one failed or was cancelled.
        target: `version`, `host`, `namespace` and `service_account` of `submit`.
    """
    request = read_request(file)
    if newest:
        request = request.newest()
    arguments = request.parameters() | dict(parameters)
    champion = str(arguments.get("champion") or "")
    if not champion or f"/{'0' * FOLDER_DIGITS}" in champion:
        raise ConfigError(
            "no champion to beat: name the first in k8s/overlays/prod/champion.yaml, and give"
            " --param champion=URI",
            code="request-champion-missing",
            field="champion",
        )
    # The cluster names the folder of the champion's weights, the pipeline the result around it.
    arguments["champion"] = champion.rstrip("/").removesuffix("/checkpoint")
    line = submit(
        PIPELINE,
        run or request.run,
        request.recipe,
        request.changes(),
        arguments,
        again=again,
        **target,
    )
    return f"{line}\nreason: {request.reason}"


def parse_parameters(given: Sequence[str]) -> dict[str, Any]:
    """Parse NAME=VALUE options, the value as YAML: `benchmarks={daily_omni: hub@1a2b3c}`.

    Unquoted scalars stay text until the pipeline's parameter types are known.

    Raises:
        ConfigError: An option is not of this form.
    """
    parameters = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ConfigError(
                f"--param {text!r}: write NAME=VALUE, as in champion=s3://models/champion",
                code="cli-param-invalid",
                field="--param",
            )
        try:
            parameters[name] = raw_yaml.load(value)
        except yaml.YAMLError as error:
            raise ConfigError(
                f"--param {text!r}: the value is not YAML; quote it",
                code="cli-param-invalid",
                field="--param",
            ) from error
    return parameters


class _Submission:
    """Ensures that one run of a name is alive or has succeeded.

    `own_id` is the id of the run that this process has created, as long as it counts.
    """

    def __init__(self, server: KfpServer, spec: RunSpec, again: bool) -> None:
        self.server, self.spec, self.again = server, spec, again
        self.name = spec.name
        self.own_id = self.experiment_id = ""

    def ensure_one_run(self) -> KfpRun:
        alive: list[KfpRun] = []
        for pause in (0.0, *PAUSES):
            time.sleep(pause * random.uniform(0.5, 1.5))
            alive = self.server.alive_runs(self.name)
            if not alive:
                ended = self._ended_run()
                if ended is not None:
                    return ended
                self._create()
                alive = self.server.alive_runs(self.name)
            if len(alive) == 1:
                return alive[0]
            self._withdraw(alive)
        if not alive:
            raise ClusterError(
                f"every run named {self.name} was terminated right after creation; re-run the same"
                " command",
                code="run-terminated-at-once",
            )
        # The processes that created the younger ones died before they listed again.
        for run in alive[1:]:
            self.server.terminate_run(run.run_id)
        return alive[0]

    def _ended_run(self) -> KfpRun | None:
        """Return the run that has ended and is not to be created again."""
        if not self.own_id and self.again:
            return None
        runs = self.server.runs_named(self.name)
        if self.own_id:
            (own,) = (run for run in runs if run.run_id == self.own_id)
            if own.state not in BY_HAND:  # it failed: creating another would fail as well
                return own
            self.own_id = ""
        if not self.again and runs:
            return runs[0]
        return None

    def _create(self) -> None:
        if not self.experiment_id:
            self.experiment_id = self.server.experiment_id(self.spec.pipeline)
        try:
            self.own_id = self.server.create_run(self.spec, self.experiment_id)
        except ClusterError:
            # The reply may be lost while the run exists.
            if not self.server.alive_runs(self.name):
                raise

    def _withdraw(self, alive: Sequence[KfpRun]) -> None:
        """Terminate this process's run where an older one is alive."""
        younger = [run.run_id for run in alive[1:]]
        if self.own_id in younger:
            self.server.terminate_run(self.own_id)
            self.own_id = ""


def _typed_arguments(
    pipeline: str, version: KfpVersion, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments, each of the type that the pipeline's parameter has.

    KFP itself reports an unknown or missing parameter only once the run has failed.

    Raises:
        ConfigError: The pipeline has no such parameter, or one that it needs is missing.
    """
    spec = version.pipeline_spec or {}
    spec = spec.get("pipeline_spec", spec)
    known = spec.get("root", {}).get("inputDefinitions", {}).get("parameters")
    if known is None:
        return {name: raw_yaml.fit_to_field(value, Any) for name, value in arguments.items()}
    unknown = sorted(arguments.keys() - known.keys())
    required = (name for name, value in known.items() if not value.get("isOptional"))
    missing = sorted(set(required) - arguments.keys())
    hint = f"its parameters are {', '.join(sorted(known))}; give --param NAME=VALUE"
    if unknown:
        raise ConfigError(
            f"{pipeline} has no parameter {', '.join(unknown)}: {hint}",
            code="pipeline-parameter-unknown",
            field=unknown[0],
        )
    if missing:
        raise ConfigError(
            f"{pipeline} needs {', '.join(missing)}: {hint}",
            code="pipeline-parameter-missing",
            field=missing[0],
        )
    typed = {}
    for name, value in arguments.items():
        is_text = known[name].get("parameterType") == "STRING"
        typed[name] = raw_yaml.fit_to_field(value, str if is_text else Any)
    return typed


def _existing_run_line(server: KfpServer, run: KfpRun, pipeline: KfpPipeline) -> str:
    reference = run.pipeline_version_reference
    if reference and reference.pipeline_id and reference.pipeline_id != pipeline.pipeline_id:
        raise ConfigError(
            f"run {run.display_name} is a run of another pipeline: {server.link(run)}; give --run"
            " another name",
            code="run-of-other-pipeline",
            field="--run",
        )
    state = (run.state or "pending").lower()
    hint = "; --again runs it anew" if run.state in OVER else ""
    return f"run {run.display_name} exists already ({state}{hint}): {server.link(run)}"
