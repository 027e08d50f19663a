"""Distill through the door: what becomes of each rollout, which rows are taught, and a small run of
the real thing."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from omnicore.config.recipe import Recipe, load_recipe
from omnicore.data.prompts import draw_permutation
from omnicore.engines import task
from omnicore.engines.base import Batch, FinishedBatches, Reply, Sampling
from omnicore.errors import DataError, EngineError, TrainingError
from omnicore.lineage.step_record import write_step
from omnicore.media.read import locate_media
from omnicore.runtime.run import run_step
from omnicore.schema import Query, View
from omnicore.scoring.verify import judge
from omnicore.storage.digests import sha256_file
from omnicore.storage.files import read_jsonl, write_json, write_jsonl
from tests.errors import refused
from tests.media_files import make_picture, make_tone, medium


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global resolve

    from omnicore.models.thinker import resolve


OPTIONS = ("3", "5", "8", "13")
RECIPE = load_recipe(
    "tiny", ["engine.kind=http", "engine.url=http://127.0.0.1:9/v1", "engine.max_error_rate=0.5"]
)


def finished(folder: Path, step: str) -> Path:
    write_step(folder, {"step": step, "section": step, "key": step, "seconds": 0, "summary": {}})
    return folder


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """Two sources: ash has queries with numbers that the answers are told by, elm one."""
    data = tmp_path / "prepare"
    (data / "media").mkdir(parents=True)
    make_picture(data / "media" / "a.png", "red", (28, 28))
    make_tone(data / "media" / "a.wav", 300, 0.5)
    shown = tuple(
        medium(data / "media" / name, kind).model_copy(update={"uri": f"media/{name}"})
        for name, kind in (("a.png", "image"), ("a.wav", "audio"))
    )
    kinds = [("ash", i, "sum") for i in range(8)] + [("elm", 0, "product")]
    write_jsonl(
        data / "distill.jsonl",
        [
            Query(
                benchmark=source,
                id=f"{i}",
                type=type_,
                question=f"{source} {i}?",
                options=OPTIONS,
                answer=OPTIONS[i % 4],
                media=shown,
                cluster=f"{source}-{i}",
            )
            for source, i, type_ in kinds
        ],
    )
    (tmp_path / "rlvr").mkdir()
    return {"data": finished(data, "prepare"), "model": finished(tmp_path / "rlvr", "rlvr")}


class Speaker:
    """Says the next of the replies that `said` has for a query, the right answer where it has
    none."""

    name = "stub"

    def __init__(self, said: dict[str, list[Reply]]) -> None:
        self._said = {name: iter(replies) for name, replies in said.items()}

    def answer(self, batches: Sequence[Batch], sampling: Sampling) -> Iterator[FinishedBatches]:
        for index, batch in enumerate(batches):
            yield [(index, [self._reply(str(request.parts[-1])) for request in batch.requests])]

    def _reply(self, asked: str) -> Reply:
        name = asked.partition("?")[0]
        return (
            next(self._said[name])
            if name in self._said
            else reply(OPTIONS[int(name.split()[1]) % 4])
        )


def reply(value: str, tokens: int = 7, **given: Any) -> Reply:
    return Reply(f"<answer>{value}</answer>", tokens=tokens, **given)


Distill = Callable[..., tuple[dict[str, Any], Path]]


@pytest.fixture
def distill(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Distill:
    def run(said: dict[str, list[Reply]], *sets: str, **more: Path) -> tuple[dict[str, Any], Path]:
        monkeypatch.setattr(task, "open_engine", lambda *args, **how: Speaker(said))
        monkeypatch.setattr(
            task.canary, "verify_engine", lambda *args: {}
        )  # the stub looks at nothing
        recipe = load_recipe("tiny", [*_sets(RECIPE), *sets])
        output = tmp_path / "distill"
        return (
            run_step("distill", recipe, {**inputs, **more}, output, replace=True)["summary"],
            output,
        )

    return run


def _sets(recipe: Recipe) -> list[str]:
    engine = recipe.engine
    return [
        f"engine.kind={engine.kind}",
        f"engine.url={engine.url}",
        f"engine.max_error_rate={engine.max_error_rate}",
    ]


def test_every_rollout_is_listed_with_its_reason(distill: Distill) -> None:
    said = {
        "ash 0": [reply("3", 7), reply("5", 8)],
        "ash 1": [Reply("I see", tokens=3), reply("5", truncated=True)],
        "ash 2": [Reply(error="HTTP 500"), reply("8")],
    }
    summary, output = distill(said)
    lines = {
        (one["benchmark"], one["id"], one["sample"]): one
        for one in read_jsonl(output / "selection.jsonl", dict)
    }
    assert len(lines) == summary["rollouts"] == 18
    found = {
        key: (one["kept"], one["reason"], one["outcome"], one["answer"], one["tokens"])
        for key, one in lines.items()
    }
    assert {key: value for key, value in found.items() if key[0] == "ash" and key[1] in "012"} == {
        ("ash", "0", 0): (True, None, "correct", "3", 7),
        ("ash", "0", 1): (False, "incorrect", "incorrect", "5", 8),
        ("ash", "1", 0): (False, "no_answer", "no_answer", None, 3),
        ("ash", "1", 1): (False, "cut", "no_answer", None, 7),
        ("ash", "2", 0): (False, "failed", "no_answer", None, 0),
        ("ash", "2", 1): (True, None, "correct", "8", 7),
    }
    assert lines["ash", "2", 0]["reply"] == "HTTP 500"
    (error,) = read_jsonl(output / "errors.jsonl", dict)
    assert error == {"benchmark": "ash", "id": "2", "sample": 0, "error": "HTTP 500"}
    assert summary["errors"] == 1
    told = {
        name: summary[f"rejected_{name}"]
        for name in ("failed", "cut", "no_answer", "incorrect", "minority")
    }
    assert told == {"failed": 1, "cut": 1, "no_answer": 1, "incorrect": 1, "minority": 0}
    assert summary["kept"] == sum(one["kept"] for one in lines.values()) == 14


def test_rows_keep_the_name_of_their_source_and_their_media(
    distill: Distill, inputs: dict[str, Path]
) -> None:
    _, output = distill({})
    queries = {q.key: q for q in read_jsonl(inputs["data"] / "distill.jsonl", Query)}
    rows = read_jsonl(output / "distilled.jsonl", Query)
    assert Counter(row.benchmark for row in rows) == {"ash": 16, "elm": 2}
    assert len({row.key for row in rows}) == len(rows)
    for row in rows:
        name, _, sample = row.id.rpartition("-")
        assert row == queries[row.benchmark, name].model_copy(
            update={"id": f"{name}-{sample}", "target": row.target}
        )
        assert judge(str(row.target), row, "value")[0] == row.answer
        assert all(sha256_file(locate_media(m, output)) == m.sha256 for m in row.media)


def test_shares_and_lengths_are_configuration(distill: Distill) -> None:
    said = {"ash 0": [reply("3", 40), reply("3", 2)]}
    summary, output = distill(
        said, "distill.min_tokens=5", "distill.max_tokens=30", "distill.max_source=0.75"
    )
    assert (
        summary["rejected_short"],
        summary["rejected_long"],
        summary["rejected_source"],
        summary["kept"],
    ) == (1, 1, 8, 8)
    assert Counter(row.benchmark for row in read_jsonl(output / "distilled.jsonl", Query)) == {
        "ash": 6,
        "elm": 2,
    }


def draws(
    folder: Path, queries: Sequence[Query], solved: set[str], data: str = "distill.jsonl"
) -> Path:
    """8 draws of each query by a probe that sees the answers of `solved`, and names none of the
    options of the others."""
    folder.mkdir()
    lines = []
    for query in queries:
        worth = (
            {"answer": query.answer, "outcome": "correct"}
            if query.id in solved
            else {"answer": None, "outcome": "incorrect"}
        )
        for i in range(8):
            where = {"benchmark": query.benchmark, "id": query.id, "view": "visual_only", "draw": i}
            lines.append(
                {
                    **where,
                    "permutation": draw_permutation(query, View.visual_only, i, 0),
                    "reply": "",
                    **worth,
                }
            )
    write_jsonl(folder / "draws.jsonl", lines)
    facts = {"model": "probe", "profile_hash": "a" * 64, "draws": {"visual_only": 8}, "data": data}
    write_json(folder / "probe.json", facts)
    return finished(folder, "probe")


@pytest.mark.parametrize(
    ("sets", "gone"),
    [
        (["clean.policy=single_pass"], {("ash", "3"), ("ash", "5")}),
        (["clean.max_fdr=0.3", "clean.max_lost=0.1"], {("ash", "3"), ("ash", "5")}),
        ([], set()),  # of nine queries, no rule says with so little risk that two are solved
    ],
)
def test_prompts_that_the_probe_solves_are_not_distilled(
    distill: Distill,
    inputs: dict[str, Path],
    tmp_path: Path,
    sets: list[str],
    gone: set[tuple[str, str]],
) -> None:
    queries = read_jsonl(inputs["data"] / "distill.jsonl", Query)
    summary, output = distill({}, *sets, draws=draws(tmp_path / "probe", queries, {"3", "5"}))
    lines = read_jsonl(output / "selection.jsonl", dict)
    assert {(one["benchmark"], one["id"]) for one in lines if one["reason"] == "solvable"} == gone
    assert (summary["rejected_solvable"], summary["kept"]) == (2 * len(gone), 18 - 2 * len(gone))


def test_draws_of_other_queries_are_refused(
    distill: Distill, inputs: dict[str, Path], tmp_path: Path
) -> None:
    queries = read_jsonl(inputs["data"] / "distill.jsonl", Query)
    with refused(DataError, "distill-draws-of-other-data", field="data"):
        distill({}, draws=draws(tmp_path / "other", queries, set(), "rlvr.jsonl"))
    with refused(DataError, "draws-incomplete", field="visual_only"):
        distill({}, draws=draws(tmp_path / "fewer", queries[:-1], set()))


def test_probe_of_unreadable_replies_is_refused(
    distill: Distill, inputs: dict[str, Path], tmp_path: Path
) -> None:
    asked = draws(tmp_path / "probe", read_jsonl(inputs["data"] / "distill.jsonl", Query), set())
    lines = [{**line, "outcome": "no_answer"} for line in read_jsonl(asked / "draws.jsonl", dict)]
    write_jsonl(asked / "draws.jsonl", lines)
    with refused(DataError, "clean-too-many-unreadable", field="clean.max_unread"):
        distill({}, draws=finished(asked, "probe"))


def test_no_kept_rollout_is_refused_with_counts(distill: Distill) -> None:
    wrong = {f"ash {i}": [reply(""), reply("", truncated=True)] for i in range(8)}
    with refused(TrainingError, "distill-no-rows") as caught:
        distill({**wrong, "elm 0": [reply(""), reply("", truncated=True)]})
    assert "none of 18 rollouts became a row (9 no_answer, 9 cut)" in str(caught.value)


def test_length_bound_needs_token_counts(distill: Distill) -> None:
    silent = {"elm 0": [reply("3", 0), reply("3", 0)]}
    assert distill(silent)[0]["kept"] == 18
    with refused(EngineError, "distill-tokens-unknown", field="distill.min_tokens"):
        distill(silent, "distill.max_tokens=30")


def test_a_small_run_of_the_real_thing(
    prepared: Path, small_recipe: Recipe, tmp_path: Path, encoder: Any
) -> None:
    """The embedded model on 20 prompts, with a probe of its own over the same prompts; twice, the
    same bytes."""
    data = tmp_path / "prepare"
    shutil.copytree(prepared, data)
    shutil.copytree(resolve("embedded:tiny-base"), tmp_path / "rlvr" / "checkpoint")
    finished(data, "prepare")
    sets = [
        "prepare.split=dev",
        "prepare.scale=0.05",
        "threads=1",
        "distill.num_generations=4",
        "distill.per_query=1",
    ]
    recipe = load_recipe(
        "tiny", [*sets, "probe.model=embedded:tiny-base", "distill_probe.draws.visual_only=4"]
    )
    run_step("probe", recipe, {"queries": data}, tmp_path / "probe", section="distill_probe")
    given = {
        "data": data,
        "model": finished(tmp_path / "rlvr", "rlvr"),
        "draws": tmp_path / "probe",
    }
    first, second = (
        run_step("distill", recipe, given, tmp_path / name) for name in ("first", "second")
    )
    assert first["digest"] == second["digest"]
    lines = read_jsonl(tmp_path / "first" / "selection.jsonl", dict)
    rows = {row.key: row for row in read_jsonl(tmp_path / "first" / "distilled.jsonl", Query)}
    assert (first["summary"]["prompts"], len(lines)) == (20, 80)
    kept = [one for one in lines if one["kept"]]
    assert {(one["benchmark"], f"{one['id']}-{one['sample']}") for one in kept} == rows.keys()
    assert len({one["id"] for one in kept}) == len(kept) == first["summary"]["kept"] > 0
    assert {row.benchmark for row in rows.values()} == {
        "distill"
    }  # the name that prepare gives its embedded prompts
    for one in kept:
        alike = [
            other
            for other in lines
            if other["id"] == one["id"] and other["answer"] == one["answer"]
        ]
        assert len(alike) >= 2
        assert one["tokens"] == len(encoder.reply_ids(one["reply"]))
