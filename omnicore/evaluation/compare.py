"""Compare two evaluations of the same queries, query by query (`omnicore compare A B`).

A paired difference is independent of how hard the queries are, so it separates models whose scores
have overlapping intervals. Its interval is clustered (`scoring/stats.py`). Evaluations under
another profile, on other queries or against another manifest are refused with the name of what
differs, since their difference would measure that instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from omnicore.errors import ConfigError, DataError
from omnicore.evaluation.score_records import EvaluatedQuery, Scores, read_scores
from omnicore.evaluation.verdicts import read_manifest, require_verdicts
from omnicore.lineage.step_record import verify_step
from omnicore.schema import Manifest, Outcome, QueryKey, Response, View
from omnicore.scoring import stats
from omnicore.storage.files import read_jsonl


@dataclass(frozen=True)
class Evaluation:
    """A finished output of evaluate; `responses` are those under view omni."""

    folder: Path
    scores: Scores
    items: list[EvaluatedQuery]
    responses: dict[QueryKey, Response]


def compare_evaluations(a: Path, b: Path, manifest: Path | None = None) -> dict[str, Any]:
    """Compute paired differences, B less A, of two outputs of evaluate.

    Args:
        a: The first evaluation.
        b: The second evaluation.
        manifest: A manifest, or the output of clean that holds it, that decides what is clean in
            place of the evaluations' own.

    Returns:
        A record whose `rows` hold the differences over all queries, by benchmark and by type; raw
        and clean; strict and, where both have it, official. Each row has `n`, both means, the
        `difference` as an Estimate, and which is `better`, None where its interval holds 0. Queries
        without a reply in either are in no row; `unpaired` counts them.

    Raises:
        ConfigError: A directory is not an output of evaluate.
        DataError: The evaluations differ in profile, queries or manifest, or the manifest lacks a
            verdict on a query.
    """
    first, second = _read_evaluation(a), _read_evaluation(b)
    chosen = read_manifest(manifest) if manifest else None
    _require_alike(first, second, own_manifests=chosen is None)
    items = _apply_manifest(first.items, chosen) if chosen else first.items
    paired = [i for i in items if i.key in first.responses and i.key in second.responses]
    if not paired:
        raise DataError(
            f"no query has a reply in both {a} and {b}: see their errors.jsonl",
            code="compare-nothing-paired",
        )
    rows: list[dict[str, Any]] = []
    for scope in _scopes(paired):
        rows += _scope_rows(scope, first, second)
    return {
        "a": {"folder": str(first.folder), "model": first.scores.model},
        "b": {"folder": str(second.folder), "model": second.scores.model},
        "profile_hash": first.scores.profile_hash,
        "queries_hash": first.scores.queries_hash,
        "manifest_hash": chosen.content_hash if chosen else first.scores.manifest_hash,
        "queries": len(items),
        "unpaired": {"a": _count_missing(items, first), "b": _count_missing(items, second)},
        "rows": rows,
    }


def _count_missing(items: Sequence[EvaluatedQuery], evaluation: Evaluation) -> int:
    return sum(item.key not in evaluation.responses for item in items)


def summary_sentence(comparison: dict[str, Any], view: str, rule: str = "strict") -> str:
    """Return in one sentence which evaluation is better under a view, over all queries."""
    for row in comparison["rows"]:
        if (row["benchmark"], row["view"], row["rule"]) == (None, view, rule):
            break
    else:
        return f"The {view} view has no query to compare on."
    difference = f"B − A is {_points(row['difference'])} points over {row['n']} queries, {rule}."
    if row["better"] is None:
        return f"A and B cannot be distinguished on the {view} view: {difference}"
    return f"{row['better']} is better on the {view} view: {difference}"


def print_comparison(comparison: dict[str, Any]) -> None:
    """Print the tables and the summary sentences to stdout."""
    from rich.console import Console

    console = Console(highlight=False)
    for name in ("a", "b"):
        evaluation = comparison[name]
        line = f"{name.upper()}  {evaluation['model']}  {evaluation['folder']}"
        console.print(line, soft_wrap=True, markup=False)
    for rule in ("strict", "official"):
        of_rule = [row for row in comparison["rows"] if row["rule"] == rule]
        rows = [row for row in of_rule if row["wording"] is None]
        if rows:
            console.print(_table(rule, rows))
    missing = comparison["unpaired"]
    if any(missing.values()):
        console.print(
            f"Left out, having no reply: {missing['a']} of A's and {missing['b']} of B's"
            f" {comparison['queries']} queries."
        )
    for view in ("raw", "clean"):
        console.print(summary_sentence(comparison, view), soft_wrap=True)
    console.print(
        "Where A and B are equally good, one row in twenty still shows a difference by chance.",
        soft_wrap=True,
    )


def _table(rule: str, rows: Sequence[dict[str, Any]]) -> Any:
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(
        "queries", "view", box=SIMPLE, title=f"{rule}, %", title_justify="left", pad_edge=False
    )
    for name in ("n", "A", "B", "B − A  [95 %]", "better"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        scope = row["benchmark"] or "all"
        table.add_row(
            f"  {row['type']}" if row["type"] else scope,
            row["view"],
            str(row["n"]),
            f"{100 * row['a']:.1f}",
            f"{100 * row['b']:.1f}",
            _points(row["difference"]),
            row["better"] or "",
        )
    return table


def _read_evaluation(folder: Path) -> Evaluation:
    step = verify_step(folder)["step"]
    if step != "evaluate":
        raise ConfigError(
            f"{folder} is an output of {step}; compare takes two outputs of evaluate",
            code="compare-not-evaluation",
            path=folder,
        )
    responses = {}
    for response in read_jsonl(folder / "responses.jsonl", Response):
        if response.view is View.omni:
            responses[response.benchmark, response.id] = response
    items = read_jsonl(folder / "items.jsonl", EvaluatedQuery)
    return Evaluation(folder, read_scores(folder), items, responses)


def _require_alike(a: Evaluation, b: Evaluation, own_manifests: bool) -> None:
    """Raise DataError where two evaluations differ in profile, queries or manifest."""
    ours, theirs = a.scores, b.scores
    differences = _profile_differences(ours.profile, theirs.profile)
    fields = ["profile"] if differences else []
    if ours.profile_hash != theirs.profile_hash and not differences:
        fields.append("profile_hash")
        differences.append(
            "profile_hash differs, and no field of the profile does: prompts or extractor changed"
            " between two versions"
        )
    if ours.queries_hash != theirs.queries_hash:
        fields.append("queries_hash")
        keys, others = {i.key for i in a.items}, {i.key for i in b.items}
        differences.append(
            f"queries differ: {len(keys - others)} only in A, {len(others - keys)} only in B,"
            f" {len(keys & others)} in both by id"
        )
    if own_manifests and ours.manifest_hash != theirs.manifest_hash:
        fields.append("manifest_hash")
        differences.append(
            f"manifest differs: A has {ours.manifest_hash[:12]}, B has"
            f" {theirs.manifest_hash[:12]} (--manifest DIR names one for both)"
        )
    if differences:
        lines = ["A and B cannot be compared; evaluate both alike:"]
        lines += [f"  {line}" for line in differences]
        raise DataError("\n".join(lines), code="compare-evaluations-differ", field=fields[0])


def _profile_differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    lines = []
    for field in sorted(ours.keys() | theirs.keys()):
        if ours.get(field) != theirs.get(field):
            in_a, in_b = _field_value(ours, field), _field_value(theirs, field)
            lines.append(f"profile.{field} differs: A has {in_a}, B has {in_b}")
    return lines


def _field_value(profile: dict[str, Any], field: str) -> str:
    return repr(profile[field]) if field in profile else "no such field"


def _apply_manifest(items: Sequence[EvaluatedQuery], manifest: Manifest) -> list[EvaluatedQuery]:
    """Return the items as another manifest keeps them."""
    require_verdicts(manifest, [item.key for item in items], "give one made on them")
    kept = manifest.kept()
    return [item.model_copy(update={"kept": item.key in kept}) for item in items]


@dataclass(frozen=True)
class Scope:
    """A group of queries to compare on; None stands for all benchmarks, types or wordings."""

    benchmark: str | None
    type: str | None
    items: Sequence[EvaluatedQuery]
    wording: str | None = None


def _scopes(items: Sequence[EvaluatedQuery]) -> Iterator[Scope]:
    yield Scope(None, None, items)
    for benchmark in sorted({item.benchmark for item in items}):
        members = [item for item in items if item.benchmark == benchmark]
        yield Scope(benchmark, None, members)
        for kind in sorted({item.type for item in members}):
            yield Scope(benchmark, kind, [item for item in members if item.type == kind])
    worded = [item for item in items if item.wording]
    for kind, wording in sorted({(item.type, item.wording) for item in worded}):
        group = [item for item in worded if (item.type, item.wording) == (kind, wording)]
        yield Scope(None, kind, group, wording)


def _scope_rows(scope: Scope, first: Evaluation, second: Evaluation) -> Iterator[dict[str, Any]]:
    """Yield a row for each view and rule under which all queries of the scope have a score."""
    views = {"raw": scope.items, "clean": [item for item in scope.items if item.kept]}
    for view, items in views.items():
        for rule in ("strict", "official"):
            a, b = _item_scores(first, items, rule), _item_scores(second, items, rule)
            # Without an official rule for all, a mean over the rest would be of other queries.
            if not items or len(a) < len(items) or len(b) < len(items):
                continue
            difference = stats.paired_difference(b, a, [item.cluster for item in items])
            better = None
            if difference.low > 0:
                better = "B"
            elif difference.high < 0:
                better = "A"
            yield {
                "benchmark": scope.benchmark,
                "type": scope.type,
                "wording": scope.wording,
                "view": view,
                "rule": rule,
                "n": len(items),
                "a": fmean(a),
                "b": fmean(b),
                "difference": difference.model_dump(),
                "better": better,
            }


def _item_scores(evaluation: Evaluation, items: Sequence[EvaluatedQuery], rule: str) -> list[float]:
    """Return the scores by a rule, without those of responses that have none."""
    responses = [evaluation.responses[item.key] for item in items]
    if rule == "strict":
        return [float(response.outcome is Outcome.correct) for response in responses]
    return [response.official for response in responses if response.official is not None]


def _points(difference: dict[str, float]) -> str:
    value, low, high = (100 * difference[name] for name in ("value", "low", "high"))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
