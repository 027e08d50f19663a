"""The report: what `report.json` holds, what the page says and embeds, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import escape

from omnicore.errors import DataError
from omnicore.report import audit_record, browser, figures, training_figures, words
from omnicore.report import evidence as ev
from omnicore.schema import Label, Outcome, View
from omnicore.steps import report
from omnicore.storage.files import read_json, write_json, write_jsonl
from tests.errors import refused
from tests.unit.report_fixture import RECIPE, make


@pytest.fixture(scope="module")
def roles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def output(roles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    report.run(RECIPE, RECIPE.report, roles, folder)
    return folder


@pytest.fixture(scope="module")
def evidence(roles: dict[str, Path]) -> ev.Evidence:
    return ev.read_evidence(roles)


def changed(
    roles: dict[str, Path], role: str, tmp_path: Path, name: str, change: Callable[[str], str]
) -> dict[str, Path]:
    """The same inputs with one file of one role rewritten."""
    folder = tmp_path / role
    shutil.copytree(roles[role], folder)
    (folder / name).write_text(change((folder / name).read_text()))
    return {**roles, role: folder}


AUDIT = ("queries", "audit", "draws")


def test_an_audit_alone_has_a_page(roles: dict[str, Path], tmp_path: Path) -> None:
    summary = report.run(RECIPE, RECIPE.report, {role: roles[role] for role in AUDIT}, tmp_path)
    found, page = read_json(tmp_path / "report.json"), (tmp_path / "report.html").read_text()
    assert found["stages"] == found["gain"] == {}
    assert found["audit"]["repeated"]["removed"] > 0
    for heading, shown in {
        "leakage": True,
        "queries": True,
        "stages": False,
        "training": False,
        "aggregates": False,
    }.items():
        assert (f'id="{heading}"' in page) is shown, heading
        assert (f'href="#{heading}"' in page) is shown, heading
    assert "f-stage" not in page.split("<script")[0]
    assert "base_raw" not in summary


def test_half_a_training_run_has_none(roles: dict[str, Path], tmp_path: Path) -> None:
    given = {role: path for role, path in roles.items() if role != "rlvr_curves"}
    with refused(DataError, "report-input-missing", field="rlvr_curves"):
        report.run(RECIPE, RECIPE.report, given, tmp_path)


def test_gains_are_told_to_scripts_as_on_the_page(output: Path, evidence: ev.Evidence) -> None:
    gain = words.stage_gain(evidence, "sft", "rlvr")
    assert read_json(output / "report.json")["gain"]["rlvr"]["surplus"] == gain.surplus.model_dump(
        mode="json"
    )
    assert (
        str(escape(words.gain_sentence(words.stage_gain(evidence, "base", "sft"), gain)))
        in (output / "report.html").read_text()
    )


def test_report_json_holds_what_scripts_read(roles: dict[str, Path], output: Path) -> None:
    found = read_json(output / "report.json")
    assert set(found) == {
        "stages",
        "gain",
        "audit",
        "control",
        "seconds",
        "seed",
        "profile_hash",
        "recipe_hash",
    }
    assert list(found["stages"]) == ["base", "sft", "rlvr", "distilled"]
    for stage, figures_of in (*found["stages"].items(), ("control", found["control"])):
        scores = read_json(roles[stage] / "scores.json")
        assert set(figures_of) == {"raw", "clean", "by_type", "by_wording", "ablation"}
        assert figures_of == {name: scores[name] for name in figures_of}
        assert set(figures_of["raw"]["chance_corrected"]) == {"value", "low", "high", "n"}
        assert set(figures_of["ablation"]) == {"no_audio", "no_image"}
    assert found["seconds"]["rlvr"] == pytest.approx(30)
    assert set(found["seconds"]) == {name for role, name in ev.STEP_NAMES.items() if role in roles}
    assert found["seed"] == RECIPE.seed


@pytest.mark.parametrize("policy", ["single_pass", "circular", "repeated"])
def test_audit_is_counted_over_filtered_benchmarks_against_the_planted_truth(
    roles: dict[str, Path], output: Path, policy: str
) -> None:
    planted = read_json(roles["queries"] / "planted.json")
    rows = [
        (planted[v["benchmark"]][v["id"]], v["label"] == "solvable")
        for v in read_json(roles["audit"] / f"manifest.{policy}.json")["verdicts"]
        if v["benchmark"] != "yew"  # kept whole: it would count as 15 clean queries kept
    ]
    n = Counter(rows)
    found = read_json(output / "report.json")["audit"][policy]
    assert set(found) == {
        "precision",
        "recall",
        "kept",
        "removed",
        "clean_lost",
        "residual",
        "control",
    }
    assert found["precision"] == n[True, True] / (n[True, True] + n[False, True])
    assert found["recall"] == n[True, True] / (n[True, True] + n[True, False])
    assert found["clean_lost"] == n[False, True] / (n[False, True] + n[False, False])
    assert (found["kept"], found["removed"]) == (
        sum(not gone for _, gone in rows),
        sum(gone for _, gone in rows),
    )
    policies = read_json(roles["audit"] / "audit.json")["policies"]
    assert found["residual"] == policies[policy]["residual"]
    assert found["control"] == policies[policy]["control"]
    assert found["control"]["removed"] == found["removed"] > 0


def test_parts_that_are_not_given_are_null_and_the_page_says_so(tmp_path: Path) -> None:
    roles = make(tmp_path / "in", control=False, second=False, planted=False)
    (tmp_path / "out").mkdir()
    report.run(RECIPE, RECIPE.report, roles, tmp_path / "out")
    found = read_json(tmp_path / "out" / "report.json")
    assert "control" not in found
    for policy in found["audit"].values():
        assert [
            policy[name] for name in ("precision", "recall", "clean_lost", "residual", "control")
        ] == [None] * 5
        assert policy["removed"] > 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "residual leakage is unknown" in page
    assert "precision and recall are unknown" in page
    assert 'id="control"' not in page
    assert all(q["planted"] is None for q in payload_of(page)["queries"])


@pytest.mark.parametrize("field", ["profile_hash", "manifest_hash"])
@pytest.mark.parametrize("role", ["base", "rlvr", "control"])
def test_scores_of_another_profile_or_manifest_are_refused(
    roles: dict[str, Path], tmp_path: Path, role: str, field: str
) -> None:
    ours = read_json(roles["sft"] / "scores.json")[field]
    inputs = changed(
        roles, role, tmp_path, "scores.json", lambda text: text.replace(ours, "f" * 64)
    )
    with refused(DataError, "scores-not-comparable", field=field) as refusal:
        report.run(RECIPE, RECIPE.report, inputs, tmp_path)
    assert ours in str(refusal.value)
    assert "f" * 64 in str(refusal.value)
    assert not (tmp_path / "report.html").exists()


def without_line(text: str, mark: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if mark not in line)


@pytest.mark.parametrize(
    ("role", "name", "change", "code", "field"),
    [
        (
            "rlvr",
            "responses.jsonl",
            lambda text: without_line(text, '"id":"elm-0003"'),
            "responses-missing",
            "id",
        ),
        (
            "audit",
            "audit.json",
            lambda text: text.replace('"leakage"', '"leaks"'),
            "audit-invalid",
            "leakage",
        ),
        ("rlvr_curves", "curves.jsonl", lambda text: "", "curves-empty", None),
        (
            "queries",
            "queries.jsonl",
            lambda text: text.replace("elm-0003", "elm-9999"),
            "manifest-missing-verdict",
            "verdicts",
        ),
    ],
)
def test_broken_inputs_are_named(
    roles: dict[str, Path],
    tmp_path: Path,
    role: str,
    name: str,
    change: Callable[[str], str],
    code: str,
    field: str | None,
) -> None:
    with refused(DataError, code, field=field):
        report.run(RECIPE, RECIPE.report, changed(roles, role, tmp_path, name, change), tmp_path)


def test_lost_media_are_left_out_and_counted(roles: dict[str, Path], tmp_path: Path) -> None:
    lost = changed(
        roles, "queries", tmp_path, "queries.jsonl", lambda text: text.replace("media/", "lost/")
    )
    report.run(RECIPE, RECIPE.report, {role: lost[role] for role in AUDIT}, tmp_path)
    data = payload_of((tmp_path / "report.html").read_text())
    assert data["media"] == {}
    assert data["left_out"] == len({m["sha"] for q in data["queries"] for m in q["media"]}) > 0


def test_failed_requests_are_in_no_figure_and_named(
    roles: dict[str, Path], evidence: ev.Evidence, tmp_path: Path
) -> None:
    """Of the model after RLVR, elm-0003 has no reply."""
    part = changed(
        roles,
        "rlvr",
        tmp_path,
        "responses.jsonl",
        lambda text: without_line(text, '"id":"elm-0003"'),
    )
    error = {
        "benchmark": "elm",
        "id": "elm-0003",
        "view": "omni",
        "error": "media/a.png is missing",
    }
    write_jsonl(
        part["rlvr"] / "errors.jsonl", [error, {**error, "id": "elm-0004", "view": "visual_only"}]
    )
    scores = read_json(part["rlvr"] / "scores.json")
    scores["by_benchmark"]["elm"]["counts"]["raw"] |= {"queries": 30, "errors": 1}
    write_json(part["rlvr"] / "scores.json", scores)
    report.run(RECIPE, RECIPE.report, part, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "Queries whose request failed are in no figure: RLVR 1 of 30 in elm." in page
    said = {
        query["id"]: query["said"][2]
        for query in payload_of(page)["queries"]
        if query["benchmark"] == "elm"
    }
    assert said.pop("elm-0003") == ["failed", False, ""]
    assert all(outcome != "failed" for outcome, _, _ in said.values())

    before, after = (
        words.stage_gain(evidence, "sft", "rlvr"),
        words.stage_gain(ev.read_evidence(part), "sft", "rlvr"),
    )
    assert (before.raw.n - after.raw.n, before.surplus.n - after.surplus.n) == (1, 1)
    right = {
        name: evidence.responses[name]["elm", "elm-0003"].outcome is Outcome.correct
        for name in ("sft", "rlvr")
    }
    assert before.raw.value * before.raw.n - after.raw.value * after.raw.n == pytest.approx(
        right["rlvr"] - right["sft"]
    )


def payload_of(page: str) -> dict[str, Any]:
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert block
    parsed: dict[str, Any] = json.loads(block[1])
    return parsed


class Outline(HTMLParser):
    """Unbalanced tags, heading levels, scripts, plots without a label, and every address that the
    page loads."""

    VOID = frozenset({"meta", "input", "br", "img"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[int] = []
        self.scripts = 0
        self.plots: list[str | None] = []
        self.loaded: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "svg":
            self.plots.append(named.get("aria-label"))
        self.scripts += tag == "script"
        self.loaded += [value for name, value in named.items() if name in ("src", "href") and value]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass  # <line .../> inside a plot

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_one_well_formed_file_that_loads_nothing(output: Path) -> None:
    page = (output / "report.html").read_text()
    outline = Outline(page)
    assert outline.open == []
    assert outline.scripts == 2
    assert all(address.startswith("#") for address in outline.loaded)
    assert "default-src 'none'" in page
    assert outline.headings.count(1) == 1
    assert all(
        deeper - level <= 1
        for level, deeper in zip(outline.headings, outline.headings[1:], strict=False)
    )
    assert len(outline.plots) > 20
    assert all(outline.plots)


def test_each_medium_is_embedded_once(
    roles: dict[str, Path], output: Path, evidence: ev.Evidence
) -> None:
    page = (output / "report.html").read_text()
    data = payload_of(page)
    wanted = {m.sha256 for q in evidence.queries for m in q.media}
    assert set(data["media"]) == wanted
    assert page.count("data:image/png;base64,") + page.count("data:audio/x-wav;base64,") == len(
        wanted
    )
    assert data["left_out"] == 0
    urls, left_out = browser.embedded_media(evidence, limit=50_000)
    assert left_out == len(wanted) - len(urls) > 0
    assert 0 < sum(map(len, urls.values())) <= 50_200  # the header of the last URL may stand above


def test_what_a_model_wrote_cannot_leave_its_place(roles: dict[str, Path], tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><!-- {{ 7 * 7 }} \u2028 & \\u003c"

    def first_reply(text: str) -> str:
        rows = [json.loads(line) for line in text.splitlines()]
        for row in rows:
            if row["id"] == "alder-0000":
                row["reply"] = evil
        return "".join(json.dumps(row) + "\n" for row in rows)

    inputs = changed(roles, "base", tmp_path, "responses.jsonl", first_reply)
    curves = changed(
        inputs,
        "rlvr_curves",
        tmp_path,
        "curves.jsonl",
        lambda text: text.replace('"sum"', '"<b>&sum"'),
    )
    report.run(RECIPE, RECIPE.report.model_copy(update={"title": evil}), curves, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert Outline(page).scripts == 2
    assert payload_of(page)["queries"][0]["said"][0][2] == evil
    assert f"<title>{escape(evil)}</title>" in page
    assert "<b>&sum" not in page
    assert "&lt;b&gt;&amp;sum" in page


def test_a_query_carries_its_evidence(evidence: ev.Evidence) -> None:
    data = browser.browser_data(evidence)
    assert data["stages"] == ["Base", "SFT", "RLVR", "Self-distilled", "Random reward"]
    verdicts = {(v.benchmark, v.id): v for v in evidence.manifest.verdicts}
    for q, shown in zip(evidence.queries, data["queries"], strict=True):
        assert sum(shown["drawn"]) + shown["unparsed"] == 8
        assert shown["drawn"][q.options.index(q.answer)] == verdicts[q.key].hits == shown["hits"]
        assert [said[0] == "correct" for said in shown["said"]] == [
            evidence.responses[arm][q.key].outcome is Outcome.correct
            for arm in (*ev.STAGES, "control")
        ]


def test_gains_are_paired_and_their_surplus_has_the_interval_of_a_clustered_bootstrap(
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
def test_requests_without_an_answer_are_told_apart(
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
def test_the_null_is_told_at_the_rule_that_most_benchmarks_share(
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


def test_chance_on_the_clean_view_weighs_benchmarks_by_what_is_kept(evidence: ev.Evidence) -> None:
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


def test_a_benchmark_with_nothing_kept_is_drawn_without_a_clean_line(
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
