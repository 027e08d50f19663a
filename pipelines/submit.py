"""Creates a run of a pipeline that a cluster has, once a name: what `omnicore submit` does for a
person, a hook, or a CronJob.

KFP takes any number of runs of one name. So who has created one looks again, and is done only when
it sees no other that is alive: of two that were created at the same time, whichever is looked for
last sees both. Who sees an older one ends its own; who has the oldest waits for the others to do
so.

Speaks KFP's API v2beta1 through its generated client. `kfp.Client` is left alone: it gives no
request a time limit, and does not send the projected token to a host that is named.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import kfp_server_api as api
import yaml
from kfp.client import KF_PIPELINES_SA_TOKEN_ENV, KF_PIPELINES_SA_TOKEN_PATH
from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials
from urllib3.exceptions import HTTPError

from omnicore.config import raw_yaml
from omnicore.config.recipe import load_recipe, recipe_names
from omnicore.errors import ClusterError, ConfigError
from omnicore.storage.store import FOLDER_DIGITS
from pipelines.request import IMAGE, PIPELINE
from pipelines.request import read as read_request

T = TypeVar("T")
IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
OVER = frozenset(
    {"FAILED", "CANCELED", "CANCELING", "SKIPPED"}
)  # a run in another state is alive, or has succeeded
BY_HAND = frozenset({"CANCELED", "CANCELING"})
SECONDS = (10, 60)  # to connect, to answer
PAUSES = (
    0.5,
    1.0,
    2.0,
    4.0,
    8.0,
    8.0,
    8.0,
)  # seconds between two looks, each times a random half to one and a half


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
    """Creates the run, or finds the one of this name that is alive or has succeeded; returns a line
    with its address.

    Without `again` one that failed or was cancelled is found as well.

    `version` is the name of a PipelineVersion (the newest one by default), `namespace` that of a
    profile where KFP serves many users. Raises ConfigError for what the caller can mend (recipe,
    parameter, pipeline, host, rights), ClusterError when the server does not answer.
    """
    if recipe in recipe_names():
        # A wrong field is told before anything starts; the image of jobs is the pipeline's own.
        load_recipe(recipe, [IMAGE, *overrides])
    kfp = Server(host, namespace)
    found = kfp.pipeline(pipeline)
    chosen = kfp.version(found, version)
    arguments = {
        "recipe": recipe,
        "overrides": json.dumps(list(overrides)) if overrides else "",
        "run_name": run,
        **(parameters or {}),
    }
    arguments = _checked(pipeline, chosen, arguments)
    body = api.V2beta1Run(
        display_name=run,
        pipeline_version_reference=api.V2beta1PipelineVersionReference(
            found.pipeline_id, chosen.pipeline_version_id
        ),
        runtime_config=api.V2beta1RuntimeConfig(parameters=arguments),
        service_account=service_account,
    )
    held, created = _once(kfp, body, pipeline, again)
    if not created:
        return _told(kfp, held, found)
    return f"run {run} of {chosen.display_name} is created: {kfp.link(held)}"


def _once(
    kfp: Server, body: api.V2beta1Run, experiment: str, again: bool
) -> tuple[api.V2beta1Run, bool]:
    """The one run of this name that is alive or has succeeded, and whether this process has created
    it."""
    name, mine = body.display_name, ""
    for pause in (0.0, *PAUSES):
        time.sleep(pause * random.uniform(0.5, 1.5))
        alive = kfp.alive(name)
        if mine and not alive:
            (ended,) = (run for run in kfp.named(name) if run.run_id == mine)
            if (
                ended.state not in BY_HAND
            ):  # it has failed already: that is no reason to create another
                return ended, True
            mine = ""
        if not alive and not again and (ended := kfp.named(name)):
            return ended[0], False
        if not alive:
            body.experiment_id = body.experiment_id or kfp.experiment(experiment)
            try:
                mine = kfp.ask(kfp.runs.run_service_create_run, body).run_id
            except ClusterError:
                if not kfp.alive(name):  # else the answer was lost, the run was not
                    raise
            alive = kfp.alive(name)
        ids = [run.run_id for run in alive]
        if len(ids) == 1:
            return alive[0], ids == [mine]
        if mine in ids[1:]:
            kfp.ask(kfp.runs.run_service_terminate_run, mine)
            mine = ""
    if not alive:
        raise ClusterError(
            f"runs {name} are ended as soon as they are created; the same command may be given"
            " again"
        )
    for run in alive[1:]:  # who made it has died before it looked again
        kfp.ask(kfp.runs.run_service_terminate_run, run.run_id)
    return alive[0], ids[0] == mine


class Server:
    """One KFP API server and how this process proves who it is."""

    def __init__(self, host: str, namespace: str) -> None:
        in_cluster = IN_CLUSTER if "KUBERNETES_SERVICE_HOST" in os.environ else ""
        self.host = (host or os.environ.get("KF_PIPELINES_ENDPOINT") or in_cluster).rstrip("/")
        if not self.host.startswith(("http://", "https://")):
            raise ConfigError(
                f"--host {self.host!r} is no address: give KFP's API, as in http://localhost:8888"
                " after `kubectl -n kubeflow port-forward svc/ml-pipeline 8888`"
            )
        self.namespace = namespace
        settings = api.Configuration(self.host)
        settings.retries = False
        if token := _token():
            settings.api_key_prefix["authorization"] = "Bearer"
            # Read for every request: the kubelet renews it.
            settings.refresh_api_key_hook = ServiceAccountTokenVolumeCredentials(
                str(token)
            ).refresh_api_key_hook
            settings.refresh_api_key_hook(settings)
        client = api.ApiClient(settings)
        self.pipelines, self.runs = api.PipelineServiceApi(client), api.RunServiceApi(client)
        self.experiments = api.ExperimentServiceApi(client)

    def pipeline(self, name: str) -> api.V2beta1Pipeline:
        """In the namespace, or shared by all."""
        for where in dict.fromkeys((self.namespace, "")):
            scope = {"namespace": where} if where else {}
            found = self.ask(
                self.pipelines.pipeline_service_get_pipeline_by_name, name, missing=None, **scope
            )
            if found is not None:
                if not found.pipeline_id:
                    raise ConfigError(
                        f"{self.host} answers, but not as KFP's API does: check --host"
                    )
                return found
        hint = (
            f"kubectl apply --server-side -f pipelines/compiled/{name}.k8s.yaml, or upload"
            f" pipelines/compiled/{name}.yaml"
        )
        raise ConfigError(f"{self.host} has no pipeline {name}{self._place()}: {hint}")

    def version(self, pipeline: api.V2beta1Pipeline, name: str) -> api.V2beta1PipelineVersion:
        """The version of this name, else the newest."""
        wanted = (
            {"filter": _named(name)} if name else {"sort_by": "created_at desc", "page_size": 1}
        )
        listed = self.ask(
            self.pipelines.pipeline_service_list_pipeline_versions, pipeline.pipeline_id, **wanted
        )
        if not listed.pipeline_versions:
            what = f"no version {name}" if name else "no version yet"
            raise ConfigError(f"pipeline {pipeline.display_name} of {self.host} has {what}")
        return listed.pipeline_versions[0]

    def named(self, name: str) -> list[api.V2beta1Run]:
        """The runs of this name, the newest first."""
        scope = {"namespace": self.namespace} if self.namespace else {}
        listed = self.ask(
            self.runs.run_service_list_runs,
            filter=_named(name),
            sort_by="created_at desc",
            page_size=100,
            **scope,
        )
        return list(listed.runs or [])

    def alive(self, name: str) -> list[api.V2beta1Run]:
        """Those that are alive or have succeeded, the oldest first."""
        return [run for run in reversed(self.named(name)) if run.state not in OVER]

    def experiment(self, name: str) -> str:
        """Id of the experiment that holds a pipeline's runs, created where it is missing."""
        scope = {"namespace": self.namespace} if self.namespace else {}
        body = api.V2beta1Experiment(display_name=name, **scope)
        for _ in range(2):
            listed = self.ask(
                self.experiments.experiment_service_list_experiments, filter=_named(name), **scope
            )
            if listed.experiments:
                return str(listed.experiments[0].experiment_id)
            # Names of experiments are unique: one that another makes at the same time is found by looking again.
            if made := self.ask(
                self.experiments.experiment_service_create_experiment, body, taken=None
            ):
                return str(made.experiment_id)
        raise ConfigError(
            f"{self.host} has an experiment {name} that is not to be seen{self._place()}: give"
            " another --namespace"
        )

    def _place(self) -> str:
        return f" in namespace {self.namespace}" if self.namespace else ""

    def link(self, run: api.V2beta1Run) -> str:
        return f"{self.host}/#/runs/details/{run.run_id}"

    def ask(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T | Any:
        """One request.

        `missing` is what to return for 404, `taken` for 409. Raises ConfigError and ClusterError.
        """
        instead = {
            status: options.pop(name)
            for name, status in (("missing", 404), ("taken", 409))
            if name in options
        }
        try:
            return call(*arguments, _request_timeout=SECONDS, **options)
        except api.ApiException as error:
            said = _said(error)
            if error.status in instead and "code" in (
                error.body or ""
            ):  # the API's own answer, not that of another server
                return instead[error.status]
            if error.status == 401:
                raise ConfigError(
                    f"{self.host} does not know who asks (401): in a pod mount the projected token"
                    " with audience pipelines.kubeflow.org and name it in"
                    f" {KF_PIPELINES_SA_TOKEN_ENV}. {said}"
                ) from error
            if error.status == 403:
                raise ConfigError(
                    f"{self.host} does not allow this (403): the account needs the role"
                    " kubeflow-pipelines-edit in namespace"
                    f" {self.namespace or '(none given: --namespace)'}. {said}"
                ) from error
            if error.status in {404, 405}:
                raise ConfigError(
                    f"{self.host} answers, but not as KFP's API does ({error.status}): check --host"
                ) from error
            if error.status is not None and 400 <= error.status < 500 and error.status != 429:
                raise ConfigError(f"{self.host} refuses ({error.status}): {said}") from error
            raise ClusterError(
                f"{self.host} fails ({error.status}): {said}; the same command may be given again"
            ) from error
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"{self.host} answers, but not as KFP's API does: check --host"
            ) from error
        except (HTTPError, OSError) as error:
            raise ClusterError(
                f"{self.host} is not to be reached: check --host and the network; the same command"
                f" may be given again. {error}"
            ) from error


