"""Render evidence as one self-contained HTML page with figures, sentences and a query browser."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from omnicore.config import ReportConfig
from omnicore.config.recipe import Recipe
from omnicore.report import figures, training_figures, words
from omnicore.report.browser import browser_data
from omnicore.report.evidence import STAGES, Evidence
from omnicore.schema import Estimate

MEASURES = {"macro": "Macro", "micro": "Micro", "chance_corrected": "Chance-corrected"}


def render_page(
    evidence: Evidence, found: Mapping[str, Any], recipe: Recipe, config: ReportConfig
) -> str:
    """Return the page.

    Args:
        evidence: The data to show.
        found: Content of `report.json`.
        recipe: The whole recipe.
        config: Its section `report`.
    """
    env = create_environment()
    env.filters |= {
        "pc": words.format_percent,
        "share": words.format_share,
        "ci": words.format_interval,
        "spaced": words.spaced,
    }
    env.tests["estimate"] = _is_estimate
    audit = evidence.audit
    versions: dict[str, str] = {}
    for step in evidence.steps.values():
        versions |= step.get("versions", {})
    training = _training_context(evidence) if evidence.trained else {"control": ""}
    return env.get_template("page.html.j2").render(
        title=config.title,
        recipe=recipe,
        recipe_text=yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False),
        css=read_source("page.css"),
        js=read_source("page.js"),
        found=found,
        data=browser_data(evidence),
        trained=evidence.trained,
        arms=list(evidence.scores),
        stages=STAGES,
        names=words.NAMES,
        benchmarks=[info.name for info in evidence.infos],
        solvable=words.solvable_sentence(evidence),
        notice=words.planted_notice(recipe.model),
        leakage=figures.leakage_figure(evidence),
        views={view for views in audit.leakage.values() for view in views},
        whole=words.kept_whole_sentence(evidence),
        rules=figures.rules_figure(evidence),
        manifest=evidence.manifest,
        truth=evidence.planted is not None,
        audited=audit.policies,
        by_type=figures.leakage_table(evidence),
        replies=figures.reply_table(evidence),
        replies_said=words.replies_sentence(audit),
        thresholds=audit.thresholds,
        probe=audit.probe,
        second_probe=audit.second_probe,
        null=figures.null_figure(evidence),
        null_said=words.null_sentence(audit),
        seconds=figures.seconds_figure(found["seconds"]),
        steps=evidence.steps,
        versions=versions,
        **training,
    )


def create_environment() -> Environment:
    """Return the template environment of the pages: escaped, and strict about missing names."""
    return Environment(
        loader=PackageLoader("omnicore.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _training_context(evidence: Evidence) -> dict[str, Any]:
    """Return the variables of the page that an audit does not have."""
    scores = evidence.scores
    wordings = []
    for arm in ("base", "distilled"):
        sentence = words.wording_sentence(words.NAMES[arm], scores[arm].by_wording)
        if sentence:
            wordings.append(sentence)
    gains = words.stage_gain(evidence, "base", "sft"), words.stage_gain(evidence, "sft", "rlvr")
    return {
        "scores": scores,
        "failures": words.failures_sentence(scores),
        "measures": MEASURES,
        "gain": words.gain_sentence(*gains),
        "hero": training_figures.accuracy_figure(evidence),
        "profiles": training_figures.benchmark_figures(evidence),
        "profile_table": training_figures.benchmark_table(evidence),
        "wordings": training_figures.scores_by_wording(evidence),
        "wording_said": wordings,
        "training": training_figures.training_figures(evidence),
        "rollouts": training_figures.rollout_tables(evidence),
        "selection": training_figures.selection_table(evidence),
        "ablations": training_figures.ablation_figures(evidence),
        "clean_chance": training_figures.clean_chance(evidence),
        "control": words.control_sentence(evidence) if "control" in scores else "",
    }


def read_source(name: str) -> Markup:
    """Return a style sheet or script of this package, to be embedded without escaping."""
    return Markup((files("omnicore.report") / name).read_text())


def _is_estimate(value: object) -> bool:
    return isinstance(value, Estimate)
