"""docs/serve.md is run as it reads: its server is a process of this machine, a stub stands for the
InferenceService."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from omnicore.cli.serve import SERVE
from tests.stub_server import Answer, Stub, completion

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "serve.md").read_text()
SHELL, PYTHON = (re.findall(rf"```{kind}\n(.*?)```", GUIDE, re.DOTALL) for kind in ("sh", "python"))
START, MEDIA, WHOLE, STREAM, GATEWAY = SHELL
ANSWER = re.compile(r"<think>.*</think><answer>(?:yes|no)</answer>")
HOST = "champion-omnicore.example.com"


class Reader:
    """Someone who types the page's blocks, in one directory; `port` is free here, as 8000 may not
    be."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.environment = folder, {**os.environ, "GATEWAY": "", "HOST": HOST}
        (folder / ".venv").symlink_to(sys.prefix)

    def here(self, block: str) -> str:
        return block.replace("localhost:8000", f"127.0.0.1:{self.port}").replace(
            "--port 8000", f"--port {self.port}"
        )

    def types(self, *command: str) -> str:
        done = subprocess.run(
            [*command[:-1], self.here(command[-1])],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    if not shutil.which("curl"):
        pytest.skip("the page asks with curl, which is not installed")
    reader = Reader(tmp_path_factory.mktemp("guide"))
    serving, ready = START.strip().splitlines()
    script = f"{reader.here(serving)}\necho $! > server\nwait $!"
    with subprocess.Popen(
        ["bash", "-c", script], cwd=reader.folder, env=reader.environment
    ) as shell:
        try:
            assert json.loads(reader.types("bash", "-c", ready)) == {"ready": True}
            reader.types("bash", "-euc", MEDIA)
            yield reader
        finally:
            os.kill(int((reader.folder / "server").read_text()), signal.SIGTERM)
        assert shell.wait(60) == 0


def test_curl_gets_a_whole_reply_and_a_stream(reader: Reader) -> None:
    whole = json.loads(reader.types("bash", "-euc", WHOLE))["choices"][0]["message"]["content"]
    assert ANSWER.fullmatch(whole)
    *events, end = [
        line.removeprefix("data: ")
        for line in reader.types("bash", "-euc", STREAM).splitlines()
        if line
    ]
    pieces = [json.loads(event)["choices"][0]["delta"]["content"] for event in events]
    assert ("".join(pieces), end) == (whole, "[DONE]")
    assert len(pieces) > 5


def test_sdk_gets_the_same_reply(reader: Reader) -> None:
    whole, stream = reader.types(sys.executable, "-c", PYTHON[0]).splitlines()
    assert whole == stream
    assert ANSWER.match(whole)
    assert int(whole.split()[-1]) > 35  # a picture's and a sound's tokens are among them


def test_inference_service_gets_the_same_request(reader: Reader) -> None:
    reader.types("bash", "-euc", WHOLE)
    asked = json.loads((reader.folder / "request.json").read_text())
    listed = Answer(json.dumps({"object": "list", "data": [{"id": "champion"}]}).encode())
    with Stub(
        lambda request: completion("<answer>yes</answer>", model=request["model"]), models=listed
    ) as stub:
        reader.environment["GATEWAY"] = f"127.0.0.1:{stub.port}"
        said = json.loads(reader.types("bash", "-euc", GATEWAY))["choices"][0]["message"]["content"]
        asking = PYTHON[0].split("reply = ")[0] + PYTHON[1]
        assert said == reader.types(sys.executable, "-c", asking).strip() == "<answer>yes</answer>"
    assert [
        re.findall(r"^host: (\S+)", sent, re.MULTILINE | re.IGNORECASE) for sent in stub.headers
    ] == [[HOST], [HOST]]
    assert stub.requests == [{**asked, "model": "champion"}] * 2


def test_help_shows_a_working_curl(reader: Reader) -> None:
    """`omnicore serve --help` shows a curl of its own."""
    lines = SERVE.split("curl -s localhost:8000/v2/health/ready\n")[1].split("\n\n")[0]
    command = re.sub("(?m)^  ", "", lines).replace("localhost:8000", f"127.0.0.1:{reader.port}")
    assert json.loads(reader.types("bash", "-euc", command))["object"] == "chat.completion"


def test_numbers_and_codes_equal_those_of_the_code() -> None:
    source = "".join(
        (ROOT / "omnicore" / "serving" / f"{name}.py").read_text()
        for name in ("request", "prompt", "server", "batcher", "serve")
    )
    rows = re.findall(r"^\| (\d{3}) \| (`[^|]+) \|", GUIDE, re.MULTILINE)
    assert "429" in dict(rows)
    for status, codes in rows:
        for code in re.findall(r"`(\w+)`", codes):
            assert f'"{code}"' in source, (status, code)
