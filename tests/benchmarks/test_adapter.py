"""The shared base: nothing is lost on the way in, and every item is a query or a listed problem."""

from __future__ import annotations

import io
import json
import random
import string
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from omnicore.data.benchmarks import NAMES, get_adapter, official_scorer
from omnicore.data.benchmarks.adapter import read_queries
from omnicore.data.benchmarks.fields import places_to_tags, tags_to_places
from omnicore.data.benchmarks.formats import json_members, media_suffix
from omnicore.data.benchmarks.options import (
    last_occurring,
    option_by_letter,
    option_by_text,
    split_labels,
)
from omnicore.data.benchmarks.records import AnnotationRow, BenchmarkEntry, Refused
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.errors import ConfigError, DataError
from omnicore.schema import MEDIA_PLACEHOLDER, AnswerKind, Query
from tests.benchmarks import tables
from tests.errors import refused

ENTRY = BenchmarkEntry(
    name="made_up",
    title="Made-up",
    source="nobody/made-up",
    licence="none",
    annotations=("items.json",),
    cluster="video",
    answer_kinds=(AnswerKind.choice,),
)
TAGS = {"[img1]": 1, "[img2]": 2, "[audio1]": 3, "<video_1>": 4, "<image_10>": 5}
TEXT = st.text(st.sampled_from("aB<>[]_1 .\n中\\/"), max_size=12)
WRITTEN = st.lists(st.one_of(TEXT, st.sampled_from(sorted(TAGS))), max_size=8).map("".join)
OPTION = st.text(st.sampled_from("ABC. ()：、ax\n0"), max_size=8)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(WRITTEN)
def test_inline_tags_round_trip(text: str) -> None:
    if MEDIA_PLACEHOLDER.search(text):
        with pytest.raises(Refused, match="holds <media_"):
            tags_to_places(text, TAGS)
        return
    ours = tags_to_places(text, TAGS)
    assert places_to_tags(ours, TAGS) == text
    assert len(MEDIA_PLACEHOLDER.findall(ours)) == sum(text.count(tag) for tag in TAGS)
    assert not any(tag in ours for tag in TAGS)


@given(
    st.lists(OPTION, min_size=2, max_size=6),
    st.sampled_from(["{}. ", "{}.", "({}) ", "{}: ", "{}、", "[{}] ", "{} . "]),
)
def test_labels_and_texts_make_the_options(texts: list[str], form: str) -> None:
    """Also for texts that look like labels themselves."""
    for options in (
        texts,
        [form.format(x) + text for x, text in zip(string.ascii_uppercase, texts, strict=False)],
    ):
        try:
            labels, bare = split_labels("options", options)
        except Refused:
            continue
        assert [label + text for label, text in zip(labels, bare, strict=True)] == options
        assert all(labels) or not any(labels)
        assert all(text.strip() for text in bare)
        assert len(set(bare)) == len(bare)


@given(st.lists(JSON, max_size=5), st.integers(0, 3))
def test_list_members_have_their_places(values: list[object], indent: int) -> None:
    text = json.dumps(values, indent=indent or None, ensure_ascii=False)
    found = list(json_members(text))
    assert [value for _, value, *_ in found] == values
    assert [json.loads(text[start:end]) for *_, start, end in found] == values
    assert json.loads(text) == values


@given(st.dictionaries(st.text(), JSON, max_size=5), st.integers(0, 3))
def test_object_members_have_their_keys(values: dict[str, object], indent: int) -> None:
    text = json.dumps(values, indent=indent or None)
    assert {key: value for key, value, *_ in json_members(text)} == values


class Made:
    """An adapter whose items are lists of (id, answer): anything else about them is wrong."""

    ENTRY = ENTRY

    def read_rows(self, source: AnnotationSource) -> Iterator[AnnotationRow]:
        return source.json_rows("items.json")

    def build_query(self, source: AnnotationSource, row: AnnotationRow) -> Query:
        item = row.fields
        return Query(
            benchmark="made_up",
            id=item["id"],
            type="t",
            question="q",
            options=("yes", "no", "<media_1>")[: item["options"]],
            answer=item["answer"],
            cluster="c",
        )

    def official_score(self, query: Query, reply: str) -> float:
        return 0.0


ITEM = st.one_of(
    JSON,
    st.fixed_dictionaries(
        {
            "id": st.sampled_from(["a", "b", "c", "d", ""]),
            "answer": st.sampled_from(["yes", "no", "maybe"]),
        },
        optional={"options": st.integers(0, 3)},
    ),
)


