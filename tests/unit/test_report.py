"""The report: what `report.json` holds, what the page says and embeds, and what it refuses."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

from omnicore.errors import DataError
from omnicore.report import browser, words
from omnicore.report import evidence as ev
from omnicore.schema import Outcome
from omnicore.steps import report
from omnicore.storage.files import read_json, write_json, write_jsonl
from tests.errors import refused
from tests.unit.report_fixture import RECIPE, make
from tests.unit.report_outputs import changed, evidence, output, roles

__all__ = ["evidence", "output", "roles"]  # fixtures


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


def test_report_of_half_a_training_run_is_refused(roles: dict[str, Path], tmp_path: Path) -> None:
    given = {role: path for role, path in roles.items() if role != "rlvr_curves"}
    with refused(DataError, "report-input-missing", field="rlvr_curves"):
        report.run(RECIPE, RECIPE.report, given, tmp_path)


def test_report_json_and_page_state_the_same_gain(output: Path, evidence: ev.Evidence) -> None:
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
def test_audit_record_counts_filtered_benchmarks_only(
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


def test_model_text_cannot_break_out_of_the_page(roles: dict[str, Path], tmp_path: Path) -> None:
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
