"""clean: from a probe's draws to verdicts on queries, the manifests that make the clean view, and what leaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json

from omnicore import audit
from omnicore.config import CleanConfig, Recipe
from omnicore.errors import DataError
from omnicore.journal import read_json, read_jsonl, write_json
from omnicore.schema import BenchmarkInfo, Label, Manifest, Outcome, Query, Verdict, View

FIELDS = itemgetter("benchmark", "id", "view", "draw", "answer", "outcome")
MISSING = -2  # in a grid of answers: no draw seen


class Probe(BaseModel):
    """`probe.json`: who drew, under which profile, and how many draws a query has under each view."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str
    profile_hash: str
    draws: dict[View, int]


def run(recipe: Recipe, config: CleanConfig, inputs: Mapping[str, Path], output: Path) -> dict[str, Any]:  # noqa: ARG001
    """Raises DataError on draws that are broken, lack or exceed the queries, or come from another profile."""
    audited = read_queries(inputs["queries"])
    probe = read_probe(inputs["draws"])
    answers = read_draws(inputs["draws"], probe, audited)
    hits = {view: audit.count(audited, given) for view, given in answers.items()}
    visual = hits[View.visual_only]
    second, second_visual = None, None
    if "second_draws" in inputs:
        second = read_probe(inputs["second_draws"])
        if second.profile_hash != probe.profile_hash:
            raise DataError(
                f"draws were made under profile {probe.profile_hash[:12]}, second_draws under {second.profile_hash[:12]}: "
                "probe again with one profile"
            )
        second_visual = audit.count(audited, read_draws(inputs["second_draws"], second, audited)[View.visual_only])
    rules = audit.rules(audited, visual, config)
    verdicts: dict[audit.Policy, list[Verdict]] = {
        "single_pass": audit.single_pass(audited, answers[View.visual_only], rules),
        "repeated": audit.repeated(audited, visual, rules, config),
    }
    manifests = {policy: audit.manifest(policy, probe.model, probe.profile_hash, found) for policy, found in verdicts.items()}
    policies = {policy: _counts(manifest, audited, second_visual) for policy, manifest in manifests.items()}
    for policy, manifest in manifests.items():
        write_json(output / f"manifest.{policy}.json", manifest)
    write_json(output / "manifest.json", manifests[config.policy])
    record = {
        "probe": probe.model,
        "second_probe": second.model if second else None,
        "profile_hash": probe.profile_hash,
        "leakage": audit.leakage(audited, hits),
        "thresholds": thresholds(rules),
        "null": audit.null_shares(audited, visual),
        "policies": policies,
    }
    write_json(output / "audit.json", record)
    figures = {f"{name}_{policy}": counts[name] for policy, counts in policies.items() for name in ("kept", "removed")}
    return {"queries": len(audited.queries), "policy": config.policy, "undecided": policies["repeated"]["undecided"], **figures}


def thresholds(rules: list[audit.Rule]) -> dict[str, dict[str, Any]]:
    """By benchmark the rule that most of its queries have; `others` where it has queries of other numbers of options."""
    by_benchmark: dict[str, list[audit.Rule]] = {}
    for rule in sorted(rules, key=lambda r: -int(r.rows.sum())):
        by_benchmark.setdefault(rule.benchmark, []).append(rule)
    return {
        name: first.record() | ({"others": [rule.record() for rule in others]} if others else {})
        for name, (first, *others) in sorted(by_benchmark.items())
    }


def _counts(manifest: Manifest, audited: audit.Audited, second: audit.Hits | None) -> dict[str, Any]:
    labels = Counter(v.label for v in manifest.verdicts)
    keys = manifest.kept()
    kept = np.array([q.key in keys for q in audited.queries])
    return {
        "kept": len(keys),
        "removed": labels[Label.solvable],
        "undecided": labels[Label.undecided],
        "residual": audit.residual(audited, second, kept) if second else None,
    }


