"""Evidence to one self-contained HTML page: plots with their tables, sentences, and the query browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from omnicore.config import Recipe, ReportConfig
from omnicore.report import plots, words
from omnicore.report.browser import payload
from omnicore.report.evidence import POLICIES, STAGES, Evidence
from omnicore.report.words import NAMES, interval, per_cent
from omnicore.schema import Estimate, View

SHORT = ("Base", "SFT", "RLVR", "Distilled")
MEASURES = {"macro": "Macro", "micro": "Micro", "chance_corrected": "Chance-corrected"}


@dataclass(frozen=True)
class Table:
    """The text alternative of a plot. Cells are text or estimates."""

    head: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Figure:
    title: str
    svg: Markup
    table: Table
    note: str = ""


def render(evidence: Evidence, figures: Mapping[str, Any], recipe: Recipe, config: ReportConfig) -> str:
    """The page. `figures` is the content of `report.json`."""
    env = Environment(loader=PackageLoader("omnicore.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    env.filters |= {"pc": per_cent, "ci": interval, "spaced": lambda name: name.replace("_", " ")}
    env.tests["estimate"] = lambda value: isinstance(value, Estimate)
    source = lambda name: Markup(env.loader.get_source(env, name)[0])  # type: ignore[union-attr]  # noqa: E731
    sft, rlvr = words.gain(evidence, "base", "sft"), words.gain(evidence, "sft", "rlvr")
    scores = evidence.scores
    return env.get_template("page.html.j2").render(
        title=config.title,
        recipe=recipe,
        css=source("page.css"),
        js=source("page.js"),
        names=NAMES,
        stages=STAGES,
        measures=MEASURES,
        scores=scores,
        arms=[arm for arm in (*STAGES, "control") if arm in scores],
        solvable=words.solvable_sentence(evidence),
        gain=words.gain_sentence(sft, rlvr),
        notice=words.planted_notice(recipe.model),
        whole=words.kept_whole_sentence(evidence),
        hero=hero(evidence),
        leakage=leakage(evidence),
        audit=figures["audit"],
        policy=evidence.manifest.policy,
        truth=evidence.planted is not None,
        thresholds=evidence.audit.thresholds,
        probe=evidence.audit.probe,
        second_probe=evidence.audit.second_probe,
        profiles=profiles(evidence),
        wordings=wordings(evidence),
        wording_said=[s for arm in ("base", "distilled") if (s := words.wording_sentence(arm, scores[arm].by_wording, scores[arm].by_wording))],
        training=training(evidence),
        ablations=ablations(evidence),
        clean_chance=clean_chance(evidence),
        control=words.control_sentence(evidence) if "control" in scores else "",
        null=null(evidence),
        null_said=words.null_sentence(evidence),
        seconds=seconds(figures["seconds"]),
        steps=evidence.steps,
        figures=figures,
        recipe_text=yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False),
        data=payload(evidence),
        benchmarks=[info.name for info in evidence.infos],
    )


def hero(evidence: Evidence) -> Figure:
    series = {
        view: [getattr(evidence.scores[s], view).micro for s in STAGES] for view in ("raw", "clean")
    }
    ends = {view: f"{view} from {per_cent(es[0].value, 0)} to {per_cent(es[-1].value, 0)} %" for view, es in series.items()}
    return Figure(
        "Accuracy over all queries, raw and clean view",
        plots.trajectory(SHORT, series, f"Accuracy over four stages: {ends['raw']}, {ends['clean']}."),
        Table(("View", *SHORT), [(view, *estimates) for view, estimates in series.items()]),
    )


def leakage(evidence: Evidence) -> Figure:
    """Chance-corrected hit rate with the sound withheld, benchmarks by falling leakage; text alone and sound alone beside it."""
    found = sorted(evidence.audit.leakage.items(), key=lambda item: -item[1][View.visual_only].corrected.value)
    kinds = {View.visual_only: "leak", View.text_only: "minor", View.audio_only: "minor open"}
    rows, cells = [], []
    for name, views in found:
        shown = [(kind, views[view].corrected) for view, kind in kinds.items() if view in views]
        planted = (evidence.planted or {}).get(name)
        share = sum(planted.values()) / len(planted) if planted else None
        rows.append(plots.Row(name, shown, share, f"{per_cent(shown[0][1].value, 0)} %"))
        cells.append(
            (
                name,
                views[View.visual_only].solved,
                f"{per_cent(views[View.visual_only].chance, 0)}",
                *(views[v].corrected if v in views else "–" for v in kinds),
                "–" if share is None else per_cent(share, 0),
            )
        )
    low = min([0.0, *(e.low for row in rows for _, e in row.points)])
    most, least = found[0], found[-1]
    return Figure(
        "Chance-corrected hit rate of the probe, sound withheld",
        plots.intervals(
            rows,
            f"Leakage per benchmark, from {per_cent(most[1][View.visual_only].corrected.value, 0)} % in {most[0]} "
            f"to {per_cent(least[1][View.visual_only].corrected.value, 0)} % in {least[0]}.",
            domain=(max(low, -0.5), 1),
            reference=0,
            margin=70,
        ),
        Table(
            ("Benchmark", "Hit rate, sound withheld", "Chance", *(f"Corrected: {words.VIEW_NAMES[v]}" for v in kinds), "Planted"),
            cells,
        ),
    )


def profiles(evidence: Evidence) -> list[Figure]:
    """One small plot a benchmark: raw and clean accuracy over the stages."""
    out = []
    for info in evidence.infos:
        scored = [evidence.scores[s].by_benchmark[info.name] for s in STAGES]
        series = {"raw": [s.raw for s in scored], "clean": [s.clean for s in scored]}
        kept = scored[0].clean.n if scored[0].clean else 0
        whole = info.filter_policy == "keep_whole"
        ends = [f"{view} {per_cent(es[-1].value, 0)} %" for view, es in series.items() if es[-1]]
        out.append(
            Figure(
                info.name,
                plots.trajectory(
                    ("B", "S", "R", "D"), series, f"{info.name} over the stages; at the end {', '.join(ends)}.", chance=scored[0].chance, small=True
                ),
                Table(("View", *SHORT), [(view, *(e or "–" for e in es)) for view, es in series.items()]),
                "kept whole" if whole else f"{kept} of {info.queries} kept",
            )
        )
    return out


def wordings(evidence: Evidence) -> list[tuple[str, list[Estimate | None], list[tuple[str, list[Estimate | None]]]]]:
    """(type, its mean by stage, [(wording, by stage)]) for every type."""
    scores = [evidence.scores[s] for s in STAGES]
    out = []
    for name in sorted({t for s in scores for t in s.by_type}):
        words_of = sorted({w for s in scores for w in s.by_wording.get(name, {}) if w})
        by_wording = [(w, [s.by_wording.get(name, {}).get(w) for s in scores]) for w in words_of]
        out.append((name.replace("_", " "), [s.by_type.get(name) for s in scores], by_wording if len(by_wording) > 1 else []))
    return out


def _points(rows: Sequence[Mapping[str, Any]], *path: str) -> list[tuple[float, float]]:
    """One figure of a curve by step; steps that did not log it (or logged no number) are left out."""
    out = []
    for row in rows:
        value: Any = row
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            out.append((float(row["step"]), float(value)))
    return out


def _curve(title: str, rows: Sequence[Mapping[str, Any]], lines: Mapping[str, tuple[str, ...]], *, share: bool = False, note: str = "") -> Figure | None:
    """A plot of named figures; None when nothing was logged. A lone line is drawn over its unsmoothed self."""
    found = {name: points for name, path in lines.items() if (points := _points(rows, *path))}
    if not found:
        return None
    series = []
    for i, (name, points) in enumerate(found.items()):
        if len(found) == 1:
            series.append(plots.Series("c0", "", points, faint=True))
        series.append(plots.Series(f"c{i % 6}", name if len(found) > 1 else "", plots.smooth(points)))
    ends = ", ".join(f"{name} {s.points[0][1]:.2f} to {s.points[-1][1]:.2f}" for name, s in zip(found, (s for s in series if not s.faint), strict=True))
    every = max(1, len(rows) // 10)
    steps = sorted({x for points in found.values() for x, _ in points})
    steps = [*steps[:-1:every], steps[-1]]
    at = {name: dict(points) for name, points in found.items()}
    cells = [(f"{x:.0f}", *(f"{at[name][x]:.3f}" if x in at[name] else "–" for name in found)) for x in steps]
    return Figure(title, plots.curves(series, f"{title}: {ends}.", share=share), Table(("Step", *found), cells), note)


def training(evidence: Evidence) -> list[tuple[str, list[Figure]]]:
    """Figures of each training stage, under its heading."""
    rows = evidence.curves["rlvr"]
    types = sorted({t for row in rows for t in (row.get("by_type") or {})})
    by_type = lambda what: {t.replace("_", " "): ("by_type", t, what) for t in types}  # noqa: E731
    rlvr = [
        _curve("Reward by type", rows, by_type("reward"), share=True, note="share of rollouts with the right answer"),
        _curve("Reward", rows, {"reward": ("reward",)}, share=True, note="over all prompts of a step"),
        _curve("Groups that teach nothing", rows, {"all right": ("all_right",), "all wrong": ("all_wrong",)}, share=True, note="every rollout right, or every one wrong"),
        _curve("Entropy", rows, {"entropy": ("entropy",)}, note="nats a token"),
        _curve("Length", rows, {"length": ("length",)}, note="tokens a reply"),
        _curve("No answer and cut short", rows, {"no answer": ("no_answer",), "truncated": ("truncated",)}, share=True),
    ]
    loss = lambda name: [_curve("Loss", evidence.curves[name], {"loss": ("loss",)}, note="on the written reply")]  # noqa: E731
    sections = [("SFT", loss("sft")), ("RLVR", rlvr), ("Self-distilled SFT", loss("distilled"))]
    return [(title, [f for f in drawn if f is not None]) for title, drawn in sections]


def clean_chance(evidence: Evidence) -> float:
    """What a guesser gets on the clean view: benchmarks' chance weighted by the queries kept."""
    kept = [(b.clean.n, b.chance) for b in evidence.scores["base"].by_benchmark.values() if b.clean]
    return sum(n * c for n, c in kept) / sum(n for n, _ in kept)


