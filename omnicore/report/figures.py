"""What the page draws: each function turns evidence into plots with the table that says the same in
text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from omnicore.report import plots
from omnicore.report.evidence import STAGES, BenchmarkScore, Evidence, confusion_counts
from omnicore.report.words import NAMES, format_percent, format_share
from omnicore.schema import Estimate, RejectionReason, View

SHORT = ("Base", "SFT", "RLVR", "Distilled")
VIEWS = ("raw", "clean")
LEAKS = {
    View.visual_only: ("leak", "picture and text"),
    View.text_only: ("minor", "text alone"),
    View.audio_only: ("minor open", "sound and text"),
}
REJECTED = {
    RejectionReason.failed: "The request failed",
    RejectionReason.cut: "Cut by the length limit",
    RejectionReason.no_answer: "No answer",
    RejectionReason.incorrect: "Wrong answer",
    RejectionReason.minority: "Right, but the query's other rollouts say otherwise",
    RejectionReason.solvable: "A probe solves the query without the sound",
    RejectionReason.short: "Too short",
    RejectionReason.long: "Too long",
    RejectionReason.per_query: "The query has rows enough",
    RejectionReason.source: "Its source has its share",
    RejectionReason.type: "Its type has its share",
}
TRUTHS = {
    "hit": "solvable, removed",
    "missed": "solvable, kept",
    "lost": "clean, removed",
    "left": "clean, kept",
}


@dataclass(frozen=True)
class Table:
    """The text alternative of a plot.

    Cells are text or estimates.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str | Estimate]]


@dataclass(frozen=True)
class Figure:
    """A plot with its table; `table` is None where one table serves several plots."""

    title: str
    svg: Markup
    table: Table | None
    note: str = ""


def accuracy_figure(evidence: Evidence) -> Figure:
    """Micro accuracy over the stages, raw and clean."""
    series = {view: [getattr(evidence.scores[s], view).micro for s in STAGES] for view in VIEWS}
    said = ", ".join(
        f"{view} from {format_percent(es[0].value, 0)} to {format_share(es[-1].value, 0)}"
        for view, es in series.items()
    )
    return Figure(
        "Accuracy by stage, raw and clean view",
        plots.plot_stages(SHORT, series, f"Accuracy over four stages: {said}."),
        Table(("View", *SHORT), [(view, *estimates) for view, estimates in series.items()]),
    )


def leakage_figure(evidence: Evidence) -> Figure:
    """Chance-corrected hit rates of the probe, benchmarks by falling leakage from the picture."""
    found = sorted(
        evidence.audit.leakage.items(), key=lambda item: -item[1][View.visual_only].corrected.value
    )
    rows, cells = [], []
    for name, views in found:
        seen = views[View.visual_only]
        truth = (evidence.planted or {}).get(name)
        planted = sum(truth.values()) / len(truth) if truth else None
        points = [
            (kind, views[view].corrected) for view, (kind, _) in LEAKS.items() if view in views
        ]
        rows.append(plots.IntervalRow(name, points, planted, format_share(seen.corrected.value, 0)))
        corrected = [views[view].corrected if view in views else "–" for view in LEAKS]
        cells.append(
            (
                name,
                seen.solved,
                format_percent(seen.chance, 0),
                *corrected,
                "–" if planted is None else format_percent(planted, 0),
            )
        )
    low = min(e.low for row in rows for _, e in row.points)
    said = " ".join(f"{row.label} {row.note}" for row in rows)
    return Figure(
        "Chance-corrected hit rate of the probe",
        plots.plot_intervals(
            rows,
            f"Leakage per benchmark: {said}.",
            domain=(max(min(low, 0), -0.5), 1),
            reference=0,
            margin=70,
        ),
        Table(
            (
                "Benchmark",
                "Hit rate, sound withheld",
                "Chance",
                *(f"Corrected: {said}" for _, said in LEAKS.values()),
                "Planted",
            ),
            cells,
        ),
    )


