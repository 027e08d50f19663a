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

ROWS = [Estimate(value=0.5, low=0.25, high=0.75, n=4), Estimate(value=0.1, low=0, high=1, n=1)]


def full_journal(path):
    journal = Journal(path)
    journal.append([{"key": "0", "replies": ["a", "b"]}])
    journal.append([{"key": "1", "replies": ["c"]}, {"key": "2", "replies": []}])
    return path.read_bytes()


def test_a_journal_remembers_batches_over_openings(tmp_path):
    full_journal(tmp_path / "x.journal")
    journal = Journal(tmp_path / "x.journal")
    assert list(journal) == ["0", "1", "2"]
    assert journal["0"] == {"key": "0", "replies": ["a", "b"]}
    journal.append([{"key": "3"}])
    assert list(Journal(tmp_path / "x.journal")) == ["0", "1", "2", "3"]


def test_a_record_reads_as_a_later_opening_reads_it(tmp_path):
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


def test_batches_written_together_are_lines_of_their_own(tmp_path):
    journal = Journal(tmp_path / "x.journal")
    journal.append([{"key": "0"}], [{"key": "1", "reply": "é"}, {"key": "2"}])
    journal.append([{"key": "3", "reply": "d"}])
    for opened in (journal, Journal(tmp_path / "x.journal")):
        assert [opened[key]["key"] for key in opened] == ["0", "1", "2", "3"]
    assert (tmp_path / "x.journal").read_bytes().count(b"\n") == 3


def test_a_batch_torn_at_any_byte_is_lost_whole_and_nothing_else(tmp_path):
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
def test_any_other_broken_line_is_named(tmp_path, line):
    path = tmp_path / "x.journal"
    path.write_bytes(b'[{"key": "0"}]\n' + line + b'\n[{"key": "9"}]\n')
    with pytest.raises(DataError, match=r"x\.journal:2: .*remove the file"):
        Journal(path)


@pytest.mark.parametrize("batch", [[{"key": "0"}], [{"key": "8"}, {"key": "8"}], [{"key": 8}]])
def test_a_key_is_a_string_given_once(tmp_path, batch):
    content = full_journal(tmp_path / "x.journal")
    journal = Journal(tmp_path / "x.journal")
    with pytest.raises(ValueError, match="key"):
        journal.append(batch)
    assert (tmp_path / "x.journal").read_bytes() == content


def test_a_batch_is_on_the_disk_before_append_returns(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    journal = Journal(tmp_path / "x.journal")
    journal.append([{"key": "0"}])
    assert synced == [(tmp_path / "x.journal").stat().st_size]


def test_a_refused_batch_leaves_no_half_line(tmp_path, monkeypatch):
    path = tmp_path / "x.journal"
    content = full_journal(path)
    journal = Journal(path)
    with monkeypatch.context() as patch:

        def full(fd):
            raise OSError(28, "No space left on device")

        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="no space left"):
            journal.append([{"key": "3"}])
    assert path.read_bytes() == content
    journal.append([{"key": "3"}])
    assert list(Journal(path)) == ["0", "1", "2", "3"]


def test_jsonl_goes_round(tmp_path):
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
    ("line", "message"),
    [
        (
            b'{"value": 0.5, "low": 0, "high": 1, "n": -1}',
            r"rows\.jsonl:2:n: .*greater than or equal to 0",
        ),
        (b'{"value": 0.5, "low": 0, "high": 1}', r"rows\.jsonl:2:n: Field required"),
        (b'{"value": 0.5, "low": 0, "high": 1, "n": 1, "m": 2}', r"rows\.jsonl:2:m: Extra inputs"),
        (b'{"value": 0.5, "low"', r"rows\.jsonl:2: Invalid JSON"),
        (b"", r"rows\.jsonl:2: Invalid JSON"),
        (b"\xff\xfe", r"rows\.jsonl:2: Invalid JSON"),
    ],
)
def test_a_broken_line_is_named_with_its_field(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, ROWS[:1])
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(DataError, match=message) as caught:
        read_jsonl(path, Estimate)
    assert "\n" not in str(caught.value)


def test_missing_and_broken_files_say_what_to_do(tmp_path):
    (tmp_path / "x.json").write_text("{")
    for read in (
        lambda: read_jsonl(tmp_path / "no.jsonl", dict),
        lambda: read_json(tmp_path / "no.json"),
        lambda: read_json(tmp_path / "x.json"),
    ):
        with pytest.raises(DataError, match=r"(no|x)\.jsonl?\b.*again"):
            read()


def test_json_goes_round(tmp_path):
    write_json(tmp_path / "x.json", {"a": ROWS[0], "b": [1, None], "c": "é"})
    assert read_json(tmp_path / "x.json") == {"a": ROWS[0].model_dump(), "b": [1, None], "c": "é"}


def test_a_failed_write_leaves_the_old_file(tmp_path):
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
def test_a_full_disk_is_one_clear_error(tmp_path):
    # The temporary name leads to a device on which every write fails as on a full disk.
    (tmp_path / "rows.jsonl.tmp").symlink_to("/dev/full")
    with pytest.raises(
        StorageError,
        match=r"no space left on the disk of .*rows\.jsonl.*give the same command again",
    ):
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
def test_only_what_the_disk_refused_is_a_storage_error(tmp_path, error, expected):
    with pytest.raises(expected) as caught, storage_errors(tmp_path):
        raise error
    assert type(caught.value) is expected


def test_replacing_shows_nothing_before_the_end(tmp_path):
    with atomic_writer(tmp_path / "x") as file:
        file.write(b"new")
        assert not (tmp_path / "x").exists()
    assert (tmp_path / "x").read_bytes() == b"new"