def ablations(evidence: Evidence) -> list[Figure]:
    chance = clean_chance(evidence)
    out = []
    for key, title in (("no_audio", "Sound hidden"), ("no_image", "Picture hidden")):
        found = {s: evidence.scores[s].ablation[key] for s in STAGES if key in evidence.scores[s].ablation}
        if not found:
            continue
        rows = [
            plots.Row(NAMES[s], [("leak", e), ("clean", evidence.scores[s].clean.micro)], None, f"{per_cent(e.value, 0)} %") for s, e in found.items()
        ]
        said = ", ".join(f"{NAMES[s]} {per_cent(e.value, 0)} %" for s, e in found.items())
        out.append(
            Figure(
                title,
                plots.intervals(rows, f"{title}, clean view: {said}; chance {per_cent(chance, 0)} %.", reference=chance, margin=112),
                Table(
                    ("Stage", title, "Both shown", "Chance"),
                    [(NAMES[s], e, evidence.scores[s].clean.micro, per_cent(chance)) for s, e in found.items()],
                ),
            )
        )
    return out


def null(evidence: Evidence) -> Figure:
    measured = evidence.audit.null
    return Figure(
        "How often one wrong option is drawn",
        plots.histogram({"clean": measured.hits, "minor": measured.binomial}, "Share of queries by number of draws that gave a wrong option."),
        Table(
            ("Draws of the wrong option", "Measured, %", "Binomial, %"),
            [(str(i), per_cent(h, 2), per_cent(b, 2)) for i, (h, b) in enumerate(zip(measured.hits, measured.binomial, strict=True))],
        ),
    )


def seconds(by_step: Mapping[str, float]) -> Figure:
    rows = [(name.replace("_", " "), value, f"{value:.1f} s") for name, value in by_step.items()]
    total = f"{sum(by_step.values()):.0f} s in all"
    return Figure("Seconds by step", plots.bars(rows, f"Seconds by step, {total}."), Table(("Step", "Seconds"), [(n, t) for n, _, t in rows]), total)


__all__ = ["POLICIES", "render"]
