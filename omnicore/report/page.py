"""Evidence to one self-contained HTML page: figures with their tables, sentences, and the query
browser."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from omnicore.config import ReportConfig
from omnicore.config.recipe import Recipe
from omnicore.report import figures, words
from omnicore.report.browser import browser_data
from omnicore.report.evidence import STAGES, Evidence
from omnicore.schema import Estimate

MEASURES = {"macro": "Macro", "micro": "Micro", "chance_corrected": "Chance-corrected"}


def render_page(
    evidence: Evidence, found: Mapping[str, Any], recipe: Recipe, config: ReportConfig
) -> str:
    """The page.

    `found` is the content of `report.json`.
    """
    env = Environment(
        loader=PackageLoader("omnicore.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "pc": words.format_percent,
        "share": words.format_share,
        "ci": words.format_interval,
        "spaced": _spaced,
    }
    env.tests["estimate"] = _is_estimate
    audit = evidence.audit
    return env.get_template("page.html.j2").render(
        title=config.title,
        recipe=recipe,
        recipe_text=yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False),
        css=_source("page.css"),
        js=_source("page.js"),
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
        versions={
            name: version
            for step in evidence.steps.values()
            for name, version in step.get("versions", {}).items()
        },
        **(_training(evidence) if evidence.trained else {"control": ""}),
    )


def _training(evidence: Evidence) -> dict[str, Any]:
    """What the page shows beyond the audit."""
    scores = evidence.scores
    said = (
        words.wording_sentence(words.NAMES[arm], scores[arm].by_wording)
        for arm in ("base", "distilled")
    )
    return {
        "scores": scores,
        "failures": words.failures_sentence(scores),
        "measures": MEASURES,
        "gain": words.gain_sentence(
            words.stage_gain(evidence, "base", "sft"), words.stage_gain(evidence, "sft", "rlvr")
        ),
        "hero": figures.accuracy_figure(evidence),
        "profiles": figures.benchmark_figures(evidence),
        "profile_table": figures.benchmark_table(evidence),
        "wordings": figures.scores_by_wording(evidence),
        "wording_said": [sentence for sentence in said if sentence],
        "training": figures.training_figures(evidence),
        "rollouts": figures.rollout_tables(evidence),
        "selection": figures.selection_table(evidence),
        "ablations": figures.ablation_figures(evidence),
        "clean_chance": figures.clean_chance(evidence),
        "control": words.control_sentence(evidence) if "control" in scores else "",
    }


def _source(name: str) -> Markup:
    """A style sheet or script of this package, to stand in the page as it is."""
    return Markup((files("omnicore.report") / name).read_text())


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _is_estimate(value: object) -> bool:
    return isinstance(value, Estimate)
