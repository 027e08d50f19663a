"""The step on files: what it writes, what it refuses, and what it does where draws are lacking."""

import json

import numpy as np
import pytest

from omnicore.audit.files import Probe, read_draws, read_queries
from omnicore.config import CleanConfig, load_recipe
from omnicore.errors import DataError
from omnicore.journal import write_json, write_jsonl
from omnicore.schema import BenchmarkInfo, Draw, Estimate, Label, Manifest, Outcome, Query, View
from omnicore.steps import clean

PLAN = {"visual_only": 8, "text_only": 2, "audio_only": 0}
FACTS = {"model": "embedded:test", "profile_hash": "a" * 64, "draws": PLAN, "accuracy": {}}
VIEWS = {"visual_only", "text_only"}
SIZES = {"alder": 80, "birch": 120, "yew": 40}


def make_queries():
    """alder: nobody can solve any; birch: the first half is solvable; yew: yes/no, kept whole."""
    rows = []
    for name, size in SIZES.items():
        for i in range(size):
            options = ("yes", "no") if name == "yew" else ("3", "5", "8", "13")
            rows.append(make_query(name, f"{i:03d}", options, options[i % len(options)], f"{name}-{i // 2}"))
    return rows


def make_query(benchmark, name, options, answer, cluster):
    return Query(benchmark=benchmark, id=name, type="sum", question="?", options=options, answer=answer, cluster=cluster)


def make_draws(queries, counts, seed, accuracy=0.97):
    """Draw lines of a probe that sees the first half of birch under visual_only and guesses elsewhere, a third of the time
    none of the options, half the time its favourite."""
    rng, rows = np.random.default_rng(seed), []
    for query in queries:
        favourite = query.options[rng.integers(len(query.options))]
        for view, n in counts.items():
            for i in range(n):
                order = rng.permutation(len(query.options)).tolist()
                given = rng.choice([None, favourite, query.options[order[0]]], p=[0.33, 0.34, 0.33])
                if view == "visual_only" and query.benchmark == "birch" and int(query.id) < 60 and rng.random() < accuracy:
                    given = query.answer
                worth = Outcome.no_answer if given is None else Outcome.correct if given == query.answer else Outcome.incorrect
                row = {"benchmark": query.benchmark, "id": query.id, "view": view, "draw": i, "permutation": order}
                rows.append({**row, "reply": f"<answer>{given}</answer>", "answer": given, "outcome": worth})
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
    infos = [BenchmarkInfo(name=n, queries=s, filter_policy=policy[n], reason="yes/no") for n, s in SIZES.items()]
    write_json(tmp_path / "prepare/benchmarks.json", [info.model_dump(mode="json") for info in infos])
    write_jsonl(tmp_path / "probe/draws.jsonl", draws)
    write_json(tmp_path / "probe/probe.json", FACTS)
    write_jsonl(tmp_path / "second/draws.jsonl", second)
    write_json(tmp_path / "second/probe.json", {**FACTS, "model": "embedded:second", "draws": {"visual_only": 4}})
    return {"queries": tmp_path / "prepare", "draws": tmp_path / "probe", "second_draws": tmp_path / "second"}


def run(inputs, **config):
    output = inputs["queries"].parent / "out"
    return clean.run(load_recipe("tiny"), CleanConfig(**config), inputs, output), output


def test_generated_lines_are_draws(good):
    assert {Draw.model_validate_json(json.dumps(row)).view for row in good[1]} == {View.visual_only, View.text_only}


def test_what_it_writes(inputs, good):
    summary, output = run(inputs)
    repeated = Manifest.model_validate_json((output / "manifest.repeated.json").read_bytes())
    single = Manifest.model_validate_json((output / "manifest.single_pass.json").read_bytes())
    assert (output / "manifest.json").read_bytes() == (output / "manifest.repeated.json").read_bytes()
    assert (repeated.policy, single.policy) == ("repeated", "single_pass")
    assert (repeated.probe, repeated.profile_hash) == ("embedded:test", "a" * 64)
    assert {(v.benchmark, v.id) for v in repeated.verdicts} == {q.key for q in good[0]}
    removed = {(v.benchmark, v.id) for v in repeated.verdicts if v.label is Label.solvable}
    solvable = {("birch", f"{i:03d}") for i in range(60)}
    assert len(removed & solvable) >= 57
    assert len(removed - solvable) <= 2
    assert {v.label for v in single.verdicts if v.benchmark == "yew"} == {Label.kept_whole}
    first = [d for d in good[1] if d["view"] == "visual_only" and d["draw"] == 0 and d["benchmark"] != "yew"]
    right = {(d["benchmark"], d["id"]) for d in first if d["outcome"] == "correct"}
    assert {(v.benchmark, v.id) for v in single.verdicts if not v.kept} == right

    record = json.loads((output / "audit.json").read_text())
    assert set(record) == {
        *("probe", "second_probe", "profile_hash", "data", "leakage", "leakage_by_type", "replies", "failed_queries"),
        *("thresholds", "null", "policies"),
    }
    assert (record["probe"], record["second_probe"]) == ("embedded:test", "embedded:second")
    assert {name: set(views) for name, views in record["leakage"].items()} == dict.fromkeys(SIZES, VIEWS)
    birch = record["leakage"]["birch"]["visual_only"]
    assert birch["chance"] == 0.25
    assert Estimate.model_validate(birch["solved"]).low > 0.45
    assert Estimate.model_validate(birch["corrected"]).n == 120
    assert set(record["thresholds"]) == set(SIZES)
    assert set(record["thresholds"]["birch"]) == {"hits", "draws", "options", "fdr", "null", "binomial"}
    assert record["thresholds"]["birch"]["hits"] in (5, 6, 7, 8)
    assert record["thresholds"]["birch"]["fdr"] <= 0.03
    assert record["thresholds"]["alder"]["hits"] is None
    assert record["thresholds"]["yew"]["hits"] is None
    assert len(record["null"]["hits"]) == len(record["null"]["binomial"]) == 9
    for name, manifest in (("repeated", repeated), ("single_pass", single)):
        policy = record["policies"][name]
        assert policy["kept"] == len(manifest.kept()) == summary[f"kept_{name}"]
        assert policy["removed"] == len(manifest.verdicts) - policy["kept"] == summary[f"removed_{name}"]
        assert policy["undecided"] == sum(v.label is Label.undecided for v in manifest.verdicts)
        assert Estimate.model_validate(policy["residual"]["hit"]).n == policy["kept"]
        assert policy["residual"]["excess"]["low"] < 0.05
        assert policy["residual"]["baseline"]["value"] < 0.3


