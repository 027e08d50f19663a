"""WorldSense: items of the hand-written fixture, and replies under the publisher's rule and
ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omnicore.data.benchmarks import worldsense
from omnicore.data.benchmarks.adapter import read_queries
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.schema import Query
from tests.benchmarks import native
from tests.benchmarks.scoring import both, queries

# id, type, answer, number of options, task domain
ITEMS = [
    ("aaKiteXy-task0", "Audio Recognition", "A splash.", 4, "Recognition"),
    ("aaKiteXy-task1", "Object Counting", "Three", 3, "Understanding"),
    ("bb_Violin9-task0", "Causal Reasoning", "A string breaks.", 4, "Reasoning"),
    ("bb_Violin9-task1", "Emotion Change", "It stays upset.", 4, "Recognition"),
    ("bb_Violin9-task2", "Audio Change", "Louder", 4, "Understanding"),
    ("ccHarbour-0-task0", "Audio Source Localization", "The left", 3, "Recognition"),
]
# reply to bb_Violin9-task2, whose key is C; publisher's score; our outcome
REPLIES = [
    ("C", 1, "correct"),
    ("C. Louder", 1, "correct"),
    ("(C)", 1, "correct"),
    ("**C**", 1, "correct"),
    ("Answer: C", 1, "correct"),
    ("The answer is C.", 1, "correct"),
    (
        "The best option is C",
        1,
        "correct",
    ),  # its comma is missing, but the prefix has no capital A to D
    ("Best answer: C", 0, "correct"),  # bug: a comma is missing, and B is found
    ("Best option: C", 0, "correct"),  # bug: the same
    ("Correct option: D", 1, "incorrect"),  # bug: C is found in "Correct"
    ("Cannot tell", 1, "no_answer"),  # bug: a letter in a word
    ("Because it is louder", 0, "no_answer"),  # bug: B
    ("C or D", 1, "no_answer"),
    ("D", 0, "incorrect"),
    ("<think>C</think><answer>D</answer>", 1, "incorrect"),  # bug: thinking counts
    ("<answer>C</answer>", 1, "correct"),
    ("louder", 0, "correct"),
    ("it gets louder after the pause, i am quite sure of that now", 0, "no_answer"),
    ("", 0, "no_answer"),
]


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Query]:
    return queries("worldsense", native.copy("worldsense", tmp_path_factory.mktemp("copy")))


def test_every_item_becomes_its_query(items: dict[str, Query]) -> None:
    written = json.loads((native.HERE / "worldsense" / "worldsense_qa.json").read_text())
    assert list(items) == [name for name, *_ in ITEMS]
    for name, kind, answer, options, domain in ITEMS:
        query = items[name]
        video, _, task = name.rpartition("-")
        asked = written[video][task]
        assert (query.type, query.answer, len(query.options), query.question) == (
            kind,
            answer,
            options,
            asked["question"],
        )
        assert [f"{chr(65 + i)}. {option}" for i, option in enumerate(query.options)] == asked[
            "candidates"
        ]
        assert [(m.kind, m.uri) for m in query.media] == [
            ("video", f"videos/{video}.mp4"),
            ("audio", f"videos/{video}.mp4"),
        ]
        assert query.cluster == video
        assert query.native["task_domain"] == domain
    assert items["ccHarbour-0-task0"].native == {
        "task_domain": "Recognition",
        "domain": "Film & TV",
        "sub_category": "Documentaries",
        "duration": ">8min",
        "audio_class": "Speech,Event,Music",
    }


def test_videos_may_lie_flat(tmp_path: Path) -> None:
    folder = native.copy("worldsense", tmp_path)
    for film in (folder / "videos").iterdir():
        film.rename(folder / film.name)
    (folder / "videos").rmdir()
    assert queries("worldsense", folder)["aaKiteXy-task0"].media[0].uri == "aaKiteXy.mp4"


HINT = "; download worldsense_videos*.zip and unpack it here"


def test_wrong_tasks_are_listed_with_their_lines(tmp_path: Path) -> None:
    folder = native.copy("worldsense", tmp_path)
    (folder / "videos" / "bb_Violin9.mp4").unlink()
    task = (
        '{"task_domain": "R", "task_type": "T", "question": "?", "candidates": ["A. x", "B. y"],'
        ' "answer": "%s"}'
    )
    shared = '"duration": "<1min", "domain": "D", "sub_category": "S", "audio_class": []'
    (folder / "worldsense_qa.json").write_text(
        "\n".join(
            [
                "{",
                f'"aaKiteXy": {{ {shared},',
                f'  "task0": {task % "A"},',
                f'  "task0": {task % "B"},',
                '  "task1": "gone",',
                f'  "task2": {task % "C"} }},',
                f'"bb_Violin9": {{ {shared},',
                f'  "task0": {task % "A"} }},',
                f'"ccHarbour-0": {{ {shared} }},',
                '"dd": ["no", "video"]',
                "}",
            ]
        )
    )
    rows, problems, count = read_queries(worldsense, AnnotationSource(worldsense.ENTRY, folder))
    either = "the annotation cannot tell which is right"
    assert rows == []
    assert count == len(rows) + len(problems) == 7
    assert [(p.line, p.id, p.field, p.message) for p in problems] == [
        (4, "aaKiteXy-task0", "answer", f"is 'y', and 'x' at worldsense_qa.json:3: {either}"),
        (5, "aaKiteXy-task1", "line", "is not an object: 'gone'"),
        (6, "aaKiteXy-task2", "answer", "'C' names none of the 2 options"),
        (8, "bb_Violin9-task0", "video", f"video videos/bb_Violin9.mp4 is missing{HINT}"),
        (9, "ccHarbour-0", "candidates", "is missing"),
        (10, "dd", "line", "is not an object: ['no', 'video']"),
        (3, "aaKiteXy-task0", "answer", f"is 'x', and 'y' in another item with this id: {either}"),
    ]


@pytest.mark.parametrize(("reply", "score", "outcome"), REPLIES)
def test_both_scores_of_a_reply(
    items: dict[str, Query], reply: str, score: float, outcome: str
) -> None:
    assert both(items["bb_Violin9-task2"], reply) == (score, outcome)
