"""Evaluate through the door: figures counted by hand, two scores, errors that are in no figure,
lmms-eval's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from omnicore.config.recipe import load_recipe
from omnicore.data.prompts import profile_hash
from omnicore.engines.base import Reply
from omnicore.errors import DataError, EngineError
from omnicore.evaluation.scores import chance_level, queries_hash
from omnicore.lineage.step_record import read_step
from omnicore.runtime.run import run_step
from omnicore.schema import Estimate, Outcome, Response, View
from omnicore.steps.evaluate import run
from omnicore.storage.digests import digest_directory
from omnicore.storage.files import read_json, read_jsonl
from tests.errors import refused
from tests.unit.evaluate_fixture import QUERIES, RECIPE, evaluated, inputs, query
from tests.unit.run_fixture import finish

# By hand: daily_omni's key is B. The publisher reads the first letter of the reply.
SAID: dict[str, str | Reply] = {
    "daily_omni 00": "B",
    "daily_omni 01": "B. dog",
    "daily_omni 02": "Because it barks",  # official right by its bug, strict no answer
    "daily_omni 03": "The answer is B.",  # strict right; official reads nothing at the start
    "daily_omni 04": Reply("B", truncated=True, reasoning="long"),
    "daily_omni 05": "A",
    "daily_omni 06": Reply(error="HTTP 500"),
    "daily_omni 07": "A or B",
    "elm 00": "A",
    "elm 01": "A and D",
    "elm 02": "twelve",
    "elm 03": "a violin",
    "elm 04": "Yes, I hear it.",
}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as monkeypatch:
        return evaluated(root / "out", SAID, inputs(root), monkeypatch)


@pytest.fixture(scope="module")
def scores(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(output / "scores.json")
    return found


def test_replies_have_two_scores(output: Path) -> None:
    found = {
        (r.benchmark, r.id): r
        for r in read_jsonl(output / "responses.jsonl", Response)
        if r.view is View.omni
    }
    right, wrong, nothing = Outcome.correct, Outcome.incorrect, Outcome.no_answer
    assert {
        key[1]: (r.outcome, r.official) for key, r in found.items() if key[0] == "daily_omni"
    } == {
        "00": (right, 1.0),
        "01": (right, 1.0),
        "02": (nothing, 1.0),
        "03": (right, 0.0),
        "04": (nothing, 1.0),
        "05": (wrong, 0.0),
        "07": (nothing, 0.0),
    }
    assert {
        key[1]: (r.outcome, r.answer, r.official) for key, r in found.items() if key[0] == "elm"
    } == {
        "00": (right, "cat", None),
        "01": (right, "cat, owl", None),
        "02": (right, "12", None),
        "03": (wrong, "a violin", None),
        "04": (right, "yes", None),
    }
    assert (found["daily_omni", "04"].truncated, found["daily_omni", "04"].reasoning) == (
        True,
        "long",
    )


def test_a_failed_request_is_counted_and_in_no_figure(output: Path, scores: dict[str, Any]) -> None:
    errors: list[dict[str, Any]] = read_jsonl(output / "errors.jsonl", dict)
    key = {"benchmark": "daily_omni", "id": "06", "error": "HTTP 500"}
    assert errors == [{**key, "view": "omni"}, {**key, "view": "visual_only"}]
    assert scores["errors"] == 2
    assert {
        name: count for name, count in read_step(output)["summary"].items() if "errors" in name
    } == {
        "errors": 2,
        "errors_daily_omni": 2,
    }
    assert scores["counts"] == {
        "raw": {"queries": 13, "errors": 1, "no_answer": 3, "truncated": 1},
        "clean": {"queries": 10, "errors": 1, "no_answer": 3, "truncated": 1},
    }
    assert scores["raw"]["micro"]["n"] == 12
    assert scores["clean"]["micro"]["n"] == 9
    assert scores["no_answer"] == {"raw": 3 / 12, "clean": 3 / 9}


def test_raw_and_clean_by_benchmark(scores: dict[str, Any]) -> None:
    daily, elm = scores["by_benchmark"]["daily_omni"], scores["by_benchmark"]["elm"]
    assert (daily["raw"]["value"], daily["raw"]["n"]) == (pytest.approx(3 / 7), 7)
    assert (daily["clean"]["value"], daily["clean"]["n"]) == (pytest.approx(1 / 5), 5)
    assert daily["official"]["raw"]["value"] == pytest.approx(4 / 7)
    assert daily["official"]["clean"]["value"] == pytest.approx(2 / 5)
    assert daily["official"]["clean"]["n"] == 5
    assert (daily["chance"], daily["clean_chance"]) == (0.25, 0.25)
    assert daily["counts"]["clean"] == {"queries": 6, "errors": 1, "no_answer": 3, "truncated": 1}
    assert elm["raw"]["value"] == pytest.approx(4 / 5)
    assert elm["official"] is None
    assert elm["chance"] == pytest.approx((1 / 4 + 1 / 15 + 1 / 2) / 5)
    assert elm["clean_chance"] == pytest.approx((1 / 15 + 1 / 2) / 4)


def test_figures_over_all(scores: dict[str, Any]) -> None:
    assert scores["raw"]["micro"]["value"] == pytest.approx(7 / 12)
    assert scores["raw"]["macro"]["value"] == pytest.approx((3 / 7 + 4 / 5) / 2)
    assert scores["chance"]["raw"] == pytest.approx((0.25 + (1 / 4 + 1 / 15 + 1 / 2) / 5) / 2)
    elm = (1 / 4 + 1 / 15 + 1 / 2) / 5
    corrected = ((3 / 7 - 0.25) / 0.75 + (4 / 5 - elm) / (1 - elm)) / 2
    assert scores["raw"]["chance_corrected"]["value"] == pytest.approx(corrected)
    assert scores["official"] == {
        "raw": None,
        "clean": None,
    }  # elm has no rule: the means would be of other queries
    # Hidden media: the stub says the same, so the ablation equals the clean view.
    assert scores["ablation"]["no_audio"] == scores["clean"]["micro"]


def test_types_within_benchmarks(scores: dict[str, Any]) -> None:
    types = scores["by_benchmark_type"]
    assert {name: sorted(by) for name, by in types.items()} == {
        "daily_omni": ["Event", "Inference"],
        "elm": ["both", "count", "heard", "open", "pick"],
    }
    event, inference = types["daily_omni"]["Event"], types["daily_omni"]["Inference"]
    assert (event["raw"]["value"], event["clean"]["value"]) == (3 / 4, 1 / 2)
    assert inference["raw"] == inference["clean"]
    assert inference["counts"]["raw"]["errors"] == 1
    assert types["elm"]["pick"]["clean"] is None  # its only query is removed
    assert types["elm"]["pick"]["clean_chance"] is None
    assert types["elm"]["count"]["chance"] == 0
    assert set(scores["by_type"]) == {
        "Event",
        "Inference",
        "both",
        "count",
        "heard",
        "open",
        "pick",
    }
    for block in (b for by in types.values() for b in by.values()):
        assert Estimate.model_validate(block["raw"]).n > 0


def test_official_over_all_where_every_benchmark_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daily = [q for q in QUERIES if q.benchmark == "daily_omni"]
    scores = read_json(
        evaluated(tmp_path / "out", SAID, inputs(tmp_path, daily), monkeypatch) / "scores.json"
    )
    assert (
        scores["official"]["raw"]["micro"]
        == scores["by_benchmark"]["daily_omni"]["official"]["raw"]
    )
    assert scores["official"]["clean"]["macro"]["value"] == pytest.approx(2 / 5)


def test_the_publishers_own_figures(
    scores: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AVHBench publishes the F1 of Yes, which is not a mean: of four, two are said, two are due, one
    is both."""
    assert scores["by_benchmark"]["daily_omni"]["publisher"] is None
    assert scores["by_benchmark"]["elm"]["publisher"] is None
    key = ("Yes", "Yes", "No", "No", "No")
    asked = [
        query("avhbench", i, "AV Matching", a, options=("Yes", "No"), answer_kind="yes_no")
        for i, a in enumerate(key)
    ]
    said = dict(
        zip([f"avhbench {i:02d}" for i in range(5)], ["Yes", "No", "Yes", "No", "No"], strict=True)
    )
    given = inputs(tmp_path, asked, {("avhbench", "04")})
    found = read_json(evaluated(tmp_path / "out", said, given, monkeypatch) / "scores.json")[
        "by_benchmark"
    ]["avhbench"]
    assert found["publisher"]["clean"]["AV Matching/f1"] == 0.5
    assert found["publisher"]["raw"]["AV Matching/accuracy"] == found["raw"]["value"] == 0.6


