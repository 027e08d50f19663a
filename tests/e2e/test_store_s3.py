"""Guarantees of the store to readers and writers, against a real S3 server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from omnicore.errors import ConfigError, DataError, StorageError
from omnicore.storage import store
from omnicore.storage.digests import digest_directory
from tests.errors import refused
from tests.seaweed import (
    BUCKET,
    MIB,
    ROOT,
    Proxy,
    Seaweed,
    fill,
    objects,
    overwrite,
    parts,
    proxy,
    same,
    seaweed,
    signed_in,
    uri,
)

__all__ = ["proxy", "seaweed", "signed_in", "uri"]
pytestmark = pytest.mark.usefixtures("signed_in")
PUBLISH = (
    "import sys; from pathlib import Path; from omnicore.storage import store;"
    " store.publish(Path(sys.argv[1]), sys.argv[2])"
)


def test_fetch_returns_the_published_files(
    seaweed: Seaweed, uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
    assert store.stat(uri) == published
    assert store.verify(uri, published)
    assert store.fetch(uri, tmp_path / "back") == published
    assert same(source, tmp_path / "back")
    assert parts(seaweed, uri) == []
    assert capsys.readouterr().err.splitlines() == [
        f"publish {uri}, MB: 30 of 30  moved 30",
        f"fetch {uri}, MB: 30 of 30  moved 30",
    ]


def test_repeated_publish_and_fetch_transfer_nothing(
    proxy: Proxy, uri: str, tmp_path: Path
) -> None:
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


@pytest.mark.parametrize("damage", ["overwritten", "same size", "missing"])
def test_republishing_repairs_a_damaged_object(
    seaweed: Seaweed, uri: str, tmp_path: Path, damage: str
) -> None:
    source = fill(tmp_path / "source", {"a": "right", "b": 1000})
    published = store.publish(source, uri)
    name = f"{published.folder}/a"
    if damage == "missing":
        seaweed.client().remove_object(BUCKET, f"{uri.removeprefix(f's3://{BUCKET}/')}/{name}")
    else:
        overwrite(seaweed, uri, name, b"wrong" if damage == "same size" else b"wrong bytes")
    assert not store.verify(uri, published)
    missing = damage == "missing"
    fetch_code = "s3-object-missing" if missing else "s3-object-corrupted"
    with refused(StorageError, fetch_code, path=f"{uri}/{name}"):
        store.fetch(uri, tmp_path / "back")
    with refused(StorageError, "s3-object-corrupted", path=f"{uri}/{name}"):
        store.read_file(uri, published, "a")
    assert not (tmp_path / "back").exists()
    assert store.publish(source, uri) == published
    assert store.verify(uri, published)
    store.fetch(uri, tmp_path / "back")
    assert same(source, tmp_path / "back")


def test_damaged_manifest_is_refused(seaweed: Seaweed, uri: str, tmp_path: Path) -> None:
    published = store.publish(fill(tmp_path / "source", {"a": 10}), uri)
    text = published.model_dump_json()
    for broken in (
        text[:-9],
        text.replace('"a"', '"../a"'),
        text.replace('"a"', '"b"'),
        "",
        "null",
    ):
        overwrite(seaweed, uri, "published.json", broken.encode())
        with refused(StorageError, "s3-manifest-damaged", path=f"{uri}/published.json"):
            store.fetch(uri, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert not (tmp_path / "a").exists()


def test_republish_keeps_old_and_new_results_apart(uri: str, tmp_path: Path) -> None:
    first, second = fill(tmp_path / "1", {"a": "1", "only": "1"}), fill(tmp_path / "2", {"a": "2"})
    old = store.publish(first, uri)
    store.publish(second, uri)
    store.fetch(uri, tmp_path / "new")
    store.fetch(uri, tmp_path / "old", old)
    assert same(second, tmp_path / "new")
    assert same(first, tmp_path / "old")


def test_concurrent_writers_leave_one_whole_result(uri: str, tmp_path: Path) -> None:
    """Each publishes several times; a reader sees one of both whole every time."""
    sources = [
        fill(tmp_path / name, {"big": 9 * MIB, "a": name, f"{name}/b": 10})
        for name in ("one", "two")
    ]
    store.publish(sources[0], uri)
    loop = f"{PUBLISH}\nfor i in range(8): store.publish(Path(sys.argv[1]), sys.argv[2])"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", loop, str(source), uri], cwd=ROOT, stderr=subprocess.PIPE
        )
        for source in sources
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


def test_another_writer_may_complete_the_upload(
    seaweed: Seaweed, proxy: Proxy, uri: str, tmp_path: Path
) -> None:
    """The first stalls in the middle of a part while a second resumes and completes its upload."""
    source = fill(tmp_path / "source", {"big": 30 * MIB})
    second: list[subprocess.CompletedProcess[bytes]] = []

    def overtake() -> None:
        command = [sys.executable, "-c", PUBLISH, str(source), uri]
        second.append(
            subprocess.run(
                command, cwd=ROOT, env=os.environ | seaweed.env, capture_output=True, check=False
            )
        )

    proxy.when("up", 20 * MIB, overtake)
    published = store.publish(source, uri)
    assert [done.returncode for done in second] == [0], second
    assert store.verify(uri, published)
    assert parts(seaweed, uri) == []
    store.fetch(uri, tmp_path / "back")
    assert same(source, tmp_path / "back")


def test_fetch_refuses_nothing_and_a_full_directory(uri: str, tmp_path: Path) -> None:
    with refused(DataError, "s3-not-published", path=uri):
        store.fetch(uri, tmp_path / "back")
    store.publish(fill(tmp_path / "source", {"a": 10}), uri)
    other = fill(tmp_path / "other", {"a": "mine"})
    with refused(ConfigError, "fetch-directory-not-empty", path=other):
        store.fetch(uri, other)
    assert (other / "a").read_text() == "mine"


def test_file_changed_during_publish_is_refused(proxy: Proxy, uri: str, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"big": 20 * MIB})
    proxy.when("up", 10 * MIB, lambda: fill(source, {"big": 20 * MIB}) and None)
    with refused(DataError, "publish-file-changed", path=source / "big"):
        store.publish(source, uri)
    assert store.stat(uri) is None
