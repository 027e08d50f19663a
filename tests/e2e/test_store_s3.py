"""The store against a real S3 server that is killed, cut off, overwritten and given wrong keys."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from types import ModuleType

import pytest

from omnicore import staging, store
from omnicore.config import load_recipe
from omnicore.errors import ConfigError, DataError, OmniError, StorageError
from omnicore.provenance import digest_directory
from tests.seaweed import ACCESS, BUCKET, SECRET, Proxy, Seaweed, free_ports, proxied, seaweed

__all__ = ["seaweed"]
MIB = 1 << 20
ROOT = Path(__file__).parents[2]
SETTINGS = ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN", "OMNI_S3_SECRET_DIR", "AWS_REGION")
PUBLISH = "import sys; from pathlib import Path; from omnicore import store; store.publish(Path(sys.argv[1]), sys.argv[2])"


@pytest.fixture(autouse=True)
def environment(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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
    """No retries, so that what a retry would mend is seen."""
    monkeypatch.setattr("omnicore.s3.TRIES", 0)


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
    found = client._list_multipart_uploads(BUCKET, prefix=uri.removeprefix(f"s3://{BUCKET}/")).uploads
    return [part.size for u in found for part in client._list_parts(BUCKET, u.object_name, u.upload_id).parts]


def overwrite(seaweed: Seaweed, uri: str, name: str, data: bytes) -> None:
    seaweed.client().put_object(BUCKET, f"{uri.removeprefix(f's3://{BUCKET}/')}/{name}", BytesIO(data), len(data))


def test_a_directory_comes_back_as_it_went(seaweed: Seaweed, uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, int | str] = {
        "big": 20 * MIB + 5,
        "exact": 8 * MIB,
        "empty": 0,
        "a/b c/ü+%20?&=#.json": "{}",
        "x.journal": "x",
    }
    source = fill(tmp_path / "source", names)
    published = store.publish(source, uri)
    assert objects(seaweed, uri).keys() == {
        "published.json",
        *(f"{published.folder}/{name}" for name in names if name != "x.journal"),
    }
    assert published.digest == digest_directory(source, skip=("*.journal",))
    assert store.look(uri) == published
    assert store.intact(uri, published)
    assert store.fetch(uri, tmp_path / "back") == published
    assert same(source, tmp_path / "back")
    assert parts(seaweed, uri) == []
    assert capsys.readouterr().err.splitlines() == [
        f"publish {uri}, MB: 30 of 30  moved 30",
        f"fetch {uri}, MB: 30 of 30  moved 30",
    ]


def test_nothing_travels_twice(proxy: Proxy, uri: str, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"big": 20 * MIB, **{f"{i}": 50_000 for i in range(20)}})
    store.publish(source, uri)
    store.fetch(uri, tmp_path / "back")
    up, down = proxy.up, proxy.down
    assert up > 21_000_000
    assert down > 21_000_000
    store.publish(source, uri)
    store.fetch(uri, tmp_path / "back")
    assert proxy.up - up < 50_000
    assert proxy.down - down < 50_000


@pytest.mark.parametrize("operation", ["publish", "fetch"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, r"refused the key of AWS_ACCESS_KEY_ID \(SignatureDoesNotMatch\); mend the key"),
        ({"AWS_ACCESS_KEY_ID": "unknown"}, r"refused the key of AWS_ACCESS_KEY_ID \(InvalidAccessKeyId\); mend the key"),
        ({"AWS_SESSION_TOKEN": "stale"}, "refused the key of AWS_ACCESS_KEY_ID"),
        ({"uri": "s3://absent/run"}, "no bucket absent at http://127.0.0.1:.*; create it, or mend the address"),
        ({"OMNI_S3_ENDPOINT": "closed"}, "is not to be reached .*refused.*; check OMNI_S3_ENDPOINT and the network"),
        ({"OMNI_S3_ENDPOINT": "silent"}, "is not to be reached .*timed out.*; check OMNI_S3_ENDPOINT and the network"),
        ({"OMNI_S3_ENDPOINT": "page"}, "does not answer as S3 does.*; check OMNI_S3_ENDPOINT"),
        ({"OMNI_S3_ENDPOINT": "https"}, "has a certificate that is not trusted|is not to be reached"),
        ({"AWS_ACCESS_KEY_ID": ""}, "no credentials for S3: set AWS_ACCESS_KEY_ID"),
    ],
    ids=["secret", "key", "token", "bucket", "closed", "silent", "page", "https", "none"],
)
def test_one_error_names_the_address_and_the_remedy(
    operation: str,
    values: dict[str, str],
    message: str,
    seaweed: Seaweed,
    uri: str,
    tmp_path: Path,
    impatient: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = fill(tmp_path / "source", {"a": 10})
    store.publish(source, uri)
    monkeypatch.setattr("omnicore.s3.READ", 0.3)
    closed = free_ports(1)[0]
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{closed}/keys")
    page = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=page.serve_forever, daemon=True).start()
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        places = {
            "closed": f"http://127.0.0.1:{closed}",
            "silent": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "page": f"http://127.0.0.1:{page.server_port}",
            "https": f"https://127.0.0.1:{seaweed.port}",
        }
        target = values.get("uri", uri)
        for name, value in values.items():
            monkeypatch.setenv(name, places.get(value, value))
        with pytest.raises(StorageError, match=message) as error:
            store.publish(source, target) if operation == "publish" else store.fetch(target, tmp_path / "back")
    page.shutdown()
    page.server_close()
    if "AWS_ACCESS_KEY_ID" not in values or values["AWS_ACCESS_KEY_ID"]:
        assert str(error.value).startswith(target)
    assert not (tmp_path / "back").exists()


class Page(BaseHTTPRequestHandler):
    """A web site, which is no S3, and the endpoint that gives a pod the keys of its role."""

    def answer(self) -> None:
        keys = {"AccessKeyId": ACCESS, "SecretAccessKey": SECRET, "Token": None, "Expiration": "2100-01-01T00:00:00Z"}
        body = json.dumps(keys).encode() if self.path == "/keys" else b"<html>welcome</html>"
        self.send_response(200 if self.path == "/keys" else 404)
        self.send_header("Content-Type", "application/json" if self.path == "/keys" else "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = answer  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


def test_keys_of_a_mounted_secret_may_rotate(seaweed: Seaweed, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = fill(tmp_path / "secret", {"accesskey": f"{ACCESS}\n", "secretkey": "old"})
    source = fill(tmp_path / "source", {"a": 10})
    monkeypatch.setenv("OMNI_S3_SECRET_DIR", str(secret))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StorageError, match=f"refused the key of the secret in {secret}"):
        store.publish(source, uri)
    fill(secret, {"secretkey": SECRET})
    store.fetch(uri, tmp_path / "back") if store.look(uri) else store.publish(source, uri)
    assert store.look(uri)


def test_keys_of_a_role(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=page.serve_forever, daemon=True).start()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{page.server_port}/keys")
    assert store.publish(fill(tmp_path / "source", {"a": 10}), uri) == store.look(uri)
    page.shutdown()
    page.server_close()


def test_a_ca_of_ones_own(seaweed: Seaweed, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "ca.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=omni", "-addext"]
    subprocess.run([*made, "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    source = fill(tmp_path / "source", {"big": 9 * MIB, "a": 10})
    with proxied(seaweed.port, context) as proxy:
        monkeypatch.setenv("OMNI_S3_ENDPOINT", f"https://127.0.0.1:{proxy.port}")
        with pytest.raises(StorageError, match=r"has a certificate that is not trusted .*; give its CA's file in AWS_CA_BUNDLE"):
            store.publish(source, uri)
        for name in ("SSL_CERT_FILE", "AWS_CA_BUNDLE"):
            monkeypatch.setenv(name, str(certificate))
            store.publish(source, f"{uri}/{name}")
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        store.fetch(f"{uri}/AWS_CA_BUNDLE", tmp_path / "back")
    assert same(source, tmp_path / "back")


@pytest.mark.parametrize("damage", ["overwritten", "same size", "vanished"])
def test_a_damaged_object_is_refused_and_mended_by_publishing_again(
    seaweed: Seaweed, uri: str, tmp_path: Path, damage: str
) -> None:
    source = fill(tmp_path / "source", {"a": "right", "b": 1000})
    published = store.publish(source, uri)
    name = f"{published.folder}/a"
    if damage == "vanished":
        seaweed.client().remove_object(BUCKET, f"{uri.removeprefix(f's3://{BUCKET}/')}/{name}")
    else:
        overwrite(seaweed, uri, name, b"wrong" if damage == "same size" else b"wrong bytes")
    assert not store.intact(uri, published)
    said = "the object has vanished" if damage == "vanished" else "its bytes are not those that were published"
    with pytest.raises(StorageError, match=f"{uri}/{name}: {said}.*command that made it"):
        store.fetch(uri, tmp_path / "back")
    with pytest.raises(StorageError, match=f"{uri}/{name}: "):
        store.read(uri, published, "a")
    assert not (tmp_path / "back").exists()
    assert store.publish(source, uri) == published
    assert store.intact(uri, published)
    store.fetch(uri, tmp_path / "back")
    assert same(source, tmp_path / "back")


def test_a_damaged_manifest_is_refused(seaweed: Seaweed, uri: str, tmp_path: Path) -> None:
    published = store.publish(fill(tmp_path / "source", {"a": 10}), uri)
    text = published.model_dump_json()
    for broken in (text[:-9], text.replace('"a"', '"../a"'), text.replace('"a"', '"b"'), "", "null"):
        overwrite(seaweed, uri, "published.json", broken.encode())
        with pytest.raises(StorageError, match=f"{uri}/published.json is damaged: .*; remove it and publish the result again"):
            store.fetch(uri, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert not (tmp_path / "a").exists()


def test_nothing_published_and_a_full_directory(uri: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{uri}: nothing is published there .*; run the step that makes it, with --output {uri}"):
        store.fetch(uri, tmp_path / "back")
    store.publish(fill(tmp_path / "source", {"a": 10}), uri)
    other = fill(tmp_path / "other", {"a": "mine"})
    with pytest.raises(ConfigError, match=f"{other} is not empty and does not hold what {uri} does"):
        store.fetch(uri, other)
    assert (other / "a").read_text() == "mine"


def test_a_republish_never_mixes_and_leaves_old_readers_theirs(uri: str, tmp_path: Path) -> None:
    first, second = fill(tmp_path / "1", {"a": "1", "only": "1"}), fill(tmp_path / "2", {"a": "2"})
    old = store.publish(first, uri)
    store.publish(second, uri)
    store.fetch(uri, tmp_path / "new")
    store.fetch(uri, tmp_path / "old", old)
    assert same(second, tmp_path / "new")
    assert same(first, tmp_path / "old")


def test_two_writers_at_once_leave_one_of_both(uri: str, tmp_path: Path) -> None:
    """Each publishes several times; who reads meanwhile sees one of both whole, every time."""
    sources = [fill(tmp_path / name, {"big": 9 * MIB, "a": name, f"{name}/b": 10}) for name in ("one", "two")]
    store.publish(sources[0], uri)
    loop = f"{PUBLISH}\nfor i in range(8): store.publish(Path(sys.argv[1]), sys.argv[2])"
    writers = [
        subprocess.Popen([sys.executable, "-c", loop, str(source), uri], cwd=ROOT, stderr=subprocess.PIPE) for source in sources
    ]
    reads = 0
    while reads < 3 or any(writer.poll() is None for writer in writers):
        back = tmp_path / f"back{reads}"
        store.fetch(uri, back)
        assert sum(same(source, back) for source in sources) == 1
        reads += 1
    for writer in writers:
        assert writer.wait() == 0, writer.stderr and writer.stderr.read()
        assert writer.stderr
        writer.stderr.close()


def test_writers_of_the_same_large_file(uri: str, tmp_path: Path) -> None:
    """They go on with one another's parts, and one of them ends the upload under the others' hands."""
    source = fill(tmp_path / "source", {"big": 30 * MIB})
    failures: list[BaseException] = []

    def write() -> None:
        try:
            store.publish(source, uri)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    store.fetch(uri, tmp_path / "back")
    assert same(source, tmp_path / "back")
    published = store.look(uri)
    assert published
    assert store.intact(uri, published)


def test_a_server_that_comes_back_is_waited_for(seaweed: Seaweed, proxy: Proxy, uri: str, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"big": 60 * MIB, **{f"{i}": 10_000 for i in range(50)}})

    def restart() -> None:
        seaweed.kill()
        proxy.cut()
        time.sleep(1)
        seaweed.start()

    proxy.when("up", 20 * MIB, lambda: threading.Thread(target=restart).start())
    store.publish(source, uri)
    proxy.when("down", 20 * MIB, proxy.cut)
    down = proxy.down
    store.fetch(uri, tmp_path / "back")
    assert same(source, tmp_path / "back")
    assert proxy.down - down < 63 * MIB  # the stream went on where it broke off


def test_a_server_that_stays_away_leaves_nothing_to_see_and_the_next_call_goes_on(
    seaweed: Seaweed, proxy: Proxy, uri: str, tmp_path: Path, impatient: None
) -> None:
    source = fill(tmp_path / "source", {"big": 104 * MIB, **{f"{i}": 50_000 for i in range(50)}})

    def stop() -> None:
        seaweed.kill()
        proxy.cut()

    proxy.when("up", 90 * MIB, stop)
    with pytest.raises(StorageError, match=f"{uri}/.*is not to be reached.*it goes on where it was"):
        store.publish(source, uri)
    seaweed.start()
    assert store.look(uri) is None
    held = sum(parts(seaweed, uri)) + sum(objects(seaweed, uri).values())
    assert held > 10 * MIB
    up = proxy.up
    published = store.publish(source, uri)
    assert proxy.up - up < 104 * MIB + 50 * 50_000 - held + 200_000
    assert store.intact(uri, published)
    assert parts(seaweed, uri) == []


def test_an_interrupted_fetch_keeps_whole_files(
    proxy: Proxy, uri: str, tmp_path: Path, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = fill(tmp_path / "source", {f"{i}": 100_000 for i in range(100)})
    store.publish(source, uri)
    proxy.when("down", 6_000_000, proxy.cut)
    with pytest.raises(StorageError, match="it goes on where it was"):
        store.fetch(uri, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    held = [path for path in (tmp_path / "back.part").iterdir() if path.read_bytes() == (source / path.name).read_bytes()]
    assert len(held) > 40
    (tmp_path / "back.part" / "stray").write_text("left by somebody")
    down = proxy.down
    store.fetch(uri, tmp_path / "back")
    assert proxy.down - down < (100 - len(held)) * 101_000 + 50_000
    assert same(source, tmp_path / "back")


def test_a_killed_uploader_goes_on(seaweed: Seaweed, proxy: Proxy, uri: str, tmp_path: Path) -> None:
    """kill -9 in the middle of 200 MB; then the same command sends only what was missing, in memory that does not grow with it."""
    source = fill(tmp_path / "source", {"big": 200 * MIB})
    command = [sys.executable, "-c", PUBLISH, str(source), uri]
    uploader = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    proxy.when("up", 120 * MIB, uploader.kill)
    assert uploader.wait() == -9
    assert store.look(uri) is None
    held = sum(parts(seaweed, uri))
    assert held > 50 * MIB
    up = proxy.up
    code = f"{PUBLISH}; print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    done = subprocess.run([sys.executable, "-c", code, str(source), uri], cwd=ROOT, capture_output=True, text=True, check=True)
    assert proxy.up - up < 201 * MIB - held
    assert int(done.stdout) < 200_000  # kB
    assert parts(seaweed, uri) == []
    store.fetch(uri, tmp_path / "back")
    assert same(source, tmp_path / "back")


@pytest.mark.slow
def test_many_small_files(seaweed: Seaweed, proxy: Proxy, uri: str, tmp_path: Path) -> None:
    """5,000, the uploader killed among them."""
    source = fill(tmp_path / "source", {f"{i % 50}/{i}.json": 2000 + i % 7 for i in range(5000)})
    uploader = subprocess.Popen([sys.executable, "-c", PUBLISH, str(source), uri], cwd=ROOT, stderr=subprocess.DEVNULL)
    proxy.when("up", 3 * MIB, uploader.kill)
    assert uploader.wait() == -9
    there = len(objects(seaweed, uri))
    assert 500 < there < 4000
    up = proxy.up
    published = store.publish(source, uri)
    assert proxy.up - up < (5000 - there + 100) * 3000
    assert len(published.files) == 5000
    assert store.intact(uri, published)
    store.fetch(uri, tmp_path / "back")
    assert same(source, tmp_path / "back")


def test_a_full_disk_is_named_and_leaves_nothing(uri: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("cannot mount a small disk here")
    try:
        store.publish(fill(tmp_path / "source", {"big": 9 * MIB}), uri)
        with pytest.raises(StorageError, match=f"no space left on the disk of {disk}/"):
            store.fetch(uri, disk / "back")
        assert not (disk / "back").exists()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_file_that_changes_meanwhile_is_not_published(proxy: Proxy, uri: str, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"big": 20 * MIB})
    proxy.when("up", 10 * MIB, lambda: fill(source, {"big": 20 * MIB}) and None)
    with pytest.raises(DataError, match=f"{source}/big changed while it was published"):
        store.publish(source, uri)
    assert store.look(uri) is None


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """prepare and sft that write one file each, counted."""
    ran = {"prepare": 0, "sft": 0}
    for name in ran:

        def run(recipe, config, inputs, output, name=name):  # type: ignore[no-untyped-def]
            ran[name] += 1
            (output / f"{name}.txt").write_text("".join((path / "prepare.txt").read_text() for path in inputs.values()) + name)
            return {"rows": 1}

        module = ModuleType(name)
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"omnicore.steps.{name}", module)
    return ran


def test_steps_read_and_write_addresses(seaweed: Seaweed, proxy: Proxy, uri: str, tmp_path: Path, steps: dict[str, int]) -> None:
    recipe = load_recipe("tiny")
    first = staging.run("prepare", recipe, {}, f"{uri}/prepare/")
    made = staging.run("sft", recipe, {"data": f"{uri}/prepare"}, f"{uri}/sft")
    assert store.read(f"{uri}/sft", store.known(f"{uri}/sft"), "sft.txt") == b"preparesft"
    assert made["inputs"] == {"data": first["digest"]}
    assert staging.run("sft", recipe, {"data": f"{uri}/prepare/"}, f"{uri}/sft") == made
    assert steps == {"prepare": 1, "sft": 1}

    overwrite(seaweed, f"{uri}/sft", f"{store.known(f'{uri}/sft').folder}/sft.txt", b"spoilt")
    staging.run("sft", recipe, {"data": f"{uri}/prepare"}, f"{uri}/sft")
    assert steps == {"prepare": 1, "sft": 2}
    assert store.intact(f"{uri}/sft", store.known(f"{uri}/sft"))
    staging.run("sft", load_recipe("tiny", ["sft.steps=7"]), {"data": f"{uri}/prepare"}, f"{uri}/sft")
    assert steps == {"prepare": 1, "sft": 3}
    assert json.loads(store.read(f"{uri}/sft", store.known(f"{uri}/sft"), "step.json"))["config"]["steps"] == 7

    staging.run("sft", recipe, {"data": f"{uri}/prepare"}, str(tmp_path / "local"))
    assert (tmp_path / "local" / "sft.txt").read_text() == "preparesft"
    scratch = tmp_path / f"omnicore-{os.getuid()}"
    assert {path.suffix for path in scratch.iterdir()} == {".lock"}


def test_a_step_whose_publishing_failed_publishes_what_it_has(
    seaweed: Seaweed, uri: str, steps: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(directory: Path, uri: str) -> None:
        raise StorageError("away")

    with monkeypatch.context() as patched:
        patched.setattr(store, "publish", refuse)
        with pytest.raises(StorageError, match="away"):
            staging.run("prepare", load_recipe("tiny"), {}, uri)
    assert store.look(uri) is None
    staging.run("prepare", load_recipe("tiny"), {}, uri)
    assert store.look(uri)
    assert steps["prepare"] == 1


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        ({"data": "{}/prepare"}, "{}/prepare", "lie in one another; give the output its own address"),
        ({"data": "{}/prepare"}, "{}/prepare/sft", "lie in one another"),
        ({"data": "{}/prepare"}, "{}", "lie in one another"),
        ({"data": "{}/prepare"}, "{}/other", "holds a result of prepare; give sft an address of its own"),
        ({"data": "{}/prepare"}, "{}/plain", "holds something that is no result of omnicore; give another address"),
        ({"data": "{}/plain"}, "{}/new", "is not a finished output: no step.json"),
        ({"data": "{}/absent"}, "{}/new", "nothing is published there"),
        ({"data": "absent"}, "{}/new", "absent: no such directory"),
        ({"zzz": "{}/prepare"}, "{}/new", "no input 'zzz'"),
        ({}, "{}/new", "input 'data' is missing"),
    ],
)
def test_addresses_that_cannot_be(
    uri: str, tmp_path: Path, steps: dict[str, int], inputs: dict[str, str], output: str, message: str
) -> None:
    staging.run("prepare", load_recipe("tiny"), {}, f"{uri}/prepare")
    staging.run("prepare", load_recipe("tiny"), {}, f"{uri}/other")
    store.publish(fill(tmp_path / "plain", {"a": 1}), f"{uri}/plain")
    with pytest.raises(OmniError, match=message):
        staging.run("sft", load_recipe("tiny"), {role: place.format(uri) for role, place in inputs.items()}, output.format(uri))
    assert steps["sft"] == 0


@pytest.mark.slow
def test_the_command_line_on_addresses(uri: str, tmp_path: Path) -> None:
    settings = ["--set", "prepare.scale=0.05", "--set", "threads=1", "--set", "sft.steps=1"]

    def omnicore(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "omnicore", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    train = ["sft", *settings, "--input", f"data={uri}/prepare", "--output", f"{uri}/sft"]
    early = omnicore(*train)
    assert (early.returncode, early.stdout) == (2, "")
    assert early.stderr.startswith(f"omnicore: {uri}/prepare: nothing is published there")
    for command in (["prepare", *settings, "--output", f"{uri}/prepare"], train):
        done = omnicore(*command)
        assert done.returncode == 0, done.stderr
    again = omnicore(*train)
    assert again.stdout.startswith("sft: done before  rows ")
    assert again.stderr == ""
    names = {file.name for file in store.known(f"{uri}/sft").files}
    assert {"step.json", "metrics.prom", "curves.jsonl", "checkpoint/model.safetensors"} <= names