@given(st.lists(ITEM, max_size=8))
def test_queries_and_problems_add_up_to_the_items(items: list[object]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "items.json").write_text(json.dumps(items, indent=1))
        rows, problems, native = read_queries(Made(), AnnotationSource(ENTRY, root))
    assert len(rows) + sum(not problem.kept for problem in problems) == native == len(items)
    assert len({row.id for row in rows}) == len(rows)
    for problem in problems:
        assert problem.field
        assert problem.message
        assert problem.line >= 2


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('[\n{"a": 1},\n{"a": }\n]', 3, "Expecting value"),
        ('[\n{"a": 1},\n{"a": 1}', 3, "Expecting value"),  # cut after a whole item
        ('{"x":\n{"a": 1},\n"y" {}}', 3, "Expecting ':'"),
        ("", 1, "Expecting a list or an object"),
        ("\nnull", 2, "Expecting a list or an object"),
    ],
)
def test_broken_json_file_is_refused_with_its_line(
    tmp_path: Path, text: str, line: int, message: str
) -> None:
    (tmp_path / "items.json").write_text(text)
    path = tmp_path / "items.json"
    with refused(DataError, "annotations-broken-json", path=path, line=line) as caught:
        list(AnnotationSource(ENTRY, tmp_path).json_rows("items.json"))
    assert message in str(caught.value)


def test_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "items.json").write_bytes(b'["\xff"]')
    with refused(DataError, "annotations-not-utf8", path=tmp_path / "items.json"):
        list(AnnotationSource(ENTRY, tmp_path).json_rows("items.json"))


def test_broken_line_is_an_item(tmp_path: Path) -> None:
    (tmp_path / "items.json").write_bytes(
        b'\xef\xbb\xbf{"a": 1}\n\n{"a": \n"text"\n{"a": "\xff"}\n{"a": 2}\n'
    )
    rows = list(AnnotationSource(ENTRY, tmp_path).jsonl_rows("items.json"))
    assert [(row.line, dict(row.fields)) for row in rows if not row.broken] == [
        (1, {"a": 1}),
        (6, {"a": 2}),
    ]
    assert [(row.line, row.broken.partition(",")[0]) for row in rows if row.broken] == [
        (3, "broken JSON"),
        (4, "is not an object: 'text'"),
        (5, "broken JSON"),
    ]


def test_parquet_files_are_read_in_order_broken_one_refused(tmp_path: Path) -> None:
    rows = [{"n": i} for i in range(20)]
    tables.write(tmp_path / "part1.parquet", rows[:9], (), "bytes", group=4)
    tables.write(tmp_path / "part2.parquet", rows[9:], (), "bytes", group=4)
    (tmp_path / "items.json").touch()
    source = AnnotationSource(ENTRY, tmp_path)
    found = list(source.parquet_rows("part*.parquet"))
    assert [row.fields["n"] for row in found] == list(range(20))
    assert [(row.file, row.line) for row in (found[0], found[8], found[9])] == [
        ("part1.parquet", 1),
        ("part1.parquet", 9),
        ("part2.parquet", 1),
    ]
    (tmp_path / "part3.parquet").write_bytes((tmp_path / "part2.parquet").read_bytes()[:-20])
    path = tmp_path / "part3.parquet"
    with refused(DataError, "annotations-broken-parquet", path=path, line=0):
        list(source.parquet_rows("part3.parquet"))


def test_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    rows = [{"n": i, "picture": random.Random(i).randbytes(500_000)} for i in range(120)]
    tables.write(tmp_path / "big.parquet", rows, (), "bytes", group=4)
    (tmp_path / "items.json").touch()
    before, most = pa.total_allocated_bytes(), 0
    for row in AnnotationSource(ENTRY, tmp_path).parquet_rows("big.parquet"):
        assert row.fields["picture"] == rows[row.fields["n"]]["picture"]
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 20_000_000  # of 60 million bytes; a row group has 2 million


@pytest.mark.parametrize("uri", ["../other/a.mp4", "/etc/hostname", "a/../../b"])
def test_medium_outside_of_the_copy_is_refused(tmp_path: Path, uri: str) -> None:
    (tmp_path / "items.json").touch()
    with pytest.raises(Refused, match="lies outside"):
        AnnotationSource(ENTRY, tmp_path).media.find("video", "video", uri)


def test_linked_medium_is_read(tmp_path: Path) -> None:
    """In the hub's cache every file is a link into the store beside it."""
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "items.json").touch()
    (tmp_path / "blob").write_bytes(b"film")
    (tmp_path / "copy" / "a.mp4").symlink_to("../blob")
    source = AnnotationSource(ENTRY, tmp_path / "copy")
    assert source.media.path(source.media.find("video", "video", "a.mp4")) == tmp_path / "blob"


