"""Throughput of the HTTP engine against a stub server, compared with a bare load generator.

The stub answers 64 requests at a time, 20 ms each, in its own process. Four clients take turns, for
several rounds:

  bare      raw sockets that send the same bytes and look for the end of a reply: a closed loop
            without JSON, retries or journal
  aiohttp   the same loop through the library that the engine uses
  texts     the engine as steps use it, with a journal on disk; text requests of the same size
  pictures  the same with a picture in each request, read and encoded once for eight draws

Other processes on the machine change all figures, so the load average is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CAPACITY, SERVICE = 64, 0.02
PICTURE = 4000  # bytes of a request's picture, as large as those of the embedded benchmark


@contextmanager
def stub() -> Iterator[int]:
    command = [
        sys.executable,
        "-m",
        "tests.stub_server",
        "--capacity",
        str(CAPACITY),
        "--service",
        str(SERVICE),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout, "asked for"
            yield int(process.stdout.readline())
        finally:
            process.kill()


class Loop(asyncio.Protocol):
    """One connection of the bare load generator."""

    left = 0

    def __init__(self, request: bytes, done: asyncio.Event) -> None:
        self.request, self.done, self.received = request, done, b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.send_next()

    def send_next(self) -> None:
        if Loop.left <= 0:
            self.done.set()
            return
        Loop.left -= 1
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        if found and len(body) >= int(
            head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
        ):
            self.received = b""
            self.send_next()


def bare(port: int, count: int, concurrency: int, body: bytes) -> tuple[float, float]:
    """Return seconds of wall time and of CPU."""

    async def main() -> None:
        request = (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        Loop.left, ends = count, [asyncio.Event() for _ in range(concurrency)]
        loop = asyncio.get_running_loop()
        await asyncio.gather(
            *(
                loop.create_connection(lambda end=end: Loop(request, end), "127.0.0.1", port)
                for end in ends
            )
        )
        await asyncio.gather(*(end.wait() for end in ends))

    wall, cpu = time.perf_counter(), time.process_time()
    asyncio.run(main())
    return time.perf_counter() - wall, time.process_time() - cpu


def library(port: int, count: int, concurrency: int, body: bytes) -> tuple[float, float]:
    """Return seconds of wall time and of CPU."""
    import aiohttp

    async def main() -> None:
        limits = aiohttp.ClientTimeout(total=30)
        jar, connector = aiohttp.DummyCookieJar(), aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            connector=connector, timeout=limits, cookie_jar=jar
        ) as session:
            todo = iter(range(count))

            async def ask_in_turn() -> None:
                for _ in todo:
                    async with session.post(
                        f"http://127.0.0.1:{port}/v1/chat/completions", data=body
                    ) as response:
                        json.loads(await response.read())

            await asyncio.gather(*(ask_in_turn() for _ in range(concurrency)))

    wall, cpu = time.perf_counter(), time.process_time()
    asyncio.run(main())
    return time.perf_counter() - wall, time.process_time() - cpu


def texts(root: Path, count: int) -> list[Any]:
    from omnicore.engines.base import Request

    return [
        Request((f"{'A' * (PICTURE * 4 // 3)} Question {i}? dog cat owl fox",), root)
        for i in range(count)
    ]


def pictures(root: Path, count: int) -> list[Any]:
    from PIL import Image

    from omnicore.engines.base import Request
    from omnicore.schema import Media
    from omnicore.storage.digests import sha256_file

    shown = []
    for number in range(-(-count // 8)):  # eight draws a query, as in a probe
        path = root / f"{number}.png"
        if not path.exists():
            Image.frombytes("L", (64, 64), os.urandom(4096)).save(path)
        shown.append(Media(kind="image", uri=path.name, sha256=sha256_file(path)))
    return [Request((shown[i // 8], f"Question {i}? dog cat owl fox"), root) for i in range(count)]


def engine(port: int, asked: list[Any], concurrency: int, journal: Path) -> tuple[float, float]:
    """Return seconds of wall time and of CPU until all are answered and journaled.

    Afterwards all replies are read back and checked.
    """
    from omnicore.config import EngineConfig, Profile
    from omnicore.engines import open_engine
    from omnicore.engines.base import Sampling, run_requests

    config = EngineConfig(kind="http", url=f"http://127.0.0.1:{port}/v1", concurrency=concurrency)
    server = open_engine(config, "stub", Profile())
    wall, cpu = time.perf_counter(), time.process_time()
    replies = run_requests(
        server, asked, Sampling(1.0, 14), seed=0, batch=1, journal=journal, label="perf"
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert sum(reply.text == "<answer>dog</answer>" for reply in replies) == len(asked), (
        "a reply is missing"
    )
    return wall, cpu


def rounds(count: int, repeat: int, concurrencies: list[int]) -> None:
    rates_and_cpu: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name, stub() as port:
        root = Path(name)
        asked = {"texts": texts(root, count), "pictures": pictures(root, count)}
        body = json.dumps({"model": "stub", "x": "A" * (PICTURE * 4 // 3), "seed": 1}).encode()
        engine(port, asked["texts"][:100], 1, root / "warm.journal")
        for turn in range(repeat):
            for concurrency in concurrencies:
                runs = {
                    "bare": bare(port, count, concurrency, body),
                    "aiohttp": library(port, count, concurrency, body),
                }
                for kind, requests in asked.items():
                    journal = root / f"{kind}-{turn}-{concurrency}.journal"
                    runs[kind] = engine(port, requests, concurrency, journal)
                for client, (wall, cpu) in runs.items():
                    rates_and_cpu.setdefault((client, concurrency), []).append(
                        (count / wall, 1000 * cpu / count)
                    )
                print(
                    f"round {turn + 1}, {concurrency} at once, load {os.getloadavg()[0]:.2f}",
                    file=sys.stderr,
                )
    median = {}
    for key, runs in rates_and_cpu.items():
        median[key] = statistics.median(rate for rate, _ in runs)
    best = max(rate for (client, _), rate in median.items() if client == "bare")
    print(
        f"{count} requests a run, {repeat} runs each in turn; the stub's capacity is"
        f" {CAPACITY / SERVICE:.0f}/s"
    )
    for (client, concurrency), runs in rates_and_cpu.items():
        rates, cpus = zip(*runs, strict=True)
        rate = median[client, concurrency]
        print(
            f"{client:8} {concurrency:4} at once: median {rate:.0f}/s, {min(rates):.0f} to"
            f" {max(rates):.0f}; {rate / median['bare', concurrency]:.1%} of the bare loop's,"
            f" {rate / best:.1%} of its best; {statistics.median(cpus):.3f} ms of CPU a request"
        )


def memory(count: int) -> None:
    """Print the memory of this process before and after; run it in its own process."""
    with tempfile.TemporaryDirectory() as name, stub() as port:
        asked = pictures(Path(name), count)
        engine(port, asked[:200], CAPACITY, Path(name) / "warm.journal")
        before = _peak()
        engine(port, asked, CAPACITY, Path(name) / "a.journal")
        print(json.dumps({"requests": count, "before": before, "peak": _peak()}))


def _peak() -> float:
    """Return the peak memory of this process in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--requests", type=int, default=6000)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--concurrency", type=int, nargs="+", default=[64, 128])
    options.add_argument("--memory", type=int, help="measure memory with this number of requests")
    given = options.parse_args()
    if given.memory:
        memory(given.memory)
        return
    print(f"load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores before")
    rounds(given.requests, given.rounds, given.concurrency)
    print(f"load average {os.getloadavg()[0]:.2f} after")
    for count in (2_000, 20_000):
        command = [sys.executable, "-m", "perf.http", "--memory", str(count)]
        line = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ).stdout
        figures = json.loads(line)
        print(
            f"memory: {count} requests, {figures['before']:.0f} MB before, {figures['peak']:.0f} MB"
            " at the peak"
        )


if __name__ == "__main__":
    main()
