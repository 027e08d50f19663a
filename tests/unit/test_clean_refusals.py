"""The clean step on failed, unreadable and damaged draws."""

import json

import pytest

from omnicore.errors import DataError
from omnicore.schema import (
    Label,
    Manifest,
)
from omnicore.storage.files import write_json, write_jsonl
from tests.errors import refused
from tests.unit.clean_fixture import (
    FACTS,
    good,
    inputs,
    make_queries,
    run,
)

__all__ = ["good", "inputs"]  # fixtures


def failing(rows, lost):
    """Draw lines without those that `lost` picks, and the lines of errors.jsonl in their place."""
    gone = [row for row in rows if lost(row)]
    errors = [
        {**{name: row[name] for name in ("benchmark", "id", "view", "draw")}, "error": "timeout"}
        for row in gone
    ]
    return [row for row in rows if not lost(row)], errors


def lost_draw(row):
    return row["benchmark"] == "birch" and row["id"] < "010" and row["draw"] == 1


def test_failed_draws_leave_queries_undecided(inputs, good):
    draws, errors = failing(good[1], lost_draw)
    write_jsonl(inputs["draws"] / "draws.jsonl", draws)
    write_jsonl(inputs["draws"] / "errors.jsonl", errors)
    summary, output = run(inputs)
    manifest = Manifest.model_validate_json((output / "manifest.json").read_bytes())
    undecided = [v for v in manifest.verdicts if v.benchmark == "birch" and v.id < "010"]
    assert {(v.label, v.draws, v.kept) for v in undecided} == {(Label.undecided, 7, True)}
    record = json.loads((output / "audit.json").read_text())
    assert record["failed_queries"] == summary["failed"] == 10
    assert (
        record["replies"]["birch"]["visual_only"]["failed"]
        == record["replies"]["birch"]["text_only"]["failed"]
        == 10
    )
    assert record["replies"]["alder"]["visual_only"]["failed"] == 0
    assert record["policies"]["repeated"]["undecided"] >= 10
    assert record["policies"]["single_pass"]["undecided"] == 0, "draw 0 was answered"


def test_unlisted_failed_draws_are_refused(inputs, good):
    draws, errors = failing(good[1], lost_draw)
    write_jsonl(inputs["draws"] / "draws.jsonl", draws)
    errors_file = inputs["draws"] / "errors.jsonl"
    write_jsonl(errors_file, errors[1:])
    with refused(DataError, "draws-incomplete") as caught:
        run(inputs)
    assert "1 of 240 queries" in str(caught.value)
    assert "birch/000 first" in str(caught.value)
    write_jsonl(errors_file, [*errors, errors[0]])
    with refused(DataError, "draws-invalid-line", path=errors_file, line=21):
        run(inputs)


def test_truncated_replies_are_counted_separately(inputs, good):
    def cut(row):
        hit = row["benchmark"] == "alder" and row["view"] == "visual_only" and row["draw"] < 2
        return {**row, "truncated": True, "answer": None, "outcome": "no_answer"} if hit else row

    write_jsonl(inputs["draws"] / "draws.jsonl", map(cut, good[1]))
    summary, output = run(inputs)
    counts = json.loads((output / "audit.json").read_text())["replies"]
    assert counts["alder"]["visual_only"]["truncated"] == summary["truncated"] == 160
    assert sum(counts["birch"]["visual_only"][name] for name in ("truncated", "failed")) == 0
    rest = [
        row
        for row in good[1]
        if row["benchmark"] == "alder" and row["view"] == "visual_only" and row["draw"] >= 2
    ]
    assert counts["alder"]["visual_only"]["outside"] == sum(row["answer"] is None for row in rest)
    assert counts["alder"]["visual_only"]["no_answer"] == 0


