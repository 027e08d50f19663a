"""JointAVBench: items of the hand-written fixture, clips and films; replies under both rules, and
the publisher's mean."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omnicore.data.benchmarks import jointavbench
from omnicore.data.benchmarks.adapter import read_queries
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.schema import Query
from tests.benchmarks import native
from tests.benchmarks.scoring import both, queries

# id, task, answer, file, start and end
ITEMS = [
    ("-abC_task1_0", "STL", 1, "-abC.mp4", 653.444, 699.657),
    ("-abC_task4_1", "SPL", 0, "-abC_task4_1.mp4", None, None),  # a clip of its own
    ("xyz_task7_0", "MPO", 2, "xyz.mp4", 12.5, 40.0),
    ("xyz_task9_0", "MPTR", 3, "xyz.mp4", 12.5, 300.0),
    ("xyz_task15_0", "VTC", 0, "xyz.mp4", 0.0, 512.25),  # three options, space around the answer
    ("q-2_task17_0", "PTP", 1, "q-2_task17_0.mp4", None, None),  # two options
]
LAMP, DOG, THREE, TWO = "-abC_task1_0", "-abC_task4_1", "xyz_task15_0", "q-2_task17_0"
# id, reply, publisher's score, our outcome; the keys are LAMP B, DOG A, THREE A, TWO B
REPLIES = [
    (LAMP, "B", 1, "correct"),
    (LAMP, "(B)", 1, "correct"),
    (LAMP, "B.", 1, "correct"),
    (LAMP, "b", 1, "correct"),
    (LAMP, "Answer: B", 1, "correct"),
    (LAMP, "The answer is B.", 1, "correct"),
    (LAMP, "Answer: (B)", 0, "correct"),  # bug: the bracket is taken for part of the letter
    (LAMP, 'The answer is "B"', 0, "correct"),  # bug
    (LAMP, "The answer is B as it is only named", 0, "correct"),  # bug: the space is
    (LAMP, "The answer is B, as it is only named", 1, "correct"),
    (LAMP, "B. The lamp, named at 6.3s", 1, "correct"),
    (LAMP, "It is The lamp, named at 6.3s", 1, "correct"),
    (LAMP, "IT IS THE LAMP, NAMED AT 6.3S", 0, "correct"),  # bug: small letters or as written
    (
        LAMP,
        "The lamp, named at 6.3s, not The boat, named at 2.1s",
        0,
        "correct",
    ),  # bug: a mention is a choice
    (LAMP, "The answer because of the lamp", 1, "no_answer"),  # bug: "because" begins with B
    (LAMP, "I select B", 1, "correct"),
    (LAMP, "B is correct", 1, "correct"),
    (LAMP, "Option B or option C", 0, "no_answer"),
    (LAMP, "A and B", 0, "no_answer"),
    (LAMP, "I would go with B", 0, "correct"),
    (
        LAMP,
        "<think>A. no</think>B",
        0,
        "correct",
    ),  # bug: thinking counts, the letter after it does not
    (LAMP, "Because", 0, "no_answer"),  # letters B, A and C: nothing
    (LAMP, "D", 0, "incorrect"),
    (LAMP, "None of them", 0, "no_answer"),
    (LAMP, "", 0, "no_answer"),
    (DOG, "A", 1, "correct"),
    (DOG, "dog house", 1, "correct"),
    (DOG, "answer: Dog house", 0, "correct"),  # bug: D of "Dog", too
    (DOG, "Dog", 0, "no_answer"),  # bug: D
    (THREE, "A. the nurse", 1, "correct"),
    (THREE, "D. None", 0, "no_answer"),
    (TWO, "Bo", 1, "no_answer"),  # bug: any letter of a single word
    (TWO, "no", 1, "correct"),
]


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Query]:
    return queries("jointavbench", native.copy("jointavbench", tmp_path_factory.mktemp("copy")))


def test_every_item_becomes_its_query(items: dict[str, Query]) -> None:
    written = json.loads((native.HERE / "jointavbench" / "jointavbench.json").read_text())
    assert list(items) == [name for name, *_ in ITEMS]
    for row, (name, task, right, file, start, end) in zip(written, ITEMS, strict=True):
        query = items[name]
        assert (query.type, query.question, list(query.options)) == (
            task,
            row["question"],
            row["options"],
        )
        assert query.answer == query.options[right]
        uri = f"videos/{file}"
        assert [(m.kind, m.uri, m.start, m.end) for m in query.media] == [
            ("video", uri, start, end),
            ("audio", uri, start, end),
        ]
        assert query.cluster == row["video_name"]
        assert query.native["video_url"] == row["video_url"]


def test_wrong_items_are_listed(tmp_path: Path) -> None:
    folder = native.copy("jointavbench", tmp_path)
    text = (folder / "jointavbench.json").read_text()
    text = text.replace('"correct_answer": "Dog house"', '"correct_answer": "Kennel"').replace(
        "[12.5, 40.0]", "[12.5, 3.0]"
    )
    text = text.replace('"options": ["Yes", "No"]', '"options": ["No", "No"]').replace(
        "A guard", "The nurse"
    )
    (folder / "jointavbench.json").write_text(text)
    (folder / "videos" / "-abC.mp4").unlink()
    rows, problems, count = read_queries(jointavbench, AnnotationSource(jointavbench.ENTRY, folder))
    assert ([row.id for row in rows], count) == (["xyz_task9_0"], 6)
    assert [(p.field, p.message) for p in problems] == [
        ("video_name", "video videos/-abC.mp4 is missing"),
        (
            "correct_answer",
            "'Kennel' is none of the options ['Dog house', 'Behind the fence', 'Attic', 'Cellar']",
        ),
        ("answer", "Value error, clip ends at 3.0 s, before it starts at 12.5 s"),
        ("options", "options 1 and 3 are equal: 'The nurse'"),
        ("options", "options 1 and 2 are equal: 'No'"),
    ]


@pytest.mark.parametrize(("name", "reply", "score", "outcome"), REPLIES)
def test_both_scores_of_a_reply(
    items: dict[str, Query], name: str, reply: str, score: float, outcome: str
) -> None:
    assert both(items[name], reply) == (score, outcome)


def test_official_mean_omits_replies_without_an_option(items: dict[str, Query]) -> None:
    asked = [(items[LAMP], reply) for reply in ("B", "D", "A and B", "")] + [(items[DOG], "A")]
    assert jointavbench.official_figures(asked) == {"accuracy": 2 / 3, "answered": 3 / 5}
    assert jointavbench.official_figures([]) == {"accuracy": 0, "answered": 0}
