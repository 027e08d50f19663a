"""The Kubernetes API through the official client's transport: plain objects, and patience with a
server that is busy or away.

The client's typed methods are left alone: they send a merge patch of a custom resource under a
content type that the API server refuses (415), and their models drop fields that they do not know.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from kubernetes import client, config
from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from omnicore.cluster.names import LOGS, Resource
from omnicore.errors import ClusterError, ConfigError

T = TypeVar("T")
Query = Mapping[str, str | int | bool]
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
# 410 and 504 are met by listing anew, the rest by asking again: 408 a proxy that gave up, 429 too many requests, 5xx a server
# that starts or fails over.
BUSY = frozenset({408, 429, 500, 502, 503, 504})
METHODS = {
    "create": "POST",
    "get": "GET",
    "list": "GET",
    "watch": "GET",
    "patch": "PATCH",
    "delete": "DELETE",
}


class Times(NamedTuple):
    """How long things may take, all in seconds.

    Nobody sets them but tests.
    """

    beat: float = 30  # between two heartbeats of a launcher
    request: float = 30  # an answer that is not a stream
    stream: float = 240  # a watch that the server ends by itself
    first_wait: float = 0.5  # doubles with each try, with jitter
    longest_wait: float = 30
    outage: float = 3600  # an API server that is away; the job runs on meanwhile
    goodbye: float = 120  # the same, once the job is only to be deleted
    unschedulable: float = 1800  # a pool that scales up from nothing takes many minutes
    unpullable: float = 600  # registries have short outages, too
    unnoticed: float = 600  # a job that no operator takes up, or that has no pod alive any more
    uncreated: float = (
        120  # pods that are refused: a webhook that restarts refuses for a moment, too
    )
    overtime: float = 120  # past its deadline, which the operator enforces


class Cluster:
    """One namespace of a cluster.

    `configuration` is the client's; `times` how patient to be.
    """

    def __init__(self, configuration: Any, namespace: str, times: Times = Times()) -> None:  # noqa: B008
        configuration.retries = (
            False  # ours know when to stop, and which answers are worth another try
        )
        self._api = client.ApiClient(configuration)
        self.configuration, self.namespace, self.times = configuration, namespace, times

    def create(self, resource: Resource, body: Mapping[str, Any]) -> dict[str, Any]:
        """Creates an object; fields that its schema lacks are refused, where the server would drop
        them without a word.

        A try whose answer was lost may have created it: the next one's 409 means that the object is there.
        """
        query = {"fieldValidation": "Strict"}
        return dict(
            self._patiently("create", resource, body["metadata"]["name"], query=query, body=body)
        )

    def get(
        self, resource: Resource, name: str, *, namespace: str = "", stubborn: bool = False
    ) -> dict[str, Any] | None:
        """Return the object, or None where the server says that this very object does not exist.

        Args:
            stubborn: retry refusals as a busy server's answers, for an object that is known to have been there.
        """
        try:
            return dict(
                self._patiently("get", resource, name, namespace=namespace, stubborn=stubborn)
            )
        except ApiException as error:
            if absent(error):
                return None
            raise ClusterError(f"get {resource.plural} {name}: {said(error)}") from error

    def list_once(self, resource: Resource, query: Query) -> tuple[list[dict[str, Any]], str]:
        """List in one try.

        Raises ApiException and HTTPError.
        """
        return _items(self._call("list", resource, query=query))

    def list(
        self,
        resource: Resource,
        query: Query,
        *,
        patience: float | None = None,
        stubborn: bool = False,
    ) -> tuple[list[dict[str, Any]], str]:
        """All objects that the selectors (`labelSelector`, `fieldSelector`) choose, and the version
        from which to watch."""
        return _items(
            self._patiently("list", resource, query=query, patience=patience, stubborn=stubborn)
        )

    def annotate(
        self, resource: Resource, name: str, uid: str, annotations: Mapping[str, str]
    ) -> None:
        """One try.

        The uid makes the server refuse (409) when another object has taken the name.
        """
        body = {"metadata": {"uid": uid, "annotations": dict(annotations)}}
        self._call("patch", resource, name, body=body)

    def delete(
        self,
        resource: Resource,
        name: str,
        *,
        patience: float,
        uid: str = "",
        version: str = "",
        stubborn: bool = False,
    ) -> bool:
        """Deletes an object with what belongs to it; True when it was there.

        An object that has taken the name since, or was changed since where `version` is given,
        stays (False). With `stubborn` refusals are retried, too.
        """
        wanted = {
            key: value for key, value in {"uid": uid, "resourceVersion": version}.items() if value
        }
        body = {"propagationPolicy": "Background", **({"preconditions": wanted} if wanted else {})}
        try:
            self._patiently(
                "delete", resource, name, body=body, patience=patience, stubborn=stubborn
            )
        except ApiException as error:
            if answered(error):
                return False
            raise
        return True

    def delete_now(self, resource: Resource, name: str, uid: str) -> None:
        """One try with nothing to wait for, over a connection of its own: the caller may have a
        second to live, and the pool of connections may be held by the very code that a signal
        interrupted."""
        body = {
            "propagationPolicy": "Background",
            **({"preconditions": {"uid": uid}} if uid else {}),
        }
        Cluster(self.configuration, self.namespace)._call(
            "delete", resource, name, body=body, timeout=5
        )

    def watch(
        self, resource: Resource, version: str, query: Query
    ) -> Generator[tuple[str, dict[str, Any]], None, None]:
        """Events (`ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK`; object) after a version, until the
        server ends the stream.

        Raises ApiException, with 410 when the version is too old, and HTTPError when the connection
        drops.
        """
        seconds = int(self.times.stream)
        asked: Query = {
            "watch": True,
            "allowWatchBookmarks": True,
            "resourceVersion": version,
            "timeoutSeconds": seconds,
            **query,
        }
        with closing(self._lines("watch", resource, "", asked)) as lines:
            for line in lines:
                try:
                    event = json.loads(line)
                    how, item = event["type"], event["object"]
                except (ValueError, TypeError, KeyError) as error:
                    raise ApiException(
                        status=502, reason=f"a watch answered {line[:80]!r}"
                    ) from error
                if how == "ERROR":
                    raise ApiException(status=item.get("code", 500), reason=item.get("message"))
                yield how, item

    def log(self, pod: str, **query: str | int | bool) -> Generator[str, None, None]:
        """Lines of a container's log, as they come with `follow`.

        Raises ApiException and HTTPError.
        """
        return self._lines("get", LOGS, pod, query)

    def _lines(
        self, verb: str, resource: Resource, name: str, query: Query
    ) -> Generator[str, None, None]:
        stream = self._call(
            verb,
            resource,
            name,
            query=query,
            timeout=self.times.stream + self.times.request,
            stream=True,
        )
        held = b""
        try:
            for piece in stream.stream(amt=None, decode_content=False):
                *lines, held = (held + piece).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines if line)
            if held:
                yield held.decode(errors="replace")
        finally:
            stream.close()
            stream.release_conn()

    def _patiently(
        self,
        verb: str,
        resource: Resource,
        name: str = "",
        *,
        patience: float | None = None,
        stubborn: bool = False,
        **how: Any,
    ) -> Any:
        limit = self.times.outage if patience is None else patience
        what = f"{verb} {resource.plural} {name}".strip()
        lasts = (
            refused if not stubborn else answered if name else never
        )  # a list has no name: it is there whatever is said
        try:
            return retry(
                lambda: self._call(verb, resource, name, **how), self.times, limit, what, lasts
            )
        except ApiException as error:
            if error.status == 401:
                raise ConfigError(
                    f"the cluster does not know this process ({what}): {said(error)}. Its token has"
                    " expired or is another cluster's: log in again where a kubeconfig is used,"
                    " else check the service account of the pod"
                ) from error
            # A quota or an admission webhook refuses with 403, too: those are no matter of rights.
            if error.status == 403 and " cannot " in said(error):
                raise ConfigError(
                    f"the cluster does not allow this service account to {verb}"
                    f" {resource.plural}{f'.{resource.group}' if resource.group else ''} in"
                    f" namespace {self.namespace}: {said(error)}. Grant it the role omnicore-runner"
                    " of k8s/base, or run as an account that has it"
                ) from error
            raise

    def _call(
        self,
        verb: str,
        resource: Resource,
        name: str = "",
        *,
        namespace: str = "",
        query: Query | None = None,
        body: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        stream: bool = False,
    ) -> Any:
        pod, _, sub = resource.plural.partition("/")
        path = resource._replace(plural=pod).path(
            namespace or self.namespace, "" if verb in {"create", "list", "watch"} else name
        )
        kind = "application/merge-patch+json" if verb == "patch" else "application/json"
        seconds = timeout or self.times.request
        found = self._api.call_api(
            f"{path}/{sub}" if sub else path,
            METHODS[verb],
            query_params=[
                (key, str(value).lower() if isinstance(value, bool) else value)
                for key, value in (query or {}).items()
            ],
            header_params={"Accept": "application/json, */*", "Content-Type": kind},
            body=body,
            response_type="object",
            auth_settings=["BearerToken"],
            _return_http_data_only=True,
            _preload_content=not stream,
            _request_timeout=(min(10.0, seconds), seconds),
        )
        if not stream and not isinstance(found, dict):
            raise ApiException(
                status=502, reason=f"answered {str(found)[:80]!r}, which is no object"
            )  # a proxy's page
        return found


def connect(namespace: str = "", times: Times = Times()) -> Cluster:  # noqa: B008
    """The cluster that this pod runs in, or that of the kubeconfig; `namespace` by default the
    pod's or the context's own.

    Raises ConfigError where there is neither.
    """
    found = client.Configuration()
    own = "default"
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=found)
            own = NAMESPACE_FILE.read_text().strip()
        else:
            file = os.environ.get("KUBECONFIG")  # the client looks at it at import alone
            config.load_kube_config(file, client_configuration=found)
            own = config.list_kube_config_contexts(file)[1]["context"].get("namespace", own)
    except (config.ConfigException, OSError) as error:
        raise ConfigError(
            f"no cluster to run jobs on: {error}. Give a kubeconfig (KUBECONFIG), or"
            " launcher.kind=process"
        ) from error
    return Cluster(found, namespace or own, times)


def say(line: str) -> None:
    """Prints a line whole: `print` writes its end apart, and lines of pods that are followed at the
    same time run together."""
    print(f"{line}\n", end="", flush=True)


def retry(
    call: Callable[[], T],
    times: Times,
    patience: float,
    what: str,
    lasts: Callable[[ApiException], bool],
) -> T:
    """Call until an answer comes that lasts; say once why it is retried.

    Raises ClusterError after `patience` seconds of other answers. An admission webhook that cannot
    be called belongs to an operator that is down, so it has the patience of a job that no operator
    takes up.
    """
    waits, since, told = Waits(times), time.monotonic(), False
    while True:
        try:
            return call()
        except (ApiException, HTTPError) as error:
            if isinstance(error, ApiException) and lasts(error):
                raise
            why = said(error)
            webhook = "failed calling webhook" in why
            limit = min(patience, times.unnoticed) if webhook else patience
            wait = waits.next(error)
            if time.monotonic() + wait - since > limit:
                raise ClusterError(
                    f"{what}: the cluster's API {silence(error)} for {limit:.0f} s: {why}"
                ) from error
            if not told:
                say(f"{what}: {why}; retried for up to {limit:.0f} s")
                told = True
            time.sleep(wait)


def silence(error: Exception) -> str:
    """What an API server did that is asked again and again: one that is away says nothing of what
    was asked."""
    away = isinstance(error, ApiException) and error.status in BUSY and "webhook" not in said(error)
    return "did not answer" if away or isinstance(error, HTTPError) else "gave no other answer"


def refused(error: ApiException) -> bool:
    """Whether an answer will be the same when it is asked for again."""
    return error.status not in BUSY


def never(error: ApiException) -> bool:  # noqa: ARG001
    return False


def absent(error: ApiException) -> bool:
    """Whether a 404 says that this very object does not exist.

    A server that has not yet loaded a kind, and a proxy, answer 404 as well: without a `Status`
    that names the object.
    """
    try:
        status = json.loads(error.body)
        return (
            error.status == 404 and status["kind"] == "Status" and bool(status["details"]["name"])
        )
    except (TypeError, ValueError, KeyError):
        return False


def answered(error: ApiException) -> bool:
    """Whether a refusal tells something of an object that was there: it is gone, or another than
    was asked for."""
    return absent(error) or error.status == 409


def _items(found: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str]:
    try:
        return list(found["items"] or []), str(found["metadata"]["resourceVersion"])
    except (KeyError, TypeError) as error:
        raise ApiException(
            status=502, reason=f"answered {str(found)[:80]!r}, which is no list"
        ) from error


class Waits:
    """Pauses between tries: each twice the last with jitter, so that many launchers do not come
    back at once."""

    def __init__(self, times: Times) -> None:
        self._times, self._tries = times, 0

    def next(self, error: Exception | None = None) -> float:
        self._tries += 1
        longest = min(
            self._times.longest_wait, self._times.first_wait * 2.0 ** min(self._tries - 1, 30)
        )
        asked = (getattr(error, "headers", None) or {}).get("Retry-After", "")
        least = min(float(asked), self._times.longest_wait) if asked.isdigit() else 0.0
        return max(least, longest * random.uniform(0.5, 1))

    def reset(self) -> None:
        self._tries = 0


def said(error: Exception) -> str:
    """What went wrong in one line: the server's own message where it sent one."""
    if not isinstance(error, ApiException):
        return f"{type(error).__name__}: {error}".splitlines()[0]
    try:
        message = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        message = error.reason
    return f"{message} ({error.status})"
