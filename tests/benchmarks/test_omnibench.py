"""OmniBench: rows of the hand-written fixture as Parquet, and replies under the publisher's rule
and ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from omnicore.data.benchmarks import omnibench
from omnicore.data.benchmarks.adapter import read_queries
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.media.images import load_image
from omnicore.media.sounds import load_audio
from omnicore.schema import Query
from omnicore.storage.digests import sha256_file
from tests.benchmarks import tables
from tests.benchmarks.scoring import both, queries

MEDIA = ("image", "audio")
ROWS = tables.rows("omnibench")
# id, type, answer, cluster, audio type
ITEMS = [
    (
        "0",
        "Action and Activity",
        "She is going to leave the house with a friend.",
        "9_001_door.png",
        "speech",
    ),
    ("1", "Object Identification and Description", "dog", "9_002.jpg", "sound event"),
    ("2", "Story Description", "A farewell from a small boat", "9_003.png", "music"),
    ("3", "Identity and Relationship", "The drummer's mother", "9_003.png", "speech"),
    ("4", "Count and Quantity", "4", "9_005.png", "speech"),
    ("5", "Text and Symbols", "A. with a plus", "9_006.png", "speech"),
]
# id, reply, publisher's score, our outcome; the keys are 0 B, 1 C, 2 A, 5 A
REPLIES = [
    ("1", "C", 1, "correct"),
    ("1", "(C)", 1, "correct"),
    ("1", "C. dog", 1, "correct"),
    ("1", "The answer is C.", 1, "correct"),
    ("1", "**C**", 0, "correct"),  # bug: emphasis hides the letter
    ("1", "Answer: C\nI heard it", 0, "correct"),  # bug: so does the end of a line
    ("1", "<answer>C</answer>", 0, "correct"),
    ("1", "A dog barks", 0, "no_answer"),  # bug: the article is an answer, A
    ("2", "A dog barks", 1, "no_answer"),  # ... here the right one
    ("1", "NASA has it, so (C)", 1, "no_answer"),  # brackets come first
    ("1", "VITAMIN C is good", 1, "no_answer"),
    ("0", "JOB or not", 1, "no_answer"),  # bug: a capital at the end of a word
    ("1", "B or C", 1, "no_answer"),  # the latest
    ("1", "C or B", 0, "no_answer"),
    ("1", "(B) is wrong, (C) is right, (D) too", 0, "no_answer"),
    (
        "1",
        "C.D.",
        1,
        "no_answer",
    ),  # bug: of several that only "A." finds, the first of the alphabet
    ("1", "dog", 0, "correct"),  # five words or fewer: no text counts
    ("1", "what i hear in this recording is a dog", 1, "no_answer"),
    ("1", "what i hear is a dog and no cat or so", 0, "no_answer"),  # the latest text
    ("1", "i cannot tell what is heard in it", 0, "no_answer"),
    ("5", "i think it is the grade a. with a plus", 1, "no_answer"),
    ("1", "D", 0, "incorrect"),
    ("1", "", 0, "no_answer"),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows in two files, as the hub shards them."""
    folder = tmp_path_factory.mktemp("copy")
    for i, part in enumerate((ROWS[:4], ROWS[4:])):
        tables.write(folder / f"data/train-0000{i}-of-00002.parquet", part, MEDIA, "feature")
    return folder


@pytest.fixture(scope="module")
def items(copy: Path) -> dict[str, Query]:
    return queries("omnibench", copy, copy.parent / "scratch-omnibench")


def test_every_row_becomes_its_query(items: dict[str, Query]) -> None:
    assert list(items) == [name for name, *_ in ITEMS]
    for row, (name, kind, answer, cluster, audio) in zip(ROWS, ITEMS, strict=True):
        query = items[name]
        assert (query.type, query.answer, query.cluster, query.question) == (
            kind,
            answer,
            cluster,
            row["question"],
        )
        assert (
            list(query.options) == row["options"]
        )  # also those that begin with letters of their own
        assert [medium.kind for medium in query.media] == ["image", "audio"]
        kept = {
            name: row[name]
            for name in ("audio type", "audio content", "image content", "audio_path")
        }
        assert query.native == kept
        assert kept["audio type"] == audio


def test_media_become_files_outside_the_copy(copy: Path, tmp_path: Path) -> None:
    source = AnnotationSource(omnibench.ENTRY, copy, tmp_path / "scratch")
    rows, _, _ = read_queries(omnibench, source)
    files = {medium.uri: source.media.path(medium) for row in rows for medium in row.media}
    assert sorted(path.name for path in copy.rglob("*") if path.is_file()) == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]
    assert {path.parent for path in files.values()} == {tmp_path / "scratch"}
    assert len(files) == 11  # six sounds, five pictures: one is shown twice
    for row in rows:
        picture, sound = (source.media.path(medium) for medium in row.media)
        assert (picture.suffix, sound.suffix) == (
            ".png",
            ".wav",
        )  # by content: the table calls them picture.bin and tone.bin
        assert load_image(picture).size == (32, 24)
        assert abs(load_audio(sound)).max() > 0.1
        assert [sha256_file(path) for path in (picture, sound)] == [
            medium.sha256 for medium in row.media
        ]


def test_answer_outside_of_options_is_listed(tmp_path: Path) -> None:
    wrong = [
        ROWS[0],
        {**ROWS[1], "answer": "Dog"},
        {**ROWS[2], "image": None},
        {**ROWS[3], "audio": "text:this is no sound"},
        {**ROWS[4], "image": "path:gone.png"},
        {**ROWS[5], "index": 0},
        {**ROWS[5], "options": ["one", "two", "two", "A. with a plus"]},
    ]
    tables.write(tmp_path / "data/train-00000-of-00001.parquet", wrong, MEDIA, "feature")
    rows, problems, count = read_queries(
        omnibench, AnnotationSource(omnibench.ENTRY, tmp_path, tmp_path / "scratch")
    )
    assert ([row.id for row in rows], count) == (["0"], 7)
    assert {problem.file for problem in problems} == {"data/train-00000-of-00001.parquet"}
    assert [(p.line, p.field, p.message) for p in problems] == [
        (2, "answer", "'Dog' is none of the options ['cat', 'owl', 'dog', 'fox']"),
        (3, "image", "holds no image"),
        (4, "audio", "16 bytes that are no audio of a known format"),
        (5, "image", "image gone.png is missing"),
        (6, "id", "0 occurs twice"),
        (7, "options", "options 2 and 3 are equal: 'two'"),
    ]


@pytest.mark.parametrize(("name", "reply", "score", "outcome"), REPLIES)
def test_both_scores_of_a_reply(
    items: dict[str, Query], name: str, reply: str, score: float, outcome: str
) -> None:
    assert both(items[name], reply) == (score, outcome)
