"""The clean step on files: verdicts, manifests and audit.json."""

import json

from omnicore.config.recipe import load_recipe
from omnicore.data.prompts import draw_permutation
from omnicore.errors import DataError
from omnicore.runtime.run import run_step
from omnicore.schema import (
    Draw,
    Estimate,
    Label,
    Manifest,
    Media,
    Query,
    View,
)
from omnicore.storage.files import write_json, write_jsonl
from tests.errors import refused
from tests.unit.clean_fixture import (
    FACTS,
    PLAN,
    SIZES,
    VIEWS,
    good,
    inputs,
    make_draws,
    make_query,
    run,
)

__all__ = ["good", "inputs"]  # fixtures


def test_generated_lines_are_draws(good):
    assert {Draw.model_validate_json(json.dumps(row)).view for row in good[1]} == {
        View.visual_only,
        View.text_only,
    }


def test_clean_writes_manifests_and_audit_record(inputs, good):
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


def test_other_option_counts_are_listed_beside_the_main_rule(inputs, good):
    queries, draws, _ = good
    odd = make_query("birch", "999", ("1", "2"), "1", "c")
    write_jsonl(inputs["queries"] / "queries.jsonl", [*queries, odd])
    write_jsonl(inputs["draws"] / "draws.jsonl", [*draws, *make_draws([odd], PLAN, 2)])
    del inputs["second_draws"]
    _, output = run(inputs)
    birch = json.loads((output / "audit.json").read_text())["thresholds"]["birch"]
    assert birch["options"] == 4
    assert [other["options"] for other in birch["others"]] == [2]


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


def test_circular_manifest_needs_full_rotations(inputs, good):
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


def test_circular_policy_without_full_rotations_is_refused(inputs, good):
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
    policies = json.loads((output / "audit.json").read_text())["policies"]
    assert {"repeated"} <= policies.keys()
    for policy in policies.values():
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
