"""Sentences of the page, computed from its figures: none of them can say what the numbers do
not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from omnicore.report.evidence import AuditRecord, Evidence, Scores
from omnicore.schema import Estimate, Label, Outcome, Query
from omnicore.scoring import stats

NAMES = {
    "base": "Base",
    "sft": "SFT",
    "rlvr": "RLVR",
    "distilled": "Self-distilled",
    "control": "Random reward",
}


def format_percent(value: float, digits: int = 1) -> str:
    text = f"{100 * value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def format_share(value: float, digits: int = 1) -> str:
    """Per cent with its unit, which never wraps to the next line."""
    return f"{format_percent(value, digits)}\u00a0%"


def format_interval(e: Estimate) -> str:
    return f"[{format_percent(e.low)}, {format_percent(e.high)}]"


def format_points(e: Estimate) -> str:
    """A difference in percentage points with its interval."""
    return f"{'+' if e.value > 0 else ''}{format_percent(e.value)} {format_interval(e)}"


def join_names(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


@dataclass(frozen=True)
class StageGain:
    """What one stage added over the one before, in shares of queries: `surplus` is raw less
    clean."""

    raw: Estimate
    clean: Estimate
    surplus: Estimate

    @property
    def verb(self) -> str:
        """What the raw view does to this gain, as far as the interval of the surplus can tell."""
        if self.surplus.low > 0:
            return "overstates"
        if self.surplus.high < 0:
            return "understates"
        return "neither clearly overstates nor understates"


def _pairs(evidence: Evidence, before: str, after: str) -> list[tuple[Query, float, float]]:
    """Queries that both evaluations have a reply to, and whether each is right, 0 or 1."""
    old, new = evidence.responses[before], evidence.responses[after]
    right = Outcome.correct
    return [
        (q, float(old[q.key].outcome is right), float(new[q.key].outcome is right))
        for q in evidence.queries
        if q.key in old and q.key in new
    ]


def accuracy_difference(evidence: Evidence, before: str, after: str, *, clean: bool) -> Estimate:
    """Paired difference in accuracy over the queries of one view that both have a reply to, `after`
    less `before`."""
    kept = evidence.manifest.kept()
    queries, old, new = zip(
        *(pair for pair in _pairs(evidence, before, after) if pair[0].key in kept or not clean),
        strict=True,
    )
    return stats.paired_difference(new, old, [q.cluster for q in queries])


def stage_gain(evidence: Evidence, before: str, after: str) -> StageGain:
    """The gain of one stage in both views, and how far they differ.

    Raw and clean share queries, so their two intervals say nothing on the difference. It is the mean of
    u_i = surplus + (d_i - raw) - k_i N / K (d_i - clean), with d_i the query's change and k_i = 1 for the K kept of N: the
    linearisation of a difference of two ratios, scaled to 0..1 for the clustered interval of `stats.mean`.
    """
    raw, clean = (
        accuracy_difference(evidence, before, after, clean=False),
        accuracy_difference(evidence, before, after, clean=True),
    )
    kept_keys = evidence.manifest.kept()
    queries, old, new = zip(*_pairs(evidence, before, after), strict=True)
    d = np.array(new) - np.array(old)
    k = np.array([q.key in kept_keys for q in queries], float) / (clean.n / raw.n)
    u = raw.value - clean.value + (d - raw.value) - k * (d - clean.value)
    bound = max(1.0, float(np.abs(u).max()))
    scaled = stats.mean(np.clip((u / bound + 1) / 2, 0, 1), [q.cluster for q in queries])
    value, low, high = (bound * (2 * x - 1) for x in (scaled.value, scaled.low, scaled.high))
    return StageGain(raw, clean, Estimate(value=value, low=low, high=high, n=scaled.n))


def gain_sentence(sft: StageGain, rlvr: StageGain) -> str:
    def told(name: str, g: StageGain) -> str:
        return f"{g.verb} the gain of {name} ({format_points(g.raw)} points raw, {format_points(g.clean)} clean)"

    return f"The raw view {told('SFT', sft)} and {told('RLVR', rlvr)}."


def solvable_share(evidence: Evidence) -> Estimate:
    """Share of the filtered benchmarks' queries that the audit found solvable with the sound
    withheld."""
    clusters = {q.key: q.cluster for q in evidence.queries}
    verdicts = [v for v in evidence.manifest.verdicts if v.benchmark in evidence.filtered]
    return stats.mean(
        [float(v.label is Label.solvable) for v in verdicts],
        [clusters[v.benchmark, v.id] for v in verdicts],
    )


def solvable_sentence(evidence: Evidence) -> str:
    e = solvable_share(evidence)
    found = f"{round(e.value * e.n)} of {e.n} audited queries, {format_share(e.value)} {format_interval(e)}"
    said = (
        f"{found}, could be answered from the picture and the written question alone, with the"
        " sound withheld"
    )
    if evidence.planted is None:
        return said + "."
    truth = [t for name in evidence.filtered for t in evidence.planted[name].values()]
    return f"{said}; the planted share is {format_share(sum(truth) / len(truth))}."


def kept_whole_sentence(evidence: Evidence) -> str:
    whole = [
        f"{i.name} ({i.queries} queries; {i.reason})"
        for i in evidence.infos
        if i.filter_policy == "keep_whole"
    ]
    return f"Kept whole, outside the audit: {join_names(whole)}." if whole else ""


def control_sentence(evidence: Evidence) -> str:
    luck = accuracy_difference(evidence, "sft", "control", clean=True)
    lead = accuracy_difference(evidence, "control", "rlvr", clean=True)
    if lead.low > 0:
        said = f"RLVR on real rewards stands {format_points(lead)} points above the control on the clean view"
    elif lead.high < 0:
        said = (
            f"the control stands above RLVR on real rewards ({format_points(lead)} points for RLVR): this"
            " run shows luck, not learning"
        )
    else:
        said = f"RLVR on real rewards and the control cannot be told apart ({format_points(lead)} points)"
    start = f"Paid by coin flips, the model moved {format_points(luck)} points from SFT"
    return f"{start}; {said}. This is one seed: luck differs from seed to seed."


def null_sentence(audit: AuditRecord) -> str:
    """The measured tail beside the textbook one, at the rule that most benchmarks share (the lower
    of two as common)."""
    rules = [t.hits for t in audit.thresholds.values() if t.hits is not None]
    if not rules:
        return "No benchmark has a rule that keeps false removals within bounds."
    hits, null = max(sorted(set(rules)), key=rules.count), audit.null
    draws = len(null.hits) - 1
    measured, independent = (
        format_share(sum(shares[hits:]), 2) for shares in (null.hits, null.binomial)
    )
    return (
        f"Where the probe cannot tell the answer, a given wrong option is drawn {hits} times in"
        f" {draws} or more in {measured} of cases; independent guesses would do so in"
        f" {independent}. A probe repeats its own guess: the measured null sets the rule."
    )


def replies_sentence(audit: AuditRecord) -> str:
    """Count the requests by what became of them; how many replies were cut is always told."""
    seen = [r for views in audit.replies.values() for r in views.values()]
    total = sum(r.draws for r in seen)
    counts = {
        "named none of the options, which is wrong": sum(r.outside for r in seen),
        "could not be read": sum(r.no_answer for r in seen),
        "failed permanently": sum(r.failed for r in seen),
    }
    told = [f"{n} {what} ({format_share(n / total)})" for what, n in counts.items() if n]
    cut = sum(r.truncated for r in seen)
    told.append(f"{cut} were cut by the length limit ({format_share(cut / total)})")
    left = (
        f" {audit.failed_queries} queries that lack a draw are undecided and kept."
        if audit.failed_queries
        else ""
    )
    unread = (
        " Cut and unread replies are no evidence: a query whose verdict they could change is"
        " undecided and kept."
    )
    lost = cut + sum(r.no_answer for r in seen)
    return f"Of {total} requests to the probe {join_names(told)}.{unread if lost else ''}{left}"


def failures_sentence(scores: Mapping[str, Scores]) -> str:
    """Count the queries of each evaluation whose request failed, by benchmark; empty where none
    did."""
    told = []
    for arm, scored in scores.items():
        failed = {
            name: found.counts["raw"]
            for name, found in scored.by_benchmark.items()
            if "raw" in found.counts
        }
        lost = [
            f"{counts.errors} of {counts.queries} in {name}"
            for name, counts in failed.items()
            if counts.errors
        ]
        told += [f"{NAMES[arm]} {join_names(lost)}"] if lost else []
    return f"Queries whose request failed are in no figure: {'; '.join(told)}." if told else ""


def wording_sentence(stage: str, by_wording: Mapping[str, Mapping[str, Estimate]]) -> str:
    """The type whose wordings lie furthest apart, and whether their intervals do; empty where no
    type has two."""
    ranked = {
        t: sorted(found.values(), key=lambda e: e.value)
        for t, found in by_wording.items()
        if len(found) > 1
    }
    if not ranked:
        return ""
    widest = max(ranked, key=lambda t: ranked[t][-1].value - ranked[t][0].value)
    low, high = ranked[widest][0], ranked[widest][-1]
    ends = f"{format_percent(low.value, 0)} to {format_share(high.value, 0)}"
    said = f"{stage}: the wordings of “{widest.replace('_', ' ')}” lie furthest apart, {ends}"
    return (
        f"{said}: a mean hides that." if low.high < high.low else f"{said}, within their intervals."
    )


def planted_notice(model: str) -> str:
    """What must be said wherever the embedded models' scores are shown."""
    if not model.startswith("embedded:"):
        return ""
    name = model.removeprefix("embedded:")
    return (
        f"{name} has about a million parameters, the benchmark is synthetic, and the weakness that"
        f" training mends was planted: in the corpus of {name} the written answers neglect the"
        " sound, or what is said of it, under some wordings. These figures show that audit,"
        " training and evaluation work together; they say nothing about any published model."
    )