def leakage_table(evidence: Evidence) -> Table:
    """What the picture and the text give away, by type of question."""
    rows = [
        (
            name,
            _spaced(kind),
            str(seen.solved.n),
            seen.solved,
            format_percent(seen.chance, 0),
            seen.corrected,
        )
        for name, kinds in evidence.audit.leakage_by_type.items()
        for kind, views in kinds.items()
        if (seen := views.get(View.visual_only))
    ]
    return Table(
        ("Benchmark", "Type", "Queries", "Hit rate, sound withheld", "Chance", "Corrected"), rows
    )


def reply_table(evidence: Evidence) -> Table:
    """What became of the probe's requests."""
    rows = [
        (
            name,
            _spaced(view),
            *(str(n) for n in (r.draws, r.outside, r.no_answer, r.truncated, r.failed)),
        )
        for name, views in evidence.audit.replies.items()
        for view, r in views.items()
    ]
    heads = (
        "Benchmark",
        "View",
        "Asked",
        "None of the options",
        "Not readable",
        "Cut by the length limit",
        "Failed permanently",
    )
    return Table(heads, rows)


def rules_figure(evidence: Evidence) -> Figure | None:
    """The cleaning rules against the planted truth; None where there is none."""
    if evidence.planted is None:
        return None
    counts = {
        _spaced(p): confusion_counts(evidence.manifests[p], evidence.planted, evidence.filtered)
        for p in evidence.manifests
    }
    said = "; ".join(
        f"{name}: " + ", ".join(f"{n} {TRUTHS[kind]}" for kind, n in found.items())
        for name, found in counts.items()
    )
    return Figure(
        "What each rule removed",
        plots.plot_stacked_bars(list(counts.items()), f"Queries by truth and verdict. {said}."),
        Table(
            ("Rule", *TRUTHS.values()),
            [(name, *map(str, found.values())) for name, found in counts.items()],
        ),
    )


def benchmark_figures(evidence: Evidence) -> list[Figure]:
    """One small plot a benchmark: raw and clean accuracy over the stages."""
    out = []
    for info in evidence.infos:
        scored = [evidence.scores[s].by_benchmark[info.name] for s in STAGES]
        series = {view: _series(scored, view) for view in VIEWS}
        kept = scored[0].clean.n if scored[0].clean else 0
        said = ", ".join(
            f"{view} {format_share(e.value, 0)}" for view, es in series.items() if (e := es[-1])
        )
        drawn = plots.plot_stages(
            "BSRD",
            series,
            f"{info.name} over the stages; at the end {said}.",
            chance=scored[0].chance,
            small=True,
        )
        out.append(
            Figure(
                info.name,
                drawn,
                None,
                (
                    "kept whole"
                    if info.filter_policy == "keep_whole"
                    else f"{kept} of {info.queries} kept"
                ),
            )
        )
    return out


def benchmark_table(evidence: Evidence) -> Table:
    """The numbers of all `profiles`."""
    rows = []
    for info in evidence.infos:
        scored = [evidence.scores[s].by_benchmark[info.name] for s in STAGES]
        rows += [
            (f"{info.name}, {view}", *(e or "–" for e in _series(scored, view))) for view in VIEWS
        ]
    return Table(("Benchmark and view", *SHORT), rows)


def _series(scored: Sequence[BenchmarkScore], view: str) -> list[Estimate | None]:
    return [s.raw if view == "raw" else s.clean for s in scored]


ByStage = list[Estimate | None]


def scores_by_wording(evidence: Evidence) -> list[tuple[str, ByStage, list[tuple[str, ByStage]]]]:
    """(type, its mean by stage, [(wording, by stage)]) for every type; no rows where a type has one
    wording."""
    scores = [evidence.scores[s] for s in STAGES]
    out = []
    for name in sorted({t for s in scores for t in s.by_type}):
        said = sorted({w for s in scores for w in s.by_wording.get(name, {})})
        rows = [(w, [s.by_wording.get(name, {}).get(w) for s in scores]) for w in said]
        out.append(
            (_spaced(name), [s.by_type.get(name) for s in scores], rows if len(rows) > 1 else [])
        )
    return out


