"""What of the store needs no server: addresses, sizes of parts, the manifest, and what the
environment says."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from omnicore.errors import ConfigError, DataError
from omnicore.storage import store
from omnicore.storage.digests import digest_directory, sha256_file

s3 = pytest.importorskip("omnicore.storage.s3", reason="minio is not installed")
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
def test_addresses(uri, bucket, prefix):
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
def test_what_is_no_address_is_refused(uri):
    with pytest.raises(ConfigError, match="write s3://bucket/prefix"):
        store.stat(uri)


@pytest.mark.parametrize(
    ("size", "part", "pieces"),
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
def test_parts_fit_the_protocol(size, part, pieces):
    assert (s3.part_size(size), s3.pieces(size)) == (part * MIB, pieces)


def published(*names: str) -> dict[str, object]:
    files = [{"name": name, "size": 0, "sha256": SHA, "etag": "e"} for name in names]
    return {"digest": store.digest((name, SHA) for name in names), "files": files}


@pytest.mark.parametrize("name", ["/etc/passwd", "../a", "a/../../b", "a//b", "./a", ".", "", "a/"])
def test_a_manifest_cannot_place_files_outside(name):
    store.Publication.model_validate(published("a", "b/c", "..d", "a b/ü"))
    with pytest.raises(ValidationError):
        store.Publication.model_validate(published(name))


def test_a_manifest_holds_together():
    for change in ({"digest": SHA}, {"files": []}, {"more": 1}):
        with pytest.raises(ValidationError):
            store.Publication.model_validate(published("a") | change)


def test_the_digest_is_that_of_the_directory(tmp_path):
    for name in ("b", "a/c", "a/ä"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    sums = [(name, sha256_file(tmp_path / name)) for name in ("b", "a/ä", "a/c")]
    assert store.digest(sums) == digest_directory(tmp_path, skip=())


def test_work_on_its_way_is_no_result(tmp_path):
    for name in ("key.journal", "a.lock", "b.tmp"):
        (tmp_path / name).write_text("x")
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match="no files to publish; run the step"):
            store.publish(place, "s3://omni/a")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"OMNI_S3_ENDPOINT": "127.0.0.1:9000"},
            "S3 endpoint '127.0.0.1:9000': write http://host:port",
        ),
        ({"OMNI_S3_ENDPOINT": "http://host/path"}, "write http://host:port"),
        ({"OMNI_S3_ENDPOINT": "", "AWS_ENDPOINT_URL_S3": "ftp://host"}, "S3 endpoint 'ftp://host'"),
        (
            {"AWS_SECRET_ACCESS_KEY": ""},
            "AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not; set both",
        ),
        ({"AWS_CA_BUNDLE": "/absent.pem"}, "/absent.pem: no such file"),
        ({"SSL_CERT_FILE": "/absent.pem"}, "/absent.pem: no such file"),
        (
            {"OMNI_S3_SECRET_DIR": "/absent"},
            "cannot read /absent/accesskey: No such file or directory; mount the secret there",
        ),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch, values, message):
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        store.stat("s3://omni/a")


def test_a_session_token_goes_with_the_keys(monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "t")
    where, provider = s3.sign_in()
    found = provider.retrieve()
    assert (where, found.access_key, found.secret_key, found.session_token) == (
        "AWS_ACCESS_KEY_ID",
        "a",
        "b",
        "t",
    )


def test_the_light_modules_load_no_sdk():
    import subprocess
    import sys

    code = "import sys; import omnicore.storage.store, omnicore.runtime.remote; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "omnicore.storage.store" in loaded
    assert not {"minio", "urllib3", "omnicore.storage.s3"} & set(loaded)


def test_a_missing_sdk_names_its_extra(monkeypatch):
    import sys

    from omnicore import storage

    monkeypatch.delattr(storage, "s3", raising=False)
    monkeypatch.delitem(sys.modules, "omnicore.storage.s3")
    monkeypatch.setitem(sys.modules, "minio", None)
    with pytest.raises(
        ConfigError,
        match=r"s3://omni/a needs minio, which is not installed: pip install 'omnicore\[cluster\]'",
    ):
        store.stat("s3://omni/a")


def test_a_lock_waits_for_the_other(tmp_path: Path):
    import threading

    order = []
    with store.lock_directory(tmp_path / "a"):
        other = threading.Thread(target=lambda: [stack_in(tmp_path / "a", order)])
        other.start()
        other.join(0.2)
        order.append("first")
    other.join()
    assert order == ["first", "second"]


def stack_in(path: Path, order: list[str]) -> None:
    with store.lock_directory(path):
        order.append("second")
