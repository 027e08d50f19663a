"""Compare the store with the bare minio SDK: `python -m perf.store` prints medians and ratios.

One SeaweedFS on this machine, both clients in one process, in turns, several rounds. The SDK does
the same transfer with the same number of threads and the same size of parts, and nothing else: no
sha256 of a file, no listing, no manifest, no check of the content. `checked download` adds the sha256
of each file, the least that a reader needs to believe it. A large file goes by `put_object` with
`num_parallel_uploads` and comes by `fget_object`; small ones by a pool of threads. Other load on
the machine changes both, and is printed. `--mbit 1000` puts a network of that speed between the
clients and the server.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from omnicore.storage import s3, store
from omnicore.storage.digests import sha256_file
from perf.link import link
from tests.seaweed import BUCKET, Seaweed

MB = 1_000_000


def fill(folder: Path, count: int, size: int) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.bin").write_bytes(os.urandom(size))
    return folder


def bare_upload(bucket: s3.Bucket, source: Path, prefix: str) -> None:
    def send(path: Path) -> None:
        with path.open("rb") as file:
            bucket._client.put_object(
                BUCKET,
                f"{prefix}/{path.name}",
                file,
                path.stat().st_size,
                part_size=s3.PART,
                num_parallel_uploads=s3.WORKERS,
            )

    with ThreadPoolExecutor(s3.WORKERS) as pool:
        list(pool.map(send, source.iterdir()))


def bare_download(
    bucket: s3.Bucket, names: list[str], prefix: str, target: Path, *, check: bool = False
) -> None:
    def take(name: str) -> None:
        bucket._client.fget_object(BUCKET, f"{prefix}/{name}", str(target / name))
        if check:
            sha256_file(target / name)

    with ThreadPoolExecutor(s3.WORKERS) as pool:
        list(pool.map(take, names))


def measure(root: Path, label: str, count: int, size: int, rounds: int) -> None:
    source, bucket = fill(root / label.replace(" ", "-"), count, size), s3.Bucket(BUCKET)
    names = [path.name for path in source.iterdir()]
    seconds: dict[str, list[float]] = {
        "bare upload": [],
        "store publish": [],
        "bare download": [],
        "checked download": [],
        "store fetch": [],
    }
    cpu: dict[str, list[float]] = {name: [] for name in seconds}
    back = root / "back"

    def clear() -> None:
        """Empty the target: files written over others would reuse their warm memory."""
        shutil.rmtree(back, ignore_errors=True)
        for file in names:
            (root / file).unlink(missing_ok=True)

    for turn in range(rounds + 1):
        place = f"{source.name}/{turn}"
        calls: dict[str, Callable[[], object]] = {
            "bare upload": partial(bare_upload, bucket, source, f"{place}/bare"),
            "store publish": partial(store.publish, source, f"s3://{BUCKET}/{place}/store"),
            "bare download": partial(bare_download, bucket, names, f"{place}/bare", root),
            "checked download": partial(
                bare_download, bucket, names, f"{place}/bare", root, check=True
            ),
            "store fetch": partial(store.fetch, f"s3://{BUCKET}/{place}/store", back),
        }
        for group in (
            ("bare upload", "store publish"),
            ("bare download", "checked download", "store fetch"),
        ):
            # The first read of what was just written takes several times as long.
            if group[0] == "bare download":
                for name in ("bare download", "store fetch"):
                    calls[name]()
                    clear()
            for name in group if turn % 2 else reversed(group):
                os.sync()  # otherwise one pays for writing back what the other sent
                wall, spent = time.perf_counter(), time.process_time()
                calls[name]()
                if turn:  # the first round warms caches and connections
                    seconds[name].append(time.perf_counter() - wall)
                    cpu[name].append(time.process_time() - spent)
                clear()
    for bare, ours in (
        ("bare upload", "store publish"),
        ("bare download", "store fetch"),
        ("checked download", "store fetch"),
    ):
        parts = []
        for name in (bare, ours):
            took = statistics.median(seconds[name])
            rate = (
                f"{count * size / MB / took:.1f} MB/s"
                if size >= MB
                else f"{count / took:.0f} files/s"
            )
            parts.append(f"{name} {rate} ({statistics.median(cpu[name]):.2f} s of CPU)")
        print(
            f"{label}: {', '.join(parts)}; ratio"
            f" {statistics.median(seconds[bare]) / statistics.median(seconds[ours]):.2f}",
            flush=True,
        )


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--rounds", type=int, default=8)
    options.add_argument(
        "--mbit", type=int, default=0, help="million bits a second; 0: as fast as loopback"
    )
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as ends:
        root = Path(name)
        (root / "weed").mkdir()
        server = Seaweed(root / "weed")
        server.start()
        ends.callback(server.kill)
        os.environ.update(server.env)
        if given.mbit:
            os.environ["OMNI_S3_ENDPOINT"] = (
                f"http://127.0.0.1:{ends.enter_context(link(server.port, given.mbit))}"
            )
        print(f"load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores before")
        measure(root, "one file of 200 MB", 1, 200 * MB, given.rounds)
        measure(root, "500 files of 4 kB", 500, 4_000, given.rounds)
        measure(root, "20 files of 5 MB", 20, 5 * MB, given.rounds)
        print(f"load average {os.getloadavg()[0]:.2f} after")


if __name__ == "__main__":
    main()
