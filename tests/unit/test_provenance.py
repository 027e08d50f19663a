import hashlib
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from omnicore import __version__
from omnicore.errors import DataError
from omnicore.lineage.code_version import code_digest, git_revision, versions
from omnicore.lineage.step_record import read_step, write_step
from omnicore.storage.digests import digest_directory, sha256_file
from tests.errors import refused

FIELDS = {
    "step": "prepare",
    "section": "prepare",
    "key": "k",
    "seconds": 1.5,
    "summary": {"queries": 2, "loss": float("nan")},
}


@pytest.fixture
def output(tmp_path):
    root = tmp_path / "out"
    (root / "media").mkdir(parents=True)
    (root / "queries.jsonl").write_text("{}\n")
    (root / "media" / "a.png").write_bytes(b"picture")
    return root


def change(root, name, content=b"x"):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)


@pytest.mark.parametrize(
    "name",
    [
        "step.json",
        "metrics.prom",
        "checkpoint/model.sig",
        "visual_only.journal",
        "key.journal",
        "state.journal/model.bin",
        "x.lock",
    ],
)
def test_digest_ignores_files_without_content(output, name):
    before = digest_directory(output)
    change(output, name)
    assert digest_directory(output) == before


@pytest.mark.parametrize(
    "edit",
    [
        lambda root: change(root, "queries.jsonl"),
        lambda root: change(root, "media/b.png"),
        lambda root: change(root, "journal"),
        lambda root: (root / "media" / "a.png").unlink(),
        lambda root: (root / "media" / "a.png").rename(root / "media" / "b.png"),
        lambda root: (root / "media" / "a.png").rename(root / "a.png"),
    ],
)
def test_digest_covers_content_names_and_places(output, edit):
    before = digest_directory(output)
    edit(output)
    assert digest_directory(output) != before


def test_digest_is_independent_of_place_and_order(output, tmp_path):
    other = tmp_path / "other"
    change(other, "media/a.png", b"picture")
    change(other, "queries.jsonl", b"{}\n")
    assert digest_directory(other) == digest_directory(output)
    with refused(DataError, "directory-missing", path=tmp_path / "absent"):
        digest_directory(tmp_path / "absent")


def test_sha256_file_hashes_the_content(output):
    assert sha256_file(output / "media" / "a.png") == hashlib.sha256(b"picture").hexdigest()


def test_step_record_round_trips(output):
    record = write_step(output, FIELDS)
    assert read_step(output) == {**record, "summary": {"queries": 2, "loss": None}}
    assert record["digest"] == digest_directory(output)
    assert record["versions"] == versions()


@pytest.mark.parametrize(
    ("content", "code", "field"),
    [
        (None, "step-record-missing", None),
        ("{", "json-invalid", None),
        ("[]", "step-record-invalid", "digest"),
        (json.dumps({**FIELDS, "summary": {}}), "step-record-invalid", "digest"),
    ],
)
def test_unfinished_or_damaged_output_is_refused(output, content, code, field):
    if content is not None:
        (output / "step.json").write_text(content)
    with refused(DataError, code, field=field) as caught:
        read_step(output)
    assert str(output) in str(caught.value)


def test_missing_output_is_refused(tmp_path):
    with refused(DataError, "directory-missing", path=tmp_path / "absent"):
        read_step(tmp_path / "absent")


def test_versions_skip_missing_packages(monkeypatch):
    def version(name):
        if name == "trl":
            raise metadata.PackageNotFoundError(name)
        return "1.2"

    monkeypatch.setattr(metadata, "version", version)
    python = ".".join(map(str, sys.version_info[:3]))
    assert versions() == {
        "python": python,
        "omnicore": __version__,
        "torch": "1.2",
        "transformers": "1.2",
    }


def test_git_revision_is_the_last_commit_of_the_package(monkeypatch, tmp_path):
    package = tmp_path / "omnicore"
    monkeypatch.setattr("omnicore.lineage.code_version.PACKAGE", package)
    # As a hook of another repository sets it.
    monkeypatch.setenv("GIT_DIR", str(Path(__file__).parents[2] / ".git"))
    revision = git_revision.__wrapped__

    def git(*arguments):
        plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        who = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        return subprocess.run(
            ["git", *who, *arguments],
            cwd=tmp_path,
            env=plain,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def commit(name, content):
        change(tmp_path, name, content)
        git("add", ".")
        git("commit", "--quiet", "--message", name)
        return git("rev-parse", "HEAD").strip()

    change(package, "provenance.py", b"1")
    assert revision() == ""
    git("init", "--quiet")
    assert revision() == ""
    first = commit("omnicore/lineage/step_record.py", b"2")
    commit("docs/a.md", b"1")
    assert revision() == first
    change(package, "provenance.py", b"3")
    assert revision() == f"{first}-dirty"
    assert commit("omnicore/lineage/step_record.py", b"4") == revision() != first
    monkeypatch.setenv("PATH", str(tmp_path))
    assert revision() == ""


def test_code_digest_covers_the_package(monkeypatch, tmp_path):
    package = tmp_path / "omnicore"
    change(package, "provenance.py", b"1")
    change(package, "config/recipes/tiny.yaml")
    monkeypatch.setattr("omnicore.lineage.code_version.PACKAGE", package)
    digest = code_digest.__wrapped__
    before = digest()
    change(package, "config/recipes/tiny.yaml", b"other values")
    change(package, "steps/__pycache__/x.pyc")
    assert digest() == before
    change(package, "steps/probe.py", b"2")
    assert digest() != before
