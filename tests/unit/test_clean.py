"""The step on files: what it writes, what it refuses, and what it does where draws are lacking."""

import json

import numpy as np
import pytest

from omnicore.config import CleanConfig
from omnicore.config.recipe import load_recipe
from omnicore.data.prompts import draw_permutation
from omnicore.errors import DataError
from omnicore.runtime.run import run_step
from omnicore.schema import (
    BenchmarkInfo,
    Draw,
    Estimate,
    Label,
    Manifest,
    Media,
    Outcome,
    Query,
    View,
)
from omnicore.steps import clean
from omnicore.storage.files import write_json, write_jsonl
from tests.errors import refused

PLAN = {"visual_only": 8, "text_only": 2, "audio_only": 0}
FACTS = {"model": "embedded:test", "profile_hash": "a" * 64, "draws": PLAN, "accuracy": {}}
VIEWS = {"visual_only", "text_only"}
SIZES = {"alder": 80, "birch": 120, "yew": 40}


def make_queries():
    """Alder: nobody can solve any; birch: the first half is solvable; yew: yes/no, kept whole."""
    rows = []
    for name, size in SIZES.items():
        for i in range(size):
            options = ("yes", "no") if name == "yew" else ("3", "5", "8", "13")
            rows.append(
                make_query(name, f"{i:03d}", options, options[i % len(options)], f"{name}-{i // 2}")
            )
    return rows


def make_query(benchmark, name, options, answer, cluster):
    return Query(
        benchmark=benchmark,
        id=name,
        type="sum",
        question="?",
        options=options,
        answer=answer,
        cluster=cluster,
    )


def make_draws(queries, counts, seed, accuracy=0.97):
    """Draw lines of a probe that sees the first half of birch under visual_only and guesses
    elsewhere, a third of the time none of the options, half the time its favourite."""
    rng, rows = np.random.default_rng(seed), []
    for query in queries:
        favourite = query.options[rng.integers(len(query.options))]
        for view, n in counts.items():
            for i in range(n):
                order = rng.permutation(len(query.options)).tolist()
                given = rng.choice([None, favourite, query.options[order[0]]], p=[0.33, 0.34, 0.33])
                if (
                    view == "visual_only"
                    and query.benchmark == "birch"
                    and int(query.id) < 60
                    and rng.random() < accuracy
                ):
                    given = query.answer
                worth = (
                    Outcome.correct if given == query.answer else Outcome.incorrect
                )  # None: none of the options is named
                row = {
                    "benchmark": query.benchmark,
                    "id": query.id,
                    "view": view,
                    "draw": i,
                    "permutation": order,
                }
                rows.append(
                    {**row, "reply": f"<answer>{given}</answer>", "answer": given, "outcome": worth}
                )
    return rows


@pytest.fixture(scope="module")
def good():
    queries = make_queries()
    return queries, make_draws(queries, PLAN, 0), make_draws(queries, {"visual_only": 4}, 1)


@pytest.fixture
def inputs(good, tmp_path):
    queries, draws, second = good
    for name in ("prepare", "probe", "second", "out"):
        (tmp_path / name).mkdir()
    write_jsonl(tmp_path / "prepare/queries.jsonl", queries)
    policy = {"alder": "filtered", "birch": "filtered", "yew": "keep_whole"}
    infos = [
        BenchmarkInfo(name=n, queries=s, filter_policy=policy[n], reason="yes/no")
        for n, s in SIZES.items()
    ]
    write_json(
        tmp_path / "prepare/benchmarks.json", [info.model_dump(mode="json") for info in infos]
    )
    write_jsonl(tmp_path / "probe/draws.jsonl", draws)
    write_json(tmp_path / "probe/probe.json", FACTS)
    write_jsonl(tmp_path / "second/draws.jsonl", second)
    write_json(
        tmp_path / "second/probe.json",
        {**FACTS, "model": "embedded:second", "draws": {"visual_only": 4}},
    )
    return {
        "queries": tmp_path / "prepare",
        "draws": tmp_path / "probe",
        "second_draws": tmp_path / "second",
    }


def run(inputs, **config):
    output = inputs["queries"].parent / "out"
    return clean.run(load_recipe("tiny"), CleanConfig(**config), inputs, output), output


def test_generated_lines_are_draws(good):
    assert {Draw.model_validate_json(json.dumps(row)).view for row in good[1]} == {
        View.visual_only,
        View.text_only,
    }