def training_figures(evidence: Evidence) -> list[tuple[str, list[Figure]]]:
    """Figures of the training stages, under their headings."""
    sft = [
        _curve(
            NAMES[name],
            evidence.curves[name],
            {"loss": ("loss",)},
            note="loss on the written reply",
        )
        for name in ("sft", "distilled")
    ]
    rows = evidence.curves["rlvr"]
    types = sorted({t for row in rows for t in row.get("by_type") or {}})
    groups: Paths = {"all right": ("all_right",), "all wrong": ("all_wrong",)}
    faults: Paths = {"no answer": ("no_answer",), "truncated": ("truncated",)}
    rlvr = [
        _curve(
            "Reward by type",
            rows,
            {_spaced(t): ("by_type", t, "reward") for t in types},
            shares=True,
            note="rollouts with the right answer, %",
        ),
        _curve(
            "Reward by modality",
            rows,
            {
                kind: ("by_modality", kind, "reward")
                for kind in sorted({k for row in rows for k in row.get("by_modality") or {}})
            },
            shares=True,
            note="what a query needs, %",
        ),
        _curve(
            "Reward",
            rows,
            {"reward": ("reward",)},
            shares=True,
            note="over all prompts of a step, %",
        ),
        _curve(
            "Groups that teach nothing",
            rows,
            groups,
            shares=True,
            note="all rollouts right, or all wrong, %",
        ),
        _curve(
            "Batch filled",
            rows,
            {"trained on": ("useful",)},
            shares=True,
            note="with groups that teach, after refill, %",
        ),
        _curve("KL", rows, {"kl": ("kl",)}, note="to the start model, nats a token"),
        _curve("Entropy", rows, {"entropy": ("entropy",)}, note="nats a token"),
        _curve("Length", rows, {"length": ("length",)}, note="tokens a reply"),
        _curve("No answer, cut short", rows, faults, shares=True, note="% of rollouts"),
    ]
    sections = [("Supervised fine-tuning, before and after RLVR", sft), ("RLVR", rlvr)]
    return [(title, [f for f in drawn if f is not None]) for title, drawn in sections]


