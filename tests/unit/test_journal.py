import os
import stat

import pytest

from omnicore.errors import DataError, StorageError
from omnicore.schema import Estimate, Outcome
from omnicore.storage.files import (
    atomic_writer,
    read_json,
    read_jsonl,
    storage_errors,
    write_json,
    write_jsonl,
)
from omnicore.storage.journal import Journal
from tests.errors import refused

ROWS = [Estimate(value=0.5, low=0.25, high=0.75, n=4), Estimate(value=0.1, low=0, high=1, n=1)]


def full_journal(path):
    journal = Journal(path)
    journal.append([{"key": "0", "replies": ["a", "b"]}])
    journal.append([{"key": "1", "replies": ["c"]}, {"key": "2", "replies": []}])
    return path.read_bytes()


def test_journal_keeps_batches_across_openings(tmp_path):
    full_journal(tmp_path / "x.journal")
    journal = Journal(tmp_path / "x.journal")
    assert list(journal) == ["0", "1", "2"]
    assert journal["0"] == {"key": "0", "replies": ["a", "b"]}
    journal.append([{"key": "3"}])
    assert list(Journal(tmp_path / "x.journal")) == ["0", "1", "2", "3"]


def test_record_reads_the_same_after_reopening(tmp_path):
    journal = Journal(tmp_path / "x.journal")
    journal.append(
        [
            {
                "key": "0",
                "pair": (1, 2),
                "outcome": Outcome.correct,
                "row": ROWS[0],
                "loss": float("nan"),
            }
        ]
    )
    assert journal["0"] == Journal(tmp_path / "x.journal")["0"]
    assert journal["0"]["pair"] == [1, 2]
    assert journal["0"]["loss"] is None


def test_each_batch_is_one_line(tmp_path):
    journal = Journal(tmp_path / "x.journal")
    journal.append([{"key": "0"}], [{"key": "1", "reply": "é"}, {"key": "2"}])
    journal.append([{"key": "3", "reply": "d"}])
    for opened in (journal, Journal(tmp_path / "x.journal")):
        assert [opened[key]["key"] for key in opened] == ["0", "1", "2", "3"]
    assert (tmp_path / "x.journal").read_bytes().count(b"\n") == 3


def test_truncated_batch_is_dropped_whole(tmp_path):
    path = tmp_path / "x.journal"
    content = full_journal(path)
    first = content.index(b"\n") + 1
    for length in range(first, len(content)):
        path.write_bytes(content[:length])
        assert list(Journal(path)) == ["0"], length
        assert path.read_bytes() == content[:first]


@pytest.mark.parametrize(
    "line",
    [b"{", b"7", b"[7]", b'[{"replies": []}]', b'[{"key": 3}]', b'[{"key": "0"}]', b"", b"\xff"],
)
def test_broken_line_is_refused_with_its_number(tmp_path, line):
    path = tmp_path / "x.journal"
    path.write_bytes(b'[{"key": "0"}]\n' + line + b'\n[{"key": "9"}]\n')
    with refused(DataError, "journal-broken-line", path=path, line=2):
        Journal(path)


@pytest.mark.parametrize("batch", [[{"key": "0"}], [{"key": "8"}, {"key": "8"}], [{"key": 8}]])
def test_append_refuses_repeated_or_non_string_keys(tmp_path, batch):
    content = full_journal(tmp_path / "x.journal")
    journal = Journal(tmp_path / "x.journal")
    with pytest.raises(ValueError, match="key"):
        journal.append(batch)
    assert (tmp_path / "x.journal").read_bytes() == content