def test_policy_names_the_manifest(inputs):
    summary, output = run(inputs, policy="single_pass")
    assert (output / "manifest.json").read_bytes() == (output / "manifest.single_pass.json").read_bytes()
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


def edit(change):
    """A breaker of draws.jsonl: `change` gets the lines as dicts and returns what is written (dicts or text)."""

    def apply(inputs):
        path = inputs["draws"] / "draws.jsonl"
        rows = change([json.loads(line) for line in path.read_text().splitlines()])
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))

    return apply


def facts(**change):
    return lambda inputs: write_json(inputs["draws"] / "probe.json", {**FACTS, **change})


def infos(*values):
    return lambda inputs: write_json(inputs["queries"] / "benchmarks.json", values)


def set_third(**change):
    return edit(lambda rows: [*rows[:2], {**rows[2], **change}, *rows[3:]])


BROKEN = {
    "half a line": (edit(lambda rows: [*rows[:4], '{"benchmark": "alder"', *rows[5:]]), r"draws.jsonl:5: EOF"),
    "no object": (edit(lambda rows: [*rows[:4], "17", *rows[5:]]), r"draws.jsonl:5: "),
    "field gone": (
        edit(lambda rows: [{k: v for k, v in row.items() if k != "outcome"} for row in rows]),
        r"draws.jsonl:1: field 'outcome' is missing",
    ),
    "unknown queries": (
        edit(lambda rows: [{**row, "id": "x" + row["id"]} if row["benchmark"] == "yew" else row for row in rows]),
        r"400 draws are of queries that prepare's output does not hold \(yew/x000 first\)",
    ),
    "lacking draws": (
        edit(lambda rows: [r for r in rows if (r["benchmark"], r["draw"]) not in {("alder", 3), ("alder", 7)}]),
        r"80 of 240 queries lack draws under visual_only \(alder/000 first, with 6 of 8\)",
    ),
    "last draw lacking for all": (edit(lambda rows: [row for row in rows if row["draw"] != 7]), r"240 of 240 queries lack draws"),
    "no draws at all": (edit(lambda rows: []), r"240 of 240 queries lack draws"),
    "same draw twice": (edit(lambda rows: [*rows, rows[0]]), r"alder/000 has draw 0 under visual_only twice"),
    "draw number beyond the plan": (set_third(draw=8), r"draws.jsonl:3: draw 8 under 'visual_only' is not among"),
    "draw number no integer": (set_third(draw="2"), r"draws.jsonl:3: draw '2' under"),
    "view beyond the plan": (set_third(view="audio_only"), r"draws.jsonl:3: draw 2 under 'audio_only' is not among"),
    "answer of another query": (set_third(answer="7", outcome="incorrect"), r"jsonl:3: answer '7' is not among the query's"),
    "judged against another answer": (set_third(answer="3", outcome="incorrect"), r"jsonl:3: outcome 'incorrect' of answer '3'"),
    "no answer judged": (set_third(answer=None, outcome="incorrect"), r"jsonl:3: outcome 'incorrect' of answer None"),
    "draws gone": (lambda inputs: (inputs["draws"] / "draws.jsonl").unlink(), r"draws.jsonl: no such file; run probe again"),
    "other profile": (facts(profile_hash="b" * 64), r"profile bbbbbbbbbbbb, second_draws under aaaaaaaaaaaa: probe again"),
    "no visual draws": (facts(draws={"text_only": 2}), r"no draws under visual_only.* set draws.visual_only"),
    "no profile": (facts(profile_hash=None), r"probe.json: profile_hash: "),
    "probe.json gone": (lambda inputs: (inputs["draws"] / "probe.json").unlink(), r"probe.json: no such file"),
    "benchmark unknown": (
        infos({"name": "alder", "filter_policy": "filtered", "queries": 80}),
        r"benchmarks.json says nothing of birch, yew",
    ),
    "benchmark without policy": (infos({"name": "alder", "queries": 80}), r"benchmarks.json: 0.filter_policy: .* prepare again"),
    "query twice": (
        lambda inputs: write_jsonl(inputs["queries"] / "queries.jsonl", [*make_queries(), make_queries()[0]]),
        r"holds alder/000 more than once",
    ),
    "no query": (lambda inputs: write_jsonl(inputs["queries"] / "queries.jsonl", []), r"holds no query"),
}


@pytest.mark.parametrize(("damage", "message"), BROKEN.values(), ids=BROKEN)
def test_refused(inputs, damage, message):
    damage(inputs)
    with pytest.raises(DataError, match=message):
        run(inputs)
    assert not list((inputs["queries"].parent / "out").iterdir()), "nothing is written from what is refused"
