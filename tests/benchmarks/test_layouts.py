"""Layouts beside the publishers' own: the same items give the same queries.

What is written here is in the form of VLMEvalKit's and lmms-lab's scripts and of the publishers'
repositories; the TSV files lie in `layouts/`.
"""

from __future__ import annotations

import ast
import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from omnicore.data.benchmarks import get_adapter
from omnicore.data.benchmarks.adapter import read_queries
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.errors import ConfigError
from omnicore.schema import Query
from tests.benchmarks import native, tables
from tests.benchmarks.scoring import queries

TSV = native.HERE / "layouts"


def worldsense_tsv(folder: Path) -> None:
    (folder / "worldsense_qa.json").unlink()
    shutil.copy(TSV / "WorldSense.tsv", folder)


def worldsense_parquet(folder: Path) -> None:
    """As lmms-lab/WorldSense: the columns of the TSV, lists as lists."""
    (folder / "worldsense_qa.json").unlink()
    with (TSV / "WorldSense.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    lists = ("candidates", "audio_class")
    parsed = [
        {name: ast.literal_eval(cell) if name in lists else cell for name, cell in row.items()}
        for row in rows
    ]
    write(folder / "data" / "test-00000-of-00001.parquet", parsed)


def cg_av_counting_tsv(folder: Path) -> None:
    (folder / "cg-av-counting.json").unlink()
    shutil.copy(TSV / "CG-AV-Counting.tsv", folder)


def omnivideobench_repository(folder: Path) -> None:
    (folder / "data_example").mkdir()
    (folder / "data.json").rename(folder / "data_example" / "data.json")
    (folder / "videos").rename(folder / "data_example" / "video")


def omnivideobench_inside(folder: Path) -> None:
    """The folder data_example alone."""
    (folder / "videos").rename(folder / "video")


def video_holmes_repository(folder: Path) -> None:
    (folder / "Benchmark").mkdir()
    (folder / "test_Video-Holmes.json").rename(folder / "Benchmark" / "test_Video-Holmes.json")
    (folder / "videos").rename(folder / "Benchmark" / "videos_cropped")


def video_holmes_tsv(folder: Path) -> None:
    (folder / "test_Video-Holmes.json").unlink()
    (folder / "videos").rename(folder / "video")
    shutil.copy(TSV / "Video_Holmes.tsv", folder)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def alike(query: Query, *but: str) -> dict[str, Any]:
    """What two layouts share: all but where the media lie."""
    told = query.model_dump(exclude={"media", *but})
    return {**told, "media": [(m.kind, m.sha256, m.start, m.end) for m in query.media]}


@pytest.mark.parametrize(
    ("name", "lay_out"),
    [
        ("worldsense", worldsense_tsv),
        ("worldsense", worldsense_parquet),
        ("omnivideobench", omnivideobench_repository),
        ("omnivideobench", omnivideobench_inside),
        ("video_holmes", video_holmes_repository),
        ("video_holmes", video_holmes_tsv),
    ],
)
def test_layout_gives_same_queries(
    name: str, lay_out: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = native.copy(name, tmp_path)
    published = queries(name, folder)
    lay_out(folder)
    found = queries(name, folder)
    assert list(found) == list(published)
    assert [alike(query) for query in found.values()] == [
        alike(query) for query in published.values()
    ]


def test_cg_av_counting_tsv_reads_long_acc_rows(tmp_path: Path) -> None:
    """The TSV numbers items anew and leaves out their interval."""
    folder = native.copy("cg_av_counting", tmp_path)
    published = list(queries("cg_av_counting", folder).values())
    cg_av_counting_tsv(folder)
    found = queries("cg_av_counting", folder)
    assert list(found) == [str(place) for place in range(len(published))]
    assert [alike(q, "id", "native") for q in found.values()] == [
        alike(q, "id", "native") for q in published
    ]
    assert [q.native["category"] for q in found.values()] == [
        q.native["category"] for q in published
    ]


@pytest.mark.parametrize("nested", [False, True])
def test_av_odyssey_lmms_eval_reads_media_by_path(tmp_path: Path, nested: bool) -> None:
    """`nested`: each archive was unpacked into a folder of its own name."""
    kinds = {"image": 4, "video": 1, "audio": 4}
    own = tables.rows("av_odyssey")
    media = [f"{kind}_{i}" for kind, most in kinds.items() for i in range(1, most + 1)]
    bare = [{name: cell for name, cell in row.items() if name != "part"} for row in own]
    published = queries(
        "av_odyssey",
        tables.write(tmp_path / "own" / "av_odyssey_part1.parquet", bare, media, "bytes").parent,
        tmp_path,
    )
    rows = []
    for row in own:
        paths: dict[str, list[str]] = {f"{kind}_path": [] for kind in kinds}
        for column in filter(row.get, media):
            kind = column.partition("_")[0]
            made, _, value = row[column].partition(":")
            uri = f"{kind}_1/{row['question_id']}_{column}{ {'picture': '.png', 'tone': '.wav', 'video': '.mp4'}[made] }"
            path = tmp_path / "kit" / (f"{kind}_1" if nested else "") / uri
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tables.made(made, value))
            paths[f"{kind}_path"].append(uri)
        rows.append(
            {name: cell for name, cell in row.items() if name != "part" and name not in media}
            | paths
        )
    write(tmp_path / "kit" / "av_odyssey.parquet", rows)
    found = queries("av_odyssey", tmp_path / "kit")
    assert [alike(query) for query in found.values()] == [
        alike(query) for query in published.values()
    ]


def test_omnibench_repository_reads_mm_data(tmp_path: Path) -> None:
    own = tables.rows("omnibench")
    tables.write(
        tmp_path / "hub" / "data" / "train-00000-of-00001.parquet",
        own,
        ("image", "audio"),
        "feature",
    )
    published = queries("omnibench", tmp_path / "hub", tmp_path / "scratch")
    lines = []
    for row in own:
        for kind in ("image", "audio"):
            path = tmp_path / "repository" / "mm_data" / kind / row[f"{kind}_path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tables.made(*row[kind].split(":")))
        lines.append(
            json.dumps({name: cell for name, cell in row.items() if name not in ("image", "audio")})
            + "\n"
        )
    (tmp_path / "repository" / "dataset").mkdir()
    (tmp_path / "repository" / "dataset" / "batch-5_1142_20240817.jsonl").write_text("".join(lines))
    found = queries("omnibench", tmp_path / "repository")
    assert [alike(query) for query in found.values()] == [
        alike(query) for query in published.values()
    ]


def test_omnibench_without_descriptions_keeps_its_ids(tmp_path: Path) -> None:
    """Repackaged copies may leave out what no question shows."""
    own = tables.rows("omnibench")
    extra = ("audio type", "audio content", "image content", "audio_path", "image_path")
    for name, rows in (
        ("own", own),
        ("fix", [{k: v for k, v in row.items() if k not in extra} for row in own[1:]]),
    ):
        tables.write(
            tmp_path / name / "data" / "train-00000-of-00001.parquet",
            rows,
            ("image", "audio"),
            "feature",
        )
    published = queries("omnibench", tmp_path / "own", tmp_path / "scratch")
    found = queries("omnibench", tmp_path / "fix", tmp_path / "scratch")
    assert list(found) == list(published)[1:]
    for name, query in found.items():
        assert alike(query, "native", "cluster") == alike(published[name], "native", "cluster")
    clusters = {query.cluster for query in found.values()}
    assert len(clusters) == len(
        {query.cluster for name, query in published.items() if name in found}
    )


def test_own_layout_is_read_where_both_are_there(tmp_path: Path) -> None:
    """VLMEvalKit writes its TSV into the publisher's folder."""
    folder = native.copy("cg_av_counting", tmp_path)
    published = queries("cg_av_counting", folder)
    shutil.copy(TSV / "CG-AV-Counting.tsv", folder)
    assert queries("cg_av_counting", folder) == published


@pytest.mark.parametrize(
    "name",
    ["worldsense", "cg_av_counting", "av_odyssey", "omnibench", "omnivideobench", "video_holmes"],
)
def test_every_layout_is_named_where_none_is_there(name: str, tmp_path: Path) -> None:
    entry = get_adapter(name).ENTRY
    assert len(entry.annotations) > 1
    with pytest.raises(ConfigError) as error:
        AnnotationSource(entry, tmp_path)
    assert all(layout in str(error.value) for layout in entry.annotations)


@pytest.mark.parametrize("blank", [None, float("nan"), "", "  "])
@pytest.mark.parametrize("column", ["question", "answer"])
def test_blank_cells_of_a_table_are_missing(tmp_path: Path, column: str, blank: Any) -> None:
    """Whatever pandas makes of them."""
    row = {
        "video": "aaKiteXy",
        "candidates": ["A. x", "B. y"],
        "question": "?",
        "answer": "A",
        "task_type": "t",
    }
    row |= {
        "task_domain": "R",
        "domain": "D",
        "sub_category": "S",
        "duration": "<1min",
        "audio_class": ["Music"],
    }
    folder = native.copy("worldsense", tmp_path)
    (folder / "worldsense_qa.json").unlink()
    write(folder / "data" / "test-00000-of-00001.parquet", [{**row, column: blank}])
    check(folder, column)
    if not isinstance(blank, str):
        return
    shutil.rmtree(folder / "data")
    cells = {**row, column: blank, "candidates": "['A. x', 'B. y']", "audio_class": "['Music']"}
    with (folder / "WorldSense.tsv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(cells), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerow(cells)
    check(folder, column)


def check(folder: Path, column: str) -> None:
    found = get_adapter("worldsense")
    _, problems, count = read_queries(found, AnnotationSource(found.ENTRY, folder))
    assert count == 1
    assert [(p.line, p.id, p.field, p.message) for p in problems] == [
        (1, "aaKiteXy-task0", column, "is missing")
    ]


def test_tsv_row_with_too_many_cells_is_listed(tmp_path: Path) -> None:
    folder = native.copy("cg_av_counting", tmp_path)
    cg_av_counting_tsv(folder)
    path = folder / "CG-AV-Counting.tsv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], lines[2].replace("\n", "\tmore\n"), *lines[3:]]))
    found = get_adapter("cg_av_counting")
    rows, problems, count = read_queries(found, AnnotationSource(found.ENTRY, folder))
    assert (len(rows), count) == (5, 6)
    assert [(p.line, p.field, p.message) for p in problems] == [
        (2, "line", "has more cells than the header has columns")
    ]
