"""AVHBench: items of the hand-written fixture, captions excluded; replies under both rules, and the
figures by task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omnicore.config import PrepareConfig
from omnicore.config.recipe import load_recipe
from omnicore.data.benchmarks import avhbench
from omnicore.data.benchmarks.adapter import read_queries
from omnicore.data.benchmarks.records import Problem
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.schema import AnswerKind, Query
from omnicore.steps import prepare
from tests.benchmarks import native
from tests.benchmarks.scoring import both

SOUND, SIGHT, MATCH = (
    "Video-driven Audio Hallucination",
    "Audio-driven Video Hallucination",
    "AV Matching",
)
# id, task, answer, video; None: a caption
ITEMS = [
    ("00001-0", SOUND, "Yes", "00001"),
    ("00001-1", SOUND, "No", "00001"),
    ("00001-2", SIGHT, "Yes", "00001"),
    None,
    ("00002-0", SIGHT, "No", "00002"),
    ("00002-1", MATCH, "No", "00002"),
    ("00003_swap-0", MATCH, "Yes", "00003_swap"),
    None,
]
# reply, publisher's score where the answer is Yes and where it is No, our outcome where it is Yes
REPLIES = [
    ("Yes", 1, 0, "correct"),
    ("yes.", 1, 0, "correct"),
    ("**Yes**", 1, 0, "correct"),
    ("“Yes”", 1, 0, "correct"),
    ("Yes, the kettle whistles.", 1, 0, "correct"),
    ("Yes or no", 1, 0, "no_answer"),
    ("No", 0, 1, "incorrect"),
    ("no, it is silent", 0, 1, "incorrect"),
    ("NO\n", 0, 1, "incorrect"),
    ("No, yes", 0, 1, "no_answer"),
    ("The answer is Yes", 0, 0, "correct"),  # neither: the first word alone is read
    ("<answer>Yes</answer>", 0, 0, "correct"),
    ("A", 0, 0, "correct"),
    ("Yesterday", 0, 0, "no_answer"),
    ("None", 0, 0, "no_answer"),
    ("Not at all", 0, 0, "no_answer"),
    ("The kettle makes a sound", 0, 0, "no_answer"),
    ("", 0, 0, "no_answer"),
]
Read = tuple[dict[str, Query], list[Problem]]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Read:
    folder = native.copy("avhbench", tmp_path_factory.mktemp("copy"))
    rows, problems, count = read_queries(avhbench, AnnotationSource(avhbench.ENTRY, folder))
    assert len(rows) + len(problems) == count == 8
    return {row.id: row for row in rows}, problems


def test_every_item_becomes_its_query_or_is_excluded(copy: Read) -> None:
    items, problems = copy
    written = json.loads((native.HERE / "avhbench" / "QA.json").read_text())
    kept = [(row, item) for row, item in zip(written, ITEMS, strict=True) if item]
    assert list(items) == [item[0] for _, item in kept]
    for row, (name, task, answer, video) in kept:
        query = items[name]
        assert (query.type, query.question, query.answer) == (task, row["text"], answer)
        assert (query.answer_kind, query.options) == (AnswerKind.yes_no, ("Yes", "No"))
        uri = f"videos/{video}.mp4"
        assert [(medium.kind, medium.uri) for medium in query.media] == [
            ("video", uri),
            ("audio", uri),
        ]
        assert query.cluster == video
    assert [(p.line, p.field, p.excluded, p.message.split()[0]) for p in problems] == [
        (5, "task", True, "00001-3"),
        (9, "task", True, "00003_swap-1"),
    ]


def test_wrong_item_is_refused_not_excluded(tmp_path: Path) -> None:
    folder = native.copy("avhbench", tmp_path)
    text = (
        (folder / "QA.json")
        .read_text()
        .replace('"label": "no"', '"label": "both"')
        .replace('"text": "Is the clock', '"q": "')
    )
    (folder / "QA.json").write_text(text)
    (folder / "videos" / "00003_swap.mp4").unlink()
    _, problems, count = read_queries(avhbench, AnnotationSource(avhbench.ENTRY, folder))
    assert count == 8
    assert [(p.field, p.message) for p in problems if not p.excluded] == [
        ("text", "is missing"),
        ("label", "'Both' is none of the options ['Yes', 'No']"),
        ("video_id", "video videos/00003_swap.mp4 is missing"),
    ]


def test_excluded_items_do_not_fail_the_step(tmp_path: Path) -> None:
    config = PrepareConfig(
        sources={"avhbench": str(native.copy("avhbench", tmp_path))}, max_refused=0
    )
    (tmp_path / "out").mkdir()
    summary = prepare.prepare_benchmarks(load_recipe("tiny"), config, tmp_path / "out")
    assert summary == {"benchmarks": 1, "queries": 6, "refused": 0, "excluded": 2, "flagged": 0}
    (info,) = json.loads((tmp_path / "out" / "benchmarks.json").read_text())
    assert [
        info[field] for field in ("queries", "native", "refused", "excluded", "filter_policy")
    ] == [6, 8, 0, 2, "keep_whole"]
    assert len((tmp_path / "out" / "problems.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(("reply", "yes", "no", "outcome"), REPLIES)
def test_both_scores_of_a_reply(
    copy: Read, reply: str, yes: float, no: float, outcome: str
) -> None:
    items, _ = copy
    assert both(items["00001-0"], reply) == (yes, outcome)
    assert both(items["00001-1"], reply)[0] == no


def test_official_figures_by_task(copy: Read) -> None:
    items, _ = copy
    asked = [
        ("00001-0", "Yes"),
        ("00001-0", "No"),
        ("00001-0", "Perhaps"),
        ("00001-1", "Yes"),
        ("00001-1", "No"),
        ("00002-1", "?"),
    ]
    assert avhbench.official_figures([(items[name], reply) for name, reply in asked]) == {
        f"{MATCH}/accuracy": 0,
        f"{MATCH}/precision": 0,
        f"{MATCH}/recall": 0,
        f"{MATCH}/f1": 0,
        f"{MATCH}/yes": 0,
        f"{SOUND}/accuracy": 2 / 5,
        f"{SOUND}/precision": 1 / 2,
        f"{SOUND}/recall": 1 / 3,
        f"{SOUND}/f1": 2 / 5,
        f"{SOUND}/yes": 2 / 5,
    }
