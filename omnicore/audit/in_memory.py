"""Verdicts from queries and draws in memory, for a notebook or another tool."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omnicore.audit.draws import QueryArrays, count_hits
from omnicore.audit.files import DrawTable, ProbeDraws, ProbeRecord
from omnicore.audit.policies import build_manifest, verdicts_by_policy
from omnicore.audit.rules import fit_rules
from omnicore.config import CleanConfig
from omnicore.errors import DataError
from omnicore.schema import Draw, Manifest, Policy, Query, View


def audit_draws(
    queries: Sequence[Query],
    draws: Sequence[Draw],
    *,
    config: CleanConfig | None = None,
    probe: str = "probe",
    kept_whole: frozenset[str] = frozenset(),
) -> dict[Policy, Manifest]:
    """Return the manifest of every policy that can be computed, as the step `clean` does.

        manifests = omnicore.audit_draws(queries, draws)
        clean = [query for query in queries if query.key in manifests["repeated"].kept()]

    Args:
        queries: The audited queries.
        draws: All draws of one probe, `visual_only` among their views; every query has the same
            number of draws under a view, numbered from 0.
        config: Thresholds; the defaults of a recipe's section `clean`.
        probe: Name of the probe model, which the manifest carries.
        kept_whole: Benchmarks that the clean view must not lose queries of.

    Raises:
        DataError: There is no draw under visual_only, or a query lacks some.
    """
    counts: dict[View, int] = {}
    for draw in draws:
        counts[draw.view] = max(counts.get(draw.view, 0), draw.draw + 1)
    if View.visual_only not in counts:
        raise DataError(
            "no draws under visual_only, from which verdicts are made", code="audit-no-visual-draws"
        )
    names = frozenset(query.benchmark for query in queries)
    arrays = QueryArrays(queries, names - kept_whole)
    record = ProbeRecord(model=probe, profile_hash="", draws=counts)
    table = DrawTable(record, arrays)
    for draw in draws:
        table.add_draw(draw.model_dump(mode="json"))
    table.check_complete(Path("draws"))
    answers = {View(view): grid for view, grid in table.grids.items()}
    hits = {view: count_hits(arrays, grid) for view, grid in answers.items()}
    visual = hits[View.visual_only]
    others = [hits[view] for view in sorted(hits) if view is not View.visual_only]
    chosen = config or CleanConfig()
    rules = fit_rules(arrays, visual, chosen, others)
    found = ProbeDraws(Path("draws"), answers, table.orders)
    verdicts = verdicts_by_policy(arrays, found, visual, rules, chosen)
    return {policy: build_manifest(policy, probe, "", made) for policy, made in verdicts.items()}
