"""A real Prometheus for tests, from Debian's package, on a free port of 127.0.0.1.

Without it the tests skip.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from tests.seaweed import free_ports

INTERVAL = 0.1  # seconds between two scrapes


def needs(binary: str) -> str:
    found = shutil.which(binary)
    if not found:
        pytest.skip(f"no {binary}: apt-get install prometheus prometheus-pushgateway")
    return found


@contextmanager
def started(
    command: list[str], url: str, log: Path, cwd: Path | None = None, seconds: float = 60
) -> Iterator[None]:
    """A server that answers at `url` within the block."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=cwd, stdout=file, stderr=file)
    try:
        end = time.monotonic() + seconds
        while True:
            try:
                urlopen(url, timeout=2).close()
                break
            except (URLError, ConnectionError, TimeoutError):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()


class Prometheus:
    """What it has scraped, over its HTTP API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **given: str | float) -> Any:
        with urlopen(f"{self.url}/api/v1/{path}?{urlencode(given)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def now(self, query: str) -> dict[frozenset[tuple[str, str]], float]:
        """{labels but those of the target: value} of a query."""
        found = self.get("query", query=query)["result"]
        return {
            frozenset(_own(series["metric"]).items()): float(series["value"][1]) for series in found
        }

    def scraped(self, query: str) -> list[tuple[float, float]]:
        """All samples of the one series that a selector names: (time, value)."""
        (series,) = self.get("query", query=f"{query}[10m]")["result"]
        return [(float(at), float(value)) for at, value in series["values"]]

    def until(self, query: str, seconds: float = 60) -> None:
        """Returns when a query has a result."""
        end = time.monotonic() + seconds
        while not self.now(query):
            assert time.monotonic() < end, (
                f"never: {query}; targets: {self.get('targets')['activeTargets']}"
            )
            time.sleep(INTERVAL)


def _own(labels: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in labels.items() if name not in {"__name__", "instance", "job"}
    }


@contextmanager
def prometheus(
    folder: Path, targets: Mapping[int, Mapping[str, str]], **scrape: Any
) -> Iterator[Prometheus]:
    """Scrapes ports of 127.0.0.1, each with its labels."""
    binary, (port,) = needs("prometheus"), free_ports(1)
    every = {
        "scrape_interval": f"{INTERVAL * 1000:.0f}ms",
        "scrape_timeout": f"{INTERVAL * 1000:.0f}ms",
    }
    static = [
        {"targets": [f"127.0.0.1:{target}"], "labels": dict(labels)}
        for target, labels in targets.items()
    ]
    config = {
        "global": every,
        "scrape_configs": [{"job_name": "omnicore", "static_configs": static, **scrape}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [
        binary,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/tsdb",
    ]
    with started(
        [*command, f"--web.listen-address=127.0.0.1:{port}"],
        f"http://127.0.0.1:{port}/-/ready",
        folder / "log",
    ):
        yield Prometheus(f"http://127.0.0.1:{port}")
