"""MUSIC-AVQA: items of the hand-written fixture with their slots filled, and replies under the
publisher's rule and ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omnicore.data.benchmarks import music_avqa
from omnicore.data.benchmarks.adapter import read_queries
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.schema import Query
from tests.benchmarks import native
from tests.benchmarks.scoring import both, queries

# id, type, question, kind, answer
ITEMS = [
    ("11", "Audio-Visual Counting", "How many sounding violin in the video?", "text", "two"),
    (
        "12",
        "Audio Counting",
        "How many musical instruments were heard throughout the video?",
        "text",
        "more than ten",
    ),
    ("13", "Audio Comparative", "Is the flute more rhythmic than the congas?", "yes_no", "no"),
    ("21", "Visual Location", "Where is the performance?", "text", "indoor"),
    (
        "22",
        "Audio-Visual Location",
        "Which is the musical instrument that sounds at the same time as the electric_bass?",
        "text",
        "cello",
    ),
    (
        "23",
        "Audio-Visual Temporal",
        "What is the second instrument that comes in?",
        "text",
        "piano",
    ),
    ("24", "Audio-Visual Existential", "Is there a voiceover?", "yes_no", "yes"),
    (
        "25",
        "Audio-Visual Location",
        "Which instrument makes sounds after the piano?",
        "text",
        "acoustic_guitar",
    ),
]
# id, reply, publisher's score, our outcome
REPLIES = [
    ("11", "two", 1, "correct"),
    ("11", " two\n", 1, "correct"),
    ("11", "Two", 0, "correct"),  # the classes are names, letter by letter
    ("11", "2", 0, "correct"),
    ("11", "two.", 0, "correct"),
    ("11", "The answer is two.", 0, "correct"),
    ("11", "<answer>two</answer>", 0, "correct"),
    ("11", "There are two violins", 0, "incorrect"),
    ("11", "two or three", 0, "incorrect"),
    ("11", "three", 0, "incorrect"),
    ("11", "", 0, "no_answer"),
    ("12", "more than ten", 1, "correct"),
    ("12", "More than 10", 0, "incorrect"),
    ("12", "12", 0, "incorrect"),
    ("13", "no", 1, "correct"),
    ("13", "No", 0, "correct"),
    ("13", "No, the congas are", 0, "correct"),
    ("13", "yes or no", 0, "no_answer"),
    ("13", "yes", 0, "incorrect"),
    ("22", "a cello", 0, "incorrect"),
    ("25", "acoustic_guitar", 1, "correct"),
    ("25", "acoustic guitar", 0, "correct"),  # the classes are names, underscores and all
    ("25", "The answer is Acoustic Guitar.", 0, "correct"),
    ("25", "<answer>acoustic  guitar</answer>", 0, "correct"),
    ("25", "acousticguitar", 0, "incorrect"),
    ("25", "guitar", 0, "incorrect"),
]


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Query]:
    return queries("music_avqa", native.copy("music_avqa", tmp_path_factory.mktemp("copy")))


def test_every_item_becomes_its_query(items: dict[str, Query]) -> None:
    written = json.loads(
        (native.HERE / "music_avqa" / "data" / "json" / "avqa-test.json").read_text()
    )
    assert list(items) == [name for name, *_ in ITEMS]
    for row, (name, kind, question, answers, answer) in zip(written, ITEMS, strict=True):
        query = items[name]
        assert (query.type, query.question, query.wording) == (
            kind,
            question,
            row["question_content"],
        )
        assert (str(query.answer_kind), query.answer) == (answers, answer)
        assert query.options == (("yes", "no") if answers == "yes_no" else ())
        uri = f"data/video/{row['video_id']}.mp4"
        assert [(medium.kind, medium.uri) for medium in query.media] == [
            ("video", uri),
            ("audio", uri),
        ]
        assert query.cluster == row["video_id"]
        assert query.native == {"deleted": str(row["question_deleted"])}


def test_wrong_items_are_listed(tmp_path: Path) -> None:
    folder = native.copy("music_avqa", tmp_path)
    file = folder / "data" / "json" / "avqa-test.json"
    text = (
        file.read_text()
        .replace('"[\\"flute\\", \\"congas\\"]"', '"[\\"flute\\"]"')
        .replace('"anser": "indoor"', '"answer": "indoor"')
    )
    text = text.replace('"[\\"Audio-Visual\\", \\"Temporal\\"]"', '"Temporal"').replace(
        '"question_id": 12', '"question_id": 11'
    )
    file.write_text(text)
    rows, problems, count = read_queries(music_avqa, AnnotationSource(music_avqa.ENTRY, folder))
    assert ([row.id for row in rows], count) == (["11", "22", "24", "25"], 8)
    assert [(p.line, p.field, p.message) for p in problems] == [
        (3, "id", "11 occurs twice"),
        (4, "templ_values", "1 values for 2 slots"),
        (5, "anser", "is missing"),
        (7, "type", "is not a list: 'Temporal'"),
    ]


@pytest.mark.parametrize(("name", "reply", "score", "outcome"), REPLIES)
def test_both_scores_of_a_reply(
    items: dict[str, Query], name: str, reply: str, score: float, outcome: str
) -> None:
    assert both(items[name], reply) == (score, outcome)


def pair(folder: Path, **changed: object) -> None:
    """Append the first item again, with other fields."""
    file = folder / "data" / "json" / "avqa-test.json"
    items = json.loads(file.read_text())
    file.write_text(json.dumps([*items, {**items[0], **changed}], indent=1))


def test_contradicting_pair_is_excluded(tmp_path: Path) -> None:
    folder = native.copy("music_avqa", tmp_path)
    pair(folder, anser="three")
    rows, problems, count = read_queries(music_avqa, AnnotationSource(music_avqa.ENTRY, folder))
    assert ([row.id for row in rows], count) == (["12", "13", "21", "22", "23", "24", "25"], 9)
    assert [(p.id, p.field, p.excluded) for p in problems] == [("11", "answer", True)] * 2
    assert [p.message.partition(":")[0] for p in problems] == [
        "is 'three', and 'two' at data/json/avqa-test.json",
        "is 'two', and 'three' in another item with this id",
    ]


def test_duplicate_item_is_kept_once(tmp_path: Path) -> None:
    folder = native.copy("music_avqa", tmp_path)
    pair(folder)
    rows, problems, _ = read_queries(music_avqa, AnnotationSource(music_avqa.ENTRY, folder))
    assert len(rows) == 8
    assert [(p.id, p.message, p.excluded) for p in problems] == [("11", "11 occurs twice", False)]


def test_corrected_annotations_are_preferred(tmp_path: Path) -> None:
    folder = native.copy("music_avqa", tmp_path)
    pair(folder, anser="three")
    items = json.loads((folder / "data" / "json" / "avqa-test.json").read_text())
    (folder / "data" / "json_update").mkdir()
    (folder / "data" / "json_update" / "avqa-test.json").write_text(json.dumps(items[1:]))
    rows, problems, _ = read_queries(music_avqa, AnnotationSource(music_avqa.ENTRY, folder))
    assert problems == []
    assert {row.id: row.answer for row in rows}["11"] == "three"
