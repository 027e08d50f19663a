"""A small OpenAI-compatible server for tests: known capacity, deterministic replies, faults.

`Stub` runs in a thread and lets a test look inside; `python -m tests.stub_server` runs it in its
own process, for measurements. It is bare asyncio on 127.0.0.1, so that measurements are of the
client.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

MODEL = "stub"
_CONTENT_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """Response to a request.

    `cut` closes the connection half-way through the body, `reset` at once; `hang` sends nothing.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False
    reset: bool = False
    hang: bool = False

    def bytes(self) -> bytes:
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(self.body)),
            **self.headers,
        }
        lines = [
            f"HTTP/1.1 {self.status} x",
            *(f"{name}: {value}" for name, value in headers.items()),
            "",
            "",
        ]
        return "\r\n".join(lines).encode() + self.body


def completion(text: str | None, **changed: Any) -> Answer:
    """Return a chat completion as vLLM sends it.

    `changed` sets `model`, `finish_reason`, `logprobs`, `usage` or fields of the message.
    """
    message = {
        "role": "assistant",
        "content": text,
        **{k: v for k, v in changed.items() if k.startswith("reasoning")},
    }
    choice = {
        "index": 0,
        "message": message,
        "logprobs": changed.get("logprobs"),
        "finish_reason": changed.get("finish_reason", "stop"),
    }
    usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
    body = {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": changed.get("model", MODEL),
        "choices": [choice],
        "usage": changed.get("usage", usage),
    }
    return Answer(json.dumps(body).encode())


def error(status: int, message: str, code: str | None = None, **headers: str) -> Answer:
    body = {"error": {"message": message, "type": "error", "code": code}}
    return Answer(
        json.dumps(body).encode(),
        status,
        {name.replace("_", "-"): value for name, value in headers.items()},
    )


def last_text(request: dict[str, Any]) -> str:
    """Return the last text of the user's turn."""
    return next(
        part["text"]
        for part in reversed(request["messages"][-1]["content"])
        if part["type"] == "text"
    )


def guess(request: dict[str, Any]) -> Answer:
    """Reply one of the last four words of the question, chosen by a hash of the whole request.

    The canary, whose seed is 0, gets the hash itself, which differs for each medium.
    """
    number = int(hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:8], 16)
    words = last_text(request).split()[-4:]
    return completion(
        f"<answer>{words[number % len(words)] if request['seed'] else number}</answer>"
    )


