"""Load test of `omnicore serve`: `python -m perf.load` runs 32 clients for 60 seconds.

The server is its own process on this machine, with the embedded model. Each client sends its next
request when it has its reply: pictures, sounds and both, one in four as a stream. Before that every
request is sent once alone; a different reply under load is wrong. Memory is the resident set of the
server, read every half second from the end of the warm-up.

Other processes on the machine change the times, so the load average is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import aiohttp

MODEL = "embedded:tiny-base"
STREAMED = 4  # one request in this many is a stream


@dataclass
class Load:
    """Results of a load test.

    `seconds` has the duration of each request, `memory` the server's MB from warm-up to end.
    """

    wall: float = 0.0
    seconds: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    memory: list[float] = field(default_factory=list)

    @property
    def quarters(self) -> list[float]:
        """Median MB of each quarter of the time; a single reading may include a batch."""
        size = max(1, len(self.memory) // 4)
        return [statistics.median(self.memory[size * i :][:size] or self.memory) for i in range(4)]

    def lines(self) -> list[str]:
        percentiles = [float("nan")] * 99
        if len(self.seconds) > 1:
            percentiles = statistics.quantiles(self.seconds, n=100)
        p50, p95, p99 = (percentiles[n - 1] * 1000 for n in (50, 95, 99))
        failures = ", ".join(f"{name} {number}" for name, number in self.failures.items())
        memory = ", ".join(f"{mb:.0f}" for mb in self.quarters)
        return [
            (
                "| requests | errors | wrong answers | requests/s | p50 | p95 | p99 | memory by"
                " quarter | peak |"
            ),
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            (
                f"| {len(self.seconds)} | {failures or 'none'} | {self.wrong} |"
                f" {len(self.seconds) / self.wall:.0f} | {p50:.0f} ms | {p95:.0f} ms |"
                f" {p99:.0f} ms | {memory} MB | {max(self.memory):.0f} MB |"
            ),
        ]


@contextmanager
def served(*options: str) -> Iterator[tuple[int, str]]:
    """Start a server; yield its process id and address when it is ready."""
    import urllib.error
    import urllib.request

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [
        sys.executable,
        "-m",
        "omnicore",
        "serve",
        "--model",
        MODEL,
        "--port",
        str(port),
        *options,
    ]
    with subprocess.Popen(command) as process:
        try:
            while True:
                try:
                    urllib.request.urlopen(f"{url}/v2/health/ready").close()
                    break
                except urllib.error.URLError:
                    if process.poll() is not None:
                        raise
                    time.sleep(0.2)
            yield process.pid, url
        finally:
            process.terminate()


def questions(root: Path) -> list[bytes]:
    """Return bodies of requests: a twentieth of the embedded benchmark, some as streams."""
    from omnicore.config.recipe import load_recipe
    from omnicore.data.prompts import prompt_parts
    from omnicore.engines.openai import media_item, request_head, request_tail, text_item
    from omnicore.schema import Query, View
    from omnicore.steps import prepare
    from omnicore.storage.files import read_jsonl

    recipe = load_recipe("tiny", ["prepare.scale=0.05"])
    prepare.run(recipe, recipe.prepare, {}, root)
    bodies = []
    for number, query in enumerate(
        read_jsonl(root / "controls.jsonl", Query) + read_jsonl(root / "queries.jsonl", Query)
    ):
        shown = prompt_parts(query, View.omni, recipe.profile)
        items = [
            text_item(part) if isinstance(part, str) else media_item(part, root, recipe.profile)
            for part in shown
        ]
        fields = {
            "model": MODEL,
            "temperature": 0,
            "max_tokens": 14,
            "stream": number % STREAMED == 0,
        }
        bodies.append(
            request_head(fields, "")
            + b",".join(item.json for item in items)
            + request_tail(items, 0)
        )
    return bodies


async def send(session: aiohttp.ClientSession, url: str, body: bytes) -> str:
    """Send a request and return the whole reply.

    Raises ValueError for an error or a stream without an end.
    """

    async with session.post(f"{url}/v1/chat/completions", data=body) as response:
        content = await response.read()
    if response.status != 200:
        raise ValueError(f"HTTP {response.status}")
    if response.content_type != "text/event-stream":
        return str(json.loads(content)["choices"][0]["message"]["content"])
    *events, end = [line.removeprefix("data: ") for line in content.decode().splitlines() if line]
    choices = [choice for event in events for choice in json.loads(event).get("choices", [])]
    if end != "[DONE]" or not choices or not choices[-1]["finish_reason"]:
        raise ValueError("a stream without an end")
    return "".join(choice["delta"]["content"] for choice in choices)


async def load(
    url: str, pid: int, bodies: Sequence[bytes], clients: int, seconds: float, warm: float
) -> Load:
    """Send requests for `warm` and then `seconds`; only the latter are measured."""
    result, turns = Load(), count()
    limits = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=limits
    ) as session:
        expected = [await send(session, url, body) for body in bodies]
        began = time.monotonic() + warm

        async def client() -> None:
            while True:
                sent = time.monotonic()
                if sent >= began + seconds:
                    return
                at = next(turns) % len(bodies)
                try:
                    answer = await send(session, url, bodies[at])
                except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                    result.failures[str(error) or type(error).__name__] += 1
                    continue
                result.wrong += answer != expected[at]
                if sent >= began:
                    result.seconds.append(time.monotonic() - sent)

        async def watch() -> None:
            await asyncio.sleep(warm)
            while time.monotonic() < began + seconds:
                result.memory.append(resident(pid))
                await asyncio.sleep(0.5)

        await asyncio.gather(watch(), *(client() for _ in range(clients)))
    result.wall = time.monotonic() - began
    return result


def resident(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--clients", type=int, default=32)
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument(
        "--warm",
        type=float,
        default=10,
        help="seconds of warm-up, not measured (default: 10)",
    )
    given = options.parse_args()
    print(f"load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores before")
    with tempfile.TemporaryDirectory() as name, served() as (pid, url):
        found = asyncio.run(
            load(url, pid, questions(Path(name)), given.clients, given.seconds, given.warm)
        )
    print(f"load average {os.getloadavg()[0]:.2f} after")
    print("\n".join(found.lines()))
    if found.failures or found.wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
