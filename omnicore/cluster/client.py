"""Kubernetes API through the official client's transport, with retries.

The client's typed methods are not used: they send a merge patch of a custom resource under a
content type that the API server refuses (415), and their models drop unknown fields.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from kubernetes import client, config
from kubernetes.client import ApiException

from omnicore.cluster import timeouts
from omnicore.cluster.names import LOGS, Resource
from omnicore.cluster.retry import (
    error_message,
    is_missing,
    is_missing_or_replaced,
    is_refusal,
    never_final,
    retry,
)
from omnicore.errors import ClusterError, ConfigError

Query = Mapping[str, str | int | bool]
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
METHODS = {
    "create": "POST",
    "get": "GET",
    "list": "GET",
    "watch": "GET",
    "patch": "PATCH",
    "delete": "DELETE",
}


class Cluster:
    """One namespace of a cluster."""

    def __init__(self, configuration: Any, namespace: str) -> None:
        """Create a client; sends no request.

        Args:
            configuration: The official client's configuration.
            namespace: Namespace of all calls.
        """
        # `omnicore.cluster.retry` knows when to stop and which answers a retry may fix.
        configuration.retries = False
        self._api = client.ApiClient(configuration)
        self.configuration, self.namespace = configuration, namespace

    def create(self, resource: Resource, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object; the server refuses fields that its schema lacks.

        A try whose answer was lost may have created the object: the next try then gets 409.
        """
        # Without strict validation the server drops unknown fields silently.
        query = {"fieldValidation": "Strict"}
        name = body["metadata"]["name"]
        return dict(self._retry("create", resource, name, query=query, body=body))

    def get(
        self, resource: Resource, name: str, *, retry_refusals: bool = False
    ) -> dict[str, Any] | None:
        """Return an object; None where the server says that this very object does not exist.

        Args:
            resource: Its resource.
            name: Its name.
            retry_refusals: Retry refusals too, for an object that is known to have existed.
        """
        try:
            return dict(self._retry("get", resource, name, retry_refusals=retry_refusals))
        except ApiException as error:
            if is_missing(error):
                return None
            raise ClusterError(
                f"get {resource.plural} {name}: {error_message(error)}", code="cluster-get-refused"
            ) from error

    def list_once(self, resource: Resource, query: Query) -> tuple[list[dict[str, Any]], str]:
        """List as `list` does, in one try.

        Raises:
            ApiException: The server refused.
            HTTPError: The server did not answer.
        """
        return _list_items(self._call("list", resource, query=query))

    def list(
        self,
        resource: Resource,
        query: Query,
        *,
        retry_for: float | None = None,
        retry_refusals: bool = False,
    ) -> tuple[list[dict[str, Any]], str]:
        """Return the selected objects and the version from which to watch them.

        Args:
            resource: Their resource.
            query: `labelSelector` and `fieldSelector`.
            retry_for: Seconds; OUTAGE by default.
            retry_refusals: Retry refusals too.
        """
        answer = self._retry(
            "list", resource, query=query, retry_for=retry_for, retry_refusals=retry_refusals
        )
        return _list_items(answer)

    def annotate(
        self, resource: Resource, name: str, uid: str, annotations: Mapping[str, str]
    ) -> None:
        """Set annotations in one try.

        The uid makes the server refuse (409) when another object has taken the name.
        """
        body = {"metadata": {"uid": uid, "annotations": dict(annotations)}}
        self._call("patch", resource, name, body=body)

    def delete(
        self,
        resource: Resource,
        name: str,
        *,
        retry_for: float,
        uid: str = "",
        version: str = "",
        retry_refusals: bool = False,
    ) -> bool:
        """Delete an object and its dependents; return whether it was there.

        Args:
            resource: Its resource.
            name: Its name.
            retry_for: Seconds.
            uid: Keep an object of another uid, which has taken the name since.
            version: Keep an object of another resource version, which has changed since.
            retry_refusals: Retry refusals too.
        """
        body = _deletion(uid=uid, resourceVersion=version)
        try:
            self._retry(
                "delete",
                resource,
                name,
                body=body,
                retry_for=retry_for,
                retry_refusals=retry_refusals,
            )
        except ApiException as error:
            if is_missing_or_replaced(error):
                return False
            raise
        return True

    def delete_now(self, resource: Resource, name: str, uid: str) -> None:
        """Delete an object in one try over a new connection.

        The process may have a second to live, and the interrupted code may hold the pool of
        connections.
        """
        fresh = Cluster(self.configuration, self.namespace)
        fresh._call("delete", resource, name, body=_deletion(uid=uid), timeout=5)

    def watch(
        self, resource: Resource, version: str, query: Query
    ) -> Generator[tuple[str, dict[str, Any]], None, None]:
        """Yield events (`ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK`; object) after a version.

        The server ends the stream after WATCH seconds.

        Raises:
            ApiException: The server refused; 410 where the version is too old.
            HTTPError: The connection dropped.
        """
        whole_query: Query = {
            "watch": True,
            "allowWatchBookmarks": True,
            "resourceVersion": version,
            "timeoutSeconds": int(timeouts.WATCH),
            **query,
        }
        with closing(self._lines("watch", resource, "", whole_query)) as lines:
            for line in lines:
                try:
                    event = json.loads(line)
                    event_type, item = event["type"], event["object"]
                except (ValueError, TypeError, KeyError) as error:
                    reason = f"a watch answered {line[:80]!r}"
                    raise ApiException(status=502, reason=reason) from error
                if event_type == "ERROR":
                    raise ApiException(status=item.get("code", 500), reason=item.get("message"))
                yield event_type, item

    def log(self, pod: str, **query: str | int | bool) -> Generator[str, None, None]:
        """Yield lines of a container's log; with `follow`, as they come.

        Raises:
            ApiException: The server refused.
            HTTPError: The connection dropped.
        """
        return self._lines("get", LOGS, pod, query)

    def _lines(
        self, verb: str, resource: Resource, name: str, query: Query
    ) -> Generator[str, None, None]:
        seconds = timeouts.WATCH + timeouts.REQUEST
        stream = self._call(verb, resource, name, query=query, timeout=seconds, stream=True)
        rest = b""
        try:
            for piece in stream.stream(amt=None, decode_content=False):
                *lines, rest = (rest + piece).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines if line)
            if rest:
                yield rest.decode(errors="replace")
        finally:
            stream.close()
            stream.release_conn()

    def _retry(
        self,
        verb: str,
        resource: Resource,
        name: str = "",
        *,
        retry_for: float | None = None,
        retry_refusals: bool = False,
        **arguments: Any,
    ) -> Any:
        seconds = timeouts.OUTAGE if retry_for is None else retry_for
        what = f"{verb} {resource.plural} {name}".strip()
        is_final = is_refusal
        if retry_refusals:
            # A list has no name: the collection exists whatever the server answers.
            is_final = is_missing_or_replaced if name else never_final
        try:
            return retry(
                lambda: self._call(verb, resource, name, **arguments), seconds, what, is_final
            )
        except ApiException as error:
            message = error_message(error)
            if error.status == 401:
                raise ConfigError(
                    f"the cluster does not know this process ({what}): {message}. Its token has"
                    " expired or belongs to another cluster: log in again where a kubeconfig is"
                    " used, else check the pod's service account",
                    code="cluster-unauthenticated",
                ) from error
            # A quota or an admission webhook also refuses with 403; only this text means rights.
            if error.status == 403 and " cannot " in message:
                raise ConfigError(
                    f"the cluster does not allow this service account to {verb}"
                    f" {resource.full_name} in namespace {self.namespace}: {message}. Grant it the"
                    " role omnicore-runner of k8s/base, or run as an account that has it",
                    code="cluster-forbidden",
                ) from error
            raise

    def _call(
        self,
        verb: str,
        resource: Resource,
        name: str = "",
        *,
        query: Query | None = None,
        body: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        stream: bool = False,
    ) -> Any:
        content_type = "application/merge-patch+json" if verb == "patch" else "application/json"
        seconds = timeout or timeouts.REQUEST
        answer = self._api.call_api(
            self._path(verb, resource, name),
            METHODS[verb],
            query_params=[(key, _query_value(value)) for key, value in (query or {}).items()],
            header_params={"Accept": "application/json, */*", "Content-Type": content_type},
            body=body,
            response_type="object",
            auth_settings=["BearerToken"],
            _return_http_data_only=True,
            _preload_content=not stream,
            _request_timeout=(min(10.0, seconds), seconds),
        )
        if not stream and not isinstance(answer, dict):
            # The page of a proxy.
            reason = f"answered {str(answer)[:80]!r}, which is not an object"
            raise ApiException(status=502, reason=reason)
        return answer

    def _path(self, verb: str, resource: Resource, name: str) -> str:
        plural, _, subresource = resource.plural.partition("/")
        is_collection = verb in {"create", "list", "watch"}
        path = resource._replace(plural=plural).path(self.namespace, "" if is_collection else name)
        return f"{path}/{subresource}" if subresource else path