def _token() -> Path | None:
    """File of the projected token, where there is one."""
    named = os.environ.get(KF_PIPELINES_SA_TOKEN_ENV)
    token = Path(named or KF_PIPELINES_SA_TOKEN_PATH)
    if token.is_file():
        return token
    if named:
        raise ConfigError(
            f"{KF_PIPELINES_SA_TOKEN_ENV}={named}: no such file; mount the projected token there"
        )
    return None


def _named(name: str) -> str:
    return json.dumps(
        {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]}
    )


def _checked(
    pipeline: str, version: api.V2beta1PipelineVersion, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments, each of the type that the pipeline's parameter has.

    Raises ConfigError for arguments that the pipeline does not take, or lacks: KFP says so only
    once the run has failed.
    """
    spec = version.pipeline_spec or {}
    spec = spec.get("pipeline_spec", spec)
    takes = spec.get("root", {}).get("inputDefinitions", {}).get("parameters")
    if takes is None:
        return {name: raw_yaml.fit_to_field(value, Any) for name, value in arguments.items()}
    unknown = sorted(arguments.keys() - takes.keys())
    absent = sorted(
        name
        for name, value in takes.items()
        if not value.get("isOptional") and name not in arguments
    )
    if unknown or absent:
        told = [f"takes no {', '.join(unknown)}"] if unknown else []
        told += [f"needs {', '.join(absent)}"] if absent else []
        raise ConfigError(
            f"{pipeline} {' and '.join(told)}: its parameters are {', '.join(sorted(takes))}; give"
            " --param NAME=VALUE"
        )
    kinds = {
        name: str if value.get("parameterType") == "STRING" else Any
        for name, value in takes.items()
    }
    return {name: raw_yaml.fit_to_field(value, kinds[name]) for name, value in arguments.items()}


def submit_request(
    file: Path, run: str, *, newest: bool, parameters: Mapping[str, Any], again: bool, **place: str
) -> str:
    """The run of a retrain request, named by what it says where `run` names none; `newest`: on what
    is published by now.

    Raises what `submit`, `request.read` and `Request.newest` raise.
    """
    asked = read_request(file)
    asked = asked.newest() if newest else asked
    given = {**asked.parameters(), **parameters}
    champion = str(given.get("champion") or "")
    if not champion or f"/{'0' * FOLDER_DIGITS}" in champion:
        raise ConfigError(
            "no champion to beat: name the first in k8s/overlays/prod/champion.yaml, and give"
            " --param champion=URI"
        )
    # The cluster names the folder of its weights, the pipeline wants the result around it.
    given["champion"] = champion.rstrip("/").removesuffix("/checkpoint")
    told = submit(
        PIPELINE, run or asked.run, asked.recipe, asked.changes(), given, again=again, **place
    )
    return f"{told}\nreason: {asked.reason}"


def _told(kfp: Server, held: api.V2beta1Run, pipeline: api.V2beta1Pipeline) -> str:
    reference = held.pipeline_version_reference
    if reference and reference.pipeline_id and reference.pipeline_id != pipeline.pipeline_id:
        raise ConfigError(
            f"run {held.display_name} is of another pipeline: {kfp.link(held)}; give --run another"
            " name"
        )
    more = "; --again runs it anew" if held.state in OVER else ""
    return (
        f"run {held.display_name} is there already ({(held.state or 'pending').lower()}{more}):"
        f" {kfp.link(held)}"
    )


def _said(error: api.ApiException) -> str:
    """The server's own words, on one line."""
    try:
        words = json.loads(error.body)
        return " ".join(str(words.get("message") or words.get("error")).split())[:300]
    except (TypeError, ValueError, AttributeError):
        return str(error.reason)


def parse_parameters(given: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE, the value as YAML: `control=true`, `benchmarks={daily_omni: hub@1a2b3c}`.

    Unquoted scalars keep their text until the pipeline says what they are. Raises ConfigError.
    """
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ConfigError(
                f"--param {text!r}: write NAME=VALUE, as in champion=s3://models/champion"
            )
        try:
            found[name] = raw_yaml.load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--param {text!r}: the value is not YAML; quote it") from error
    return found