def test_append_syncs_before_it_returns(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    journal = Journal(tmp_path / "x.journal")
    journal.append([{"key": "0"}])
    assert synced == [(tmp_path / "x.journal").stat().st_size]


def test_failed_append_leaves_no_partial_line(tmp_path, monkeypatch):
    path = tmp_path / "x.journal"
    content = full_journal(path)
    journal = Journal(path)
    with monkeypatch.context() as patch:

        def full(fd):
            raise OSError(28, "No space left on device")

        patch.setattr(os, "fsync", full)
        with refused(StorageError, "disk-full", path=path):
            journal.append([{"key": "3"}])
    assert path.read_bytes() == content
    journal.append([{"key": "3"}])
    assert list(Journal(path)) == ["0", "1", "2", "3"]


def test_jsonl_round_trips(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    assert read_jsonl(tmp_path / "rows.jsonl", Estimate) == ROWS
    assert read_jsonl(tmp_path / "rows.jsonl", dict)[0] == {
        "value": 0.5,
        "low": 0.25,
        "high": 0.75,
        "n": 4,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize(
    ("line", "field", "words"),
    [
        (b'{"value": 0.5, "low": 0, "high": 1, "n": -1}', "n", "greater than or equal to 0"),
        (b'{"value": 0.5, "low": 0, "high": 1}', "n", "Field required"),
        (b'{"value": 0.5, "low": 0, "high": 1, "n": 1, "m": 2}', "m", "Extra inputs"),
        (b'{"value": 0.5, "low"', None, "Invalid JSON"),
        (b"", None, "Invalid JSON"),
        (b"\xff\xfe", None, "Invalid JSON"),
    ],
)
def test_read_jsonl_names_line_and_field(tmp_path, line, field, words):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, ROWS[:1])
    path.write_bytes(path.read_bytes() + line + b"\n")
    with refused(DataError, "jsonl-invalid-record", path=path, line=2, field=field) as caught:
        read_jsonl(path, Estimate)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_invalid_files_are_refused(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with refused(DataError, "file-missing", path=tmp_path / "no.jsonl"):
        read_jsonl(tmp_path / "no.jsonl", dict)
    with refused(DataError, "file-missing", path=tmp_path / "no.json"):
        read_json(tmp_path / "no.json")
    with refused(DataError, "json-invalid", path=tmp_path / "x.json"):
        read_json(tmp_path / "x.json")


def test_json_round_trips(tmp_path):
    write_json(tmp_path / "x.json", {"a": ROWS[0], "b": [1, None], "c": "é"})
    assert read_json(tmp_path / "x.json") == {"a": ROWS[0].model_dump(), "b": [1, None], "c": "é"}


def test_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, ROWS)
    old = path.read_bytes()

    def rows():
        yield ROWS[0]
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_jsonl(path, rows())
    assert path.read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")  # noqa: PTH110
def test_full_disk_is_a_storage_error(tmp_path):
    # The temporary name leads to a device on which every write fails as on a full disk.
    (tmp_path / "rows.jsonl.tmp").symlink_to("/dev/full")
    with refused(StorageError, "disk-full", path=tmp_path / "rows.jsonl"):
        write_jsonl(tmp_path / "rows.jsonl", ROWS)
    assert not (tmp_path / "rows.jsonl").exists()
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)  # noqa: PTH116


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(28, "No space left on device"), StorageError),
        (OSError(122, "Disk quota exceeded"), StorageError),
        (PermissionError(13, "Permission denied", "/data/x"), StorageError),
        (OSError(30, "Read-only file system"), StorageError),
        (
            RuntimeError(
                "Error while serializing: I/O error: No space left on device (os error 28)"
            ),
            StorageError,
        ),
        (DataError("No space left on device"), DataError),
        (FileNotFoundError(2, "No such file or directory"), FileNotFoundError),
        (RuntimeError("shapes differ"), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_only_disk_refusals_become_storage_errors(tmp_path, error, expected):
    with pytest.raises(expected) as caught, storage_errors(tmp_path):
        raise error
    assert type(caught.value) is expected


def test_atomic_writer_hides_the_file_until_done(tmp_path):
    with atomic_writer(tmp_path / "x") as file:
        file.write(b"new")
        assert not (tmp_path / "x").exists()
    assert (tmp_path / "x").read_bytes() == b"new"
