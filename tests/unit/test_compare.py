"""Two evaluations side by side: paired differences, and refusals by the name of what differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from omnicore.cli.main import main
from omnicore.config.recipe import load_recipe
from omnicore.engines.base import Reply
from omnicore.errors import ConfigError, DataError
from omnicore.evaluation.compare import compare_evaluations, summary_sentence
from omnicore.storage.files import read_json, write_json
from tests.errors import refused
from tests.unit.evaluate_fixture import FLAGS, evaluated, inputs, query
from tests.unit.run_fixture import finish

# Sixty queries in thirty clusters; A answers none of the first forty, B all.
MANY = [query("daily_omni", i, "Event" if i < 30 else "Inference", "dog") for i in range(60)]
REMOVED = {q.key for q in MANY[:20]}
WORSE = {f"daily_omni {i:02d}": "A" for i in range(40)}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    given = inputs(tmp_path, MANY, REMOVED)
    return {
        **given,
        "worse": evaluated(tmp_path / "worse", WORSE, given, monkeypatch),
        "better": evaluated(tmp_path / "better", {}, given, monkeypatch),
    }


def row(
    found: dict[str, Any], benchmark: str | None, type_: str | None, view: str, rule: str = "strict"
) -> dict[str, Any]:
    (one,) = [
        r
        for r in found["rows"]
        if (r["benchmark"], r["type"], r["view"], r["rule"]) == (benchmark, type_, view, rule)
    ]
    assert isinstance(one, dict)
    return one


def test_differences_are_b_less_a(made: dict[str, Path]) -> None:
    found = compare_evaluations(made["worse"], made["better"])
    everything = row(found, None, None, "raw")
    assert (everything["a"], everything["b"], everything["n"]) == (pytest.approx(1 / 3), 1.0, 60)
    assert everything["difference"]["value"] == pytest.approx(2 / 3)
    assert 0 < everything["difference"]["low"] < 2 / 3 < everything["difference"]["high"] < 1
    assert everything["better"] == "B"
    clean = row(found, "daily_omni", None, "clean")
    assert (clean["a"], clean["n"]) == (0.5, 40)
    assert row(found, "daily_omni", "Event", "clean")["difference"]["value"] == 1
    assert row(found, "daily_omni", "Inference", "raw")["difference"]["value"] == pytest.approx(
        1 / 3
    )
    assert row(found, None, None, "raw", "official")["difference"] == everything["difference"]
    assert len(found["rows"]) == 4 * 2 * 2
    assert summary_sentence(found, "clean").startswith(
        "B is better on the clean view: B − A is +50.0 ["
    )


def test_turned_round(made: dict[str, Path]) -> None:
    found = compare_evaluations(made["better"], made["worse"])
    assert row(found, None, None, "raw")["better"] == "A"
    assert summary_sentence(found, "raw").startswith(
        "A is better on the raw view: B − A is -66.7 ["
    )


def test_what_cannot_be_told_apart(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One query more is right: within the interval.
    near = evaluated(
        tmp_path / "near", {**WORSE, "daily_omni 39": "B"}, made_inputs(made), monkeypatch
    )
    found = compare_evaluations(made["worse"], near)
    assert row(found, None, None, "clean")["difference"]["value"] == pytest.approx(1 / 40)
    assert summary_sentence(found, "clean").startswith(
        "A and B cannot be distinguished on the clean view: B − A is +2.5 ["
    )
    same = compare_evaluations(made["worse"], made["worse"])
    assert {r["better"] for r in same["rows"]} == {None}
    assert {r["difference"]["value"] for r in same["rows"]} == {0}


def made_inputs(made: dict[str, Path]) -> dict[str, Path]:
    return {role: made[role] for role in ("queries", "manifest")}


def test_pairs_are_clustered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries of one video share their luck: the same replies tell less when there are fewer
    videos."""
    widths = []
    for size in (1, 6):
        root = tmp_path / str(size)
        queries = [
            query("daily_omni", i, "Event", "dog", cluster=str(i // size)) for i in range(60)
        ]
        given = inputs(root, queries, set())
        worse = {f"daily_omni {i:02d}": "A" for i in range(60) if i // 6 % 2}
        a, b = (
            evaluated(root / "a", worse, given, monkeypatch),
            evaluated(root / "b", {}, given, monkeypatch),
        )
        difference = row(compare_evaluations(a, b), None, None, "raw")["difference"]
        widths.append(difference["high"] - difference["low"])
    assert widths[1] > 2 * widths[0]


def test_a_query_without_a_reply_is_in_no_row(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"daily_omni 00": Reply(error="HTTP 500"), "daily_omni 50": Reply(error="HTTP 500")}
    failed = evaluated(tmp_path / "failed", said, made_inputs(made), monkeypatch)
    found = compare_evaluations(made["worse"], failed)
    assert found["unpaired"] == {"a": 0, "b": 2}
    assert found["queries"] == 60
    everything = row(found, None, None, "raw")
    assert (everything["n"], everything["a"], everything["b"]) == (58, pytest.approx(19 / 58), 1.0)


def test_official_only_where_both_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs(tmp_path)
    a, b = (evaluated(tmp_path / name, {}, given, monkeypatch) for name in "ab")
    found = compare_evaluations(a, b)
    assert {r["benchmark"] for r in found["rows"] if r["rule"] == "official"} == {"daily_omni"}
    assert {r["benchmark"] for r in found["rows"] if r["rule"] == "strict"} == {
        None,
        "daily_omni",
        "elm",
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["profile.max_frames=64"], "  profile.max_frames differs: A has 32, B has 64"),
        (["profile.server=vllm-0.32.0"], "  profile.server differs: A has '', B has 'vllm-0.32.0'"),
        (
            ["profile.fps=2", "profile.system=Be brief."],
            "  profile.fps differs: A has 1.0, B has 2.0\n  profile.system differs",
        ),
    ],
)
def test_differing_profile_is_refused_by_field(
    flags: list[str],
    message: str,
    made: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {**made_inputs(made), "manifest": tmp_path / "imported"}
    given["manifest"].mkdir()
    for name in ("manifest.json", "step.json"):
        (given["manifest"] / name).write_bytes((made["manifest"] / name).read_bytes())
    imported = read_json(given["manifest"] / "manifest.json") | {"policy": "imported"}
    (given["manifest"] / "manifest.json").write_text(json.dumps(imported))
    finish(given["manifest"])
    recipe = load_recipe("tiny", [*FLAGS, *flags, "model=stub"])
    other = evaluated(tmp_path / "other", {}, given, monkeypatch, recipe=recipe)
    with refused(DataError, "compare-evaluations-differ", field="profile") as error:
        compare_evaluations(made["better"], other)
    assert message in str(error.value)
    assert "profile.max_new_tokens" not in str(error.value)


def test_a_format_that_changed_between_versions_is_refused(made: dict[str, Path]) -> None:
    path = made["better"] / "scores.json"
    write_json(path, read_json(path) | {"profile_hash": "f" * 64})
    with pytest.raises(DataError, match=r"scores\.json was changed after the step was finished"):
        compare_evaluations(made["worse"], made["better"])
    finish(made["better"])
    with refused(DataError, "compare-evaluations-differ", field="profile_hash"):
        compare_evaluations(made["worse"], made["better"])


def test_other_queries_are_refused(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fewer = inputs(tmp_path / "fewer", MANY[:59], REMOVED)
    other = evaluated(tmp_path / "other", {}, fewer, monkeypatch)
    with refused(DataError, "compare-evaluations-differ", field="queries_hash") as error:
        compare_evaluations(made["better"], other)
    assert "1 only in A, 0 only in B, 59 in both by id" in str(error.value)
    assert "  manifest differs: A has " in str(error.value)
    changed = [MANY[0].model_copy(update={"answer": "cat"}), *MANY[1:]]
    other = evaluated(
        tmp_path / "changed", {}, inputs(tmp_path / "c", changed, REMOVED), monkeypatch
    )
    with refused(DataError, "compare-evaluations-differ", field="queries_hash") as error:
        compare_evaluations(made["better"], other)
    assert "0 only in A, 0 only in B, 60 in both by id" in str(error.value)


def test_other_manifests_are_refused_unless_one_is_named(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = inputs(tmp_path / "other", MANY, {q.key for q in MANY[:50]})
    other = evaluated(tmp_path / "b", {}, given, monkeypatch)
    with refused(DataError, "compare-evaluations-differ", field="manifest_hash"):
        compare_evaluations(made["worse"], other)
    found = compare_evaluations(made["worse"], other, given["manifest"])
    assert row(found, None, None, "clean")["n"] == 10
    assert row(found, None, None, "raw")["n"] == 60
    assert found["manifest_hash"] == read_json(given["manifest"] / "manifest.json")["content_hash"]
    small = inputs(tmp_path / "small")["manifest"]
    with refused(DataError, "manifest-missing-verdict", field="verdicts"):
        compare_evaluations(made["worse"], other, small)


def test_only_outputs_of_evaluate_are_compared(made: dict[str, Path], tmp_path: Path) -> None:
    with refused(ConfigError, "compare-not-evaluation", path=made["manifest"]):
        compare_evaluations(made["worse"], made["manifest"])
    with pytest.raises(DataError, match="no such directory"):
        compare_evaluations(made["worse"], tmp_path / "absent")
    path = made["better"] / "scores.json"
    write_json(path, {k: v for k, v in read_json(path).items() if k != "queries_hash"})
    finish(made["better"])
    with refused(DataError, "scores-invalid", field="queries_hash"):
        compare_evaluations(made["worse"], made["better"])


def test_the_command_prints_tables_and_the_verdict(
    made: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert (
        main(
            ["compare", str(made["worse"]), str(made["better"]), "--json", str(tmp_path / "c.json")]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "B is better on the clean view: B − A is +50.0 [" in said
    assert "strict, %" in said
    assert "official, %" in said
    for name in ("daily_omni", "Event", "Inference", "33.3", "100.0"):
        assert name in said
    assert (
        read_json(tmp_path / "c.json")["rows"]
        == compare_evaluations(made["worse"], made["better"])["rows"]
    )
    assert main(["compare", str(made["worse"]), str(made["queries"])]) == 2
    assert "is an output of prepare" in capsys.readouterr().err
