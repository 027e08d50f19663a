"""Rows of the `hub` format: columns, cells and options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from omnicore.config import TrainingSource
from omnicore.media.read import locate_media
from omnicore.storage.digests import sha256_file
from omnicore.storage.files import read_jsonl
from tests.unit.training_rows_fixture import (
    COMMIT,
    prepared,
    problems,
    training_queries,
)


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({"label": ["1", "2"], "text": ["dog", "cat"]}, "2"),
        (["A. dog", "B. cat"], "B. cat"),
        (["A. dog", "B. cat"], "cat"),
        (["A. dog", "B. cat"], "(B)"),
        (["dog", "cat"], "b)"),
        (["B", "cat"], "cat"),
    ],
)
def test_answer_may_name_an_option_in_any_form(
    source_folder: Path, tmp_path: Path, options: Any, answer: str
) -> None:
    (source_folder / "rows.jsonl").write_text(json.dumps({"q": "?", "o": options, "a": answer}))
    columns = {"question": "q", "options": "o", "answer": "a"}
    prepared(
        tmp_path / "out",
        {
            "arc": {
                "format": "hub",
                "path": str(source_folder / "rows.jsonl"),
                "stages": ["rlvr"],
                "columns": columns,
            }
        },
    )
    assert [query.answer for query in training_queries(tmp_path / "out", "rlvr").values()] == [
        "cat"
    ]


@pytest.mark.parametrize("blank", [None, float("nan"), "", " \n"])
@pytest.mark.parametrize("column", ["question", "answer"])
@pytest.mark.parametrize("kept", ["parquet", "jsonl"])
def test_blank_cells_are_missing_in_training(
    source_folder: Path, tmp_path: Path, kept: str, column: str, blank: Any
) -> None:
    """NaN is what pandas makes of null."""
    rows = [
        {"question": "Which?", "answer": "cat"},
        {"question": "Which?", "answer": "cat", column: blank},
    ]
    path = source_folder / f"rows.{kept}"
    if kept == "parquet":
        # The column of such a table is one of floats, where nothing else is in it.
        pq.write_table(pa.Table.from_pylist(rows[1:]), source_folder / "rows-2.parquet")
        pq.write_table(pa.Table.from_pylist(rows[:1]), source_folder / "rows-1.parquet")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"question": "question", "answer": "answer"}
    source = {
        "format": "hub",
        "path": str(source_folder),
        "files": f"rows*.{kept}",
        "stages": ["sft"],
        "columns": columns,
    }
    prepared(tmp_path / "out", {"x": source})
    assert [query.target for query in training_queries(tmp_path / "out").values()] == ["cat"]
    assert [
        (p["field"], p["message"]) for p in read_jsonl(tmp_path / "out" / "problems.jsonl", dict)
    ] == [(column, "is missing")]


def test_whole_numbers_beside_blank_cells_stay_whole(source_folder: Path, tmp_path: Path) -> None:
    """Pandas keeps the column as floats."""
    table_of = {"id": [1.0, 2.0], "n": [3.0, 2.5], "question": ["How many?"] * 2}
    pq.write_table(pa.table(table_of), source_folder / "rows.parquet")
    columns = {"id": "id", "question": "question", "answer": "n"}
    source = {
        "format": "hub",
        "path": str(source_folder / "rows.parquet"),
        "stages": ["sft"],
        "columns": columns,
    }
    prepared(tmp_path / "out", {"x": source})
    assert {name: query.target for name, query in training_queries(tmp_path / "out").items()} == {
        "1": "3",
        "2": "2.5",
    }


COLUMNS = {
    "question": "question",
    "answer": "answer",
    "options": "options",
    "image": "image",
    "audio": "audio",
}


def table(source_folder: Path, path: Path) -> None:
    """As OmniInstruct_v1 has its columns: media inside the table."""
    picture, sound = (
        (source_folder / "images" / "a.png").read_bytes(),
        (source_folder / "audios" / "a.wav").read_bytes(),
    )
    rows = [
        {
            "question": "Which?",
            "options": ["dog", "cat"],
            "answer": "cat",
            "image": {"bytes": picture, "path": None},
        },
        {
            "question": "Which?",
            "options": ["dog", "cat"],
            "answer": "A",
            "audio": {"bytes": sound, "path": "a.wav"},
        },
        {
            "question": "How many?",
            "options": None,
            "answer": "3",
            "image": {"bytes": picture, "path": None},
        },
        {
            "question": "What is said?",
            "options": [],
            "answer": "good day",
            "audio": {"bytes": sound, "path": "a.wav"},
        },
        {
            "question": "Which?",
            "options": ["dog", "cat"],
            "answer": "cow",
            "audio": {"bytes": sound, "path": "a.wav"},
        },
    ]
    whole = [{"image": None, "audio": None, **row} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(whole), path)


def test_hub_data_set_is_read_at_its_commit(
    source_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The download alone is not real: links into a cache of blobs, as the hub's client lays them
    out."""
    snapshot = tmp_path / "cache" / "snapshots" / COMMIT
    table(source_folder, tmp_path / "cache" / "blobs" / "1")
    (snapshot / "data").mkdir(parents=True)
    (snapshot / "data" / "train-00000-of-00001.parquet").symlink_to(
        tmp_path / "cache" / "blobs" / "1"
    )
    asked: list[tuple[str, str]] = []

    def download(repo: str, *, repo_type: str, revision: str) -> str:
        asked.append((repo, revision))
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    source = {
        "format": "hub",
        "path": "m-a-p/OmniInstruct_v1",
        "revision": COMMIT,
        "files": "data/train-*.parquet",
        "stages": ["sft"],
        "columns": COLUMNS,
    }
    summary = prepared(tmp_path / "out", {"omni": source})
    assert asked == [("m-a-p/OmniInstruct_v1", COMMIT)]
    rows = training_queries(tmp_path / "out")
    told = {
        name: (q.answer_kind.value, q.answer, q.target, tuple(Path(m.uri).suffix for m in q.media))
        for name, q in rows.items()
    }
    assert told == {
        "0": ("choice", "cat", "B", (".png",)),
        "1": ("choice", "dog", "A", (".wav",)),
        "2": ("number", "3", "3", (".png",)),
        "3": ("text", "good day", "good day", (".wav",)),
    }
    assert problems(tmp_path / "out") == {(5, "answer"): "'cow' names none of the 2 options"}
    assert summary["training_refused"] == 1
    assert all(
        sha256_file(locate_media(m, tmp_path / "out")) == m.sha256
        for q in rows.values()
        for m in q.media
    )
    assert not (tmp_path / "out" / "scratch").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"revision": "main"}, "revision"),
        ({"revision": COMMIT[:12]}, "revision"),
        ({"columns": {"question": "q"}}, "format hub needs columns"),
        ({"columns": {**COLUMNS, "picture": "x"}}, "names picture, which is none of"),
        ({"format": "r1"}, "columns are for format hub"),
        ({"stages": []}, "stages"),
        (
            {"format": "queries", "columns": {}, "media": "media"},
            "format queries has its media relative to the file",
        ),
    ],
)
def test_incomplete_source_is_refused(given: dict[str, Any], message: str) -> None:
    source = {
        "format": "hub",
        "path": "a/b",
        "revision": COMMIT,
        "files": "*.parquet",
        "stages": ["sft"],
        "columns": COLUMNS,
    }
    with pytest.raises(ValueError, match=message):
        TrainingSource.model_validate({**source, **given})
