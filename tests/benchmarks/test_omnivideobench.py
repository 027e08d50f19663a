"""OmniVideoBench: items of the hand-written fixture, and replies under the publisher's rule and
ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omnicore.data.benchmarks import omnivideobench
from omnicore.data.benchmarks.adapter import read_queries
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.schema import Query
from tests.benchmarks import native
from tests.benchmarks.scoring import both, queries

# id, type, options, answer, audio type, modalities
ITEMS = [
    (
        "video_1-0",
        "fine-grained perception",
        ("A broom", "A ladder", "A rope", "Nothing"),
        1,
        "Sound",
        "audio,vision",
    ),
    ("video_1-1", "counting", ("1", "3", "2", "4"), 2, "Speech", "audio"),
    (
        "video_1-2",
        "sentiment analysis",
        ("Glad.", "Sad.", "Angry.", "Bored."),
        0,
        "Speech",
        "audio,vision",
    ),
    (
        "video_2-0",
        "spatial understanding",
        (
            "0.5 m left of the line",
            "On the line",
            "1.5 m right of the line",
            "1.5 m left of the line",
        ),
        3,
        "Sound",
        "audio,vision",
    ),
    (
        "video_2-1",
        "background and music understanding",
        ("A march", "A waltz", "A hymn", "No tune"),
        0,
        "Music",
        "audio,vision",
    ),
    (
        "video_3-0",
        "attribute comparison",
        ("Flat", "Pointed", "Round", "Open"),
        2,
        "Speech",
        "vision",
    ),
]
# reply to video_1-0, whose key is B; publisher's score; our outcome
REPLIES = [
    ("B", 1, "correct"),
    ("b", 1, "correct"),
    ("(B)", 1, "correct"),
    ("**B**", 1, "correct"),
    ("B.A ladder", 1, "correct"),
    ("B. A ladder", 1, "correct"),
    ("B. or C.", 1, "no_answer"),  # bug: a full stop in the second place is enough
    ("B: A ladder", 0, "correct"),  # bug: a colon is not
    ("B) A ladder", 0, "correct"),
    ("The answer is B.", 0, "correct"),  # bug: no phrase is understood
    ("Answer: B", 0, "correct"),
    (r"\boxed{B}", 1, "correct"),
    (r"It must be /box{B}", 1, "no_answer"),
    ("assistant\nB", 1, "correct"),
    ("assistant C assistant B", 1, "no_answer"),  # the last "assistant" counts
    ("<think>B</think>B", 0, "correct"),  # bug: thinking is not taken off
    ("C", 0, "incorrect"),
    ("B or C", 0, "no_answer"),
    ("Because of the ladder", 0, "no_answer"),
    ("", 0, "no_answer"),
]


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Query]:
    return queries("omnivideobench", native.copy("omnivideobench", tmp_path_factory.mktemp("copy")))


def test_every_item_becomes_its_query(items: dict[str, Query]) -> None:
    written = json.loads((native.HERE / "omnivideobench" / "data.json").read_text())
    asked = {
        f"{video['video']}-{i}": (video, q)
        for video in written
        for i, q in enumerate(video["questions"])
    }
    assert list(items) == [name for name, *_ in ITEMS]
    for name, kind, options, right, audio, modalities in ITEMS:
        query, (video, question) = items[name], asked[name]
        assert (query.type, query.options, query.answer) == (kind, options, options[right])
        assert query.question == question["question"]
        uri = f"videos/{video['video']}.mp4"
        assert [(medium.kind, medium.uri) for medium in query.media] == [
            ("video", uri),
            ("audio", uri),
        ]
        assert query.cluster == video["video"]
        assert query.native == {
            "video_type": video["video_type"],
            "audio_type": audio,
            "duration": video["duration"],
            "modalities": modalities,
        }


def test_wrong_questions_are_listed_with_their_lines(tmp_path: Path) -> None:
    folder = native.copy("omnivideobench", tmp_path)
    text = (folder / "data.json").read_text()
    text = text.replace('"answer": "2"', '"answer": "7"')  # not what correct_option names
    text = text.replace('"correct_option": "D"', '"correct_option": "E"')
    text = text.replace(
        '"duration": "04:10",\n    "questions": [', '"duration": "04:10", "questions": [ "lost",'
    )
    (folder / "data.json").write_text(text)
    lines = text.splitlines()
    rows, problems, count = read_queries(
        omnivideobench, AnnotationSource(omnivideobench.ENTRY, folder)
    )
    assert [row.id for row in rows] == [
        "video_1-0",
        "video_1-1",
        "video_1-2",
        "video_2-1",
        "video_3-1",
    ]
    assert count == 7
    assert [(p.id, p.field, p.message) for p in problems] == [
        ("video_1-1", "answer", "'7' is no option, and the key is C, '2'"),
        ("video_2-0", "correct_option", "'E' names none of the 4 options"),
        ("video_3-0", "line", "is not an object: 'lost'"),
    ]
    assert [p.kept for p in problems] == [True, False, False]
    assert (
        "times is the word" in lines[problems[0].line]
    )  # the item opens on the line before its question
    assert "runner stand" in lines[problems[1].line]
    assert "lost" in lines[problems[2].line - 1]


def test_video_without_questions_is_counted(tmp_path: Path) -> None:
    folder = native.copy("omnivideobench", tmp_path)
    (folder / "data.json").write_text(
        '[{"video": "video_1", "video_type": "V", "duration": "00:01"}, "video_2"]'
    )
    rows, problems, count = read_queries(
        omnivideobench, AnnotationSource(omnivideobench.ENTRY, folder)
    )
    assert (rows, count) == ([], 2)
    assert [(p.field, p.message) for p in problems] == [
        ("options", "is missing"),
        ("line", "is not an object: 'video_2'"),
    ]


@pytest.mark.parametrize(("reply", "score", "outcome"), REPLIES)
def test_both_scores_of_a_reply(
    items: dict[str, Query], reply: str, score: float, outcome: str
) -> None:
    assert both(items["video_1-0"], reply) == (score, outcome)


DOUBTFUL = [
    # options, key, answer, texts, warnings by field
    (
        ["A Kitchen", "B Hall", "C Yard", "D Roof"],
        "C",
        "Yard",
        ("Kitchen", "Hall", "Yard", "Roof"),
        [],
    ),
    (
        ["A.Hall", "B Yard", "C.Roof", "D.Kitchen"],
        "B",
        " yard. ",
        ("Hall", "Yard", "Roof", "Kitchen"),
        [],
    ),
    (["A. x", "B. y", "A. z", "B. w"], "D", "w", ("x", "y", "z", "w"), ["options"]),
    (["A. red", "B. blue", "C. green"], "A", "Blue", ("red", "blue", "green"), ["answer"]),
    (["A. red", "B. blue", "C. green"], "A", "It is red", ("red", "blue", "green"), ["answer"]),
    (["A. red", "B. blue", "C. green"], "A", "A. Red", ("red", "blue", "green"), []),
    (["A. red", "B. blue", "C. green"], "A", None, ("red", "blue", "green"), []),
    (["A. 1.5 m", "B. 15 m", "C. -15 m"], "A", "15 m", ("1.5 m", "15 m", "-15 m"), ["answer"]),
]


@pytest.mark.parametrize(("options", "key", "answer", "texts", "fields"), DOUBTFUL)
def test_key_decides_and_doubtful_items_are_flagged(
    tmp_path: Path,
    options: list[str],
    key: str,
    answer: str | None,
    texts: tuple[str, ...],
    fields: list[str],
) -> None:
    folder = native.copy("omnivideobench", tmp_path)
    written = json.loads((folder / "data.json").read_text())
    question = written[0]["questions"][0]
    question |= {"options": options, "correct_option": key, "answer": answer}
    question["reasoning_steps"] = [{"nmodality": "vision"}, {"modality": "audio"}]
    (folder / "data.json").write_text(json.dumps(written, indent=1))
    rows, problems, count = read_queries(
        omnivideobench, AnnotationSource(omnivideobench.ENTRY, folder)
    )
    assert (rows[0].options, rows[0].answer) == (texts, texts[ord(key) - 65])
    assert rows[0].native["modalities"] == "audio,vision"
    assert len(rows) == count
    assert [(p.id, p.field, p.kept, p.refused) for p in problems] == [
        ("video_1-0", field, True, False) for field in fields
    ]
