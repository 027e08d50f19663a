"""Downloads from the hub: pinned revisions, archives, and what is said when it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from omnicore.cli.main import main
from omnicore.config.recipe import load_recipe
from omnicore.data.benchmarks import video_holmes
from omnicore.data.benchmarks.archives import unpack_archives
from omnicore.data.benchmarks.hub import download_benchmark
from omnicore.data.benchmarks.records import BenchmarkEntry
from omnicore.errors import ConfigError, DataError
from omnicore.media.read import locate_media
from omnicore.runtime.run import run_step
from omnicore.schema import Query
from omnicore.storage.digests import sha256_file
from omnicore.storage.files import read_json, read_jsonl
from tests.benchmarks import native
from tests.benchmarks.scoring import queries
from tests.errors import refused

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def prepare(output: Path, *overrides: str, **sources: Path | str) -> dict[str, Any]:
    places = [f"prepare.sources.{name}={json.dumps(str(place))}" for name, place in sources.items()]
    return run_step("prepare", load_recipe("tiny", [*places, *overrides]), {}, output)


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The hub's download replaced by a local cache as it lays one out: a folder of links, videos
    packed in a tape."""
    copy = native.copy("daily_omni", tmp_path / "made")
    blobs, folder = tmp_path / "cache" / "blobs", tmp_path / "cache" / "snapshots" / COMMIT
    blobs.mkdir(parents=True)
    folder.mkdir(parents=True)
    (copy / "qa.json").rename(blobs / "1")
    with tarfile.open(blobs / "2", "w") as tape:
        tape.add(copy / "Videos", "Videos")
    (folder / "qa.json").symlink_to("../../blobs/1")
    (folder / "Videos.tar").symlink_to("../../blobs/2")
    calls: list[dict[str, Any]] = []

    def download(repo: str, **rest: Any) -> str:
        calls.append({"repo": repo, **rest})
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return calls


def test_download_is_prepared_like_a_copy(tmp_path: Path, snapshot: list[dict[str, Any]]) -> None:
    assert (
        main(
            [
                "prepare",
                "--benchmark",
                "daily_omni",
                "--hub",
                COMMIT,
                "--output",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    assert snapshot == [{"repo": "liarliar/Daily-Omni", "repo_type": "dataset", "revision": COMMIT}]
    rows = read_jsonl(tmp_path / "out" / "queries.jsonl", Query)
    local = native.copy("daily_omni", tmp_path)
    prepare(tmp_path / "local", daily_omni=local)
    assert rows == read_jsonl(tmp_path / "local" / "queries.jsonl", Query)
    (info,) = read_json(tmp_path / "out" / "benchmarks.json")
    assert info["revision"] == COMMIT
    for row in rows:
        for medium in row.media:
            path = locate_media(medium, tmp_path / "out")
            assert not path.is_symlink()
            assert sha256_file(path) == medium.sha256


def test_archives_are_unpacked_once_broken_one_refused(
    tmp_path: Path, snapshot: list[dict[str, Any]]
) -> None:
    folder = tmp_path / "cache" / "snapshots" / COMMIT
    prepare(tmp_path / "out", daily_omni=f"hub@{COMMIT}")
    film = folder / "Videos" / "choir03" / "choir03_video.mp4"
    first = film.stat().st_ino
    prepare(tmp_path / "again", daily_omni=f"hub@{COMMIT}")
    assert film.stat().st_ino == first
    (folder / "Videos.tar.unpacked").unlink()
    blob = tmp_path / "cache" / "blobs" / "2"
    blob.write_bytes(blob.read_bytes()[:5000])
    with refused(DataError, "archive-broken"):
        prepare(tmp_path / "third", daily_omni=f"hub@{COMMIT}")


def test_zip_archives_are_unpacked_inside_the_folder(tmp_path: Path) -> None:
    copy = native.copy("video_holmes", tmp_path)
    with zipfile.ZipFile(copy / "videos.zip", "w") as packed:
        for film in sorted((copy / "videos").iterdir()):
            packed.write(film, f"videos_cropped/{film.name}")
            film.unlink()
        packed.writestr("../outside.txt", "no")
    (copy / "videos").rmdir()
    unpack_archives(copy, video_holmes.ENTRY.archives)
    assert not (tmp_path / "outside.txt").exists()
    assert len(queries("video_holmes", copy)) == 7
    (copy / "videos.zip.unpacked").unlink()
    (copy / "videos.zip").write_bytes(b"PK")
    with refused(DataError, "archive-broken", path=copy / "videos.zip"):
        unpack_archives(copy, video_holmes.ENTRY.archives)


@pytest.mark.parametrize("revision", ["", "main", COMMIT[:12]])
def test_download_requires_a_pinned_commit(
    tmp_path: Path, snapshot: list[dict[str, Any]], revision: str
) -> None:
    with refused(ConfigError, "hub-revision-missing"):
        prepare(tmp_path / "out", daily_omni=f"hub@{revision}" if revision else "hub")
    assert snapshot == []


def test_pinned_entry_needs_no_revision(snapshot: list[dict[str, Any]]) -> None:
    from omnicore.data.benchmarks.daily_omni import ENTRY

    pinned = BenchmarkEntry.model_validate({**ENTRY.model_dump(), "revision": COMMIT})
    assert download_benchmark(pinned, "hub")[1] == COMMIT


def test_benchmark_outside_the_hub_is_refused(tmp_path: Path) -> None:
    with refused(ConfigError, "hub-not-available") as caught:
        prepare(tmp_path / "out", omnivideobench="hub")
    assert "github.com/NJU-LINK" in str(caught.value)


def from_hub(home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """The real client, in a process of its own: it reads its environment when it is imported."""
    command = [
        sys.executable,
        "-m",
        "omnicore",
        "prepare",
        "--benchmark",
        "daily_omni",
        "--hub",
        COMMIT,
        "--output",
        home / "out",
    ]
    whole = {**os.environ, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **env}
    return subprocess.run(
        command, env=whole, capture_output=True, text=True, timeout=120, check=False
    )


def test_gated_benchmark_is_refused(tmp_path: Path) -> None:
    class Gated(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Gated) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = from_hub(tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert done.returncode == 2, done.stderr
    assert (
        "liarliar/Daily-Omni is gated: accept its terms on the hub, then log in (hf auth login)"
        in done.stderr
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "way", ["offline", pytest.param("refused", marks=pytest.mark.slow)]
)  # the client tries for 25 s
def test_unreachable_hub_is_refused(tmp_path: Path, way: str) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        nobody = f"http://127.0.0.1:{server.server_port}"  # after the block nobody listens there
    done = from_hub(tmp_path, HF_ENDPOINT=nobody, HF_HUB_OFFLINE=str(int(way == "offline")))
    assert done.returncode == 2, done.stderr
    assert f"liarliar/Daily-Omni at {COMMIT[:12]} could not be downloaded" in done.stderr
    assert "give a local copy with --root" in done.stderr
    assert "Traceback" not in done.stderr
