"""Start of `omnicore serve`: models that are refused, and invalid ports."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from omnicore.config.recipe import load_recipe
from omnicore.lineage import signing
from omnicore.storage.digests import model_directory
from tests.cases import slow
from tests.e2e.serve_process import MODEL, chat, start, wait


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global ChatServer

    from omnicore.serving.server import ChatServer


@pytest.mark.slow
def test_deaf_model_never_gets_ready_and_tells_why() -> None:
    process, url = start("embedded:tiny-probe-2")
    try:
        code, _ = wait(process, url, "does not hear")[-1]
        assert code == 503
        refused = chat(url, "x", model="embedded:tiny-probe-2")
        assert refused.status_code == 503
        assert (
            "not ready: embedded:tiny-probe-2 does not hear" in refused.json()["error"]["message"]
        )
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("model", "message"),
    [
        slow("embedded:nothing", "no embedded model 'nothing'"),
        ("no/such/dir", "no model directory at no/such/dir"),
    ],
)
def test_server_ends_if_the_model_cannot_be_loaded(model: str, message: str) -> None:
    process, _ = start(model)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert f"omnicore: {message}" in said


@pytest.mark.slow
def test_server_ends_if_the_model_is_not_signed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("model_signing")
    pem = {name: tmp_path / name for name in ("OMNI_SIGNING_KEY", "OMNI_VERIFY_KEY")}
    curve = [
        "openssl",
        "ecparam",
        "-name",
        "prime256v1",
        "-genkey",
        "-noout",
        "-out",
        str(pem["OMNI_SIGNING_KEY"]),
    ]
    public = [
        "openssl",
        "ec",
        "-in",
        str(pem["OMNI_SIGNING_KEY"]),
        "-pubout",
        "-out",
        str(pem["OMNI_VERIFY_KEY"]),
    ]
    for command in (curve, public):
        subprocess.run(command, check=True, capture_output=True)
    for name, path in pem.items():
        monkeypatch.setenv(name, str(path))
    model = tmp_path / "model"
    shutil.copytree(model_directory(MODEL), model)
    process, _ = start(str(model))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert f"omnicore: {model} is not signed" in said
    signing.sign_checkpoint(model)
    served = ChatServer(str(model), load_recipe("tiny"), max_requests=8)
    assert served._load().model.config.model_type


@pytest.mark.parametrize("port", ["99999", slow("-1"), slow("0")])
def test_invalid_port_is_refused(port: str) -> None:
    command = [sys.executable, "-m", "omnicore", "serve", "--model", MODEL, f"--port={port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"--port {port} is not a port" in done.stderr
    assert "[serve-port-invalid]" in done.stderr