def connect(namespace: str = "") -> Cluster:
    """Return the cluster that this pod runs in, or that of the kubeconfig.

    Args:
        namespace: By default that of the pod or of the kubeconfig's context.

    Raises:
        ConfigError: There is neither.
    """
    configuration = client.Configuration()
    own_namespace = "default"
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=configuration)
            own_namespace = NAMESPACE_FILE.read_text().strip()
        else:
            # Passed explicitly: the client reads the variable only at import.
            file = os.environ.get("KUBECONFIG")
            config.load_kube_config(file, client_configuration=configuration)
            context = config.list_kube_config_contexts(file)[1]["context"]
            own_namespace = context.get("namespace", own_namespace)
    except (config.ConfigException, OSError) as error:
        raise ConfigError(
            f"no cluster to run jobs on: {error}. Set KUBECONFIG to a kubeconfig, or"
            " launcher.kind=process",
            code="cluster-not-configured",
            field="launcher.kind",
        ) from error
    return Cluster(configuration, namespace or own_namespace)


def _deletion(**preconditions: str) -> dict[str, Any]:
    wanted = {name: value for name, value in preconditions.items() if value}
    options: dict[str, Any] = {"propagationPolicy": "Background"}
    if wanted:
        options["preconditions"] = wanted
    return options


def _query_value(value: str | int | bool) -> str | int:
    return str(value).lower() if isinstance(value, bool) else value


def _list_items(answer: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str]:
    try:
        return list(answer["items"] or []), str(answer["metadata"]["resourceVersion"])
    except (KeyError, TypeError) as error:
        reason = f"answered {str(answer)[:80]!r}, which is not a list"
        raise ApiException(status=502, reason=reason) from error