def test_missing_annotations_are_refused(tmp_path: Path) -> None:
    with refused(ConfigError, "benchmark-copy-not-found", path=tmp_path) as caught:
        AnnotationSource(ENTRY, tmp_path)
    assert "items.json is missing" in str(caught.value)
    assert "--hub" in str(caught.value)


def test_option_by_letter_and_by_text() -> None:
    options = ["red ", "blue", "blue "]
    assert [option_by_letter("answer", letter, options) for letter in ("A", " b ", "C")] == options
    assert option_by_text("answer", " red", options) == "red "
    for letter in ("D", "", "AB", "1", "é"):
        with pytest.raises(Refused, match="names none of the 3 options"):
            option_by_letter("answer", letter, options)
    for odd in (1, ["A"], True):
        with pytest.raises(Refused, match="is not a letter"):
            option_by_letter("answer", odd, options)  # type: ignore[arg-type]
    with pytest.raises(Refused, match="'Red' is none of the options"):
        option_by_text("answer", "Red", options)
    with pytest.raises(Refused, match="'blue' is more than one of the options"):
        option_by_text("answer", "blue", options)


def test_last_occurring_is_the_first_where_none_occurs() -> None:
    assert last_occurring("ABC", "C B A".rfind) == "A"
    assert last_occurring("BC", "none here".rfind) == "B"


@pytest.mark.parametrize(
    ("data", "suffix"),
    [
        (b"RIFF\0\0\0\0WAVEfmt ", ".wav"),
        (b"RIFF\0\0\0\0WEBPVP8 ", ".webp"),
        (b"\0\0\0\x20ftypisom", ".mp4"),
        (b"\0\0\0\x20ftypM4A ", ".m4a"),
        (b"RF64\xff\xff\xff\xffWAVEds64", ".wav"),
        (b"FORM\0\0\0\0AIFFCOMM", ".aiff"),
        (b"FORM\0\0\0\0AIFCFVER", ".aiff"),
        (b"FORM\0\0\0\0ILBM", ""),
        (b"II*\0\x08\0\0\0", ".tif"),
        (b"MM\0*\0\0\0\x08", ".tif"),
        (b"\0\0\0\x20ftypavif", ".avif"),
        (b"#!AMR\n", ".amr"),
        (b"\xff\xf1P\x80", ".aac"),
        (b"\xff\xfb\x90d", ".mp3"),
        (b"ID3\x04", ".mp3"),
        (b"\xff\xd8\xff\xe0", ".jpg"),
        (b"hello", ""),
        (b"", ""),
    ],
)
def test_media_suffix_follows_the_first_bytes(data: bytes, suffix: str) -> None:
    assert media_suffix(data) == suffix


@pytest.mark.parametrize(
    "rate", [8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000]
)
def test_mp3_of_every_rate_is_recognized(rate: int) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(rate), rate, format="MP3")
    assert media_suffix(file.getvalue()) == ".mp3"


@pytest.mark.parametrize("kind", ["tone:440", "picture:red", "video:300"])
def test_encoded_media_are_recognized(kind: str) -> None:
    expected = {"tone": ".wav", "picture": ".png", "video": ".mp4"}[kind.partition(":")[0]]
    assert media_suffix(tables.cell(kind, "bytes")) == expected


def test_unknown_bytes_keep_the_suffix_of_the_table(tmp_path: Path) -> None:
    (tmp_path / "items.json").touch()
    source = AnnotationSource(ENTRY, tmp_path, tmp_path / "scratch")
    assert source.media.embedded(
        "audio", "audio", {"bytes": b"raw", "path": "x/a.MP3"}
    ).uri.endswith(".mp3")
    with pytest.raises(ValueError, match="scratch"):
        AnnotationSource(ENTRY, tmp_path).media.embedded("audio", "audio", b"ID3...")


def test_every_registered_name_is_an_adapter() -> None:
    found: dict[str, SimpleNamespace] = {}
    for name in NAMES:
        try:
            found[name] = get_adapter(name)  # type: ignore[assignment]
        except ModuleNotFoundError:  # another half of the registry
            continue
        entry = found[name].ENTRY
        assert entry.name == name
        assert official_scorer(name) is found[name].official_score
        assert (entry.filter_policy == "keep_whole") == bool(entry.reason)
    assert {
        "av_odyssey",
        "daily_omni",
        "omnibench",
        "omnivideobench",
        "video_holmes",
        "worldsense",
    } <= set(found)
    assert official_scorer("synthetic") is None
    with refused(ConfigError, "benchmark-unknown", field="prepare.sources.nonsense"):
        get_adapter("nonsense")