def test_what_it_writes(inputs, good):
    summary, output = run(inputs)
    repeated = Manifest.model_validate_json((output / "manifest.repeated.json").read_bytes())
    single = Manifest.model_validate_json((output / "manifest.single_pass.json").read_bytes())
    assert (output / "manifest.json").read_bytes() == (
        output / "manifest.repeated.json"
    ).read_bytes()
    assert (repeated.policy, single.policy) == ("repeated", "single_pass")
    assert (repeated.probe, repeated.profile_hash) == ("embedded:test", "a" * 64)
    assert {(v.benchmark, v.id) for v in repeated.verdicts} == {q.key for q in good[0]}
    removed = {(v.benchmark, v.id) for v in repeated.verdicts if v.label is Label.solvable}
    solvable = {("birch", f"{i:03d}") for i in range(60)}
    assert len(removed & solvable) >= 57
    assert len(removed - solvable) <= 2
    assert {v.label for v in single.verdicts if v.benchmark == "yew"} == {Label.kept_whole}
    first = [
        d
        for d in good[1]
        if d["view"] == "visual_only" and d["draw"] == 0 and d["benchmark"] != "yew"
    ]
    right = {(d["benchmark"], d["id"]) for d in first if d["outcome"] == "correct"}
    assert {(v.benchmark, v.id) for v in single.verdicts if not v.kept} == right

    record = json.loads((output / "audit.json").read_text())
    assert set(record) == {
        *(
            "probe",
            "second_probe",
            "profile_hash",
            "data",
            "leakage",
            "leakage_by_type",
            "replies",
            "failed_queries",
        ),
        *("thresholds", "null", "policies", "unread"),
    }
    assert (record["probe"], record["second_probe"]) == ("embedded:test", "embedded:second")
    assert {name: set(views) for name, views in record["leakage"].items()} == dict.fromkeys(
        SIZES, VIEWS
    )
    birch = record["leakage"]["birch"]["visual_only"]
    assert birch["chance"] == 0.25
    assert Estimate.model_validate(birch["solved"]).low > 0.45
    assert Estimate.model_validate(birch["corrected"]).n == 120
    assert set(record["thresholds"]) == set(SIZES)
    assert set(record["thresholds"]["birch"]) == {
        "hits",
        "draws",
        "options",
        "fdr",
        "null",
        "binomial",
        "source",
    }
    assert record["thresholds"]["birch"]["hits"] in (5, 6, 7, 8)
    assert record["thresholds"]["birch"]["fdr"] <= 0.03
    assert record["thresholds"]["alder"]["hits"] is None
    assert record["thresholds"]["yew"]["hits"] is None
    assert len(record["null"]["hits"]) == len(record["null"]["binomial"]) == 9
    for name, manifest in (("repeated", repeated), ("single_pass", single)):
        policy = record["policies"][name]
        assert policy["kept"] == len(manifest.kept()) == summary[f"kept_{name}"]
        assert (
            policy["removed"]
            == len(manifest.verdicts) - policy["kept"]
            == summary[f"removed_{name}"]
        )
        assert policy["undecided"] == sum(v.label is Label.undecided for v in manifest.verdicts)
        assert Estimate.model_validate(policy["residual"]["hit"]).n == policy["kept"]
        assert policy["residual"]["excess"]["low"] < 0.05
        assert policy["residual"]["baseline"]["value"] < 0.3


def test_policy_names_the_manifest(inputs):
    summary, output = run(inputs, policy="single_pass")
    assert (output / "manifest.json").read_bytes() == (
        output / "manifest.single_pass.json"
    ).read_bytes()
    assert summary["policy"] == "single_pass"


def test_second_draws_are_optional(inputs):
    del inputs["second_draws"]
    _, output = run(inputs)
    record = json.loads((output / "audit.json").read_text())
    assert record["second_probe"] is None
    assert record["policies"]["repeated"]["residual"] is None


def test_order_of_lines_changes_nothing(inputs, good):
    queries, draws, _ = good
    _, output = run(inputs)
    before = (output / "manifest.json").read_bytes()
    write_jsonl(inputs["draws"] / "draws.jsonl", draws[::-1])
    write_jsonl(inputs["queries"] / "queries.jsonl", queries[::-1])
    _, output = run(inputs)
    assert (output / "manifest.json").read_bytes() == before


