"""`omnicore serve` under overload and at shutdown: one process, which the last test ends."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from omnicore.engines.base import Request, Sampling
from perf import load
from tests.e2e.serve_process import MODEL, answers, http_engine, start, wait

QUEUE, GRACE = 40, 10
HALF = 20  # bytes
QUESTION = "What is the last digit of 3 plus 4? 7 1 2 3"


@pytest.fixture(scope="module")
def process() -> Iterator[tuple[subprocess.Popen[str], str]]:
    server, url = start(MODEL, "--queue", str(QUEUE), "--grace", str(GRACE))
    try:
        wait(server, url, '"ready":true')
        yield server, url
    finally:
        server.kill()


@pytest.fixture
def url(process: tuple[subprocess.Popen[str], str]) -> str:
    return process[1]


def messages(content: str = QUESTION) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def whole() -> bytes:
    return json.dumps({"model": MODEL, "temperature": 0, "max_tokens": 14, **messages()}).encode()


def post(url: str, content: bytes = b"") -> httpx.Response:
    """Post a request on its own connection."""
    return httpx.post(f"{url}/v1/chat/completions", content=content or whole(), timeout=60)


def held(url: str) -> socket.socket:
    """Send half of a request: it is in flight until the rest is sent."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        % len(whole())
    )
    connection.sendall(whole()[:HALF])
    return connection


@pytest.mark.slow
def test_every_reply_under_load_is_right(
    process: tuple[subprocess.Popen[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bodies = load.questions(tmp_path)[::2]
    found = asyncio.run(
        load.load(process[1], process[0].pid, bodies, clients=32, seconds=2, warm=1)
    )
    assert (dict(found.failures), found.wrong) == ({}, 0)
    assert len(found.seconds) >= 32
    # MB; a leak of one picture a request would be more.
    assert found.quarters[-1] - found.quarters[0] < 40
    print(*found.lines(), sep="\n")
    assert f"| {len(found.seconds)} | none | 0 |" in capsys.readouterr().out


# An unread body must not cut off the response to it.
@pytest.mark.parametrize("size", [100, 3_000_000])
def test_request_beyond_the_queue_gets_429(url: str, size: int) -> None:
    places = [held(url) for _ in range(QUEUE)]
    try:
        with ThreadPoolExecutor(4) as pool:
            refused = list(pool.map(lambda _: post(url, b"x" * size), range(4)))
    finally:
        for place in places:
            place.close()
    assert [(r.status_code, r.headers["retry-after"]) for r in refused] == [(429, "1")] * 4
    error = refused[0].json()["error"]
    assert error["message"] == "40 requests are in flight: try again later"
    assert (error["type"], error["code"], error["param"]) == (
        "invalid_request_error",
        "overloaded",
        None,
    )
    # 429 until the server has seen that their connections are closed.
    response = post(url)
    while response.status_code == 429:
        time.sleep(0.05)
        response = post(url)
    assert response.status_code == 200


def test_engine_retries_until_all_are_answered(url: str) -> None:
    before = refusals(url)
    asked = [
        Request((f"What is the last digit of {i} plus 4? 7 1 2 3",), Path()) for i in range(120)
    ]
    replies = answers(http_engine(url, concurrency=120, timeout=60), asked, Sampling(0, 14), 1)
    assert [reply.error for reply in replies if reply.error] == []
    assert refusals(url) > before


def refusals(url: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(
        float(line.split()[1])
        for line in lines
        if line.startswith('omni_serve_requests_total{code="429"}')
    )


def test_requests_in_flight_are_answered_at_shutdown(
    process: tuple[subprocess.Popen[str], str],
) -> None:
    """Ends the server, so it has to be the last test of this file."""
    server, url = process
    reply = post(url).json()["choices"][0]["message"]["content"]
    late, never = [held(url) for _ in range(3)], held(url)
    body = {"model": MODEL, "temperature": 10, "seed": 1, "max_tokens": 60, "stream": True}
    with httpx.stream(
        "POST", f"{url}/v1/chat/completions", json={**body, **messages()}, timeout=60
    ) as stream:
        lines = stream.iter_lines()
        next(lines)
        server.terminate()
        began = time.monotonic()
        while (ready := httpx.get(f"{url}/v2/health/ready")).status_code == 200:
            time.sleep(0.02)
        refused = post(url)
        for connection in late:
            connection.sendall(whole()[HALF:])
        streamed = [line for line in lines if line]
    assert ready.json() == {"ready": False, "reason": "the server is shutting down"}
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"]["message"] == "not ready: the server is shutting down"
    assert streamed[-1] == "data: [DONE]"
    assert json.loads(streamed[-2].removeprefix("data: "))["choices"][0]["finish_reason"] in (
        "stop",
        "length",
    )
    for connection in late:
        answer = b"".join(iter(lambda c=connection: c.recv(1 << 16), b""))  # type: ignore[misc]
        head, _, content = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert json.loads(content)["choices"][0]["message"]["content"] == reply
    assert server.poll() is None  # one request is incomplete and has GRACE seconds left
    assert server.wait(60) == 0
    assert GRACE <= time.monotonic() - began < GRACE + 30
    never.close()
