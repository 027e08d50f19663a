"""Podman for tests: a store, a socket and a Debian of their own, so that nothing else on the
machine is touched.

The base image is made by debootstrap, once a machine (.cache/); the wheels that a build downloads
stay there, too.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache" / "containers"
BASE = "localhost/debian:bookworm-slim"
PACKAGES = "python3,python3-venv,ca-certificates"
# Without a kernel that grants more: no limits above our own, no network namespaces, no systemd.
CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
netns = "host"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
NEEDED = {"podman": "podman", "runc": "runc", "debootstrap": "debootstrap", "tar": "tar"}


def missing() -> str:
    """Why containers cannot be built here; empty where they can."""
    absent = [
        package
        for command, package in NEEDED.items()
        if not shutil.which(command, path=f"{os.environ['PATH']}:/usr/sbin")
    ]
    if absent:
        return f"not installed: {', '.join(absent)}"
    return "" if os.getuid() == 0 else "debootstrap needs root"


class Podman:
    """An engine that lives in `directory`.

    `environment` leads every client there, by command and by DOCKER_HOST.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {
            **os.environ,
            "CONTAINERS_CONF": str(directory / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(directory / "storage.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(directory / "registries.conf"),
            "DOCKER_HOST": f"unix://{directory}/podman.sock",
            "TMPDIR": str(CACHE / "tmp"),  # builds keep what `--mount=type=cache` holds under it
        }

    def start(self) -> None:
        (CACHE / "tmp").mkdir(parents=True, exist_ok=True)
        store = (
            f'[storage]\ndriver = "overlay"\ngraphroot = "{self.directory}/store"\nrunroot ='
            f' "{self.directory}/run"\n'
        )
        (self.directory / "storage.conf").write_text(store)
        (self.directory / "containers.conf").write_text(CONTAINERS_CONF)
        (self.directory / "registries.conf").write_text("unqualified-search-registries = []\n")
        command = ["podman", "system", "service", "--time=0", self.environment["DOCKER_HOST"]]
        self.service = subprocess.Popen(command, env=self.environment, start_new_session=True)
        end = time.monotonic() + 30
        while not (self.directory / "podman.sock").is_socket():
            assert self.service.poll() is None, "podman's service ended"
            assert time.monotonic() < end, "podman's service did not start"
            time.sleep(0.05)

    def stop(self) -> None:
        """Ends the service and every container; unmounts what would keep the directory from being
        removed."""
        with suppress(ProcessLookupError):
            os.killpg(self.service.pid, signal.SIGTERM)
        self.service.wait(30)
        self("rm", "--all", "--force", "--time=0")
        self("rmi", "--all", "--force")
        for place in (self.directory / "store" / "overlay", self.directory / "run"):
            subprocess.run(["umount", "--recursive", str(place)], capture_output=True)

    def __call__(self, *arguments: str, check: bool = True) -> str:
        """Output of a podman command."""
        done = subprocess.run(
            ["podman", *arguments], env=self.environment, capture_output=True, text=True
        )
        assert not check or done.returncode == 0, (
            f"podman {arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done.stdout.strip()

    def debian(self) -> str:
        """Imports the base image and returns its name."""
        archive = CACHE / "debian.tar"
        if not archive.is_file():
            with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
                tree = Path(scratch) / "root"
                command = [
                    "debootstrap",
                    "--variant=minbase",
                    f"--include={PACKAGES}",
                    "bookworm",
                    str(tree),
                ]
                done = subprocess.run(
                    command,
                    capture_output=True,
                    text=True,
                    env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"},
                )
                assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
                skipped = [
                    f"--exclude=./{path}"
                    for path in (
                        "var/cache/apt/*",
                        "var/lib/apt/lists/*",
                        "usr/share/doc/*",
                        "dev/*",
                    )
                ]
                subprocess.run(
                    ["tar", "-C", str(tree), *skipped, "-cf", f"{archive}.new", "."], check=True
                )
                Path(f"{archive}.new").replace(archive)
        self("import", "--quiet", str(archive), BASE)
        return BASE

    def build(self, *names: str, **bases: str) -> dict[str, str]:
        """Builds images on the Debian, or on their `bases`; image names to tags.

        `images.json` of the directory tells the same.
        """
        told = self.directory / "images.json"
        bases = dict.fromkeys(("core", *names), BASE) | bases
        given = [f"--base={name}={image}" for name, image in bases.items()]
        command = [
            sys.executable,
            str(ROOT / "images" / "build.py"),
            *names,
            *given,
            f"--output={told}",
        ]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return {
            build["imageName"]: build["tag"] for build in json.loads(told.read_bytes())["builds"]
        }


@contextmanager
def podman() -> Iterator[Podman]:
    with tempfile.TemporaryDirectory(
        prefix="podman-"
    ) as directory:  # a short path: that of a socket has 108 bytes
        engine = Podman(Path(directory))
        engine.start()
        try:
            yield engine
        finally:
            engine.stop()
