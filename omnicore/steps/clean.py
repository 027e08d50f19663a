"""Clean: from a probe's draws to verdicts on queries, the manifests that make the clean view, and
what leaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omnicore import audit
from omnicore.audit.files import Probe, read_draws, read_probe, read_queries
from omnicore.config import CleanConfig
from omnicore.config.recipe import Recipe
from omnicore.errors import DataError
from omnicore.schema import Label, Manifest, View
from omnicore.storage.files import write_json


def run(
    recipe: Recipe, config: CleanConfig, inputs: Mapping[str, Path], output: Path
) -> dict[str, Any]:
    """Raises DataError on draws that are broken, lack or exceed the queries, or come from another
    profile, and where `policy` cannot be computed from them."""
    probe = read_probe(inputs["draws"])
    audited = read_queries(inputs["queries"], probe.data)
    drawn = read_draws(inputs["draws"], probe, audited)
    hits = {view: audit.count(audited, given) for view, given in drawn.answers.items()}
    visual = hits[View.visual_only]
    second, second_visual = None, None
    if "second_draws" in inputs:
        second = read_probe(inputs["second_draws"])
        _comparable(probe, second)
        answers = read_draws(inputs["second_draws"], second, audited).answers[View.visual_only]
        second_visual = audit.count(audited, answers)
    rules = audit.rules(
        audited,
        visual,
        config,
        [hits[view] for view in sorted(hits) if view is not View.visual_only],
    )
    verdicts = audit.verdicts(audited, drawn, visual, rules, config)
    manifests = {
        policy: audit.build_manifest(policy, probe.model, probe.profile_hash, found, probe.seed)
        for policy, found in verdicts.items()
    }
    policies = {
        policy: _counts(made, audited, second_visual, recipe.seed)
        for policy, made in manifests.items()
    }
    for policy, made in manifests.items():
        write_json(output / f"manifest.{policy}.json", made)
    write_json(output / "manifest.json", manifests[config.policy])
    groups = audited.groups()
    replies = audit.replies(audited, drawn.answers)
    failed = int((~visual.complete).sum())
    record = {
        "probe": probe.model,
        "second_probe": second.model if second else None,
        "profile_hash": probe.profile_hash,
        "data": probe.data,
        "leakage": audit.leakage(audited, hits, groups),
        "leakage_by_type": {
            name: audit.leakage(audited, hits, _types(audited, rows))
            for name, rows in groups.items()
        },
        "replies": replies,
        "unread": audit.unread(audited, visual),
        "failed_queries": failed,
        "thresholds": thresholds(rules),
        "null": audit.null_shares(audited, visual),
        "policies": policies,
    }
    write_json(output / "audit.json", record)
    figures = {
        f"{name}_{policy}": counts[name]
        for policy, counts in policies.items()
        for name in ("kept", "removed")
    }
    truncated, unread = (
        sum(counts[kind] for views in replies.values() for counts in views.values())
        for kind in ("truncated", "no_answer")
    )
    return {
        "queries": len(audited.queries),
        "policy": config.policy,
        "undecided": policies[config.policy]["undecided"],
        "truncated": truncated,
        "unread": unread,
        "failed": failed,
        **figures,
    }


def _comparable(probe: Probe, second: Probe) -> None:
    if second.profile_hash != probe.profile_hash:
        raise DataError(
            f"draws were made under profile {probe.profile_hash[:12]}, second_draws under"
            f" {second.profile_hash[:12]}: probe again with one profile"
        )
    if second.data != probe.data:
        raise DataError(
            f"draws are of {probe.data}, second_draws of {second.data}: probe the same file twice"
        )


def _types(audited: audit.Audited, rows: audit.Bools) -> dict[str, audit.Bools]:
    return {str(name): rows & (audited.type == name) for name in np.unique(audited.type[rows])}


def thresholds(rules: Sequence[audit.Rule]) -> dict[str, dict[str, Any]]:
    """The rule of each benchmark; one with several numbers of options has that of the most queries,
    and lists the `others`."""
    by_benchmark: dict[str, list[audit.Rule]] = {}
    for rule in sorted(rules, key=lambda r: -int(r.rows.sum())):
        by_benchmark.setdefault(rule.benchmark, []).append(rule)
    return {
        name: first.record() | ({"others": [rule.record() for rule in others]} if others else {})
        for name, (first, *others) in sorted(by_benchmark.items())
    }


def _counts(
    manifest: Manifest, audited: audit.Audited, second: audit.Hits | None, seed: int
) -> dict[str, Any]:
    labels = Counter(v.label for v in manifest.verdicts)
    keys = manifest.kept()
    kept = np.array([q.key in keys for q in audited.queries])
    return {
        "kept": len(keys),
        "removed": labels[Label.solvable],
        "undecided": labels[Label.undecided],
        "kept_whole": labels[Label.kept_whole],
        "residual": audit.residual(audited, second, kept) if second else None,
        "control": audit.control(audited, second, kept, seed) if second else None,
    }
