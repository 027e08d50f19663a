"""`omnicore compare A B`: two evaluations of the same queries, query by query.

A paired difference is free of how hard the queries are, so it tells apart what two scores with
their own intervals do not. Its interval is clustered, as everywhere (stats.py). What was evaluated
under another profile, on other queries or against another manifest is refused by the name of what
differs: such a difference would measure that instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from omnicore.audit import manifest_io
from omnicore.errors import ConfigError, DataError
from omnicore.evaluation.verdicts import require_verdicts
from omnicore.lineage.step_record import verify_step
from omnicore.schema import Manifest, Outcome, Record, Response, View
from omnicore.scoring import stats
from omnicore.storage.files import read_json, read_jsonl

Key = tuple[str, str]


class EvaluatedQuery(Record):
    """One line of `items.jsonl`: a query as far as its figures go.

    `kept`: it is in the clean view.
    """

    benchmark: str
    id: str
    type: str
    cluster: str
    kept: bool

    @property
    def key(self) -> Key:
        return self.benchmark, self.id


@dataclass(frozen=True)
class Evaluation:
    """A finished output of evaluate; `responses` under view omni."""

    folder: Path
    scores: dict[str, Any]
    items: list[EvaluatedQuery]
    responses: dict[Key, Response]


def compare_evaluations(a: Path, b: Path, manifest: Path | None = None) -> dict[str, Any]:
    """Paired differences, B less A, of two outputs of evaluate: over all, by benchmark and by type;
    raw and clean; strict and, where both have it, official. Each row has n, both means, the
    difference as an Estimate and which is `better`, None where its interval holds 0. Queries that
    either failed to answer are left out of all rows and counted in `unpaired`.

    `manifest`, a file or the output of clean that holds it, decides what is clean in place of the
    evaluations' own. Raises ConfigError for what is no output of evaluate, DataError naming what
    differs, or for a manifest without a verdict on a query.
    """
    first, second = _read(a), _read(b)
    chosen = manifest_io.read_manifest(manifest) if manifest else None
    _refuse_unlike(first, second, own_manifests=chosen is None)
    items = _judged(first.items, chosen) if chosen else first.items
    pairs = [item for item in items if item.key in first.responses and item.key in second.responses]
    if not pairs:
        raise DataError(f"no query has a reply in both {a} and {b}: see their errors.jsonl")
    return {
        **{
            name: {"folder": str(e.folder), "model": e.scores["model"]}
            for name, e in (("a", first), ("b", second))
        },
        "profile_hash": first.scores["profile_hash"],
        "queries_hash": first.scores["queries_hash"],
        "manifest_hash": chosen.content_hash if chosen else first.scores["manifest_hash"],
        "queries": len(items),
        "unpaired": {
            "a": sum(item.key not in first.responses for item in items),
            "b": sum(item.key not in second.responses for item in items),
        },
        "rows": [row for scope in _scopes(pairs) for row in _rows(*scope, first, second)],
    }


def summary_sentence(found: dict[str, Any], view: str, rule: str = "strict") -> str:
    """Which is better under a view, over all queries, in one sentence."""
    row = next(
        (r for r in found["rows"] if (r["benchmark"], r["view"], r["rule"]) == (None, view, rule)),
        None,
    )
    if row is None:
        return f"The {view} view has no query to compare on."
    said = f"B − A is {_points(row['difference'])} points over {row['n']} queries, {rule}."
    if row["better"] is None:
        return f"A and B cannot be told apart on the {view} view: {said}"
    return f"{row['better']} is better on the {view} view: {said}"


def print_comparison(found: dict[str, Any]) -> None:
    """Prints the tables and the verdicts."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for name in ("a", "b"):
        console.print(
            f"{name.upper()}  {found[name]['model']}  {found[name]['folder']}",
            soft_wrap=True,
            markup=False,
        )
    for rule in ("strict", "official"):
        if not (rows := [r for r in found["rows"] if r["rule"] == rule]):
            continue
        table = Table(
            "queries", "view", box=SIMPLE, title=f"{rule}, %", title_justify="left", pad_edge=False
        )
        for name in ("n", "A", "B", "B − A  [95 %]", "better"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in rows:
            scope = row["benchmark"] or "all"
            figures = (
                str(row["n"]),
                f"{100 * row['a']:.1f}",
                f"{100 * row['b']:.1f}",
                _points(row["difference"]),
            )
            table.add_row(
                f"  {row['type']}" if row["type"] else scope,
                row["view"],
                *figures,
                row["better"] or "",
            )
        console.print(table)
    if any(found["unpaired"].values()):
        without = found["unpaired"]
        console.print(
            f"Left out, having no reply: {without['a']} of A's and {without['b']} of B's"
            f" {found['queries']} queries."
        )
    for view in ("raw", "clean"):
        console.print(summary_sentence(found, view), soft_wrap=True)
    console.print(
        "Where A and B are alike, one row in twenty still shows a difference, by luck.",
        soft_wrap=True,
    )


def _read(folder: Path) -> Evaluation:
    if (step := verify_step(folder)["step"]) != "evaluate":
        raise ConfigError(f"{folder} is an output of {step}; compare takes two of evaluate")
    scores = read_json(folder / "scores.json")
    if (
        missing := {"profile", "profile_hash", "manifest_hash", "queries_hash", "model"}
        - scores.keys()
    ):
        raise DataError(
            f"{folder / 'scores.json'} lacks {', '.join(sorted(missing))}: an older omnicore wrote"
            " it, evaluate again"
        )
    responses = {
        (r.benchmark, r.id): r
        for r in read_jsonl(folder / "responses.jsonl", Response)
        if r.view is View.omni
    }
    return Evaluation(folder, scores, read_jsonl(folder / "items.jsonl", EvaluatedQuery), responses)


def _refuse_unlike(a: Evaluation, b: Evaluation, own_manifests: bool) -> None:
    ours, theirs = a.scores, b.scores
    fields = sorted(ours["profile"].keys() | theirs["profile"].keys())
    told = [
        f"profile.{field} differs: A has {_told(ours['profile'], field)}, B has"
        f" {_told(theirs['profile'], field)}"
        for field in fields
        if ours["profile"].get(field) != theirs["profile"].get(field)
    ]
    if ours["profile_hash"] != theirs["profile_hash"] and not told:
        told.append(
            "profile_hash differs, and no field of the profile does: prompts or extractor changed"
            " between two versions"
        )
    if ours["queries_hash"] != theirs["queries_hash"]:
        keys, others = {i.key for i in a.items}, {i.key for i in b.items}
        only = (
            f"{len(keys - others)} in A alone, {len(others - keys)} in B alone,"
            f" {len(keys & others)} in both by id"
        )
        told.append(f"queries differ: {only}")
    if own_manifests and ours["manifest_hash"] != theirs["manifest_hash"]:
        hashes = f"A has {ours['manifest_hash'][:12]}, B has {theirs['manifest_hash'][:12]}"
        told.append(f"manifest differs: {hashes} (--manifest DIR names one for both)")
    if told:
        raise DataError(
            "A and B cannot be compared; evaluate again alike:\n"
            + "\n".join(f"  {line}" for line in told)
        )


def _told(profile: dict[str, Any], field: str) -> str:
    return repr(profile[field]) if field in profile else "no such field"


def _judged(items: Sequence[EvaluatedQuery], manifest: Manifest) -> list[EvaluatedQuery]:
    """The items with what another manifest says of them."""
    verdicts = {(v.benchmark, v.id): v.kept for v in manifest.verdicts}
    require_verdicts(manifest, [item.key for item in items], "name one made on them")
    return [item.model_copy(update={"kept": verdicts[item.key]}) for item in items]


def _scopes(
    items: Sequence[EvaluatedQuery],
) -> Iterator[tuple[str | None, str | None, list[EvaluatedQuery]]]:
    """Benchmark, type and items of each group of rows; None stands for all."""
    yield None, None, list(items)
    for benchmark in sorted({item.benchmark for item in items}):
        own = [item for item in items if item.benchmark == benchmark]
        yield benchmark, None, own
        for type_ in sorted({item.type for item in own}):
            yield benchmark, type_, [item for item in own if item.type == type_]


def _rows(
    benchmark: str | None,
    type_: str | None,
    items: Sequence[EvaluatedQuery],
    first: Evaluation,
    second: Evaluation,
) -> Iterator[dict[str, Any]]:
    for view, chosen in (("raw", items), ("clean", [item for item in items if item.kept])):
        for rule in ("strict", "official"):
            a, b = (
                [_worth(e.responses[item.key], rule) for item in chosen] for e in (first, second)
            )
            left, right = ([value for value in values if value is not None] for values in (a, b))
            if not chosen or len(left) < len(chosen) or len(right) < len(chosen):
                continue  # nothing to compare, or no official rule: a mean over the rest would be of other queries
            difference = stats.paired_difference(right, left, [item.cluster for item in chosen])
            better = "B" if difference.low > 0 else "A" if difference.high < 0 else None
            scope = {
                "benchmark": benchmark,
                "type": type_,
                "view": view,
                "rule": rule,
                "n": len(chosen),
            }
            yield {
                **scope,
                "a": fmean(left),
                "b": fmean(right),
                "difference": difference.model_dump(),
                "better": better,
            }


def _worth(response: Response, rule: str) -> float | None:
    return float(response.outcome is Outcome.correct) if rule == "strict" else response.official


def _points(difference: dict[str, float]) -> str:
    return (
        f"{100 * difference['value']:+.1f} [{100 * difference['low']:+.1f},"
        f" {100 * difference['high']:+.1f}]"
    )