def rollout_tables(evidence: Evidence) -> list[tuple[str, Table]]:
    """By type of query: of each outcome the first rollout, one from the middle and the last."""
    found: defaultdict[str, defaultdict[str, list[Mapping[str, Any]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for record in evidence.rollouts:
        found[record["type"]][record["outcome"]].append(record)
    out = []
    for name, outcomes in sorted(found.items()):
        rows = []
        for outcome, seen in sorted(outcomes.items()):
            for place in sorted({0, len(seen) // 2, len(seen) - 1}):
                r = seen[place]
                advantage = f"{r['advantage']:+.2f}" if r["used"] else "left out"
                rows.append(
                    (
                        f"{_spaced(outcome)} ({len(seen)})",
                        str(r["step"]),
                        r["id"],
                        r["reply"] or "–",
                        f"{r['reward']:.2f}",
                        advantage,
                    )
                )
        out.append(
            (
                _spaced(name),
                Table(("Outcome", "Step", "Query", "Reply", "Reward", "Advantage"), rows),
            )
        )
    return out


Rows = Sequence[Mapping[str, Any]]
Paths = Mapping[str, tuple[str, ...]]


def selection_table(evidence: Evidence) -> Table | None:
    """What each rule took of the rollouts that were distilled, in the order of the rules, those
    that took none left out."""
    counts = evidence.steps.get("distill", {}).get("summary", {})
    if "rollouts" not in counts:
        return None
    left = counts["rollouts"]
    rows = [("All rollouts", "", str(left))]
    for reason in RejectionReason:
        if taken := counts[f"rejected_{reason}"]:
            left -= taken
            rows.append((REJECTED[reason], str(taken), str(left)))
    return Table(("Rule", "Rejected", "Left"), rows)


def _curve(
    title: str, rows: Rows, lines: Paths, *, shares: bool = False, note: str = ""
) -> Figure | None:
    """Named figures by step; None when nothing was logged.

    A lone line stands on its unsmoothed self.
    """
    found = {name: points for name, path in lines.items() if (points := _points(rows, path))}
    if not found:
        return None
    lone = len(found) == 1
    smoothed = {name: plots.smooth(points) for name, points in found.items()}
    series = [plots.Curve("c0", "", points, faint=True) for points in found.values() if lone]
    series += [
        plots.Curve(f"c{i % 6}", "" if lone else name, points)
        for i, (name, points) in enumerate(smoothed.items())
    ]
    said = ", ".join(
        f"{name} {points[0][1]:.2f} to {points[-1][1]:.2f}" for name, points in smoothed.items()
    )
    steps = sorted({step for points in found.values() for step, _ in points})
    some = [*steps[: -1 : max(1, len(steps) // 10)], steps[-1]]
    at = {name: dict(points) for name, points in found.items()}
    cells = [
        (f"{step:.0f}", *(f"{at[name][step]:.3f}" if step in at[name] else "–" for name in found))
        for step in some
    ]
    return Figure(
        title,
        plots.plot_curves(series, f"{title}: {said}.", shares=shares),
        Table(("Step", *found), cells),
        note,
    )


def _points(rows: Rows, path: tuple[str, ...]) -> list[tuple[float, float]]:
    """One figure by step; steps that did not log it, or logged no number, are left out."""
    out = []
    for row in rows:
        value: Any = row
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            out.append((float(row["step"]), float(value)))
    return out


def clean_chance(evidence: Evidence) -> float:
    """What a guesser gets on the clean view: benchmarks' chance weighted by the queries kept."""
    kept = [(b.clean.n, b.chance) for b in evidence.scores["base"].by_benchmark.values() if b.clean]
    return sum(n * chance for n, chance in kept) / sum(n for n, _ in kept)


def ablation_figures(evidence: Evidence) -> list[Figure]:
    """Clean view with one modality hidden, by stage, beside the score with both shown."""
    chance = clean_chance(evidence)
    out = []
    for key, title in (("no_audio", "Sound hidden"), ("no_image", "Picture hidden")):
        found = {
            s: (evidence.scores[s].ablation[key], evidence.scores[s].clean.micro)
            for s in STAGES
            if key in evidence.scores[s].ablation
        }
        if not found:
            continue
        rows = [
            plots.IntervalRow(
                NAMES[s], [("leak", e), ("clean", both)], None, format_share(e.value, 0)
            )
            for s, (e, both) in found.items()
        ]
        said = ", ".join(f"{row.label} {row.note}" for row in rows)
        label = f"{title}, clean view: {said}; chance {format_share(chance, 0)}."
        cells = [(NAMES[s], e, both, format_percent(chance)) for s, (e, both) in found.items()]
        table = Table(("Stage", title, "Both shown", "Chance"), cells)
        out.append(
            Figure(title, plots.plot_intervals(rows, label, reference=chance, margin=112), table)
        )
    return out


def null_figure(evidence: Evidence) -> Figure:
    """How often the same draws gave one wrong option, beside what independent guesses would
    give."""
    hits, binomial = evidence.audit.null.hits, evidence.audit.null.binomial
    label = (
        "Share of queries by the number of draws that gave one wrong option, measured and binomial."
    )
    cells = [
        (str(i), format_percent(h, 2), format_percent(b, 2))
        for i, (h, b) in enumerate(zip(hits, binomial, strict=True))
    ]
    return Figure(
        "How often one wrong option is drawn",
        plots.plot_histogram({"clean": hits, "minor": binomial}, label),
        Table(("Draws of the wrong option", "Measured, %", "Binomial, %"), cells),
    )


def seconds_figure(by_step: Mapping[str, float]) -> Figure:
    """Wall time of the steps that the page reads."""
    rows = [(_spaced(name), value, f"{value:.1f} s") for name, value in by_step.items()]
    total = f"{sum(by_step.values()):.0f} s in all, of the steps that this page reads"
    table = Table(("Step", "Seconds"), [(name, text) for name, _, text in rows])
    return Figure(
        "Seconds by step", plots.plot_bars(rows, f"Seconds by step, {total}."), table, total
    )


def _spaced(name: str) -> str:
    return name.replace("_", " ")
