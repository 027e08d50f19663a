"""The store without a server: addresses, part sizes, the manifest, and environment settings."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from omnicore import storage
from omnicore.errors import ConfigError, DataError
from omnicore.storage import store
from omnicore.storage.digests import digest_directory, sha256_file
from omnicore.storage.publication import digest_files
from tests.errors import refused

s3 = pytest.importorskip("omnicore.storage.s3", reason="minio is not installed")
s3_connection = pytest.importorskip("omnicore.storage.s3_connection")
MIB = 1 << 20
SHA = "0" * 64


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    for name in (
        "AWS_CA_BUNDLE",
        "SSL_CERT_FILE",
        "AWS_ENDPOINT_URL_S3",
        "OMNI_S3_SECRET_DIR",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMNI_S3_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")


@pytest.mark.parametrize(
    ("uri", "bucket", "prefix"),
    [
        ("s3://omni/a", "omni", "a"),
        ("s3://omni/runs/a/sft/", "omni", "runs/a/sft"),
        ("s3://o-m.1/ä b", "o-m.1", "ä b"),
    ],
)
def test_parse_uri_splits_bucket_and_prefix(uri, bucket, prefix):
    assert s3.parse_uri(uri) == (bucket, prefix)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://omni",
        "s3://omni/",
        "s3:///a",
        "/a/b",
        "gs://omni/a",
        "s3://omni/a//b",
        "s3://o/a?b",
        "s3://o/a#b",
    ],
)
def test_parse_uri_refuses_other_forms(uri):
    with refused(ConfigError, "s3-uri-invalid"):
        store.stat(uri)


@pytest.mark.parametrize(
    ("size", "part", "count"),
    [
        (0, 8, 1),
        (1, 8, 1),
        (8 * MIB, 8, 1),
        (8 * MIB + 1, 8, 2),
        (200 * MIB, 8, 25),
        (80_000 * MIB, 8, 10_000),
        (80_000 * MIB + 1, 9, 8889),
        (5_000_000 * MIB, 500, 10_000),
    ],
)
def test_part_sizes_fit_the_protocol(size, part, count):
    assert (s3.part_size(size), s3.part_count(size)) == (part * MIB, count)


def published(*names: str) -> dict[str, object]:
    files = [{"name": name, "size": 0, "sha256": SHA, "etag": "e"} for name in names]
    return {"digest": digest_files(dict.fromkeys(names, SHA)), "files": files}


@pytest.mark.parametrize("name", ["/etc/passwd", "../a", "a/../../b", "a//b", "./a", ".", "", "a/"])
def test_manifest_cannot_place_files_outside(name):
    store.Publication.model_validate(published("a", "b/c", "..d", "a b/ü"))
    with pytest.raises(ValidationError):
        store.Publication.model_validate(published(name))


def test_manifest_refuses_inconsistent_fields():
    for change in ({"digest": SHA}, {"files": []}, {"more": 1}):
        with pytest.raises(ValidationError):
            store.Publication.model_validate(published("a") | change)


def test_digest_equals_that_of_the_directory(tmp_path):
    for name in ("b", "a/c", "a/ä"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    sha256 = {name: sha256_file(tmp_path / name) for name in ("b", "a/ä", "a/c")}
    assert digest_files(sha256) == digest_directory(tmp_path, skip=())


def test_publish_refuses_unfinished_work(tmp_path):
    for name in ("key.journal", "a.lock", "b.tmp"):
        (tmp_path / name).write_text("x")
    for place in (tmp_path, tmp_path / "absent"):
        with refused(DataError, "publish-no-files", path=place):
            store.publish(place, "s3://omni/a")


@pytest.mark.parametrize(
    ("values", "code", "field"),
    [
        ({"OMNI_S3_ENDPOINT": "127.0.0.1:9000"}, "s3-endpoint-invalid", "OMNI_S3_ENDPOINT"),
        ({"OMNI_S3_ENDPOINT": "http://host/path"}, "s3-endpoint-invalid", "OMNI_S3_ENDPOINT"),
        (
            {"OMNI_S3_ENDPOINT": "", "AWS_ENDPOINT_URL_S3": "ftp://host"},
            "s3-endpoint-invalid",
            "OMNI_S3_ENDPOINT",
        ),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "s3-credentials-incomplete", "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_CA_BUNDLE": "/absent.pem"}, "s3-ca-bundle-missing", "AWS_CA_BUNDLE"),
        ({"SSL_CERT_FILE": "/absent.pem"}, "s3-ca-bundle-missing", "AWS_CA_BUNDLE"),
        ({"OMNI_S3_SECRET_DIR": "/absent"}, "s3-secret-unreadable", "OMNI_S3_SECRET_DIR"),
    ],
)
def test_wrong_setting_is_refused_by_name(monkeypatch, values, code, field):
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with refused(ConfigError, code, field=field):
        store.stat("s3://omni/a")


def test_session_token_accompanies_the_keys(monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "t")
    where, provider = s3_connection.credentials_from_environment()
    found = provider.retrieve()
    assert (where, found.access_key, found.secret_key, found.session_token) == (
        "AWS_ACCESS_KEY_ID",
        "a",
        "b",
        "t",
    )


def test_store_module_loads_no_sdk():
    code = "import sys; import omnicore.storage.store, omnicore.runtime.remote; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "omnicore.storage.store" in loaded
    assert not {"minio", "urllib3", "omnicore.storage.s3"} & set(loaded)


def test_missing_sdk_is_refused_with_its_extra(monkeypatch):
    for name in ("s3", "s3_connection", "s3_multipart"):
        monkeypatch.delattr(storage, name, raising=False)
        monkeypatch.delitem(sys.modules, f"omnicore.storage.{name}")
    monkeypatch.setitem(sys.modules, "minio", None)
    with refused(ConfigError, "s3-sdk-missing") as caught:
        store.stat("s3://omni/a")
    assert "pip install 'omnicore[cluster]'" in str(caught.value)


def test_lock_waits_for_its_holder(tmp_path: Path):
    order: list[str] = []
    with store.lock_directory(tmp_path / "a"):
        other = threading.Thread(target=append_under_lock, args=[tmp_path / "a", order])
        other.start()
        other.join(0.2)
        order.append("first")
    other.join()
    assert order == ["first", "second"]


def append_under_lock(path: Path, order: list[str]) -> None:
    with store.lock_directory(path):
        order.append("second")
