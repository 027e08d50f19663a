"""Figures and sentences of the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnicore.report import audit_record, figures, training_figures, words
from omnicore.report import evidence as ev
from omnicore.schema import Label, Outcome, View
from omnicore.steps import report
from omnicore.storage.files import read_json, write_json
from tests.unit.report_fixture import RECIPE
from tests.unit.report_outputs import changed, evidence, output, roles

__all__ = ["evidence", "output", "roles"]  # fixtures


def test_surplus_interval_matches_clustered_bootstrap(
    evidence: ev.Evidence,
) -> None:
    scores = evidence.scores
    found = words.stage_gain(evidence, "sft", "rlvr")
    assert found.raw.value == pytest.approx(
        scores["rlvr"].raw.micro.value - scores["sft"].raw.micro.value
    )
    assert found.clean.value == pytest.approx(
        scores["rlvr"].clean.micro.value - scores["sft"].clean.micro.value
    )
    assert found.surplus.value == pytest.approx(found.raw.value - found.clean.value)

    right = {
        arm: [evidence.responses[arm][q.key].outcome is Outcome.correct for q in evidence.queries]
        for arm in ("sft", "rlvr")
    }
    d = np.array(right["rlvr"], float) - np.array(right["sft"], float)
    kept_keys = evidence.manifest.kept()
    kept = np.array([q.key in kept_keys for q in evidence.queries])
    names, of = np.unique([q.cluster for q in evidence.queries], return_inverse=True)
    sums = np.stack([np.bincount(of, w, len(names)) for w in (d, np.ones(len(d)), d * kept, kept)])
    picks = np.random.default_rng(0).integers(0, len(names), (2000, len(names)))
    all_d, all_n, kept_d, kept_n = sums[:, picks].sum(axis=2)
    spread = float(np.std(all_d / all_n - kept_d / kept_n))
    assert (found.surplus.high - found.surplus.low) / (2 * 1.98) == pytest.approx(spread, rel=0.15)


def test_page_shows_the_audits_evidence(
    roles: dict[str, Path], output: Path, evidence: ev.Evidence
) -> None:
    page = (output / "report.html").read_text()
    section = page[page.index('<section id="leakage"') : page.index('<section id="stages"')]
    control = evidence.audit.policies["repeated"].control
    assert control
    for said in (
        words.format_percent(control.hit.mean),
        words.format_percent(control.excess.mean),
        "random removal",
        "200 times",
    ):
        assert said in section
    assert '<th scope="col">Circular</th>' in section
    by_type = figures.leakage_table(evidence).rows
    assert sum(int(str(row[2])) for row in by_type) == len(evidence.queries)
    assert {row[:2] for row in by_type} == {
        (q.benchmark, q.type.replace("_", " ")) for q in evidence.queries
    }
    asked = [row for row in figures.reply_table(evidence).rows if row[1] == "visual only"]
    assert sum(int(str(row[2])) for row in asked) == 8 * len(evidence.queries)
    assert f"Of {12 * len(evidence.queries)} requests to the probe" in section


@pytest.mark.parametrize(
    ("counts", "lacking", "said"),
    [
        (
            (1000, 0, 0, 0),
            0,
            "Of 1000 requests to the probe 0 were truncated by the length limit (0.0\u00a0%).",
        ),
        (
            (1000, 0, 25, 100),
            0,
            "probe 100 could not be read (10.0\u00a0%) and 25 were truncated by the length limit",
        ),
        ((1000, 0, 1, 0), 0, "(0.1\u00a0%). Truncated and unreadable replies are no evidence"),
        (
            (1000, 0, 0, 0, 40),
            0,
            "probe 40 named none of the options, which is wrong (4.0\u00a0%) and 0 were truncated",
        ),
        (
            (1000, 3, 0, 0),
            0,
            "probe 3 failed permanently (0.3\u00a0%) and 0 were truncated by the length limit",
        ),
        ((1000, 3, 0, 0), 2, " 2 queries that lack a draw are undecided and kept."),
    ],
)
def test_replies_sentence_counts_by_fate(
    evidence: ev.Evidence, counts: tuple[int, ...], lacking: int, said: str
) -> None:
    replies = audit_record.ReplyCounts(
        **dict(
            zip(
                ("draws", "failed", "truncated", "no_answer", "outside"),
                (*counts, 0)[:5],
                strict=True,
            )
        )
    )
    found = evidence.audit.model_copy(
        update={"replies": {"elm": {View.visual_only: replies}}, "failed_queries": lacking}
    )
    assert said in words.replies_sentence(found)


def test_sentences_count_what_they_name(evidence: ev.Evidence) -> None:
    labels = [v.label for v in evidence.manifest.verdicts if v.benchmark != "yew"]
    removed = labels.count(Label.solvable)
    sentence = words.solvable_sentence(evidence)
    assert sentence.startswith(
        f"{removed} of {len(labels)} audited queries, {100 * removed / len(labels):.1f}\u00a0% ["
    )
    assert "yew (15 queries; yes/no" in words.kept_whole_sentence(evidence)
    lead = words.accuracy_difference(evidence, "control", "rlvr", clean=True)
    assert lead.low > 0
    assert (
        f"RLVR on real rewards is {words.format_points(lead)} points above the control"
        in words.control_sentence(evidence)
    )


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (
            (6, 6, 7, None),
            (
                "drawn 6 times in 8 or more in 3.00\u00a0% of cases; independent guesses would do"
                " so in 0.40\u00a0%"
            ),
        ),
        (
            (7, 6, 7),
            (
                "drawn 7 times in 8 or more in 1.00\u00a0% of cases; independent guesses would do"
                " so in 0.10\u00a0%"
            ),
        ),
        ((7, 6), "drawn 6 times in 8"),
        ((None,), "No benchmark has a rule"),
    ],
)
def test_null_sentence_uses_the_most_common_threshold(
    evidence: ev.Evidence, rules: tuple[int | None, ...], said: str
) -> None:
    null = audit_record.NullRecord(
        hits=[0.9, 0.07, 0, 0, 0, 0, 0.02, 0.01, 0],
        binomial=[0.9, 0.096, 0, 0, 0, 0, 0.003, 0.001, 0],
    )
    thresholds = {
        str(i): audit_record.ThresholdRecord(hits=hits, draws=8) for i, hits in enumerate(rules)
    }
    assert said in words.null_sentence(
        evidence.audit.model_copy(update={"null": null, "thresholds": thresholds})
    )


def test_clean_chance_is_weighted_by_kept_queries(evidence: ev.Evidence) -> None:
    kept = evidence.manifest.kept()
    assert training_figures.clean_chance(evidence) == pytest.approx(
        np.mean([1 / len(q.options) for q in evidence.queries if q.key in kept])
    )


def test_curves_leave_out_what_was_not_logged(
    roles: dict[str, Path], tmp_path: Path, evidence: ev.Evidence
) -> None:
    drawn = {f.title for _, found in training_figures.training_figures(evidence) for f in found}
    assert {
        "SFT",
        "Self-distilled",
        "Reward by type",
        "Reward",
        "Entropy",
        "Length",
        "Groups with zero advantage",
    } <= drawn
    rows = [
        {name: row[name] for name in ("step", "loss", "reward")} for row in evidence.curves["rlvr"]
    ]
    inputs = changed(
        roles,
        "rlvr_curves",
        tmp_path,
        "curves.jsonl",
        lambda _: "".join(json.dumps(row) + "\n" for row in rows),
    )
    assert [
        f.title
        for _, found in training_figures.training_figures(ev.read_evidence(inputs))
        for f in found
    ] == [
        "SFT",
        "Self-distilled",
        "Reward",
    ]


def test_benchmark_without_kept_queries_has_no_clean_line(
    roles: dict[str, Path], tmp_path: Path
) -> None:
    def emptied(text: str) -> str:
        scores = json.loads(text)
        scores["by_benchmark"]["oak"]["clean"] = None
        return json.dumps(scores)

    inputs = roles
    for stage in ev.STAGES:
        inputs = changed(inputs, stage, tmp_path, "scores.json", emptied)
    found = ev.read_evidence(inputs)
    oak = next(f for f in training_figures.benchmark_figures(found) if f.title == "oak")
    assert "line raw" in oak.svg
    assert "line clean" not in oak.svg
    assert ("oak, clean", "–", "–", "–", "–") in training_figures.benchmark_table(found).rows


def test_page_names_steps_by_their_role_and_counts_their_seconds(
    roles: dict[str, Path], tmp_path: Path
) -> None:
    record = read_json(roles["distilled_curves"] / "step.json")
    folder = tmp_path / "distilled_curves"
    shutil.copytree(roles["distilled_curves"], folder)
    write_json(folder / "step.json", {**record, "seconds": 1234.5})
    report.run(RECIPE, RECIPE.report, {**roles, "distilled_curves": folder}, tmp_path)
    assert read_json(tmp_path / "report.json")["seconds"]["sft_distilled"] == 1234.5
    assert "1234.5 s" in (tmp_path / "report.html").read_text()


def test_rollouts_of_each_outcome_are_shown_by_type(output: Path, evidence: ev.Evidence) -> None:
    page = (output / "report.html").read_text()
    shown = dict(training_figures.rollout_tables(evidence))
    assert set(shown) == {"picture", "speech", "picture text", "speech text", "sum"}
    for kind, table in shown.items():
        mine = [r for r in evidence.rollouts if r["type"].replace("_", " ") == kind]
        for outcome in ("correct", "incorrect", "no_answer"):
            found = [r for r in mine if r["outcome"] == outcome]
            label = f"{outcome.replace('_', ' ')} ({len(found)})"
            rows = [row for row in table.rows if row[0] == label]
            assert [(row[2], row[3]) for row in (rows[0], rows[-1])] == [
                (r["id"], r["reply"]) for r in (found[0], found[-1])
            ]
            assert len(rows) == 3
            assert f"<summary>{kind.capitalize()}</summary>" in page
            assert all(row[5] == "left out" for row in rows if not _used(found, row[3]))


def test_the_selection_of_own_rollouts_is_a_funnel(
    roles: dict[str, Path], output: Path, evidence: ev.Evidence, tmp_path: Path
) -> None:
    shown = training_figures.selection_table(evidence)
    assert shown
    assert [row[1:] for row in shown.rows] == [
        ("", "400"),
        ("10", "390"),
        ("60", "330"),
        ("30", "300"),
        ("50", "250"),
    ]
    assert shown.rows[3][0] == "A probe solves the query without the sound"
    page = (output / "report.html").read_text()
    assert all(f"<td>{row[2]}</td>" in page for row in shown.rows)
    report.run(
        RECIPE,
        RECIPE.report,
        {role: path for role, path in roles.items() if role != "distill"},
        tmp_path,
    )
    assert "Selection of own rollouts" in page
    assert "Selection of own rollouts" not in (tmp_path / "report.html").read_text()


def _used(found: list[Any], reply: Any) -> bool:
    return any(r["used"] for r in found if r["reply"] == reply)