class Stub:
    """Serves from its own thread while the context is open.

    At most `capacity` requests are processed at once, `service` seconds each; more wait.

    `reply(request)` returns the answer to a request. `fault(request, seen)` may return an `Answer`
    in its place; `seen` counts earlier requests with the same seed. `models` is the response of
    /models. `counts` and `times` hold number and times of the requests with each seed.
    """

    def __init__(
        self,
        reply: Callable[[dict[str, Any]], Answer] = guess,
        *,
        fault: Callable[[dict[str, Any], int], Answer | None] = lambda request, seen: None,
        models: Answer | None = None,
        capacity: int = 64,
        service: float = 0.0,
        port: int = 0,
    ) -> None:
        self.reply, self.fault, self.port = reply, fault, port
        self.models = models or Answer(
            json.dumps({"object": "list", "data": [{"id": MODEL, "root": "/models/stub"}]}).encode()
        )
        self.capacity, self.service = capacity, service
        self.counts: Counter[int] = Counter()
        self.times: dict[int, list[float]] = {}
        self.requests: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.pings = self.connections = 0
        self.most = 0  # requests processed at once, at the peak
        self.active = 0
        self.waiting: deque[tuple[_Connection, Answer]] = deque()
        self.open: set[_Connection] = set()

    @property
    def asked(self) -> int:
        """Number of requests without those of the canary, whose seed is 0."""
        return self.counts.total() - self.counts[0]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; after `stop` on the same port again."""
        ready = threading.Event()

        async def serve() -> None:
            self.loop, self.end = asyncio.get_running_loop(), asyncio.Event()
            server = await self.loop.create_server(
                lambda: _Connection(self), "127.0.0.1", self.port, reuse_address=True
            )
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await self.end.wait()
            server.close()
            for connection in list(self.open):
                connection.transport.abort()

        self.thread = threading.Thread(target=asyncio.run, args=[serve()], daemon=True)
        self.thread.start()
        assert ready.wait(10), "the stub did not start"

    def stop(self) -> None:
        """Reset every connection, close the port and forget the requests in progress."""
        self.loop.call_soon_threadsafe(self.end.set)
        self.thread.join()
        self.active = 0
        self.waiting.clear()

    def handle(self, connection: _Connection, path: str, headers: str, body: bytes) -> None:
        if path == "/v1/models":
            self.pings += 1
            connection.send(self.models)
            return
        if path != "/v1/chat/completions":
            connection.send(error(404, "Not Found"))
            return
        request = json.loads(body)
        seed = request["seed"]
        self.headers.append(headers)
        self.requests.append(request)
        answer = self.fault(request, self.counts[seed]) or self.reply(request)
        self.counts[seed] += 1
        self.times.setdefault(seed, []).append(time.monotonic())
        self.work(connection, answer)

    def work(self, connection: _Connection, answer: Answer) -> None:
        if self.active == self.capacity:
            self.waiting.append((connection, answer))
            return
        self.active += 1
        self.most = max(self.most, self.active)
        asyncio.get_running_loop().call_later(
            self.service + answer.delay, self.done, connection, answer
        )

    def done(self, connection: _Connection, answer: Answer) -> None:
        self.active -= 1
        if self.waiting:
            self.work(*self.waiting.popleft())
        connection.send(answer)


class _Connection(asyncio.Protocol):
    """HTTP/1.1 with Content-Length, one request after the other."""

    def __init__(self, stub: Stub) -> None:
        self.stub = stub
        self.held = bytearray()
        self.needed = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.stub.open.add(self)
        self.stub.connections += 1

    def connection_lost(self, error: Exception | None) -> None:
        self.stub.open.discard(self)

    def data_received(self, data: bytes) -> None:
        self.held += data
        if not self.needed:
            head = self.held.find(b"\r\n\r\n")
            if head < 0:
                return
            length = _CONTENT_LENGTH.search(self.held, 0, head)
            self.body = head + 4
            self.needed = self.body + (int(length[1]) if length else 0)
        if len(self.held) >= self.needed:
            first, _, headers = bytes(self.held[: self.body]).decode().partition("\r\n")
            body = bytes(self.held[self.body : self.needed])
            del self.held[: self.needed]
            self.needed = 0
            self.stub.handle(self, first.split()[1], headers, body)

    def send(self, answer: Answer) -> None:
        if answer.hang or self.transport.is_closing():
            return
        if answer.reset:
            self.transport.abort()
            return
        data = answer.bytes()
        self.transport.write(data[: len(data) - len(answer.body) // 2] if answer.cut else data)
        if answer.cut:
            self.transport.close()


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--capacity", type=int, default=64)
    options.add_argument("--service", type=float, default=0.02)
    given = options.parse_args()
    always = completion("<answer>dog</answer>").bytes()

    class Quick(Stub):
        """Answers without reading the request: a measurement is of the client, not of the stub."""

        def handle(self, connection: _Connection, path: str, headers: str, body: bytes) -> None:
            if path.endswith("/models"):
                connection.send(self.models)
            else:
                self.work(connection, answer)

        def done(self, connection: _Connection, answer: Answer) -> None:
            self.active -= 1
            if self.waiting:
                self.work(*self.waiting.popleft())
            connection.transport.write(always)

    answer = Answer()
    with Quick(capacity=given.capacity, service=given.service) as stub:
        print(stub.port, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
