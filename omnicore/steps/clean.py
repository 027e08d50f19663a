"""Clean: make verdicts on queries from a probe's draws, and the manifests of the clean view."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omnicore import audit
from omnicore.audit.files import ProbeRecord, read_draws, read_probe, read_queries
from omnicore.config import CleanConfig
from omnicore.config.recipe import Recipe
from omnicore.errors import DataError
from omnicore.schema import Label, Manifest, Policy, View
from omnicore.storage.files import write_json


def run(
    recipe: Recipe, config: CleanConfig, inputs: Mapping[str, Path], output: Path
) -> dict[str, Any]:
    """Write the manifest of every policy, the chosen one as `manifest.json`, and `audit.json`.

    Args:
        recipe: The whole recipe.
        config: Its section of this step.
        inputs: Outputs of prepare (`queries`) and probe (`draws`, optional `second_draws`).
        output: The directory to fill.

    Returns:
        Counts for the step record.

    Raises:
        DataError: Draws are broken, do not fit the queries or come from another profile, or
            `policy` cannot be computed from them.
    """
    probe = read_probe(inputs["draws"])
    arrays = read_queries(inputs["queries"], probe.data)
    draws = read_draws(inputs["draws"], probe, arrays)
    hits = {view: audit.count_hits(arrays, answers) for view, answers in draws.answers.items()}
    visual = hits[View.visual_only]
    second, second_visual = _read_second(inputs, probe, arrays)
    other_views = [hits[view] for view in sorted(hits) if view is not View.visual_only]
    rules = audit.fit_rules(arrays, visual, config, other_views)
    manifests: dict[Policy, Manifest] = {}
    policies: dict[Policy, dict[str, Any]] = {}
    verdicts = audit.verdicts_by_policy(arrays, draws, visual, rules, config)
    for policy, made in verdicts.items():
        manifest = audit.build_manifest(policy, probe.model, probe.profile_hash, made, probe.seed)
        manifests[policy] = manifest
        policies[policy] = _policy_record(manifest, arrays, second_visual, recipe.seed)
        write_json(output / f"manifest.{policy}.json", manifest)
    write_json(output / "manifest.json", manifests[config.policy])
    groups = arrays.rows_by_benchmark()
    replies = audit.count_replies(arrays, draws.answers)
    failed = int((~visual.complete).sum())
    record = {
        "probe": probe.model,
        "second_probe": second.model if second else None,
        "profile_hash": probe.profile_hash,
        "data": probe.data,
        "leakage": audit.measure_leakage(arrays, hits, groups),
        "leakage_by_type": {
            name: audit.measure_leakage(arrays, hits, _rows_by_type(arrays, rows))
            for name, rows in groups.items()
        },
        "replies": replies,
        "unread": audit.unreadable_shares(arrays, visual),
        "failed_queries": failed,
        "thresholds": threshold_records(rules),
        "null": audit.null_shares(arrays, visual),
        "policies": policies,
    }
    write_json(output / "audit.json", record)
    summary = {
        "queries": len(arrays.queries),
        "policy": config.policy,
        "undecided": policies[config.policy]["undecided"],
        "truncated": _total(replies, "truncated"),
        "unread": _total(replies, "no_answer"),
        "failed": failed,
    }
    for policy, counts in policies.items():
        summary[f"kept_{policy}"] = counts["kept"]
        summary[f"removed_{policy}"] = counts["removed"]
    return summary


def _read_second(
    inputs: Mapping[str, Path], probe: ProbeRecord, arrays: audit.QueryArrays
) -> tuple[ProbeRecord | None, audit.HitCounts | None]:
    """Read the second probe, where there is one, and count its hits under visual_only."""
    if "second_draws" not in inputs:
        return None, None
    folder = inputs["second_draws"]
    second = read_probe(folder)
    if second.profile_hash != probe.profile_hash:
        raise DataError(
            f"draws were made under profile {probe.profile_hash[:12]}, second_draws under"
            f" {second.profile_hash[:12]}; probe again with one profile",
            code="clean-profiles-differ",
            path=folder,
            field="profile_hash",
        )
    if second.data != probe.data:
        raise DataError(
            f"draws are of {probe.data}, second_draws of {second.data}; probe the same file twice",
            code="clean-data-differ",
            path=folder,
            field="data",
        )
    answers = read_draws(folder, second, arrays).answers[View.visual_only]
    return second, audit.count_hits(arrays, answers)


def _total(replies: Mapping[str, Mapping[str, Mapping[str, int]]], fate: str) -> int:
    return sum(counts[fate] for views in replies.values() for counts in views.values())


def _rows_by_type(arrays: audit.QueryArrays, rows: audit.Bools) -> dict[str, audit.Bools]:
    return {str(name): rows & (arrays.type == name) for name in np.unique(arrays.type[rows])}


def threshold_records(rules: Sequence[audit.ThresholdRule]) -> dict[str, dict[str, Any]]:
    """Return the rule of each benchmark for `audit.json`.

    A benchmark with several numbers of options has the rule of most of its queries, and lists the
    `others`.
    """
    by_benchmark: dict[str, list[audit.ThresholdRule]] = {}
    for rule in sorted(rules, key=lambda r: -int(r.rows.sum())):
        by_benchmark.setdefault(rule.benchmark, []).append(rule)
    records = {}
    for name, (first, *others) in sorted(by_benchmark.items()):
        record: dict[str, Any] = first.to_record()
        if others:
            record["others"] = [rule.to_record() for rule in others]
        records[name] = record
    return records


def _policy_record(
    manifest: Manifest, arrays: audit.QueryArrays, second: audit.HitCounts | None, seed: int
) -> dict[str, Any]:
    """Return the entry of a policy in `audit.json`: its counts, and what a second probe hits."""
    labels = Counter(v.label for v in manifest.verdicts)
    keys = manifest.kept()
    kept = np.array([q.key in keys for q in arrays.queries])
    return {
        "kept": len(keys),
        "removed": labels[Label.solvable],
        "undecided": labels[Label.undecided],
        "kept_whole": labels[Label.kept_whole],
        "residual": audit.residual_leakage(arrays, second, kept) if second else None,
        "control": audit.random_removal(arrays, second, kept, seed) if second else None,
    }