def losing(rows, benchmark, draws, cut):
    """The lines with the first draws of one benchmark under visual_only cut, or answered by what
    cannot be read."""
    lost = {
        "truncated": cut,
        "answer": None,
        "outcome": "no_answer",
        "reply": "" if cut else "well, let me see",
    }
    seen = {"benchmark": benchmark, "view": "visual_only"}
    return [
        {**row, **lost} if row.items() >= seen.items() and row["draw"] < draws else row
        for row in rows
    ]


@pytest.mark.parametrize("cut", [True, False])
def test_benchmark_of_unreadable_replies_is_refused(inputs, good, cut):
    write_jsonl(inputs["draws"] / "draws.jsonl", losing(good[1], "alder", 8, cut))
    with refused(DataError, "clean-too-many-unreadable", field="clean.max_unread") as caught:
        run(inputs)
    assert "(alder 100.0%)" in str(caught.value)
    summary, output = run(inputs, max_unread=1)
    labels = {
        v.label
        for v in Manifest.model_validate_json((output / "manifest.json").read_bytes()).verdicts
        if v.benchmark == "alder"
    }
    assert labels == {Label.undecided}, "no verdict from nothing"
    assert summary["undecided"] >= 80
    assert (summary["truncated"], summary["unread"]) == ((640, 0) if cut else (0, 640))
    single = Manifest.model_validate_json((output / "manifest.single_pass.json").read_bytes())
    assert {v.label for v in single.verdicts if v.benchmark == "alder"} == {Label.undecided}


def test_unreadable_replies_are_warned_of(inputs, good, caplog):
    write_jsonl(inputs["draws"] / "draws.jsonl", losing(good[1], "birch", 1, cut=True))
    _, output = run(inputs)
    assert "(birch 12.5%)" in caplog.text
    caplog.clear()
    assert json.loads((output / "audit.json").read_text())["unread"] == {"alder": 0, "birch": 0.125}
    run(inputs, warn_unread=0.2)
    assert caplog.text == ""


