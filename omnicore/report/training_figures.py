"""Draw the figures of the training stages, each with a table of the same numbers as text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from omnicore.evaluation.score_records import BenchmarkScores
from omnicore.report import plots
from omnicore.report.evidence import STAGES, Evidence
from omnicore.report.figures import ABSENT, Figure, Table
from omnicore.report.stage_plot import plot_stages
from omnicore.report.words import NAMES, format_percent, format_share, spaced
from omnicore.schema import Estimate, RejectionReason

SHORT = ("Base", "SFT", "RLVR", "Distilled")
VIEWS = ("raw", "clean")
REJECTED = {
    RejectionReason.failed: "The request failed",
    RejectionReason.cut: "Truncated by the length limit",
    RejectionReason.no_answer: "No answer",
    RejectionReason.incorrect: "Wrong answer",
    RejectionReason.minority: "Right, but the query's other rollouts say otherwise",
    RejectionReason.solvable: "A probe solves the query without the sound",
    RejectionReason.short: "Too short",
    RejectionReason.long: "Too long",
    RejectionReason.per_query: "The query has enough rows",
    RejectionReason.source: "Its source has its share",
    RejectionReason.type: "Its type has its share",
}

ByStage = list[Estimate | None]
Rows = Sequence[Mapping[str, Any]]
Paths = Mapping[str, tuple[str, ...]]
Points = list[tuple[float, float]]


def accuracy_figure(evidence: Evidence) -> Figure:
    """Draw micro accuracy over the stages, raw and clean."""
    stages = [evidence.scores[stage] for stage in STAGES]
    series = {
        "raw": [scores.raw.micro for scores in stages],
        "clean": [scores.clean.micro for scores in stages],
    }
    clauses = []
    for view, estimates in series.items():
        first, last = estimates[0].value, estimates[-1].value
        clauses.append(f"{view} from {format_percent(first, 0)} to {format_share(last, 0)}")
    label = f"Accuracy over four stages: {', '.join(clauses)}."
    return Figure(
        "Accuracy by stage, raw and clean view",
        plot_stages(SHORT, series, label),
        Table(("View", *SHORT), [(view, *estimates) for view, estimates in series.items()]),
    )


def benchmark_figures(evidence: Evidence) -> list[Figure]:
    """Draw one small plot per benchmark: raw and clean accuracy over the stages."""
    figures = []
    for info in evidence.infos:
        scored = [evidence.scores[s].by_benchmark[info.name] for s in STAGES]
        series = {view: _series(scored, view) for view in VIEWS}
        clauses = []
        for view, estimates in series.items():
            last = estimates[-1]
            if last:
                clauses.append(f"{view} {format_share(last.value, 0)}")
        svg = plot_stages(
            "BSRD",
            series,
            f"{info.name} over the stages; at the end {', '.join(clauses)}.",
            chance=scored[0].chance,
            small=True,
        )
        kept = scored[0].clean.n if scored[0].clean else 0
        note = f"{kept} of {info.queries} kept"
        if info.filter_policy == "keep_whole":
            note = "kept whole"
        figures.append(Figure(info.name, svg, None, note))
    return figures


def benchmark_table(evidence: Evidence) -> Table:
    """Tabulate the numbers of all `benchmark_figures`."""
    rows = []
    for info in evidence.infos:
        scored = [evidence.scores[s].by_benchmark[info.name] for s in STAGES]
        for view in VIEWS:
            cells = [estimate or ABSENT for estimate in _series(scored, view)]
            rows.append((f"{info.name}, {view}", *cells))
    return Table(("Benchmark and view", *SHORT), rows)


def _series(scored: Sequence[BenchmarkScores], view: str) -> ByStage:
    return [scores.raw if view == "raw" else scores.clean for scores in scored]


def scores_by_wording(evidence: Evidence) -> list[tuple[str, ByStage, list[tuple[str, ByStage]]]]:
    """Return for every type its name, its mean by stage, and (wording, mean by stage) rows.

    There are no rows where a type has a single wording.
    """
    scores = [evidence.scores[s] for s in STAGES]
    sections = []
    for name in sorted(set().union(*(s.by_type for s in scores))):
        by_wording = [s.by_wording.get(name, {}) for s in scores]
        rows = []
        for wording in sorted(set().union(*by_wording)):
            rows.append((wording, [found.get(wording) for found in by_wording]))
        means = [s.by_type.get(name) for s in scores]
        sections.append((spaced(name), means, rows if len(rows) > 1 else []))
    return sections


def training_figures(evidence: Evidence) -> list[tuple[str, list[Figure]]]:
    """Draw the curves of the training stages, under their headings."""
    sft = []
    for name in ("sft", "distilled"):
        note = "loss on the written reply"
        sft.append(_curve(NAMES[name], evidence.curves[name], {"loss": ("loss",)}, note=note))
    sections = [
        ("Supervised fine-tuning, before and after RLVR", sft),
        ("RLVR", _rlvr_curves(evidence.curves["rlvr"])),
    ]
    return [(title, list(filter(None, figures))) for title, figures in sections]


def _rlvr_curves(rows: Rows) -> list[Figure | None]:
    by_type = {spaced(name): ("by_type", name, "reward") for name in _logged(rows, "by_type")}
    by_modality = {name: ("by_modality", name, "reward") for name in _logged(rows, "by_modality")}
    uniform: Paths = {"all right": ("all_right",), "all wrong": ("all_wrong",)}
    unread: Paths = {"no answer": ("no_answer",), "truncated": ("truncated",)}
    right = "rollouts with the right answer, %"
    filled = "with groups of mixed outcome, after dynamic sampling, %"
    return [
        _curve("Reward by type", rows, by_type, shares=True, note=right),
        _curve("Reward by modality", rows, by_modality, shares=True, note="what a query needs, %"),
        _curve(
            "Reward",
            rows,
            {"reward": ("reward",)},
            shares=True,
            note="over all prompts of a step, %",
        ),
        _curve(
            "Groups with zero advantage",
            rows,
            uniform,
            shares=True,
            note="all rollouts right, or all wrong, %",
        ),
        _curve("Batch filled", rows, {"trained on": ("useful",)}, shares=True, note=filled),
        _curve("KL", rows, {"kl": ("kl",)}, note="to the start model, nats a token"),
        _curve("Entropy", rows, {"entropy": ("entropy",)}, note="nats a token"),
        _curve("Length", rows, {"length": ("length",)}, note="tokens a reply"),
        _curve("No answer, truncated", rows, unread, shares=True, note="% of rollouts"),
    ]


def _logged(rows: Rows, field: str) -> list[str]:
    """Return the names that any step logged under a field."""
    names: set[str] = set()
    for row in rows:
        names |= set(row.get(field) or {})
    return sorted(names)


def rollout_tables(evidence: Evidence) -> list[tuple[str, Table]]:
    """Tabulate by type of query the first, a middle and the last rollout of each outcome."""
    by_type: defaultdict[str, defaultdict[str, list[Mapping[str, Any]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for record in evidence.rollouts:
        by_type[record["type"]][record["outcome"]].append(record)
    head = ("Outcome", "Step", "Query", "Reply", "Reward", "Advantage")
    tables = []
    for name, outcomes in sorted(by_type.items()):
        rows = []
        for outcome, records in sorted(outcomes.items()):
            for place in sorted({0, len(records) // 2, len(records) - 1}):
                title = f"{spaced(outcome)} ({len(records)})"
                rows.append((title, *_rollout_cells(records[place])))
        tables.append((spaced(name), Table(head, rows)))
    return tables


def _rollout_cells(rollout: Mapping[str, Any]) -> tuple[str, ...]:
    advantage = f"{rollout['advantage']:+.2f}" if rollout["used"] else "left out"
    reply = rollout["reply"] or ABSENT
    return str(rollout["step"]), rollout["id"], reply, f"{rollout['reward']:.2f}", advantage


def selection_table(evidence: Evidence) -> Table | None:
    """Tabulate how many rollouts each selection rule rejected, in the order of the rules.

    Rules that rejected none are left out. None where nothing was distilled.
    """
    counts = evidence.steps.get("distill", {}).get("summary", {})
    if "rollouts" not in counts:
        return None
    left = counts["rollouts"]
    rows = [("All rollouts", "", str(left))]
    for reason in RejectionReason:
        rejected = counts[f"rejected_{reason}"]
        if rejected:
            left -= rejected
            rows.append((REJECTED[reason], str(rejected), str(left)))
    return Table(("Rule", "Rejected", "Left"), rows)


def _curve(
    title: str, rows: Rows, lines: Paths, *, shares: bool = False, note: str = ""
) -> Figure | None:
    """Draw named values by step; None where nothing was logged.

    A single line is drawn over its unsmoothed values.

    Args:
        title: Title of the figure.
        rows: Logged steps.
        lines: Path of each value in a logged step, by the line's name.
        shares: Show values in per cent.
        note: Unit of the values.
    """
    points = {}
    for name, path in lines.items():
        logged = _points(rows, path)
        if logged:
            points[name] = logged
    if not points:
        return None
    single = len(points) == 1
    smoothed = {name: plots.smooth(values) for name, values in points.items()}
    series = []
    if single:
        series += [plots.Curve("c0", "", values, faint=True) for values in points.values()]
    clauses = []
    for i, (name, values) in enumerate(smoothed.items()):
        series.append(plots.Curve(f"c{i % 6}", "" if single else name, values))
        clauses.append(f"{name} {values[0][1]:.2f} to {values[-1][1]:.2f}")
    svg = plots.plot_curves(series, f"{title}: {', '.join(clauses)}.", shares=shares)
    return Figure(title, svg, _curve_table(points), note)


def _curve_table(points: Mapping[str, Points]) -> Table:
    """Tabulate about ten steps of each line, and the last."""
    at = {name: dict(values) for name, values in points.items()}
    steps = sorted(set().union(*at.values()))
    shown = [*steps[: -1 : max(1, len(steps) // 10)], steps[-1]]
    cells = []
    for step in shown:
        row = [f"{step:.0f}"]
        for values in at.values():
            row.append(f"{values[step]:.3f}" if step in values else ABSENT)
        cells.append(row)
    return Table(("Step", *points), cells)


def _points(rows: Rows, path: tuple[str, ...]) -> Points:
    """Return one value by step, without steps that did not log it or logged no number."""
    points = []
    for row in rows:
        value: Any = row
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            points.append((float(row["step"]), float(value)))
    return points


def clean_chance(evidence: Evidence) -> float:
    """Return the chance level of the clean view: that of benchmarks, weighted by kept queries."""
    total, weighted = 0, 0.0
    for benchmark in evidence.scores["base"].by_benchmark.values():
        if benchmark.clean:
            total += benchmark.clean.n
            weighted += benchmark.clean.n * benchmark.chance
    return weighted / total


def ablation_figures(evidence: Evidence) -> list[Figure]:
    """Draw the clean view with one modality hidden, by stage, beside the score with both shown."""
    chance = clean_chance(evidence)
    figures = []
    for key, title in (("no_audio", "Sound hidden"), ("no_image", "Picture hidden")):
        rows, cells = [], []
        for stage in STAGES:
            scores = evidence.scores[stage]
            hidden, shown = scores.ablation.get(key), scores.clean.micro
            if hidden is None:
                continue
            points = [("leak", hidden), ("clean", shown)]
            note = format_share(hidden.value, 0)
            rows.append(plots.IntervalRow(NAMES[stage], points, None, note))
            cells.append((NAMES[stage], hidden, shown, format_percent(chance)))
        if not rows:
            continue
        summary = ", ".join(f"{row.label} {row.note}" for row in rows)
        label = f"{title}, clean view: {summary}; chance {format_share(chance, 0)}."
        svg = plots.plot_intervals(rows, label, reference=chance, margin=112)
        figures.append(Figure(title, svg, Table(("Stage", title, "Both shown", "Chance"), cells)))
    return figures