def test_other_numbers_of_options_are_listed_beside_the_main_rule(inputs, good):
    queries, draws, _ = good
    odd = make_query("birch", "999", ("1", "2"), "1", "c")
    write_jsonl(inputs["queries"] / "queries.jsonl", [*queries, odd])
    write_jsonl(inputs["draws"] / "draws.jsonl", [*draws, *make_draws([odd], PLAN, 2)])
    del inputs["second_draws"]
    _, output = run(inputs)
    birch = json.loads((output / "audit.json").read_text())["thresholds"]["birch"]
    assert birch["options"] == 4
    assert [other["options"] for other in birch["others"]] == [2]


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


def test_draws_that_failed_for_good_leave_their_queries_undecided(inputs, good):
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


def test_failed_draws_that_are_not_listed_are_lacking(inputs, good):
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


def test_replies_that_were_cut_are_counted_by_themselves(inputs, good):
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
def test_a_benchmark_of_lost_replies_is_refused(inputs, good, cut):
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


def rotated(rows, queries):
    """The same draws, shown as a probe shows them."""
    known = {q.key: q for q in queries}
    return [
        {
            **r,
            "permutation": draw_permutation(
                known[r["benchmark"], r["id"]], r["view"], r["draw"], 0
            ),
        }
        for r in rows
    ]


def test_circular_is_written_where_the_draws_hold_full_circles(inputs, good):
    queries, draws, _ = good
    write_jsonl(inputs["draws"] / "draws.jsonl", rotated(draws, queries))
    summary, output = run(inputs, policy="circular")
    assert (output / "manifest.json").read_bytes() == (
        output / "manifest.circular.json"
    ).read_bytes()
    manifest = Manifest.model_validate_json((output / "manifest.json").read_bytes())
    assert {(v.draws, v.benchmark) for v in manifest.verdicts} == {
        (4, "alder"),
        (4, "birch"),
        (2, "yew"),
    }
    record = json.loads((output / "audit.json").read_text())
    assert set(record["policies"]) == {"single_pass", "repeated", "circular"}
    assert 40 < record["policies"]["circular"]["removed"] < 65
    assert summary["removed_circular"] == record["policies"]["circular"]["removed"]


def test_circular_is_refused_where_none_is_full(inputs, good):
    _, draws, _ = good
    write_jsonl(
        inputs["draws"] / "draws.jsonl",
        [{**row, "permutation": sorted(row["permutation"])} for row in draws],
    )
    _, output = run(inputs)
    assert not (output / "manifest.circular.json").exists()
    assert "circular" not in json.loads((output / "audit.json").read_text())["policies"]
    with refused(DataError, "clean-policy-unavailable", field="clean.policy") as caught:
        run(inputs, policy="circular")
    assert "draws.visual_only at least 4" in str(caught.value)


def test_residual_stands_beside_its_random_control(inputs):
    _, output = run(inputs)
    for policy in json.loads((output / "audit.json").read_text())["policies"].values():
        control = policy["control"]
        assert control["removed"] == policy["removed"]
        assert (
            control["hit"]["low"] <= control["hit"]["mean"] + 1e-9 <= control["hit"]["high"] + 2e-9
        )
        assert (
            policy["removed"] < 40 or policy["residual"]["hit"]["value"] < control["hit"]["low"]
        ), "half of the leak is left"


def test_leakage_by_type(inputs, good):
    queries, _, _ = good
    typed = [
        q.model_copy(
            update={"type": "seen" if q.benchmark == "birch" and q.id < "060" else "guessed"}
        )
        for q in queries
    ]
    write_jsonl(inputs["queries"] / "queries.jsonl", typed)
    _, output = run(inputs)
    found = json.loads((output / "audit.json").read_text())["leakage_by_type"]
    assert {name: set(types) for name, types in found.items()} == {
        "alder": {"guessed"},
        "birch": {"seen", "guessed"},
        "yew": {"guessed"},
    }
    assert found["birch"]["seen"]["visual_only"]["corrected"]["low"] > 0.9
    assert found["birch"]["guessed"]["visual_only"]["corrected"]["high"] < 0.2


