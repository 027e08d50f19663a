"""Prepare on public benchmarks: what is wrong is listed and counted, media are linked, and the hub
takes the same path."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omnicore.cli.main import main
from omnicore.config.recipe import load_recipe
from omnicore.data.benchmarks.records import Problem
from omnicore.errors import ConfigError, DataError
from omnicore.media.read import locate_media
from omnicore.runtime.run import run_step
from omnicore.schema import BenchmarkInfo, Query
from omnicore.storage.digests import sha256_file
from omnicore.storage.files import read_json, read_jsonl
from tests.benchmarks import native, tables
from tests.errors import refused


def prepare(output: Path, *overrides: str, **sources: Path | str) -> dict[str, Any]:
    places = [f"prepare.sources.{name}={json.dumps(str(place))}" for name, place in sources.items()]
    return run_step("prepare", load_recipe("tiny", [*places, *overrides]), {}, output)


def rewrite(path: Path, change: Callable[[Any], None]) -> None:
    """Changes a JSON file, one item a line."""
    values = json.loads(path.read_text())
    change(values)
    path.write_text(
        "[\n" + ",\n".join(json.dumps(value, ensure_ascii=False) for value in values) + "\n]\n"
    )


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Local copies of benchmarks in four forms: a list, an object, tables with bytes and with
    features."""
    root = tmp_path_factory.mktemp("copies")
    rows = [{k: v for k, v in row.items() if k != "part"} for row in tables.rows("av_odyssey")]
    cells = ("video_1", *(f"{kind}_{i}" for kind in ("image", "audio") for i in range(1, 5)))
    tables.write(root / "av_odyssey" / "av_odyssey_part1.parquet", rows, cells, "bytes", group=2)
    train = root / "omnibench" / "data" / "train-00000-of-00001.parquet"
    tables.write(train, tables.rows("omnibench"), ("image", "audio"), "feature")
    for name in ("daily_omni", "worldsense", "video_holmes", "omnivideobench"):
        native.copy(name, root)
    return {path.name: path for path in sorted(root.iterdir())}


def test_several_benchmarks_are_prepared(tmp_path: Path, copies: dict[str, Path]) -> None:
    before = {path: path.stat().st_mtime_ns for copy in copies.values() for path in copy.rglob("*")}
    record = prepare(tmp_path / "a", **copies)
    assert record["summary"] == {
        "benchmarks": 6,
        "queries": 37,
        "refused": 0,
        "excluded": 0,
        "flagged": 0,
    }
    rows = read_jsonl(tmp_path / "a" / "queries.jsonl", Query)
    counts = {
        "av_odyssey": 6,
        "daily_omni": 6,
        "omnibench": 6,
        "omnivideobench": 6,
        "video_holmes": 7,
        "worldsense": 6,
    }
    assert {name: sum(row.benchmark == name for row in rows) for name in counts} == counts
    for row in rows:
        for medium in row.media:
            path = locate_media(medium, tmp_path / "a")
            assert sha256_file(path) == medium.sha256
            assert path.name == medium.sha256[:16] + path.suffix
    infos = [
        BenchmarkInfo.model_validate(info) for info in read_json(tmp_path / "a" / "benchmarks.json")
    ]
    assert {info.name: (info.queries, info.native, info.refused) for info in infos} == {
        n: (c, c, 0) for n, c in counts.items()
    }
    assert {info.name: info.licence for info in infos}[
        "omnivideobench"
    ] == "CC-BY-NC-SA-4.0, research only"
    assert read_jsonl(tmp_path / "a" / "problems.jsonl", Problem) == []
    # Nothing half-made stays in the output, nothing was written into the copies.
    shown = {medium.uri for row in rows for medium in row.media}
    assert {
        path.relative_to(tmp_path / "a").as_posix()
        for path in (tmp_path / "a").rglob("*")
        if path.is_file()
    } - {
        "step.json",
        "metrics.prom",
        "key.journal",
    } == {
        "queries.jsonl",
        "benchmarks.json",
        "problems.jsonl",
        "files.json",
        *shown,
    }
    assert {
        path: path.stat().st_mtime_ns for copy in copies.values() for path in copy.rglob("*")
    } == before
    # Linked where the disk can.
    assert all(
        locate_media(row.media[0], tmp_path / "a").stat().st_nlink > 1
        for row in rows
        if row.benchmark == "worldsense"
    )


