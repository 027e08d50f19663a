"""A small stand-in of KFP's API v2beta1 over HTTP on 127.0.0.1: as many runs of one name as anybody
creates."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

COMPILED = Path(__file__).parents[1] / "pipelines" / "compiled"
TOKEN = "KF_PIPELINES_SA_TOKEN_PATH"


class Kfp:
    """Pipelines with versions, experiments and runs of one server.

    `faults` maps a method and the last word of a path to a status (0: the connection is closed once
    the work is done); `users` is whether it serves many, each with a namespace. What is listed or
    created is answered once `after_list` or `after_create` has returned.
    """

    def __init__(self) -> None:
        self.versions: dict[str, list[str]] = {
            "omniboost": ["omniboost-old", "omniboost-new"],
            "retrain": ["retrain-1"],
            "empty": [],
        }
        self.runs: list[dict[str, Any]] = []
        self.experiments: list[dict[str, Any]] = []
        self.faults: dict[tuple[str, str], int] = {}
        self.requests: list[tuple[str, str]] = []
        self.token, self.page = "", ""
        self.users = False
        self.later_is_older = False
        self.lock = threading.Lock()
        self.after_list: Callable[[], object] = lambda: None
        self.after_create: Callable[[], object] = lambda: None
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stub.answer(self, "GET", {})

            def do_POST(self) -> None:
                stub.answer(
                    self,
                    "POST",
                    json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or b"{}"),
                )

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler, method: str, body: dict[str, Any]) -> None:
        url = urlsplit(handler.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.requests.append((method, url.path))
        fault = self.faults.get((method, url.path.rpartition("/")[2]))
        if self.token and handler.headers.get("Authorization") != f"Bearer {self.token}":
            status, found = 401, {"error": "Unauthenticated"}
        elif fault:
            status, found = fault, {"code": 13, "message": f"fault\n{fault}"}
        else:
            with self.lock:
                status, found = self.work(method, url.path, query, body)
                found = json.loads(
                    json.dumps(found)
                )  # as it is now: another may change it before it is sent
            if url.path.endswith("/runs"):
                (self.after_list if method == "GET" else self.after_create)()
            if fault == 0:
                handler.close_connection = True
                handler.connection.shutdown(2)
                return
        said = self.page.encode() or json.dumps(found).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "text/html" if self.page else "application/json")
        handler.send_header("Content-Length", str(len(said)))
        handler.end_headers()
        handler.wfile.write(said)

    def work(
        self, method: str, path: str, query: dict[str, str], body: dict[str, Any]
    ) -> tuple[int, Any]:
        namespace = query.get("namespace", body.get("namespace", ""))
        if "filter" in query:
            (predicate,) = json.loads(query["filter"])["predicates"]
            assert (predicate["operation"], predicate["key"]) == ("EQUALS", "display_name")
            name = predicate["stringValue"]
        match method, path.removeprefix("/apis/v2beta1/").split("/"):
            case "GET", ["pipelines", "names", name] if name in self.versions:
                return 200, {"pipeline_id": f"id-{name}", "display_name": name}
            case "GET", ["pipelines", "names", _]:
                return 404, {"code": 5, "message": "Pipeline not found"}
            case "GET", ["pipelines", of, "versions"]:
                known = self.versions[of.removeprefix("id-")]
                chosen = (
                    [v for v in known if v == name]
                    if "filter" in query
                    else known[::-1][: int(query["page_size"])]
                )
                assert "filter" in query or query["sort_by"] == "created_at desc"
                return 200, (
                    {"pipeline_versions": [self.version(of.removeprefix("id-"), v) for v in chosen]}
                    if chosen
                    else {}
                )
            case "GET", ["runs" | "experiments" as kind]:
                if self.users and not namespace:
                    return 400, {"code": 3, "message": "namespace is empty in multi-user mode"}
                held = [
                    o
                    for o in getattr(self, kind)
                    if (o["display_name"], o.get("namespace", "")) == (name, namespace)
                ]
                return 200, {kind: held if self.later_is_older else held[::-1]} if held else {}
            case "POST", ["experiments"]:
                if any(
                    (e["display_name"], e.get("namespace", "")) == (body["display_name"], namespace)
                    for e in self.experiments
                ):
                    return 409, {"code": 6, "message": "Already exist error"}
                self.experiments.append({**body, "experiment_id": f"e{len(self.experiments)}"})
                return 200, self.experiments[-1]
            case "POST", ["runs"]:
                of = next(
                    e for e in self.experiments if e["experiment_id"] == body["experiment_id"]
                )
                self.runs.append(
                    {**body, "run_id": f"r{len(self.runs)}", "namespace": of.get("namespace", "")}
                )
                return 200, {
                    key: value for key, value in self.runs[-1].items() if key != "namespace"
                }
            case "POST", ["runs", end] if end.endswith(":terminate"):
                next(r for r in self.runs if r["run_id"] == end.removesuffix(":terminate"))[
                    "state"
                ] = "CANCELING"
                return 200, {}
        return 404, {"code": 5, "message": "Not Found"}

    def version(self, pipeline: str, name: str) -> dict[str, Any]:
        whole = compiled(pipeline)
        return {
            "pipeline_id": f"id-{pipeline}",
            "pipeline_version_id": f"id-{name}",
            "display_name": name,
            "pipeline_spec": whole,
        }


@cache
def compiled(pipeline: str) -> dict[str, Any]:
    spec, platform = yaml.load_all(
        (COMPILED / f"{pipeline}.yaml").read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )
    return {"pipeline_spec": spec, "platform_spec": platform}


@pytest.fixture
def kfp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kfp]:
    for name in (TOKEN, "KF_PIPELINES_ENDPOINT", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    stub = Kfp()
    yield stub
    stub.server.shutdown()
    stub.server.server_close()