def test_training_items_are_audited_like_a_benchmark(inputs, good):
    """rlvr.jsonl of prepare: those with sound are filtered; without it nothing was withheld.

    No benchmarks.json is asked.
    """
    queries, draws, second = good
    sound = Media(kind="audio", uri="a.wav", sha256="0" * 64)
    items = [
        q.model_copy(
            update={
                "benchmark": "rlvr",
                "id": f"{q.benchmark}{q.id}",
                "media": () if q.benchmark == "yew" else (sound,),
            }
        )
        for q in queries
    ]
    write_jsonl(inputs["queries"] / "rlvr.jsonl", items)
    for role, rows in (("draws", draws), ("second_draws", second)):
        moved = [{**row, "benchmark": "rlvr", "id": row["benchmark"] + row["id"]} for row in rows]
        write_jsonl(inputs[role] / "draws.jsonl", moved)
        facts = json.loads((inputs[role] / "probe.json").read_text())
        write_json(inputs[role] / "probe.json", {**facts, "data": "rlvr.jsonl"})
    (inputs["queries"] / "benchmarks.json").unlink()
    _, output = run(inputs)
    manifest = Manifest.model_validate_json((output / "manifest.json").read_bytes())
    removed = {v.id for v in manifest.verdicts if v.label is Label.solvable}
    assert len(removed & {f"birch{i:03d}" for i in range(60)}) >= 55
    assert len(removed) <= 62
    assert {v.label for v in manifest.verdicts if v.id.startswith("yew")} == {Label.kept_whole}
    assert json.loads((output / "audit.json").read_text())["data"] == "rlvr.jsonl"
    write_json(inputs["second_draws"] / "probe.json", FACTS)
    with refused(DataError, "clean-data-differ", field="data"):
        run(inputs)


def test_a_probe_of_training_items_from_prepare_to_manifest(tmp_path):
    """The real steps, through the door, with the embedded probe."""
    recipe = load_recipe(
        "tiny", ["prepare.scale=0.02", "probe.data=rlvr.jsonl", "probe.draws={visual_only: 4}"]
    )
    run_step("prepare", recipe, {}, tmp_path / "prepare")
    run_step("probe", recipe, {"queries": tmp_path / "prepare"}, tmp_path / "probe")
    inputs = {"queries": tmp_path / "prepare", "draws": tmp_path / "probe"}
    run_step("clean", recipe, inputs, tmp_path / "clean")
    items = [
        Query.model_validate_json(line)
        for line in (tmp_path / "prepare/rlvr.jsonl").read_text().splitlines()
    ]
    manifest = Manifest.model_validate_json(
        (tmp_path / "clean/manifest.circular.json").read_bytes()
    )
    assert {(v.benchmark, v.id) for v in manifest.verdicts} == {q.key for q in items}
    silent = {q.id for q in items if all(m.kind != "audio" for m in q.media)}
    assert silent
    assert {v.id for v in manifest.verdicts if v.label is Label.kept_whole} == silent
    assert {v.draws for v in manifest.verdicts} == {4}, (
        "four draws of four options are one full circle"
    )


def test_answers_without_options_are_taken_by_their_outcome(inputs, good):
    """A number and a set in a filtered benchmark: kept whole, their hits counted."""
    queries, draws, _ = good
    number = Query(
        benchmark="birch",
        id="n",
        type="t",
        question="?",
        answer="3",
        answer_kind="number",
        cluster="n",
    )
    several = make_query("birch", "s", ("1", "2", "3"), "1", "s").model_copy(
        update={"answer_kind": "set", "also": ("2",)}
    )
    odd = []
    for query, answers, order in (
        (number, ["3", "4", None], ()),
        (several, ["1, 2", "1", None], (2, 0, 1)),
    ):
        for view, n in PLAN.items():
            for i in range(n):
                given = answers[i % 3]
                outcome = "no_answer" if given is None else "correct" if i % 3 == 0 else "incorrect"
                shown = {"permutation": order, "reply": "", "answer": given, "outcome": outcome}
                odd.append({"benchmark": "birch", "id": query.id, "view": view, "draw": i, **shown})
    write_jsonl(inputs["queries"] / "queries.jsonl", [*queries, number, several])
    write_jsonl(inputs["draws"] / "draws.jsonl", [*draws, *odd])
    del inputs["second_draws"]
    _, output = run(inputs)
    manifest = Manifest.model_validate_json((output / "manifest.json").read_bytes())
    found = [v for v in manifest.verdicts if v.id in ("n", "s")]
    assert {(v.label, v.hits, v.draws) for v in found} == {(Label.kept_whole, 3, 6)}


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