def test_same_copies_give_the_same_digest(
    tmp_path: Path, copies: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = prepare(tmp_path / "a", **copies), prepare(tmp_path / "b", **copies)
    assert first["digest"] == second["digest"]
    capsys.readouterr()
    assert prepare(tmp_path / "a", **copies) == first
    assert "done before" in capsys.readouterr().out


def test_changed_copy_is_read_again(tmp_path: Path) -> None:
    copy = native.copy("video_holmes", tmp_path)
    first = prepare(tmp_path / "out", video_holmes=copy)
    rewrite(copy / "test_Video-Holmes.json", lambda items: items.pop())
    with pytest.raises(ConfigError, match=r"another content of sources\.video_holmes"):
        prepare(tmp_path / "out", video_holmes=copy)
    second = prepare(tmp_path / "again", video_holmes=copy)
    assert (first["summary"]["queries"], second["summary"]["queries"]) == (7, 6)
    assert first["digest"] != second["digest"]


def spoil(items: list[Any]) -> None:
    """Line 2 is right, 3 to 8 are not."""
    items[1]["Answer"] = "G"
    items[2] = "Put in order"
    items[3]["video ID"] = "gone"
    items[4]["Question ID"], items[4]["video ID"] = 1, "xTrainNight"
    del items[5]["Question"]
    items[6]["Options"] = {"A": "same", "B": "same"}


SPOILT = [
    (3, "xTrainNight-2", "Answer", "'G' names none of the 6 options"),
    (4, "", "line", "is not an object: 'Put in order'"),
    (
        5,
        "gone-1",
        "video ID",
        "video videos/gone.mp4 is missing; download videos.zip and unpack it here",
    ),
    (6, "xTrainNight-1", "id", "xTrainNight-1 occurs twice"),
    (7, "y-Mirror_7-3", "Question", "is missing"),
    (8, "y-Mirror_7-4", "Options", "options 1 and 2 are equal: 'same'"),
]


def test_wrong_items_are_listed_and_counted(tmp_path: Path) -> None:
    copy = native.copy("video_holmes", tmp_path)
    rewrite(copy / "test_Video-Holmes.json", spoil)
    record = prepare(tmp_path / "out", "prepare.max_refused=0.9", video_holmes=copy)
    assert record["summary"] == {
        "benchmarks": 1,
        "queries": 1,
        "refused": 6,
        "excluded": 0,
        "flagged": 0,
    }
    problems = read_jsonl(tmp_path / "out" / "problems.jsonl", Problem)
    assert {(p.benchmark, p.file) for p in problems} == {("video_holmes", "test_Video-Holmes.json")}
    assert [(p.line, p.id, p.field, p.message) for p in problems] == SPOILT
    (info,) = read_json(tmp_path / "out" / "benchmarks.json")
    assert (info["queries"], info["native"], info["refused"]) == (1, 7, 6)


def test_too_many_refused_items_fail_the_step(tmp_path: Path) -> None:
    copy = native.copy("video_holmes", tmp_path)
    rewrite(copy / "test_Video-Holmes.json", spoil)
    with pytest.raises(DataError) as caught:
        prepare(tmp_path / "out", "prepare.max_refused=0.8", video_holmes=copy)
    first, *lines, remedy = str(caught.value).splitlines()
    assert (
        first
        == "Video-Holmes: 6 of 7 items cannot be read, more than the 80.0% that prepare.max_refused"
        " allows:"
    )
    assert lines == [
        *(
            f"      1 {field}: {message}; first in"
            f" test_Video-Holmes.json:{line}{f' ({name})' if name else ''}"
            for line, name, field, message in SPOILT
        ),
        (
            "  the items have video ID, Question ID, Question Type, Question, Options, Answer,"
            " Explanation"
        ),
    ]
    assert remedy.endswith("continue without these items: --set prepare.max_refused=0.858")
    assert len(read_jsonl(tmp_path / "out" / "problems.jsonl", Problem)) == 6
    assert not (tmp_path / "out" / "step.json").exists()


def test_truncated_picture_in_a_table_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNI_MEDIA_CACHE", str(tmp_path / "cache"))
    made, rows = tables.made, tables.rows("omnibench")
    monkeypatch.setattr(
        tables, "made", lambda kind, value: made(kind, value)[: 60 if value == "olive" else None]
    )
    rows[2]["image"] = "picture:olive"
    tables.write(
        tmp_path / "omnibench/data/train-00000-of-00001.parquet",
        rows,
        ("image", "audio"),
        "feature",
    )
    assert (
        prepare(tmp_path / "out", "prepare.max_refused=0.5", omnibench=tmp_path / "omnibench")[
            "summary"
        ]["refused"]
        == 1
    )
    (problem,) = read_jsonl(tmp_path / "out" / "problems.jsonl", Problem)
    assert (problem.line, problem.field) == (3, "media")
    assert re.fullmatch(
        r"image embedded:\w{16}\.png is not a readable picture: .*; copy it again", problem.message
    )


def test_missing_video_is_above_the_default_limit(tmp_path: Path) -> None:
    copy = native.copy("daily_omni", tmp_path)
    (copy / "Videos" / "choir03" / "choir03_video.mp4").unlink()
    with refused(DataError, "benchmark-too-many-refused", field="prepare.max_refused") as caught:
        prepare(tmp_path / "out", daily_omni=copy)
    assert "Daily-Omni: 1 of 6 items cannot be read, more than the 1.0%" in str(caught.value)


def test_prepare_command(
    tmp_path: Path, copies: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    two = [
        "--benchmark",
        "daily_omni",
        "--root",
        str(copies["daily_omni"]),
        "--benchmark",
        "worldsense",
    ]
    out = ["--output", str(tmp_path / "out")]
    assert main(["prepare", *two, "--root", str(copies["worldsense"]), *out]) == 0
    assert len(read_jsonl(tmp_path / "out" / "queries.jsonl", Query)) == 12
    assert "queries" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--benchmark", "daily_omni"], "give each --benchmark its --root DIR"),
        (["--root", "COPY"], "give each --benchmark its --root DIR"),
        (
            ["--benchmark", "daily_omny", "--root", "COPY"],
            "no benchmark 'daily_omny'; did you mean daily_omni?",
        ),
        (["--benchmark", "worldsense", "--root", "COPY"], "worldsense_qa.json is missing"),
        (
            ["--benchmark", "daily_omni", "--root", "BROKEN"],
            "qa.json:3: broken JSON, Expecting value",
        ),
        (
            ["--benchmark", "daily_omni", "--root", "EMPTY"],
            "holds no item of Daily-Omni: copy it again",
        ),
    ],
)
def test_user_mistakes_exit_with_2(
    tmp_path: Path,
    copies: dict[str, Path],
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, text in (("broken", '[\n{"Question": 1},\n{"Question": }]'), ("empty", "[]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "qa.json").write_text(text)
    places = {
        "COPY": copies["daily_omni"],
        "BROKEN": tmp_path / "broken",
        "EMPTY": tmp_path / "empty",
    }
    given = [str(places.get(argument, argument)) for argument in arguments]
    assert main(["prepare", *given, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
