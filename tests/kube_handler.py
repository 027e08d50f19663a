"""HTTP handler of the mock Kubernetes API server: requests, watches, logs and faults."""

from __future__ import annotations

import copy
import json
import re
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from tests.manifests.strict import CRDS, validate

if TYPE_CHECKING:
    from tests.kube_server import Fault, KubeServer

_PATH = re.compile(
    r"/(?:apis/(?P<group>[^/]+)|api)/(?P<version>[^/]+)/namespaces/(?P<ns>[^/]+)/(?P<plural>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<sub>[^/]+))?)?"
)


def stamp(seconds: float) -> str:
    return (
        datetime.fromtimestamp(seconds, UTC)
        .isoformat(timespec="microseconds")
        .replace("+00:00", "000Z")
    )


class _Refused(Exception):
    def __init__(
        self, status: int, message: str, headers: dict[str, str] | None = None, name: str = ""
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.headers, self.name = status, message, headers or {}, name


class Handler(BaseHTTPRequestHandler):
    kube: KubeServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's ACK of its head

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve("get")

    def do_POST(self) -> None:
        self._serve("create")

    def do_PATCH(self) -> None:
        self._serve("patch")

    def do_DELETE(self) -> None:
        self._serve("delete")

    def _serve(self, verb: str) -> None:
        kube, url = self.kube, urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = _PATH.fullmatch(url.path)
        if not found:
            self._send(404, _status(404, "no such path"))
            return
        self.group, self.plural, self.name = (
            found["group"] or "",
            found["plural"],
            found["name"] or "",
        )
        resource = self.plural + (f"/{found['sub']}" if found["sub"] else "")
        if verb == "get" and not self.name:
            verb = "watch" if self.query.get("watch") == "true" else "list"
        with kube.change_made:
            self.made = json.loads(body) if body else {}
            name = self.name or self.made.get("metadata", {}).get("name", "")
            seen = sum(1 for asked in kube.requests if asked == (verb, resource, name))
            kube.requests.append((verb, resource, name))
            kube.queries.append((verb, resource, self.query))
            kube.calls.add((self.group, resource, verb))
            kube.change_made.notify_all()
        fault = kube.fault(verb, resource, name, seen)
        try:
            if fault and not fault.after and not fault.hold and fault.cut is None:
                self._fail(fault)
                return
            if (verb, resource) in kube.forbidden:
                what = (
                    f'{resource} is forbidden: User "u" cannot {verb} resource "{resource}" in API'
                    f' group "{self.group}"'
                )
                raise _Refused(403, what)
            if self.plural not in kube.served:
                self._send_plain(404, "404 page not found\n")
                return
            if verb == "watch":
                self._watch(fault.cut if fault else None)
            elif resource == "pods/log":
                self._log(fault.cut if fault else None)
            else:
                answer = getattr(self, f"_{verb}")()
                if fault and fault.after:
                    self._fail(fault)
                    return
                if fault and fault.hold:
                    fault.hold.wait(30)
                self._send(201 if verb == "create" else 200, answer)
        except _Refused as refused:
            self._send(
                refused.status,
                _status(refused.status, refused.message, refused.name),
                refused.headers,
            )
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _fail(self, fault: Fault) -> None:
        if fault.reset:
            self.close_connection = True
            self.connection.close()
            return
        if fault.plain:
            self._send_plain(fault.status, fault.message)
        else:
            self._send(fault.status, _status(fault.status, fault.message), fault.headers)

    def _send_plain(self, status: int, text: str) -> None:
        """Answer as a proxy does, or the API server for an unknown path."""
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def _send(
        self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _held(self) -> dict[str, Any]:
        found = self.kube.objects.get((self.plural, self.name))
        if found is None:
            raise _Refused(404, f"{self.plural} {self.name!r} not found", name=self.name)
        return found

    def _create(self) -> dict[str, Any]:
        kube, name = self.kube, self.made["metadata"]["name"]
        if self.query.get("fieldValidation") != "Strict":
            raise _Refused(400, "this server wants fieldValidation=Strict")
        errors = validate(self.made) if CRDS.is_dir() else []
        if errors:
            raise _Refused(400, f"strict decoding error: {'; '.join(errors)}")
        with kube.change_made:
            if (self.plural, name) in kube.objects:
                raise _Refused(409, f'{self.plural} "{name}" already exists')
            kube.created.append(self.made)
            return kube.put(self.plural, self.made)

    def _get(self) -> dict[str, Any]:
        with self.kube.change_made:
            return copy.deepcopy(self._held())

    def _list(self) -> dict[str, Any]:
        with self.kube.change_made:
            items = [item for item in self.kube.all(self.plural) if self._chosen(item)]
            return {
                "kind": "List",
                "metadata": {"resourceVersion": str(self.kube.version)},
                "items": items,
            }

    def _chosen(self, item: dict[str, Any]) -> bool:
        labels = item["metadata"].get("labels") or {}
        for part in filter(None, self.query.get("labelSelector", "").split(",")):
            name, equals, value = part.partition("=")
            if (equals and labels.get(name) != value) or name not in labels:
                return False
        for part in filter(None, self.query.get("fieldSelector", "").split(",")):
            place, _, value = part.partition("=")
            at: Any = item
            for step in place.split("."):
                at = at.get(step, {})
            if at != value:
                return False
        return True

    def _patch(self) -> dict[str, Any]:
        if self.group and self.headers["Content-Type"] not in {
            "application/merge-patch+json",
            "application/json-patch+json",
        }:
            raise _Refused(
                415, f"{self.headers['Content-Type']} is not supported for custom resources"
            )
        with self.kube.change_made:
            held = self._held()
            if (
                self.made.get("metadata", {}).get("uid", held["metadata"]["uid"])
                != held["metadata"]["uid"]
            ):
                raise _Refused(409, "Precondition failed: UID in precondition")
            self.kube.change(self.plural, self.name, lambda found: _merge(found, self.made))
            return copy.deepcopy(held)

    def _delete(self) -> dict[str, Any]:
        with self.kube.change_made:
            held = self._held()
            for name, wanted in self.made.get("preconditions", {}).items():
                if held["metadata"][name] != wanted:
                    raise _Refused(409, f"Precondition failed: {name}")
            if self.made.get("propagationPolicy") != "Background":
                raise _Refused(400, "pods would stay behind")
            if held["metadata"].get("finalizers"):
                held["metadata"]["deletionTimestamp"] = stamp(time.time())
                self.kube.change(self.plural, self.name, lambda found: None)
            else:
                self.kube.remove(self.plural, self.name)
            return {"kind": "Status", "status": "Success"}

    def _watch(self, cut: int | None) -> None:
        kube, since = self.kube, int(self.query["resourceVersion"])
        limit = time.monotonic() + float(self.query["timeoutSeconds"])
        if since < kube.compacted:
            raise _Refused(410, "too old resource version")
        epoch = kube.epoch
        self._open()
        sent = 0
        while time.monotonic() < limit:
            with kube.change_made:
                if since < kube.compacted:  # as a watch that lags behind compaction is told
                    self._chunk(
                        json.dumps(
                            {"type": "ERROR", "object": _status(410, "too old resource version")}
                        )
                    )
                    break
                fresh = [e for e in kube.history if e[0] > since]
                if not fresh and kube.epoch == epoch:
                    kube.change_made.wait(0.05)
            if kube.epoch != epoch or (cut is not None and sent >= cut):
                self._break()
                return
            for version, plural, how, item in fresh:
                since = version
                if plural == self.plural and self._chosen(item):
                    self._chunk(json.dumps({"type": how, "object": item}))
                    sent += 1
        self._close()

    def _log(self, cut: int | None) -> None:
        kube, query = self.kube, self.query
        with kube.change_made:
            self._held()
            log, epoch = kube.logs[self.name], kube.epoch
        if not log.started:
            raise _Refused(
                400, f'container "{query["container"]}" in pod "{self.name}" is waiting to start'
            )
        if query.get("previous") == "true":
            if not log.previous:
                raise _Refused(400, "previous terminated container not found")
            self._send_text(log.previous)
            return
        with kube.change_made:
            since = time.time() + log.skew - float(query.get("sinceSeconds", 1e9))
            lines = [line for line in log.lines if line[0] >= since]
            lines = lines[-int(query["tailLines"]) :] if "tailLines" in query else lines
            at, sent = len(log.lines), 0
        self._open()
        while True:
            for seconds, text in lines:
                if cut is not None and sent >= cut:
                    self._break()
                    return
                self._chunk(
                    f"{stamp(seconds)} {text}" if query.get("timestamps") == "true" else text
                )
                sent += 1
            with kube.change_made:
                if kube.epoch != epoch:
                    self._break()
                    return
                if query.get("follow") != "true" or (log.ended and at == len(log.lines)):
                    break
                if at == len(log.lines):
                    kube.change_made.wait(0.05)
                lines, at = log.lines[at:], len(log.lines)
        self._close()

    def _send_text(self, lines: list[str]) -> None:
        self._open()
        for line in lines:
            self._chunk(line)
        self._close()

    def _open(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()

    def _chunk(self, line: str) -> None:
        data = line.encode() + b"\n"
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _close(self) -> None:
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _break(self) -> None:
        """Send half a chunk and nothing more, as when a proxy dies."""
        self.wfile.write(b"ff\r\n{")
        self.wfile.flush()
        self.close_connection = True


def _merge(found: dict[str, Any], patch: dict[str, Any]) -> None:
    """Apply a merge patch (RFC 7386)."""
    for name, value in patch.items():
        if isinstance(value, dict):
            _merge(found.setdefault(name, {}), value)
        elif value is None:
            found.pop(name, None)
        else:
            found[name] = value


REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
}


def _status(code: int, message: str, name: str = "") -> dict[str, Any]:
    """Return a `Status` as apimachinery writes it; `details` name the missing object, if any."""
    details = {"details": {"name": name} if name else {}}
    return {
        "kind": "Status",
        "status": "Failure",
        "code": code,
        "message": message,
        "reason": REASONS.get(code, ""),
        **details,
    }
