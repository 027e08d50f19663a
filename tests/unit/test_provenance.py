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
def test_what_is_no_content_does_not_count(output, name):
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
def test_content_names_and_places_count(output, edit):
    before = digest_directory(output)
    edit(output)
    assert digest_directory(output) != before


def test_the_digest_knows_neither_the_directory_nor_the_order_of_writing(output, tmp_path):
    other = tmp_path / "other"
    change(other, "media/a.png", b"picture")
    change(other, "queries.jsonl", b"{}\n")
    assert digest_directory(other) == digest_directory(output)
    with pytest.raises(DataError, match="no such directory"):
        digest_directory(tmp_path / "absent")


def test_sha256_of_a_file(output):
    assert sha256_file(output / "media" / "a.png") == hashlib.sha256(b"picture").hexdigest()


def test_a_step_goes_round(output):
    record = write_step(output, FIELDS)
    assert read_step(output) == {**record, "summary": {"queries": 2, "loss": None}}
    assert record["digest"] == digest_directory(output)
    assert record["versions"] == versions()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a finished output: no step.json; run the step again"),
        ("{", "is not JSON"),
        ("[]", "lacks .*run the step again"),
        (json.dumps({**FIELDS, "summary": {}}), "lacks digest; run the step again"),
    ],
)
def test_an_unfinished_or_damaged_output_is_named(output, content, message):
    if content is not None:
        (output / "step.json").write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read_step(output)
    assert str(output) in str(caught.value)


def test_a_missing_output_is_named(tmp_path):
    with pytest.raises(
        DataError, match=r"absent: no such directory; run the step that makes it first"
    ):
        read_step(tmp_path / "absent")


def test_versions_leave_out_what_is_not_installed(monkeypatch):
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


def test_the_revision_is_the_commit_that_last_changed_the_package(monkeypatch, tmp_path):
    package = tmp_path / "omnicore"
    monkeypatch.setattr("omnicore.lineage.code_version.PACKAGE", package)
    monkeypatch.setenv(
        "GIT_DIR", str(Path(__file__).parents[2] / ".git")
    )  # as a hook of another repository sets it
    found = git_revision.__wrapped__

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
    assert found() == ""
    git("init", "--quiet")
    assert found() == ""
    first = commit("omnicore/lineage/step_record.py", b"2")
    commit("docs/a.md", b"1")
    assert found() == first
    change(package, "provenance.py", b"3")
    assert found() == f"{first}-dirty"
    assert commit("omnicore/lineage/step_record.py", b"4") == found() != first
    monkeypatch.setenv("PATH", str(tmp_path))
    assert found() == ""


def test_the_code_digest_is_of_the_package(monkeypatch, tmp_path):
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
