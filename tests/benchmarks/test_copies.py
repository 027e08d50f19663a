"""Copies that lie otherwise than published: shards, archives in pieces, files in other folders, and
what a loss says."""

from __future__ import annotations

import re
import tarfile
import zipfile
from pathlib import Path

import pytest

from omnicore.data.benchmarks import daily_omni, omnivideobench
from omnicore.data.benchmarks.archives import check_shards, missing_file_remedy, unpack_archives
from omnicore.data.benchmarks.records import AnnotationRow, Problem, Refused
from omnicore.data.benchmarks.refusal_report import refusal_message, skew_lines
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.errors import DataError
from tests.errors import refused


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["train-00000-of-00002.parquet"], "train-00001-of-00002.parquet"),
        (["a_part1.parquet", "a_part3.parquet"], "a_part2.parquet"),
        (
            ["train-00000-of-00001.parquet", "test-00002-of-00003.parquet"],
            "test-00000-of-00003.parquet, test-00001-of-00003.parquet",
        ),
        (
            [
                "train-00000-of-00002.parquet",
                "train-00001-of-00002.parquet",
                "av_odyssey_part1.parquet",
                "plain.json",
            ],
            "",
        ),
    ],
)
def test_missing_shard_is_refused(tmp_path: Path, names: list[str], missing: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    if not missing:
        check_shards(tmp_path.iterdir())
        return
    with refused(DataError, "annotations-missing-shards", path=tmp_path) as caught:
        check_shards(tmp_path.iterdir())
    assert f"lacks {missing}: copy" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("videos.zip", ["videos.zip.part00", "videos.zip.part01", "videos.zip.part02"]),
        ("videos.zip", ["videos.zip.001", "videos.zip.002", "videos.zip.003"]),
        ("videos.tar.gz", ["videos.tar.gz.aa", "videos.tar.gz.ab", "videos.tar.gz.ac"]),
        ("videos.tar", ["videos.tar.part-aa", "videos.tar.part-ab", "videos.tar.part-ac"]),
        ("videos.zip", ["videos.zip"]),
    ],
)
def test_archives_in_pieces_are_unpacked_once(tmp_path: Path, name: str, pieces: list[str]) -> None:
    whole = tmp_path / "made" / name
    whole.parent.mkdir()
    text = "".join(map(str, range(30_000)))
    if name.endswith("zip"):
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("deep/inside/film.txt", text)
    else:
        (tmp_path / "film.txt").write_text(text)
        with tarfile.open(whole, "w:gz" if name.endswith("gz") else "w") as tape:
            tape.add(tmp_path / "film.txt", "deep/inside/film.txt")
    data, root = whole.read_bytes(), tmp_path / "copy"
    size = -(-len(data) // len(pieces))
    root.mkdir()
    for i, piece in enumerate(pieces):
        (root / piece).write_bytes(data[i * size :][:size])
    patterns = (name,)
    said = missing_file_remedy(root, patterns)
    assert ("join the pieces" in said) is (len(pieces) > 1)
    unpack_archives(root, patterns)
    made = root / "deep" / "inside" / "film.txt"
    assert made.read_text() == text
    assert sorted(path.name for path in root.iterdir()) == sorted(
        [*pieces, "deep", f"{name}.unpacked"]
    )
    made.unlink()
    unpack_archives(root, patterns)
    assert not made.exists(), "a second run unpacks nothing"
    assert "download them again" in missing_file_remedy(root, patterns)
    if len(pieces) > 1:
        (root / f"{name}.unpacked").unlink()
        (root / pieces[1]).unlink()
        with refused(DataError, "archive-missing-pieces"):
            unpack_archives(root, patterns)


def test_file_in_another_folder_is_found_by_name(tmp_path: Path) -> None:
    entry = daily_omni.ENTRY
    for place in ("qa.json", "Videos/chunk_1/film.mp4", "a/twice.mp4", "b/twice.mp4"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("[]")
    source = AnnotationSource(entry, tmp_path)
    assert source.media.video_with_sound("f", "Videos/film.mp4")[0].uri == "Videos/chunk_1/film.mp4"
    with pytest.raises(
        Refused, match=r"is missing, and which of a/twice\.mp4, b/twice\.mp4 it is cannot be told"
    ):
        source.media.video_with_sound("f", "Videos/twice.mp4")
    assert (
        source.media.find("f", "video", "Videos/b/twice.mp4", named="b/twice.mp4").uri
        == "b/twice.mp4"
    )
    with pytest.raises(Refused, match=r"is missing; download Videos\.tar and unpack it here"):
        source.media.find("f", "video", "Videos/none.mp4")


def test_file_of_another_folder_is_another_file(tmp_path: Path) -> None:
    (tmp_path / "qa.json").write_text("[]")
    (tmp_path / "unpacked" / "b").mkdir(parents=True)
    (tmp_path / "unpacked" / "b" / "001.mp4").write_text("film")
    source = AnnotationSource(daily_omni.ENTRY, tmp_path)
    assert source.media.find("path", "video", "b/001.mp4").uri == "unpacked/b/001.mp4"
    with pytest.raises(Refused, match=r"a/001\.mp4 is missing"):
        source.media.find("path", "video", "a/001.mp4")
    with pytest.raises(Refused, match=r"videos/a/001\.mp4 is missing"):
        source.media.video_with_sound("video", "videos/a/001.mp4", named="a/001.mp4")


def test_files_are_found_through_linked_folders(tmp_path: Path) -> None:
    (tmp_path / "store" / "deep").mkdir(parents=True)
    (tmp_path / "store" / "deep" / "film.mp4").write_text("film")
    (tmp_path / "store" / "loop").symlink_to("../store")
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "qa.json").write_text("[]")
    (copy / "videos").symlink_to("../store")
    assert (
        AnnotationSource(daily_omni.ENTRY, copy)
        .media.video_with_sound("f", "Videos/film.mp4")[0]
        .uri
        == "videos/deep/film.mp4"
    )


def test_only_archives_are_unpacked_in_order(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as packed:
        packed.writestr("film.txt", "".join(map(str, range(10_000))))
    data = (tmp_path / "whole.zip").read_bytes()
    copy = tmp_path / "copy"
    (copy / "Benchmark").mkdir(parents=True)
    size = -(-len(data) // 12)
    for place in range(12):
        (copy / f"videos.zip.part{place + 1}").write_bytes(data[place * size :][:size])
    (tmp_path / "whole.zip").rename(copy / "Benchmark" / "videos.zip")
    for beside in ("videos.zip.md5", "videos.zip.sha256", "videos.zip.part", "videos.zip.aria2"):
        (copy / beside).write_text("no archive")
    unpack_archives(copy, ("videos.zip", "Benchmark/videos.zip"))
    assert (copy / "film.txt").read_bytes() == (copy / "Benchmark" / "film.txt").read_bytes()
    assert "download them again" in missing_file_remedy(
        copy, ("videos.zip", "Benchmark/videos.zip")
    )


def test_archive_in_volumes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "videos.zip").write_bytes(b"PK")
    (tmp_path / "videos.z01").touch()
    with refused(DataError, "archive-in-volumes", path=tmp_path / "videos.zip"):
        unpack_archives(tmp_path, ("videos.zip",))


@pytest.mark.parametrize("count", [50, 90, 150, 170, 1197, 9185])
def test_the_proposed_limit_would_pass(count: int, tmp_path: Path) -> None:
    (tmp_path / "qa.json").write_text("[]")
    source = AnnotationSource(daily_omni.ENTRY, tmp_path)
    problem = Problem(benchmark="b", file="f", line=1, id="", field="x", message="is missing")
    for lost in range(1, count, 1 + count // 400):
        said = refusal_message("B", [problem] * lost, count, 0.0, source)
        if found := re.search(r"max_refused=([\d.]+)", said):
            assert lost <= float(found[1]) * count
            assert float(found[1]) - lost / count < 0.0021


def test_lengths_are_counted_by_range(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text("[]")
    source = AnnotationSource(omnivideobench.ENTRY, tmp_path)
    for length in ("00:59", "01:00", "4:59", "05:00", "14:59", "15:00", "1:00:00"):
        source.count_item(AnnotationRow("data.json", 1, {"duration": length}), items=1, lost=0)
    assert source.lost_by_value == {
        ("duration", name): (n, 0)
        for name, n in (("<1 min", 1), ("1-5 min", 2), ("5-15 min", 2), (">15 min", 2))
    }


def test_skewed_loss_is_reported() -> None:
    even = {("length", "30s"): (600, 6), ("length", "60s"): (550, 5)}
    assert skew_lines(even) == []
    assert skew_lines(even | {("length", "60s"): (550, 50)}) == [
        "  the loss is skewed: 50 of 550 with length '60s', and 56 of 1150 in all"
    ]
