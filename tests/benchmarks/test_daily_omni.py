"""Daily-Omni: items of the hand-written fixture, and replies under the publisher's rule and
ours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from omnicore.data.benchmarks.daily_omni import ENTRY
from omnicore.schema import Query
from tests.benchmarks import native
from tests.benchmarks.scoring import both, queries

BREAKFAST = {"duration": "30s", "category": "Howto & Style", "content": "Food / Baking"}
STREET = {"duration": "60s", "category": "Travel & Events", "content": "City / Streets"}
CHOIR = {"duration": "60s", "category": "Music", "content": "Music / Choir"}
# id, type, options, answer, native
ITEMS = [
    (
        "kitchen01-0",
        "Event Sequence",
        ("A timer rings", "A door closes", "Water runs", "A dog barks"),
        0,
        BREAKFAST,
    ),
    (
        "kitchen01-1",
        "AV Event Alignment",
        ("An empty bowl", "Three eggs", "A jar of honey", "The oven's dial"),
        1,
        BREAKFAST,
    ),
    (
        "kitchen01-2",
        "Reasoning",
        (
            "The cake is too small",
            "He burns his hand",
            "The cat has eaten the dough",
            "A friend calls",
        ),
        2,
        BREAKFAST,
    ),
    # an option that begins with a letter of its own
    (
        "street-02-0",
        "Context understanding",
        ('A. "very good"', "B, with a sigh", "C (for the bread)", "none of them"),
        3,
        STREET,
    ),
    (
        "street-02-1",
        "Comparative",
        ("Louder", "Quieter", "The same", "It cannot be heard"),
        1,
        STREET,
    ),
    (
        "choir03-0",
        "Inference",
        ("Leave the stage", "Sing again", "Sit down", "Tune a piano"),
        1,
        CHOIR,
    ),
]
# reply to kitchen01-1, whose key is B; publisher's score; our outcome
REPLIES = [
    ("B", 1, "correct"),
    ("B. Three eggs", 1, "correct"),
    (" \n B", 1, "correct"),
    ("(B)", 0, "correct"),
    ("**B**", 0, "correct"),
    ("The answer is B.", 0, "correct"),
    ("Answer: B", 0, "correct"),
    ("<answer>B</answer>", 0, "correct"),
    ("assistant\nB", 1, "correct"),
    ("user ... assistant B assistant C", 1, "no_answer"),  # the first "assistant" counts
    ("assistant", 0, "no_answer"),
    ("B or C", 1, "no_answer"),
    ("Because three eggs are shown", 1, "no_answer"),  # bug: the first letter of a word
    ("but I cannot hear it", 1, "no_answer"),  # bug: in either case
    ("Cannot tell", 0, "no_answer"),  # bug: C
    ("b", 1, "correct"),
    ("C", 0, "incorrect"),
    ("C. Three eggs", 0, "no_answer"),
    ("<think>B</think>C", 0, "incorrect"),
    ("E", 0, "incorrect"),
    ("", 0, "no_answer"),
]


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Query]:
    return queries("daily_omni", native.copy("daily_omni", tmp_path_factory.mktemp("copy")))


def test_every_item_becomes_its_query(items: dict[str, Query]) -> None:
    written = json.loads((native.HERE / "daily_omni" / "qa.json").read_text())
    assert list(items) == [name for name, *_ in ITEMS]
    for item, (name, kind, options, right, kept) in zip(written, ITEMS, strict=True):
        query = items[name]
        assert (query.type, query.options, query.answer, query.native) == (
            kind,
            options,
            options[right],
            kept,
        )
        assert query.question == item["Question"]
        assert [f"{chr(65 + i)}. {option}" for i, option in enumerate(query.options)] == item[
            "Choice"
        ]
        uri = f"Videos/{item['video_id']}/{item['video_id']}_video.mp4"
        assert [(medium.kind, medium.uri) for medium in query.media] == [
            ("video", uri),
            ("audio", uri),
        ]
        assert query.cluster == item["video_id"]


def test_videos_may_lie_beside_the_questions(tmp_path: Path, items: dict[str, Query]) -> None:
    folder = native.copy("daily_omni", tmp_path)
    for film in (folder / "Videos").iterdir():
        film.rename(folder / film.name)
    (folder / "Videos").rmdir()
    flat = queries("daily_omni", folder)
    assert flat["choir03-0"].media[0].uri == "choir03/choir03_video.mp4"
    assert flat["choir03-0"].media[0].sha256 == items["choir03-0"].media[0].sha256


def test_refused_item_keeps_the_ids_of_others(tmp_path: Path) -> None:
    from omnicore.data.benchmarks import daily_omni
    from omnicore.data.benchmarks.adapter import read_queries
    from omnicore.data.benchmarks.source import AnnotationSource

    folder = native.copy("daily_omni", tmp_path)
    written = json.loads((folder / "qa.json").read_text())
    del written[0]["Choice"]
    (folder / "qa.json").write_text(json.dumps(written))
    rows, problems, _ = read_queries(daily_omni, AnnotationSource(ENTRY, folder))
    assert [row.id for row in rows] == [name for name, *_ in ITEMS[1:]]
    assert [(problem.field, problem.message) for problem in problems] == [("Choice", "is missing")]


def test_packed_archive_is_named(tmp_path: Path) -> None:
    from omnicore.data.benchmarks import daily_omni
    from omnicore.data.benchmarks.adapter import read_queries
    from omnicore.data.benchmarks.source import AnnotationSource

    folder = native.copy("daily_omni", tmp_path)
    shutil.rmtree(folder / "Videos")
    (folder / "Videos.tar").write_bytes(b"")
    _, problems, native_items = read_queries(daily_omni, AnnotationSource(ENTRY, folder))
    assert len(problems) == native_items == 6
    assert problems[0].message.endswith(
        "_video.mp4 is missing; unpack Videos.tar here if that has not been done"
    )


@pytest.mark.parametrize(("reply", "score", "outcome"), REPLIES)
def test_both_scores_of_a_reply(
    items: dict[str, Query], reply: str, score: float, outcome: str
) -> None:
    assert both(items["kitchen01-1"], reply) == (score, outcome)