def test_what_was_asked_and_how_is_in_the_scores(scores: dict[str, Any], output: Path) -> None:
    assert scores["profile"] == RECIPE.profile.model_dump(mode="json")
    assert scores["profile_hash"] == profile_hash(RECIPE.profile)
    assert scores["queries_hash"] == queries_hash(reversed(QUERIES))
    items: list[dict[str, Any]] = read_jsonl(output / "items.jsonl", dict)
    assert items[0] == {
        "benchmark": "daily_omni",
        "id": "00",
        "type": "Event",
        "cluster": "daily_omni-0",
        "kept": False,
        "wording": "",
    }
    assert len(items) == len(QUERIES)


def test_queries_hash_ignores_media_location() -> None:
    one = query("elm", 0, "pick", "cat")
    moved = one.model_copy(
        update={"media": (one.media[0].model_copy(update={"uri": "elsewhere/b.png"}),)}
    )
    assert queries_hash([one]) == queries_hash([moved])
    assert queries_hash([one]) != queries_hash([one.model_copy(update={"answer": "dog"})])


def test_chance_by_kind() -> None:
    both = query("elm", 0, "t", "cat", also=("owl",), answer_kind="set")
    assert chance_level([both]) == 1 / 15
    assert (
        chance_level(
            [
                query("elm", 0, "t", "3", options=(), answer_kind="number"),
                query("elm", 1, "t", "cat"),
            ]
        )
        == 1 / 8
    )


