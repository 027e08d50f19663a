"""`omnicore serve` under load: `python -m perf.load` asks it from 32 clients for 60 seconds and
prints what became of that.

The server is a process of its own on this machine, with the embedded model. Each client asks its
next question when it has its answer: pictures, sounds and both, one in four as a stream. Before
that, every question is asked once alone: an answer under load that is not the same is wrong. Memory
is the server's resident set, read every half second, from the end of a warm-up on.

What else runs on the machine moves the times, and is printed.
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
STREAMED = 4  # one request in so many


@dataclass
class Load:
    """What became of the requests.

    `seconds` has the time of each answer, `memory` the server's MB from warm-up to end.
    """

    wall: float = 0.0
    seconds: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    memory: list[float] = field(default_factory=list)

    @property
    def quarters(self) -> list[float]:
        """MB: the median of each quarter of the time, since a single reading has a batch in it."""
        size = max(1, len(self.memory) // 4)
        return [statistics.median(self.memory[size * i :][:size] or self.memory) for i in range(4)]

    def lines(self) -> list[str]:
        shares = (
            statistics.quantiles(self.seconds, n=100)
            if len(self.seconds) > 1
            else [float("nan")] * 99
        )
        told = ", ".join(f"{name} {number}" for name, number in self.failures.items()) or "none"
        return [
            (
                "| requests | errors | wrong answers | requests/s | p50 | p95 | p99 | memory by"
                " quarter | most |"
            ),
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            (
                f"| {len(self.seconds)} | {told} | {self.wrong} |"
                f" {len(self.seconds) / self.wall:.0f} | {shares[49] * 1000:.0f} ms |"
                f" {shares[94] * 1000:.0f} ms | {shares[98] * 1000:.0f} ms |"
                f" {', '.join(f'{held:.0f}' for held in self.quarters)} MB | {max(self.memory):.0f}"
                " MB |"
            ),
        ]


@contextmanager
def served(*options: str) -> Iterator[tuple[int, str]]:
    """Process id and address of a server that is ready."""
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
    """Bodies of requests, a twentieth of the embedded benchmark, every so many of them for a
    stream."""
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


async def ask(session: aiohttp.ClientSession, url: str, body: bytes) -> str:
    """The whole answer.

    Raises ValueError for one that is none, or has no end.
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
    """Asks for `warm` and then `seconds`; only the latter counts."""
    found, turns = Load(), count()
    limits = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=limits
    ) as session:
        expected = [await ask(session, url, body) for body in bodies]
        began = time.monotonic() + warm

        async def ask_in_turn() -> None:
            while (sent := time.monotonic()) < began + seconds:
                at = next(turns) % len(bodies)
                try:
                    answer = await ask(session, url, bodies[at])
                except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                    found.failures[str(error) or type(error).__name__] += 1
                    continue
                found.wrong += answer != expected[at]
                if sent >= began:
                    found.seconds.append(time.monotonic() - sent)

        async def watch() -> None:
            await asyncio.sleep(warm)
            while time.monotonic() < began + seconds:
                found.memory.append(resident(pid))
                await asyncio.sleep(0.5)

        await asyncio.gather(watch(), *(ask_in_turn() for _ in range(clients)))
    found.wall = time.monotonic() - began
    return found


def resident(pid: int) -> float:
    """MB of memory that a process holds."""
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
        help="seconds before that, which do not count (default: 10)",
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