def edit(change):
    """A breaker of draws.jsonl: `change` gets the lines as dicts and returns what is written (dicts
    or text)."""

    def apply(inputs):
        path = inputs["draws"] / "draws.jsonl"
        rows = change([json.loads(line) for line in path.read_text().splitlines()])
        path.write_text(
            "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        )

    return apply


def facts(**change):
    return lambda inputs: write_json(inputs["draws"] / "probe.json", {**FACTS, **change})


def infos(*values):
    return lambda inputs: write_json(inputs["queries"] / "benchmarks.json", values)


def set_third(**change):
    return edit(lambda rows: [*rows[:2], {**rows[2], **change}, *rows[3:]])


BROKEN = {
    "half a line": (
        edit(lambda rows: [*rows[:4], '{"benchmark": "alder"', *rows[5:]]),
        "draws-invalid-line",
        {"line": 5},
    ),
    "no object": (
        edit(lambda rows: [*rows[:4], "17", *rows[5:]]),
        "draws-invalid-line",
        {"line": 5},
    ),
    "field gone": (
        edit(lambda rows: [{k: v for k, v in row.items() if k != "outcome"} for row in rows]),
        "draws-missing-field",
        {"line": 1, "field": "outcome"},
    ),
    "unknown queries": (
        edit(
            lambda rows: [
                {**row, "id": "x" + row["id"]} if row["benchmark"] == "yew" else row for row in rows
            ]
        ),
        "draws-unknown-query",
        {"field": "id"},
    ),
    "lacking draws": (
        edit(
            lambda rows: [
                r for r in rows if (r["benchmark"], r["draw"]) not in {("alder", 3), ("alder", 7)}
            ]
        ),
        "draws-incomplete",
        {"field": "visual_only"},
    ),
    "last draw lacking for all": (
        edit(lambda rows: [row for row in rows if row["draw"] != 7]),
        "draws-incomplete",
        {"field": "visual_only"},
    ),
    "no draws at all": (edit(lambda rows: []), "draws-incomplete", {"field": "visual_only"}),
    "same draw twice": (
        edit(lambda rows: [*rows, rows[0]]),
        "draws-invalid-line",
        {"line": 2401, "field": "draw"},
    ),
    "draw number beyond the plan": (
        set_third(draw=8),
        "draws-invalid-line",
        {"line": 3, "field": "draw"},
    ),
    "draw number no integer": (
        set_third(draw="2"),
        "draws-invalid-line",
        {"line": 3, "field": "draw"},
    ),
    "view beyond the plan": (
        set_third(view="audio_only"),
        "draws-invalid-line",
        {"line": 3, "field": "draw"},
    ),
    "answer of another query": (
        set_third(answer="7", outcome="incorrect"),
        "draws-invalid-line",
        {"line": 3, "field": "answer"},
    ),
    "judged against another answer": (
        set_third(answer="3", outcome="incorrect"),
        "draws-invalid-line",
        {"line": 3, "field": "outcome"},
    ),
    "no answer judged": (
        set_third(answer=None, outcome="correct"),
        "draws-invalid-line",
        {"line": 3, "field": "outcome"},
    ),
    "truncated, and yet judged": (
        set_third(truncated=True),
        "draws-invalid-line",
        {"line": 3, "field": "truncated"},
    ),
    "permutation of another query": (
        set_third(permutation=[0, 1]),
        "draws-invalid-line",
        {"line": 3, "field": "permutation"},
    ),
    "errors.jsonl broken": (
        lambda inputs: (inputs["draws"] / "errors.jsonl").write_text('{"id": "x"}\n'),
        "draws-missing-field",
        {"line": 1, "field": "benchmark"},
    ),
    "draws gone": (
        lambda inputs: (inputs["draws"] / "draws.jsonl").unlink(),
        "draws-missing",
        {},
    ),
    "other profile": (
        facts(profile_hash="b" * 64),
        "clean-profiles-differ",
        {"field": "profile_hash"},
    ),
    "no visual draws": (
        facts(draws={"text_only": 2}),
        "probe-no-visual-draws",
        {"field": "draws.visual_only"},
    ),
    "no profile": (facts(profile_hash=None), "probe-invalid", {"field": "profile_hash"}),
    "probe.json gone": (
        lambda inputs: (inputs["draws"] / "probe.json").unlink(),
        "file-missing",
        {},
    ),
    "benchmark unknown": (
        infos({"name": "alder", "filter_policy": "filtered", "queries": 80}),
        "benchmarks-incomplete",
        {"field": "name"},
    ),
    "benchmark without policy": (
        infos({"name": "alder", "queries": 80}),
        "benchmarks-invalid",
        {"field": "0.filter_policy"},
    ),
    "query twice": (
        lambda inputs: write_jsonl(
            inputs["queries"] / "queries.jsonl", [*make_queries(), make_queries()[0]]
        ),
        "queries-duplicate",
        {"field": "id"},
    ),
    "no query": (
        lambda inputs: write_jsonl(inputs["queries"] / "queries.jsonl", []),
        "queries-empty",
        {},
    ),
}


@pytest.mark.parametrize(("damage", "code", "details"), BROKEN.values(), ids=BROKEN)
def test_damaged_input_is_refused_and_writes_nothing(inputs, damage, code, details):
    damage(inputs)
    with refused(DataError, code, **details):
        run(inputs)
    assert not list((inputs["queries"].parent / "out").iterdir())


def test_refusal_names_the_values_at_fault(inputs, good):
    draws = inputs["draws"] / "draws.jsonl"
    set_third(draw=8)(inputs)
    with refused(DataError, "draws-invalid-line", path=draws) as caught:
        run(inputs)
    assert "draw 8 under 'visual_only'" in str(caught.value)
    short = [r for r in good[1] if (r["benchmark"], r["draw"]) not in {("alder", 3), ("alder", 7)}]
    write_jsonl(draws, short)
    with refused(DataError, "draws-incomplete", path=draws) as caught:
        run(inputs)
    assert "80 of 240 queries" in str(caught.value)
    assert "alder/000 first, with 6 of 8" in str(caught.value)
