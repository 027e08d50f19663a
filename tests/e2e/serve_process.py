"""A process of `omnicore serve` for tests, and requests to it."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from omnicore.config import EngineConfig, Profile
from omnicore.engines.base import Batch, Engine, Reply, Request, Sampling
from omnicore.engines.openai import OpenAIEngine
from omnicore.media.data_url import image_to_url
from omnicore.schema import Media

MODEL = "embedded:tiny-base"
CLIENT = httpx.Client(timeout=60)


def start(model: str, *options: str) -> tuple[subprocess.Popen[str], str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "omnicore",
        "serve",
        "--model",
        model,
        "--port",
        str(port),
        *options,
    ]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True), f"http://127.0.0.1:{port}"


def wait(process: subprocess.Popen[str], url: str, until: str) -> list[tuple[int, str]]:
    """Asks whether the server is ready until the answer holds `until`; all answers, each once."""
    seen: list[tuple[int, str]] = []
    for _ in range(1200):
        assert process.poll() is None, process.stderr and process.stderr.read()
        try:
            answer = httpx.get(f"{url}/v2/health/ready")
        except httpx.TransportError:
            time.sleep(0.1)
            continue
        if not seen or seen[-1] != (answer.status_code, answer.text):
            seen.append((answer.status_code, answer.text))
        if until in answer.text:
            return seen
        time.sleep(0.02)
    raise AssertionError(f"never {until!r}: {seen}")


def chat(url: str, content: Any, **changed: Any) -> httpx.Response:
    body = {
        "model": MODEL,
        "temperature": 0,
        "max_tokens": 14,
        "messages": [{"role": "user", "content": content}],
        **changed,
    }
    return CLIENT.post(f"{url}/v1/chat/completions", json=body)


def item(part: Media | str, root: Path) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    data = base64.b64encode((root / part.uri).read_bytes()).decode()
    if part.kind == "image":
        return {"type": "image_url", "image_url": {"url": image_to_url(root / part.uri)}}
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


def answers(
    engine: Engine, requests: Sequence[Request], sampling: Sampling, size: int
) -> list[Reply]:
    batches = [Batch(requests[i : i + size], seed=i) for i in range(0, len(requests), size)]
    found = dict(pair for done in engine.answer(batches, sampling) for pair in done)
    return [reply for index in range(len(batches)) for reply in found[index]]


def http_engine(url: str, **config: Any) -> OpenAIEngine:
    return OpenAIEngine(EngineConfig(kind="http", url=f"{url}/v1", **config), MODEL, Profile())


def events(url: str, content: Any, **changed: Any) -> list[dict[str, Any]]:
    body = {
        "model": MODEL,
        "temperature": 0,
        "max_tokens": 14,
        "messages": [{"role": "user", "content": content}],
        "stream": True,
    }
    with httpx.stream(
        "POST", f"{url}/v1/chat/completions", json={**body, **changed}, timeout=60
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]