def test_same_answers_same_bytes(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert digest_directory(
        evaluated(tmp_path / "out", SAID, inputs(tmp_path), monkeypatch)
    ) == digest_directory(output)


def test_too_many_failures_end_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {f"daily_omni {i:02d}": Reply(error="HTTP 500") for i in range(8)}
    with pytest.raises(
        EngineError,
        match=r"evaluate: 12 of 23 requests failed, more than the 50\.0%.*12 x HTTP 500",
    ):
        evaluated(tmp_path / "out", said, inputs(tmp_path), monkeypatch)
    assert not (tmp_path / "out" / "scores.json").exists()


def test_view_without_replies_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with refused(DataError, "evaluate-view-empty", field="clean"):
        evaluated(
            tmp_path / "out", {}, inputs(tmp_path, removed={q.key for q in QUERIES}), monkeypatch
        )


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"profile_hash": "f" * 64}, "evaluate-manifest-profile-differs", "profile_hash"),
        ({"verdicts": []}, "manifest-missing-verdict", "verdicts"),
    ],
)
def test_manifest_of_other_profile_or_queries_is_refused(
    change: dict[str, Any], code: str, field: str, tmp_path: Path
) -> None:
    given = inputs(tmp_path)
    path = given["manifest"] / "manifest.json"
    path.write_text(json.dumps(read_json(path) | change))
    with refused(DataError, code, field=field):
        run(RECIPE, RECIPE.evaluate, given, tmp_path)


