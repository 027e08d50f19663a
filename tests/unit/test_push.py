"""Push a manifest or a checkpoint to a hub: layout, dry run, one commit, round trip."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from omnicore.cli.main import main
from omnicore.errors import ConfigError, DataError, EngineError
from omnicore.evaluation.verdicts import read_manifest
from omnicore.lineage.step_record import write_step
from omnicore.runtime.push import planned_push, push
from omnicore.storage.files import write_json
from tests.errors import refused
from tests.unit.evaluate_fixture import REMOVED, inputs


class Hub:
    """The part of the hub's API that a push needs; `files` are those of the last commit."""

    def __init__(self) -> None:
        self.created: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        self.message = ""

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        if path == "/api/repos/create":
            self.created = json.loads(body)
            name = f"{self.created['organization']}/{self.created['name']}"
            return {"url": f"{self.url}/datasets/{name}", "name": name, "id": name}
        if "/preupload/" in path:
            sent = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": "regular"} for f in sent]
            return {"files": [mode | {"shouldIgnore": False, "oid": None} for mode in modes]}
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "header":
                    self.message = line["value"]["summary"]
                else:
                    content = base64.b64decode(line["value"]["content"])
                    self.files[line["value"]["path"]] = content
            url = f"{self.url}/datasets/team/clean/commit/{'a' * 40}"
            return {"commitUrl": url, "commitOid": "a" * 40, "success": True, "hookOutput": ""}
        return {}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.reply(state.answer(self.path.partition("?")[0], body))

        def do_GET(self) -> None:
            self.reply({})

        def reply(self, value: dict[str, Any]) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    point_to(state.url, monkeypatch, constants)
    yield state
    server.shutdown()
    server.server_close()


def point_to(url: str, monkeypatch: pytest.MonkeyPatch, constants: Any) -> None:
    """Set what HF_ENDPOINT and HF_TOKEN set at start; both are read at import."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", url)
    monkeypatch.setenv("HF_TOKEN", "hf_test")


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    return inputs(tmp_path)["manifest"]


def test_a_manifest_is_one_commit_of_a_dataset(hub: Hub, clean: Path) -> None:
    with planned_push(clean, "team/clean") as (plan, folder):
        assert plan.kind == "dataset"
        url = push(plan, folder, private=True)
    assert url.endswith("a" * 40)
    assert hub.created["visibility"] == "private"
    assert hub.message == plan.message
    assert set(hub.files) == {"README.md", "manifest.json", "data/verdicts.jsonl", "data/kept.csv"}
    assert len(hub.files["data/verdicts.jsonl"].splitlines()) == 13
    front = hub.files["README.md"].decode().split("---\n")[1]
    assert yaml.safe_load(front)["configs"][0]["data_files"] == "data/verdicts.jsonl"
    assert "| daily_omni | 8 | 6 |" in hub.files["README.md"].decode()


def test_pushed_ids_give_the_manifest_back(clean: Path, tmp_path: Path) -> None:
    with planned_push(clean, "team/clean") as (_, folder):
        table = tmp_path / "kept.csv"
        table.write_bytes((folder / "data" / "kept.csv").read_bytes())
    infos = [
        {"name": name, "filter_policy": "filtered", "queries": 8} for name in ("daily_omni", "elm")
    ]
    write_json(tmp_path / "prepare" / "benchmarks.json", infos)
    step = {"step": "prepare", "section": "prepare", "key": "k", "seconds": 0, "summary": {}}
    write_step(tmp_path / "prepare", step)
    options = ["--listed", "kept", "--queries", str(tmp_path / "prepare")]
    assert main(["manifest", "import", str(table), *options, "--output", str(tmp_path / "m")]) == 0
    kept = read_manifest(tmp_path / "m").kept()
    assert kept == read_manifest(clean).kept()
    assert not kept & REMOVED


def test_a_dry_run_lists_files_and_sends_nothing(
    hub: Hub, clean: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(clean), "--repo", "team/clean", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "dataset repository team/clean" in printed
    assert "data/kept.csv" in printed
    assert not hub.created
    assert not hub.files


def test_a_hub_that_is_away_is_named(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    point_to("http://127.0.0.1:9", monkeypatch, constants)
    with planned_push(clean, "team/clean") as (plan, folder), refused(EngineError, "push-failed"):
        push(plan, folder, private=True)


def test_wrong_names_and_outputs_are_refused(clean: Path, tmp_path: Path) -> None:
    with refused(ConfigError, "push-repository-invalid"), planned_push(clean, "clean"):
        pass
    prepared = tmp_path / "prepare"
    with refused(DataError, "push-nothing", path=prepared), planned_push(prepared, "team/a"):
        pass
