"""Write the page's sentences from its figures, so that none can contradict the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from omnicore.evaluation.score_records import Scores
from omnicore.report.audit_record import AuditRecord
from omnicore.report.evidence import Evidence
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
    """Return a share in per cent, without its unit."""
    text = f"{100 * value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def format_share(value: float, digits: int = 1) -> str:
    """Return a share in per cent with its unit, which never wraps to the next line."""
    return f"{format_percent(value, digits)}\u00a0%"


def format_interval(e: Estimate) -> str:
    """Return the interval of an estimate in per cent."""
    return f"[{format_percent(e.low)}, {format_percent(e.high)}]"


def format_points(e: Estimate) -> str:
    """Return a difference in percentage points with its interval."""
    return f"{'+' if e.value > 0 else ''}{format_percent(e.value)} {format_interval(e)}"


def join_names(names: list[str]) -> str:
    """Return names as a list in a sentence: "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def spaced(name: str) -> str:
    """Return a name with spaces for its underscores."""
    return name.replace("_", " ")


@dataclass(frozen=True)
class StageGain:
    """Gain of one stage over the one before, in shares of queries.

    Attributes:
        raw: Gain on the raw view.
        clean: Gain on the clean view.
        surplus: Raw gain less clean gain.
    """

    raw: Estimate
    clean: Estimate
    surplus: Estimate

    @property
    def verb(self) -> str:
        """How the raw view misstates this gain, as far as the surplus' interval shows."""
        if self.surplus.low > 0:
            return "overstates"
        if self.surplus.high < 0:
            return "understates"
        return "neither clearly overstates nor understates"


@dataclass(frozen=True)
class _PairedQueries:
    """Queries that two evaluations have a reply to, and whether each reply is right, 0 or 1."""

    queries: list[Query]
    before: list[float]
    after: list[float]


def _pair(evidence: Evidence, before: str, after: str, *, clean: bool) -> _PairedQueries:
    """Pair the replies of two stages over the queries of one view."""
    old, new = evidence.responses[before], evidence.responses[after]
    kept = evidence.manifest.kept()
    paired = _PairedQueries([], [], [])
    for query in evidence.queries:
        key = query.key
        if key not in old or key not in new or (clean and key not in kept):
            continue
        paired.queries.append(query)
        paired.before.append(float(old[key].outcome is Outcome.correct))
        paired.after.append(float(new[key].outcome is Outcome.correct))
    return paired


def accuracy_difference(evidence: Evidence, before: str, after: str, *, clean: bool) -> Estimate:
    """Estimate the paired difference in accuracy, `after` less `before`.

    Args:
        evidence: The report's data.
        before: A stage.
        after: Another stage.
        clean: Take only the queries of the clean view.
    """
    paired = _pair(evidence, before, after, clean=clean)
    clusters = [query.cluster for query in paired.queries]
    return stats.paired_difference(paired.after, paired.before, clusters)


def stage_gain(evidence: Evidence, before: str, after: str) -> StageGain:
    """Estimate the gain of one stage in both views, and their difference.

    Raw and clean share queries, so the difference does not follow from their two intervals. It is
    the mean of u_i = surplus + (d_i - raw) - k_i N / K (d_i - clean), with d_i the query's change
    and k_i = 1 for the K kept of N queries: the linearisation of a difference of two ratios, scaled
    to 0..1 for the clustered interval of `stats.mean`.
    """
    raw = accuracy_difference(evidence, before, after, clean=False)
    clean = accuracy_difference(evidence, before, after, clean=True)
    kept = evidence.manifest.kept()
    paired = _pair(evidence, before, after, clean=False)
    change = np.array(paired.after) - np.array(paired.before)
    weight = np.array([q.key in kept for q in paired.queries], float) / (clean.n / raw.n)
    surplus = raw.value - clean.value
    influence = surplus + (change - raw.value) - weight * (change - clean.value)
    bound = max(1.0, float(np.abs(influence).max()))
    shares = np.clip((influence / bound + 1) / 2, 0, 1)
    scaled = stats.mean(shares, [q.cluster for q in paired.queries])
    value, low, high = (bound * (2 * x - 1) for x in (scaled.value, scaled.low, scaled.high))
    return StageGain(raw, clean, Estimate(value=value, low=low, high=high, n=scaled.n))


def gain_sentence(sft: StageGain, rlvr: StageGain) -> str:
    """State whether the raw view overstates the gains of SFT and RLVR."""
    return f"The raw view {_gain_clause('SFT', sft)} and {_gain_clause('RLVR', rlvr)}."


def _gain_clause(name: str, gain: StageGain) -> str:
    raw, clean = format_points(gain.raw), format_points(gain.clean)
    return f"{gain.verb} the gain of {name} ({raw} points raw, {clean} clean)"


def solvable_share(evidence: Evidence) -> Estimate:
    """Estimate the share of filtered benchmarks' queries that are solvable without the sound."""
    clusters = {q.key: q.cluster for q in evidence.queries}
    verdicts = [v for v in evidence.manifest.verdicts if v.benchmark in evidence.filtered]
    values = [float(v.label is Label.solvable) for v in verdicts]
    return stats.mean(values, [clusters[v.benchmark, v.id] for v in verdicts])


