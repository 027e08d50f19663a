"""Video-Holmes: items of the hand-written fixture, and replies under the publisher's rule and
ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omnicore.data.benchmarks import video_holmes
from omnicore.data.benchmarks.adapter import read_queries
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.schema import Query
from tests.benchmarks import native
from tests.benchmarks.scoring import both, queries

# id, type, answer
ITEMS = [
    ("xTrainNight-1", "SR", "Her former self"),
    ("xTrainNight-2", "IMC", "It is forged"),
    ("xTrainNight-3", "TA", "3→1→2"),
    ("y-Mirror_7-1", "TCI", "The song"),
    ("y-Mirror_7-2", "MHR", "Guilt"),
    ("y-Mirror_7-3", "PAR", "It shows what was"),
    ("y-Mirror_7-4", "CTI", "Memory"),
]
# reply to xTrainNight-2, whose key is C; publisher's score; our outcome
REPLIES = [
    ("<think>hm</think><answer>C</answer>", 1, "correct"),
    ("<answer>C: It is forged</answer>", 1, "correct"),
    ("<answer>[C]</answer>", 1, "correct"),
    ("<answer> C </answer>", 1, "correct"),
    ("<answer>C. It is forged</answer>", 1, "correct"),
    ("<answer>D</answer><answer>C</answer>", 1, "no_answer"),  # the last tag counts
    ("C", 1, "correct"),  # no tag: the whole reply
    ("Answer: C", 0, "correct"),  # bug: A stands in "Answer"
    ("<answer>Answer: C</answer>", 0, "correct"),  # bug: the same inside the tags
    ("<answer>Answer: [C]</answer>", 1, "correct"),  # a marked letter comes before a bare one
    (
        "<answer>C: A man watches her</answer>",
        0,
        "no_answer",
    ),  # bug: the article "A " is tried before C
    ("I see A man who acts. <answer>F</answer>", 0, "incorrect"),
    ("Cannot tell", 1, "no_answer"),  # bug: a letter in a word
    ("<answer>G</answer>", 0, "incorrect"),
    ("<answer>C</answer", 1, "no_answer"),  # cut: without a whole tag the whole reply counts
    ("<answer></answer>", 0, "no_answer"),
    ("WRONG", 0, "no_answer"),
    ("", 0, "no_answer"),
]


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Query]:
    return queries("video_holmes", native.copy("video_holmes", tmp_path_factory.mktemp("copy")))


def test_every_item_becomes_its_query(items: dict[str, Query]) -> None:
    written = json.loads((native.HERE / "video_holmes" / "test_Video-Holmes.json").read_text())
    assert list(items) == [name for name, *_ in ITEMS]
    for item, (name, kind, answer) in zip(written, ITEMS, strict=True):
        query = items[name]
        assert (query.type, query.answer, query.question) == (kind, answer, item["Question"])
        assert dict(zip("ABCDEF", query.options, strict=True)) == item["Options"]
        uri = f"videos/{item['video ID']}.mp4"
        assert [(medium.kind, medium.uri) for medium in query.media] == [
            ("video", uri),
            ("audio", uri),
        ]
        assert query.cluster == item["video ID"]


def test_cropped_videos_are_found(tmp_path: Path) -> None:
    folder = native.copy("video_holmes", tmp_path)
    (folder / "videos").rename(folder / "videos_cropped")
    assert (
        queries("video_holmes", folder)["xTrainNight-1"].media[0].uri
        == "videos_cropped/xTrainNight.mp4"
    )


def test_options_out_of_order_are_refused(tmp_path: Path) -> None:
    folder = native.copy("video_holmes", tmp_path)
    written = json.loads((folder / "test_Video-Holmes.json").read_text())
    written[1]["Options"] = {"A": "one", "C": "two", "B": "three"}
    (folder / "test_Video-Holmes.json").write_text(json.dumps(written, indent=0))
    rows, problems, count = read_queries(video_holmes, AnnotationSource(video_holmes.ENTRY, folder))
    assert (len(rows), count) == (6, 7)
    assert [(p.field, p.message) for p in problems] == [
        ("Options", "are not labelled A, B or 1, 2 in turn, but A, C, B")
    ]


def test_options_in_other_forms_are_read_alike(tmp_path: Path) -> None:
    folder = native.copy("video_holmes", tmp_path)
    written = json.loads((folder / "test_Video-Holmes.json").read_text())[:3]
    written[0] |= {"Options": {"A": "A. one", "B": "B. two", "C": "C. three"}, "Answer": "B"}
    written[1] |= {"Options": {"A": 1, "B": 2, "C": 3}, "Answer": "B"}
    written[2] |= {"Options": ["A. one", "B. two", "C. three"], "Answer": "B"}
    (folder / "test_Video-Holmes.json").write_text(json.dumps(written))
    made, problems, _ = read_queries(video_holmes, AnnotationSource(video_holmes.ENTRY, folder))
    assert not problems
    assert [(query.options, query.answer) for query in made] == [
        (("one", "two", "three"), "two"),
        (("1", "2", "3"), "2"),
        (("one", "two", "three"), "two"),
    ]


@pytest.mark.parametrize(("reply", "score", "outcome"), REPLIES)
def test_both_scores_of_a_reply(
    items: dict[str, Query], reply: str, score: float, outcome: str
) -> None:
    assert both(items["xTrainNight-2"], reply) == (score, outcome)
