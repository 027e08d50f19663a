"""Client of Kubeflow Pipelines' API v2beta1, through its generated client.

The only module of this package that imports kfp, inside functions. `kfp.Client` is not used: its
requests have no timeout, and it sends the projected token only to the default host.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omnicore.errors import ClusterError, ConfigError, OmniError

if TYPE_CHECKING:
    from typing import TypeAlias

    import kfp_server_api as api

    KfpPipeline: TypeAlias = api.V2beta1Pipeline
    KfpVersion: TypeAlias = api.V2beta1PipelineVersion
    KfpRun: TypeAlias = api.V2beta1Run

IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
# A run in another state is alive or has succeeded.
OVER = frozenset({"FAILED", "CANCELED", "CANCELING", "SKIPPED"})
TIMEOUTS = (10, 60)  # seconds to connect, to answer


class RunSpec(NamedTuple):
    """A run to create: its name, the pipeline's version, arguments and account."""

    name: str
    pipeline: str
    pipeline_id: str
    version_id: str
    arguments: dict[str, Any]
    service_account: str


class KfpServer:
    """One KFP API server and the credentials of this process."""

    def __init__(self, host: str, namespace: str) -> None:
        """Create a client.

        Args:
            host: Address of the API; empty for KF_PIPELINES_ENDPOINT or, in a pod, the cluster's.
            namespace: Namespace of a profile where KFP serves many users, else empty.

        Raises:
            ConfigError: The address is not one, or the named token is missing.
        """
        import kfp_server_api as api

        in_cluster = IN_CLUSTER if "KUBERNETES_SERVICE_HOST" in os.environ else ""
        self.host = (host or os.environ.get("KF_PIPELINES_ENDPOINT") or in_cluster).rstrip("/")
        if not self.host.startswith(("http://", "https://")):
            raise ConfigError(
                f"--host {self.host!r} is not an address: give KFP's API, as in"
                " http://localhost:8888 after"
                " `kubectl -n kubeflow port-forward svc/ml-pipeline 8888`",
                code="kfp-host-invalid",
                field="--host",
            )
        self.namespace = namespace
        settings = api.Configuration(self.host)
        settings.retries = False
        _authenticate(settings)
        client = api.ApiClient(settings)
        self._pipelines = api.PipelineServiceApi(client)
        self._runs = api.RunServiceApi(client)
        self._experiments = api.ExperimentServiceApi(client)

    def pipeline(self, name: str) -> KfpPipeline:
        """Return the pipeline of this name in the namespace, or a shared one."""
        for namespace in dict.fromkeys((self.namespace, "")):
            scope = {"namespace": namespace} if namespace else {}
            pipeline = self.request(
                self._pipelines.pipeline_service_get_pipeline_by_name, name, on_404=None, **scope
            )
            if pipeline is None:
                continue
            if not pipeline.pipeline_id:
                raise self._not_kfp()
            return pipeline
        files = compiled_pipelines()
        raise ConfigError(
            f"{self.host} has no pipeline {name}{self._in_namespace()}:"
            f" kubectl apply --server-side -f {files / name}.k8s.yaml, or upload"
            f" {files / name}.yaml",
            code="pipeline-missing",
            field="--pipeline",
        )

    def version(self, pipeline: KfpPipeline, name: str) -> KfpVersion:
        """Return the version of this name; the newest for an empty name."""
        query: dict[str, Any] = {"sort_by": "created_at desc", "page_size": 1}
        if name:
            query = {"filter": _name_filter(name)}
        page = self.request(
            self._pipelines.pipeline_service_list_pipeline_versions, pipeline.pipeline_id, **query
        )
        if not page.pipeline_versions:
            missing = f"no version {name}" if name else "no version yet"
            raise ConfigError(
                f"pipeline {pipeline.display_name} of {self.host} has {missing}",
                code="pipeline-version-missing",
                field="--version",
            )
        return page.pipeline_versions[0]

    def runs_named(self, name: str) -> list[KfpRun]:
        """Return the runs of this name, the newest first."""
        page = self.request(
            self._runs.run_service_list_runs,
            filter=_name_filter(name),
            sort_by="created_at desc",
            page_size=100,
            **self._scope(),
        )
        return list(page.runs or [])

    def alive_runs(self, name: str) -> list[KfpRun]:
        """Return the runs of this name that are alive or have succeeded, the oldest first."""
        return [run for run in reversed(self.runs_named(name)) if run.state not in OVER]

    def create_run(self, run: RunSpec, experiment_id: str) -> str:
        """Create a run and return its id."""
        import kfp_server_api as api

        body = api.V2beta1Run(
            display_name=run.name,
            experiment_id=experiment_id,
            pipeline_version_reference=api.V2beta1PipelineVersionReference(
                run.pipeline_id, run.version_id
            ),
            runtime_config=api.V2beta1RuntimeConfig(parameters=run.arguments),
            service_account=run.service_account,
        )
        return str(self.request(self._runs.run_service_create_run, body).run_id)

    def terminate_run(self, run_id: str) -> None:
        """Ask the server to end a run."""
        self.request(self._runs.run_service_terminate_run, run_id)

    def experiment_id(self, name: str) -> str:
        """Return the id of the experiment of this name; create it where it is missing."""
        import kfp_server_api as api

        body = api.V2beta1Experiment(display_name=name, **self._scope())
        for _ in range(2):
            page = self.request(
                self._experiments.experiment_service_list_experiments,
                filter=_name_filter(name),
                **self._scope(),
            )
            if page.experiments:
                return str(page.experiments[0].experiment_id)
            # Names are unique: an experiment created by another process in between is listed next.
            created = self.request(
                self._experiments.experiment_service_create_experiment, body, on_409=None
            )
            if created:
                return str(created.experiment_id)
        raise ConfigError(
            f"experiment {name} of {self.host} exists but is not visible{self._in_namespace()}:"
            " give another --namespace",
            code="kfp-experiment-hidden",
            field="--namespace",
        )

    def link(self, run: KfpRun) -> str:
        """Return the address of a run's page."""
        return f"{self.host}/#/runs/details/{run.run_id}"

    def request(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Send one request.

        Args:
            call: Method of the generated client.
            arguments: Its positional arguments.
            options: Its keyword arguments; `on_404` and `on_409` are what to return for these
                statuses.

        Raises:
            ConfigError: The server refuses the request, or is not KFP's API.
            ClusterError: The server failed or is unreachable.
        """
        import kfp_server_api as api
        from urllib3.exceptions import HTTPError

        names = {404: "on_404", 409: "on_409"}
        values = {status: options.pop(name) for status, name in names.items() if name in options}
        try:
            return call(*arguments, _request_timeout=TIMEOUTS, **options)
        except api.ApiException as error:
            # Only the API's own replies have a code in their body.
            if error.status in values and "code" in (error.body or ""):
                return values[error.status]
            raise self._refusal(error.status, _server_message(error)) from error
        except (TypeError, ValueError, AttributeError) as error:
            raise self._not_kfp() from error
        except (HTTPError, OSError) as error:
            raise ClusterError(
                f"{self.host} is unreachable: check --host and the network, then re-run. {error}",
                code="kfp-unreachable",
                field="--host",
            ) from error

    def _refusal(self, status: int | None, message: str) -> OmniError:
        """Return the error for a reply with a status of 400 or more."""
        if status == 401:
            return ConfigError(
                f"{self.host} does not accept the credentials (401): in a pod mount the projected"
                " token with audience pipelines.kubeflow.org and name it in"
                f" KF_PIPELINES_SA_TOKEN_PATH. {message}",
                code="kfp-unauthorized",
            )
        if status == 403:
            namespace = self.namespace or "(none given: --namespace)"
            return ConfigError(
                f"{self.host} does not allow this (403): the account needs the role"
                f" kubeflow-pipelines-edit in namespace {namespace}. {message}",
                code="kfp-forbidden",
            )
        if status in (404, 405):
            return self._not_kfp()
        if status is not None and 400 <= status < 500 and status != 429:
            return ConfigError(
                f"{self.host} refused the request ({status}): {message}", code="kfp-refused"
            )
        return ClusterError(
            f"{self.host} failed ({status}): {message}; re-run the same command",
            code="kfp-failed",
        )

    def _not_kfp(self) -> ConfigError:
        return ConfigError(
            f"{self.host} replies, but not as KFP's API does: check --host",
            code="kfp-host-not-kfp",
            field="--host",
        )

    def _scope(self) -> dict[str, str]:
        return {"namespace": self.namespace} if self.namespace else {}

    def _in_namespace(self) -> str:
        return f" in namespace {self.namespace}" if self.namespace else ""


def compiled_pipelines() -> Path:
    """Return the directory of the compiled pipelines: a wheel's package data, or the checkout's."""
    installed = Path(__file__).parent / "compiled_pipelines"
    checkout = Path(__file__).parents[2] / "pipelines" / "compiled"
    return installed if installed.is_dir() else checkout


def _authenticate(settings: api.Configuration) -> None:
    """Send the pod's projected token where there is one, read again for every request."""
    from kfp.client import KF_PIPELINES_SA_TOKEN_ENV, KF_PIPELINES_SA_TOKEN_PATH
    from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials

    named = os.environ.get(KF_PIPELINES_SA_TOKEN_ENV)
    token = Path(named or KF_PIPELINES_SA_TOKEN_PATH)
    if not token.is_file():
        if named:
            raise ConfigError(
                f"{KF_PIPELINES_SA_TOKEN_ENV}={named}: no such file; mount the projected token"
                " there",
                code="kfp-token-missing",
                field=KF_PIPELINES_SA_TOKEN_ENV,
                path=named,
            )
        return
    settings.api_key_prefix["authorization"] = "Bearer"
    # The kubelet renews the file.
    credentials = ServiceAccountTokenVolumeCredentials(str(token))
    settings.refresh_api_key_hook = credentials.refresh_api_key_hook
    settings.refresh_api_key_hook(settings)


def _name_filter(name: str) -> str:
    predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    return json.dumps({"predicates": [predicate]})


def _server_message(error: api.ApiException) -> str:
    """Return the server's own message on one line."""
    try:
        body = json.loads(error.body)
        message = str(body.get("message") or body.get("error"))
    except (TypeError, ValueError, AttributeError):
        return str(error.reason)
    return " ".join(message.split())[:300]
