"""Draw the figures of an audit, each with a table that gives the same numbers as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from omnicore.report import plots
from omnicore.report.evidence import Evidence, confusion_counts
from omnicore.report.words import format_percent, format_share, spaced
from omnicore.schema import Estimate, View

# Views in which leakage is drawn, with the class of their marks and their name.
LEAKS = {
    View.visual_only: ("leak", "picture and text"),
    View.text_only: ("minor", "text alone"),
    View.audio_only: ("minor open", "sound and text"),
}
TRUTHS = {
    "hit": "solvable, removed",
    "missed": "solvable, kept",
    "lost": "clean, removed",
    "left": "clean, kept",
}
ABSENT = "–"


@dataclass(frozen=True)
class Table:
    """The text alternative of a plot; cells are text or estimates."""

    head: Sequence[str]
    rows: Sequence[Sequence[str | Estimate]]


@dataclass(frozen=True)
class Figure:
    """A plot with its table; `table` is None where one table serves several plots."""

    title: str
    svg: Markup
    table: Table | None
    note: str = ""


def leakage_figure(evidence: Evidence) -> Figure:
    """Draw the chance-corrected hit rates of the probe, benchmarks by falling visual leakage."""
    leakage = sorted(
        evidence.audit.leakage.items(), key=lambda item: -item[1][View.visual_only].corrected.value
    )
    rows, cells = [], []
    for name, views in leakage:
        visual = views[View.visual_only]
        planted = _planted_share(evidence, name)
        corrected = {view: views[view].corrected for view in LEAKS if view in views}
        points = [(LEAKS[view][0], estimate) for view, estimate in corrected.items()]
        note = format_share(visual.corrected.value, 0)
        rows.append(plots.IntervalRow(name, points, planted, note))
        cells.append(
            (
                name,
                visual.solved,
                format_percent(visual.chance, 0),
                *(corrected.get(view, ABSENT) for view in LEAKS),
                ABSENT if planted is None else format_percent(planted, 0),
            )
        )
    low = min(estimate.low for row in rows for _, estimate in row.points)
    summary = " ".join(f"{row.label} {row.note}" for row in rows)
    svg = plots.plot_intervals(
        rows,
        f"Leakage per benchmark: {summary}.",
        domain=(max(min(low, 0), -0.5), 1),
        reference=0,
        margin=70,
    )
    corrected_heads = [f"Corrected: {shown}" for _, shown in LEAKS.values()]
    head = ("Benchmark", "Hit rate, sound withheld", "Chance", *corrected_heads, "Planted")
    return Figure("Chance-corrected hit rate of the probe", svg, Table(head, cells))


def _planted_share(evidence: Evidence, benchmark: str) -> float | None:
    truth = (evidence.planted or {}).get(benchmark)
    return sum(truth.values()) / len(truth) if truth else None


def leakage_table(evidence: Evidence) -> Table:
    """Tabulate the leakage of picture and text by type of question."""
    rows = []
    for name, types in evidence.audit.leakage_by_type.items():
        for kind, views in types.items():
            visual = views.get(View.visual_only)
            if visual is None:
                continue
            chance = format_percent(visual.chance, 0)
            queries = str(visual.solved.n)
            rows.append((name, spaced(kind), queries, visual.solved, chance, visual.corrected))
    return Table(
        ("Benchmark", "Type", "Queries", "Hit rate, sound withheld", "Chance", "Corrected"), rows
    )


def reply_table(evidence: Evidence) -> Table:
    """Tabulate the fates of the probe's requests."""
    rows = []
    for name, views in evidence.audit.replies.items():
        for view, counts in views.items():
            fates = (
                counts.draws,
                counts.outside,
                counts.no_answer,
                counts.truncated,
                counts.failed,
            )
            rows.append((name, spaced(view), *map(str, fates)))
    heads = (
        "Benchmark",
        "View",
        "Asked",
        "None of the options",
        "Not readable",
        "Truncated by the length limit",
        "Failed permanently",
    )
    return Table(heads, rows)


def rules_figure(evidence: Evidence) -> Figure | None:
    """Draw the cleaning policies against the planted truth; None where there is none."""
    if evidence.planted is None:
        return None
    counts = {}
    for policy, manifest in evidence.manifests.items():
        counts[spaced(policy)] = confusion_counts(manifest, evidence.planted, evidence.filtered)
    clauses = []
    for name, by_truth in counts.items():
        numbers = ", ".join(f"{n} {TRUTHS[kind]}" for kind, n in by_truth.items())
        clauses.append(f"{name}: {numbers}")
    label = f"Queries by truth and verdict. {'; '.join(clauses)}."
    cells = [(name, *map(str, by_truth.values())) for name, by_truth in counts.items()]
    return Figure(
        "Queries removed by each rule",
        plots.plot_stacked_bars(list(counts.items()), label),
        Table(("Rule", *TRUTHS.values()), cells),
    )


def null_figure(evidence: Evidence) -> Figure:
    """Draw how often one wrong option is drawn, beside the shares of independent guesses."""
    hits, binomial = evidence.audit.null.hits, evidence.audit.null.binomial
    label = (
        "Share of queries by the number of draws that gave one wrong option, measured and binomial."
    )
    cells = []
    for count, (measured, independent) in enumerate(zip(hits, binomial, strict=True)):
        row = (str(count), format_percent(measured, 2), format_percent(independent, 2))
        cells.append(row)
    return Figure(
        "How often one wrong option is drawn",
        plots.plot_histogram({"clean": hits, "minor": binomial}, label),
        Table(("Draws of the wrong option", "Measured, %", "Binomial, %"), cells),
    )


def seconds_figure(by_step: Mapping[str, float]) -> Figure:
    """Draw the wall time of the steps that the page shows."""
    rows = [(spaced(name), value, f"{value:.1f} s") for name, value in by_step.items()]
    total = f"{sum(by_step.values()):.0f} s in all, of the steps that this page shows"
    table = Table(("Step", "Seconds"), [(name, text) for name, _, text in rows])
    svg = plots.plot_bars(rows, f"Seconds by step, {total}.")
    return Figure("Seconds by step", svg, table, total)