def solvable_sentence(evidence: Evidence) -> str:
    """State how many of the audited queries are solvable without the sound."""
    e = solvable_share(evidence)
    sentence = (
        f"{round(e.value * e.n)} of {e.n} audited queries, {format_share(e.value)}"
        f" {format_interval(e)}, could be answered from the picture and the written question"
        " alone, with the sound withheld"
    )
    if evidence.planted is None:
        return sentence + "."
    truth: list[bool] = []
    for name in evidence.filtered:
        truth += evidence.planted[name].values()
    return f"{sentence}; the planted share is {format_share(sum(truth) / len(truth))}."


def kept_whole_sentence(evidence: Evidence) -> str:
    """List the benchmarks that are kept whole, with the reason; empty where there are none."""
    names = []
    for info in evidence.infos:
        if info.filter_policy == "keep_whole":
            names.append(f"{info.name} ({info.queries} queries; {info.reason})")
    return f"Kept whole, outside the audit: {join_names(names)}." if names else ""


def control_sentence(evidence: Evidence) -> str:
    """Compare RLVR on real rewards with the random-reward control."""
    moved = accuracy_difference(evidence, "sft", "control", clean=True)
    lead = accuracy_difference(evidence, "control", "rlvr", clean=True)
    points = format_points(lead)
    if lead.low > 0:
        finding = f"RLVR on real rewards is {points} points above the control on the clean view"
    elif lead.high < 0:
        finding = (
            f"the control is above RLVR on real rewards ({points} points for RLVR): this run shows"
            " luck, not learning"
        )
    else:
        finding = f"RLVR on real rewards and the control cannot be distinguished ({points} points)"
    start = f"Rewarded by coin flips, the model moved {format_points(moved)} points from SFT"
    return f"{start}; {finding}. This is one seed: luck differs from seed to seed."


def null_sentence(audit: AuditRecord) -> str:
    """Compare the measured null with the binomial, at the threshold that most benchmarks share.

    Of two equally common thresholds the lower one is taken.
    """
    rules = [t.hits for t in audit.thresholds.values() if t.hits is not None]
    if not rules:
        return "No benchmark has a rule that keeps false removals within bounds."
    hits, null = max(sorted(set(rules)), key=rules.count), audit.null
    draws = len(null.hits) - 1
    measured = format_share(sum(null.hits[hits:]), 2)
    independent = format_share(sum(null.binomial[hits:]), 2)
    return (
        f"Where the probe cannot tell the answer, a given wrong option is drawn {hits} times in"
        f" {draws} or more in {measured} of cases; independent guesses would do so in"
        f" {independent}. A probe repeats its own guess: the measured null sets the rule."
    )


def replies_sentence(audit: AuditRecord) -> str:
    """Count the requests by their fate; truncated replies are always counted."""
    counts = [of_view for views in audit.replies.values() for of_view in views.values()]
    total = sum(c.draws for c in counts)
    unreadable = sum(c.no_answer for c in counts)
    truncated = sum(c.truncated for c in counts)
    fates = {
        "named none of the options, which is wrong": sum(c.outside for c in counts),
        "could not be read": unreadable,
        "failed permanently": sum(c.failed for c in counts),
    }
    clauses = [f"{n} {fate} ({format_share(n / total)})" for fate, n in fates.items() if n]
    share = format_share(truncated / total)
    clauses.append(f"{truncated} were truncated by the length limit ({share})")
    sentence = f"Of {total} requests to the probe {join_names(clauses)}."
    if truncated + unreadable:
        sentence += (
            " Truncated and unreadable replies are no evidence: a query whose verdict they could"
            " change is undecided and kept."
        )
    if audit.failed_queries:
        sentence += f" {audit.failed_queries} queries that lack a draw are undecided and kept."
    return sentence


def failures_sentence(scores: Mapping[str, Scores]) -> str:
    """Count the queries whose request failed, by stage and benchmark; empty where none did."""
    stages = []
    for arm, scored in scores.items():
        clauses = []
        for name, block in scored.by_benchmark.items():
            counts = block.counts.get("raw")
            if counts and counts.errors:
                clauses.append(f"{counts.errors} of {counts.queries} in {name}")
        if clauses:
            stages.append(f"{NAMES[arm]} {join_names(clauses)}")
    return f"Queries whose request failed are in no figure: {'; '.join(stages)}." if stages else ""


def wording_sentence(stage: str, by_wording: Mapping[str, Mapping[str, Estimate]]) -> str:
    """Name the type whose wordings differ most in accuracy; empty where none has two wordings."""
    ranked = {}
    for kind, wordings in by_wording.items():
        if len(wordings) > 1:
            ranked[kind] = sorted(wordings.values(), key=lambda e: e.value)
    if not ranked:
        return ""
    widest = max(ranked, key=lambda kind: ranked[kind][-1].value - ranked[kind][0].value)
    low, high = ranked[widest][0], ranked[widest][-1]
    ends = f"{format_percent(low.value, 0)} to {format_share(high.value, 0)}"
    sentence = f"{stage}: the wordings of “{spaced(widest)}” differ most, {ends}"
    if low.high < high.low:
        return f"{sentence}: a mean hides that."
    return f"{sentence}, within their intervals."


def planted_notice(model: str) -> str:
    """Return the caveat to show with every score of an embedded model; empty for other models."""
    if not model.startswith("embedded:"):
        return ""
    name = model.removeprefix("embedded:")
    return (
        f"{name} has about a million parameters, the benchmark is synthetic, and the weakness that"
        f" training repairs was planted: in the corpus of {name} the written answers neglect the"
        " sound, or the speech in it, under some wordings. These figures show that audit, training"
        " and evaluation work together; they say nothing about any published model."
    )