def test_an_imported_manifest_has_no_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = inputs(tmp_path)
    path = given["manifest"] / "manifest.json"
    path.write_text(json.dumps(read_json(path) | {"policy": "imported", "profile_hash": ""}))
    finish(given["manifest"])
    assert (
        read_json(evaluated(tmp_path / "out", SAID, given, monkeypatch) / "scores.json")["clean"][
            "micro"
        ]["n"]
        == 9
    )


def test_lmms_eval_results(output: Path, scores: dict[str, Any]) -> None:
    found = read_json(output / "lmms_eval" / "results.json")
    daily = found["results"]["daily_omni"]
    assert daily["strict,none"] == scores["by_benchmark"]["daily_omni"]["raw"]["value"]
    assert daily["official,none"] == pytest.approx(4 / 7)
    assert found["results"]["daily_omni_clean"]["official,none"] == pytest.approx(2 / 5)
    assert "official,none" not in found["results"]["elm"]
    assert 0 < daily["strict_stderr,none"] < 1
    tasks = ["daily_omni", "daily_omni_clean", "elm", "elm_clean"]
    for name in ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples"):
        assert sorted(found[name]) == tasks
    assert found["n-samples"]["daily_omni"] == {"original": 8, "effective": 7}
    assert found["configs"]["elm"]["metadata"]["profile"] == scores["profile"]
    assert found["model_name"] == "stub"


def test_lmms_eval_samples(output: Path) -> None:
    rows: list[dict[str, Any]] = read_jsonl(output / "lmms_eval" / "samples_daily_omni.jsonl", dict)
    assert [row["doc_id"] for row in rows] == [0, 1, 2, 3, 4, 5, 7]  # 6 failed
    row = rows[2]
    assert (row["target"], row["filtered_resps"], row["resps"]) == (
        "dog",
        [""],
        [["Because it barks"]],
    )
    assert (row["strict"], row["official"], row["outcome"], row["clean"]) == (
        0.0,
        1.0,
        "no_answer",
        True,
    )
    assert row["input"] == "<image>daily_omni 02?\nA. cat\nB. dog\nC. fox\nD. owl"
    elm: list[dict[str, Any]] = read_jsonl(output / "lmms_eval" / "samples_elm.jsonl", dict)
    assert [row["target"] for row in elm] == ["cat", "cat, owl", "12", "violin", "yes"]
    assert "official" not in elm[0]
    assert len({row["doc_hash"] for row in (*rows, *elm)}) == 12


@pytest.mark.slow
def test_training_rows_are_audited_scored_and_reported(tmp_path: Path) -> None:
    """Any prepared set goes the whole way: here the rows that distill would ask."""
    recipe = load_recipe(
        "tiny",
        [
            "prepare.split=dev",
            "prepare.scale=0.1",
            "threads=1",
            "probe.data=distill.jsonl",
            "probe.draws={visual_only: 2}",
            "evaluate.data=distill.jsonl",
            "evaluate.ablations=[visual_only]",
        ],
    )
    inputs = {"queries": tmp_path / "prepare"}
    run_step("prepare", recipe, {}, inputs["queries"])
    run_step("probe", recipe, inputs, tmp_path / "probe")
    audited = inputs | {"draws": tmp_path / "probe"}
    run_step("clean", recipe, audited, tmp_path / "clean")
    run_step("evaluate", recipe, inputs | {"manifest": tmp_path / "clean"}, tmp_path / "evaluate")
    run_step("report", recipe, audited | {"audit": tmp_path / "clean"}, tmp_path / "report")
    rows = read_jsonl(tmp_path / "prepare" / "distill.jsonl", dict)
    scores = read_json(tmp_path / "evaluate" / "scores.json")
    assert scores["raw"]["micro"]["n"] == len(rows) == 40
    page = (tmp_path / "report" / "report.html").read_text()
    assert rows[0]["id"] in page
