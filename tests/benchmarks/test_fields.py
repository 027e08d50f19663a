"""Each field of each adapter: a field that no score and no page uses never costs an item, whatever
it holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from omnicore.data.benchmarks import NAMES, get_adapter
from omnicore.data.benchmarks.adapter import Adapter, read_queries
from omnicore.data.benchmarks.records import AnnotationRow, Problem
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.schema import Query
from tests.benchmarks import native, tables

# The fields without which the first item of the fixture is not a query. Those that name what the item is made of, and nothing else.
NEEDED = {
    "av_odyssey": {"question_id", "subfield", "question", "options", "answer"},
    "avhbench": {"video_id", "task", "text", "label"},
    "cg_av_counting": {"index", "type", "question", "answer", "video"},
    "daily_omni": {"video_id", "Type", "Question", "Choice", "Answer"},
    "intentbench": {"problem_type", "data_type", "problem", "solution", "options", "video"},
    "jointavbench": {
        "qid",
        "video_name",
        "segment_timestamp",
        "task",
        "question",
        "options",
        "correct_answer",
    },
    "music_avqa": {"video_id", "question_id", "type", "question_content", "templ_values", "anser"},
    "omnibench": {"index", "task type", "question", "options", "answer", "image", "audio"},
    "omnivideobench": {"video", "question_type", "question", "options", "correct_option"},
    "uno_bench": {"qid", "subset_name", "score_type", "question", "answer"},
    "video_holmes": {"video ID", "Question ID", "Question Type", "Question", "Options", "Answer"},
    "worldsense": {"task_type", "question", "candidates", "answer"},
}
# Of the reader, not of the item; media columns, which the adapter's own tests spoil; alternatives of a field.
APART = {
    "av_odyssey": {
        f"{kind}_{number}" for kind in ("image", "video", "audio") for number in range(1, 5)
    },
    "uno_bench": {"images", "videos", "audios"},
    "worldsense": {"video"},
}
CELLS = {
    "av_odyssey": (
        "video_1",
        *(f"{kind}_{number}" for kind in ("image", "audio") for number in range(1, 5)),
    ),
    "omnibench": ("image", "audio"),
    "uno_bench": (),
}
FILES = {
    "av_odyssey": "av_odyssey_part1.parquet",
    "omnibench": "data/train-00000-of-00001.parquet",
    "uno_bench": "validation.parquet",
}
ODD: tuple[Any, ...] = (None, 7, ["x", None, {"y": 1}], {"z": [1]}, "")


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, AnnotationSource]:
    root, found = tmp_path_factory.mktemp("copies"), {}
    for name in NAMES:
        if name in FILES:
            rows = [
                {key: value for key, value in row.items() if key != "part"}
                for row in tables.rows(name)
            ]
            if (native.HERE / name / "media.txt").exists():
                native.copy(name, root)
            tables.write(root / name / FILES[name], rows, CELLS[name], "bytes")
        else:
            native.copy(name, root)
        found[name] = AnnotationSource(
            get_adapter(name).ENTRY, root / name, root / "scratch" / name
        )
    return found


def again(
    name: str, source: AnnotationSource, row: AnnotationRow
) -> tuple[list[Query], list[Problem]]:
    """What the adapter makes of one row."""
    found = get_adapter(name)

    def rows(_: AnnotationSource) -> Iterator[AnnotationRow]:
        yield row

    made = cast(
        Adapter,
        SimpleNamespace(
            ENTRY=found.ENTRY,
            read_rows=rows,
            build_query=found.build_query,
            official_score=found.official_score,
        ),
    )
    queries, problems, _ = read_queries(made, source)
    return queries, [problem for problem in problems if not problem.kept]


def first(name: str, source: AnnotationSource) -> AnnotationRow:
    return next(row for row in get_adapter(name).read_rows(source) if again(name, source, row)[0])


@pytest.mark.parametrize("name", NAMES)
def test_only_required_fields_refuse_an_item(
    name: str, copies: Mapping[str, AnnotationSource]
) -> None:
    source, row = copies[name], first(name, copies[name])
    whole = again(name, source, row)[0][0]
    refusing = set()
    for field in sorted(set(row.fields) - APART.get(name, set())):
        without = {key: value for key, value in row.fields.items() if key != field}
        queries, problems = again(name, source, replace(row, fields=without))
        if problems:
            refusing.add(field)
            continue
        changed = [
            queries[0],
            *(again(name, source, replace(row, fields={**row.fields, field: odd})) for odd in ODD),
        ]
        for made in changed[1:]:
            assert [problem.message for problem in made[1]] == [], field
        assert (queries[0].question, queries[0].options, queries[0].answer) == (
            whole.question,
            whole.options,
            whole.answer,
        )
    assert refusing == NEEDED[name]


@pytest.mark.parametrize("name", NAMES)
def test_refused_item_has_the_id_of_its_query(
    name: str, copies: Mapping[str, AnnotationSource]
) -> None:
    source = copies[name]
    row = first(name, source)
    (whole,) = again(name, source, row)[0]
    answer = next(
        iter(
            NEEDED[name]
            & {"answer", "Answer", "label", "anser", "correct_answer", "correct_option", "solution"}
        )
    )
    (problem,) = again(
        name,
        source,
        replace(row, fields={key: row.fields[key] for key in row.fields if key != answer}),
    )[1]
    assert (problem.id, problem.field) == (whole.id, answer)


@pytest.mark.parametrize("name", NAMES)
def test_null_in_a_required_field_is_missing(
    name: str, copies: Mapping[str, AnnotationSource]
) -> None:
    source, row = copies[name], first(name, copies[name])
    media = {"video", "image", "audio"}  # each in its adapter's own words
    for field in sorted((NEEDED[name] & set(row.fields)) - media):
        queries, problems = again(name, source, replace(row, fields={**row.fields, field: None}))
        assert not queries
        assert [(problem.field, problem.message) for problem in problems] == [(field, "is missing")]
