"""CG-AV-Counting: items of the hand-written fixture, replies under the publisher's rule and ours,
and the figures over all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omnicore.data.benchmarks import cg_av_counting
from omnicore.data.benchmarks.adapter import read_queries
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.schema import AnswerKind, Query
from tests.benchmarks import native
from tests.benchmarks.scoring import both, queries

# id, type, category, answer, interval, video
ITEMS = [
    ("0", "A2V", "event", "3", "0.0,120.5", "film_a.mp4"),
    ("1", "V2A", "object", "12", "10,30", "film_a.mp4"),
    ("2", "AV", "attribute", "2", "5.25,61.5", "film_b.mp4"),
    ("3", "A", "event", "0", "0,600", "film_b.mp4"),  # asked in `question_en`
    ("4", "V", "object", "140", "0,9.5", "film_c.mkv"),
    ("17", "AV", "event", "21", "1,2", "film_c.mkv"),
]
# id (its answer: above), reply, publisher's score, our outcome
REPLIES = [
    ("0", "3", 1, "correct"),
    ("0", "three", 1, "correct"),
    ("0", "３", 1, "correct"),
    ("0", "three times", 1, "correct"),
    ("0", "3 times", 0, "correct"),  # bug: figures count alone
    ("0", "3.", 0, "correct"),
    ("0", " 3", 0, "correct"),
    ("0", "3.0", 0, "correct"),
    ("0", "**3**", 0, "correct"),
    ("0", "Three.", 0, "correct"),  # bug: a word with a full stop is another word
    ("0", "The answer is 3.", 0, "correct"),
    ("0", "<answer>3</answer>", 0, "correct"),
    ("0", "-3", 0, "incorrect"),
    ("0", "one two", 1, "no_answer"),  # bug: words are added
    ("0", "one and two", 1, "no_answer"),
    ("0", "about three or so", 1, "no_answer"),
    ("0", "2", 0, "incorrect"),
    ("1", "twelve", 1, "correct"),
    ("1", "a dozen", 0, "no_answer"),
    ("3", "0", 1, "correct"),
    ("3", "zero", 1, "correct"),
    ("3", "", 1, "no_answer"),  # bug: what cannot be read is 0
    ("3", "I hear 5 barks", 1, "incorrect"),  # bug
    ("3", "no one barks", 0, "no_answer"),  # bug: "one" is a number
    ("3", "at this point five", 0, "no_answer"),
    ("3", "one thousand thousand", 1, "no_answer"),  # bug: what the package refuses is 0
    ("3", "²", 1, "no_answer"),
    ("4", "140", 1, "correct"),
    ("4", "one hundred and forty", 1, "no_answer"),
    ("4", "hundred forty", 0, "no_answer"),  # bug: multiplied
    ("17", "twenty-one", 1, "no_answer"),
    ("17", "one two three four five", 0, "no_answer"),
]


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Query]:
    return queries("cg_av_counting", native.copy("cg_av_counting", tmp_path_factory.mktemp("copy")))


def test_every_item_becomes_its_query(items: dict[str, Query]) -> None:
    written = json.loads((native.HERE / "cg_av_counting" / "cg-av-counting.json").read_text())
    assert list(items) == [name for name, *_ in ITEMS]
    for row, (name, kind, category, answer, interval, video) in zip(written, ITEMS, strict=True):
        query = items[name]
        assert query.question == row.get("question", row.get("question_en"))
        assert (query.type, query.answer, query.answer_kind, query.options) == (
            kind,
            answer,
            AnswerKind.number,
            (),
        )
        uri = f"cg_videos_720p/{video}"
        assert [(m.kind, m.uri, m.start, m.end) for m in query.media] == [
            (kind, uri, None, None) for kind in ("video", "audio")
        ]
        assert query.cluster == video
        assert query.native == {"category": category, "query_interval": interval}


def test_wrong_items_are_listed(tmp_path: Path) -> None:
    folder = native.copy("cg_av_counting", tmp_path)
    file = folder / "cg-av-counting.json"
    text = (
        file.read_text()
        .replace('"answer": 12', '"answer": "many"')
        .replace('"index": 17', '"index": 0')
    )
    file.write_text(text.replace('"query_interval": [0, 9.5]', '"query_interval": [9.5]'))
    (folder / "cg_videos_720p" / "film_b.mp4").unlink()
    (folder / "videos.zip.part-aa").touch()
    rows, problems, count = read_queries(
        cg_av_counting, AnnotationSource(cg_av_counting.ENTRY, folder)
    )
    assert ([row.id for row in rows], count) == (["0", "4"], 6)
    hint = "; join the pieces and unpack them here: cat videos.zip?* > videos.zip"
    assert [(p.line, p.field, p.message) for p in problems] == [
        (12, "answer", "Value error, could not convert string to float: 'many'"),
        (22, "video", "video cg_videos_720p/film_b.mp4 is missing" + hint),
        (32, "video", "video cg_videos_720p/film_b.mp4 is missing" + hint),
        (52, "id", "0 occurs twice"),
    ]


@pytest.mark.parametrize(("name", "reply", "score", "outcome"), REPLIES)
def test_both_scores_of_a_reply(
    items: dict[str, Query], name: str, reply: str, score: float, outcome: str
) -> None:
    assert both(items[name], reply) == (score, outcome)


def test_official_figures_over_all(items: dict[str, Query]) -> None:
    said = {"0": "3", "1": "14", "2": "one", "3": "101", "4": "421", "17": "120"}
    figures = cg_av_counting.official_figures(
        [(items[name], reply) for name, reply in said.items()]
    )
    # Errors 0, 2, 1, 101, 281, 99. Those of 3 and 4 pass max(2 * count, 100) and become twice the count, 0 and 280: 101 too many
    # where there is none cost nothing, 99 too many cost 99.
    assert figures == {
        "acc": pytest.approx(1 / 6),
        "oboa": pytest.approx(2 / 6),
        "mae": pytest.approx((0 + 2 + 1 + 0 + 280 + 99) / 6),
        "rmse": pytest.approx(((4 + 1 + 280**2 + 99**2) / 6) ** 0.5),
    }
    assert cg_av_counting.official_figures([]) == {"acc": 0, "oboa": 0, "mae": 0, "rmse": 0}