def read_queries(folder: Path) -> audit.Audited:
    """The benchmarks' queries, with what `benchmarks.json` lets the audit do to them."""
    queries = read_jsonl(folder / "queries.jsonl", Query)
    path = folder / "benchmarks.json"
    try:
        infos = {info.name: info for info in TypeAdapter(list[BenchmarkInfo]).validate_python(read_json(path))}
    except ValidationError as error:
        raise _misfit(path, error, "prepare") from error
    if not queries:
        raise DataError(f"{folder / 'queries.jsonl'} holds no query: run prepare again")
    if unknown := sorted({q.benchmark for q in queries} - infos.keys()):
        raise DataError(f"{path} says nothing of {', '.join(unknown)}: run prepare again")
    if len({q.key for q in queries}) < len(queries):
        twice = next(key for key, n in Counter(q.key for q in queries).items() if n > 1)
        raise DataError(f"{folder / 'queries.jsonl'} holds {'/'.join(twice)} more than once: run prepare again")
    return audit.Audited(queries, frozenset(name for name, info in infos.items() if info.filter_policy == "filtered"))


def read_probe(folder: Path) -> Probe:
    path = folder / "probe.json"
    try:
        probe = Probe.model_validate(read_json(path))
    except ValidationError as error:
        raise _misfit(path, error, "probe") from error
    if not probe.draws.get(View.visual_only):
        raise DataError(f"{path}: no draws under visual_only, the ground of verdicts; set draws.visual_only in the probe's section")
    return probe


def _misfit(path: Path, error: ValidationError, step: str) -> DataError:
    first = error.errors()[0]
    return DataError(f"{path}: {'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}; run {step} again")


def read_draws(folder: Path, probe: Probe, audited: audit.Audited) -> dict[View, audit.Ints]:
    """By view, [N, n]: the index in the query's own options of what each draw gave, `audit.NONE` for no answer.

    Raises DataError on a line that is no draw of these queries, and on queries that lack draws. A full audit has some
    hundred thousand lines: plain JSON and a check of each field that is used, in place of pydantic.
    """
    path = folder / "draws.jsonl"
    if not path.is_file():
        raise DataError(f"{path}: no such file; run probe again")
    rows = {q.key: row for row, q in enumerate(audited.queries)}
    grids = {view.value: np.full((len(rows), n), MISSING, dtype=np.int64) for view, n in probe.draws.items() if n}
    unknown: list[str] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                benchmark, name, view, nth, given, outcome = FIELDS(from_json(line))
                if (row := rows.get((benchmark, name))) is None:
                    unknown.append(f"{benchmark}/{name}")
                    continue
                grid = grids.get(view)
                if grid is None or type(nth) is not int or not 0 <= nth < grid.shape[1]:
                    raise ValueError(f"draw {nth!r} under {view!r} is not among those of probe.json, {probe.draws}")
                if grid[row, nth] != MISSING:
                    raise ValueError(f"{benchmark}/{name} has draw {nth} under {view} twice")
                grid[row, nth] = _column(audited.queries[row], given, outcome)
            except KeyError as error:
                raise DataError(f"{path}:{number}: field {error} is missing; run probe again") from error
            except (ValueError, TypeError) as error:
                raise DataError(f"{path}:{number}: {error}; run probe again") from error
    if unknown:
        raise DataError(
            f"{path}: {len(unknown)} draws are of queries that prepare's output does not hold ({unknown[0]} first): "
            "probe these queries, or give the prepare output that was probed"
        )
    for view, grid in grids.items():
        lacking = np.flatnonzero((grid == MISSING).any(axis=1))
        if lacking.size:
            key, has = "/".join(audited.queries[lacking[0]].key), int((grid[lacking[0]] != MISSING).sum())
            raise DataError(
                f"{path}: {lacking.size} of {len(rows)} queries lack draws under {view} ({key} first, with {has} of "
                f"{grid.shape[1]}): probe again on these queries"
            )
    return {View(view): grid for view, grid in grids.items()}


def _column(query: Query, given: str | None, outcome: str) -> int:
    """Index of the option given. Raises ValueError on another query's answer, which would be counted as a miss."""
    worth = Outcome.no_answer if given is None else Outcome.correct if given == query.answer else Outcome.incorrect
    if outcome != worth:
        raise ValueError(f"outcome {outcome!r} of answer {given!r} does not fit the query, whose answer is {query.answer!r}")
    if given is None:
        return audit.NONE
    if given not in query.options:
        raise ValueError(f"answer {given!r} is not among the query's options {list(query.options)}")
    return query.options.index(given)
