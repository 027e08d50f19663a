"""Probe: ask a model with modalities withheld, several draws a query, options re-shuffled each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnicore.config import ProbeConfig
from omnicore.config.recipe import Recipe
from omnicore.data.prompts import answer_choices, draw_permutation, profile_hash, prompt_parts
from omnicore.engines.base import Reply, Request, Sampling, log_failures
from omnicore.engines.task import InferenceTask
from omnicore.errors import ConfigError
from omnicore.schema import Draw, Outcome, Query, View
from omnicore.scoring import stats
from omnicore.scoring.verify import judge
from omnicore.storage.files import read_jsonl, write_json, write_jsonl


@dataclass(frozen=True)
class PlannedDraw:
    """One draw to ask: a query under a view, with the order of its options."""

    query: Query
    view: View
    number: int
    permutation: tuple[int, ...]


@dataclass
class DrawCounts:
    """Counts over the draws of a probe, and the hits of each view with their clusters."""

    outcomes: Counter[str] = field(default_factory=Counter)
    truncated: int = 0
    outside: int = 0
    hits: dict[View, list[float]] = field(default_factory=dict)
    clusters: dict[View, list[str]] = field(default_factory=dict)

    def add(self, draw: Draw, cluster: str) -> None:
        """Count one draw of a query of this cluster."""
        self.outcomes[draw.outcome] += 1
        self.truncated += draw.truncated
        self.outside += draw.answer is None and draw.outcome is Outcome.incorrect
        self.hits.setdefault(draw.view, []).append(float(draw.outcome is Outcome.correct))
        self.clusters.setdefault(draw.view, []).append(cluster)


def inference_task(
    recipe: Recipe, config: ProbeConfig, inputs: Mapping[str, Path]
) -> tuple[list[PlannedDraw], InferenceTask]:
    """Build all draws, view by view in the order of the queries' keys, and their requests.

    Raises:
        ConfigError: No draws are configured.
    """
    if not sum(config.draws.values()):
        raise ConfigError(
            "a probe needs draws: set draws of a view, as in draws={visual_only: 8}",
            code="probe-no-draws",
            field="probe.draws",
        )
    root = inputs["queries"]
    queries = sorted(read_jsonl(root / config.data, Query), key=lambda q: q.key)
    plan = list(_plan_draws(queries, config, recipe.seed))
    requests = [_request(planned, recipe, root) for planned in plan]
    sampling = Sampling(config.temperature, recipe.profile.max_new_tokens)
    return plan, InferenceTask(config.engine, config.model, requests, sampling, config.batch_size)


def _plan_draws(queries: Sequence[Query], config: ProbeConfig, seed: int) -> Iterator[PlannedDraw]:
    for view, count in sorted(config.draws.items()):
        for query in queries:
            for number in range(count):
                permutation = draw_permutation(query, view, number, seed)
                yield PlannedDraw(query, view, number, permutation)


def _request(planned: PlannedDraw, recipe: Recipe, root: Path) -> Request:
    query, order = planned.query, planned.permutation
    parts = prompt_parts(query, planned.view, recipe.profile, order)
    return Request(parts, root, "/".join(query.key), answer_choices(query, recipe.profile, order))


def run(
    recipe: Recipe, config: ProbeConfig, inputs: Mapping[str, Path], output: Path
) -> dict[str, Any]:
    """Write `draws.jsonl`, view by view in the order of the queries' keys, and `probe.json`.

    A request that failed permanently is listed in `errors.jsonl` and has no draw.

    Args:
        recipe: The whole recipe.
        config: Its section of this step.
        inputs: Output of prepare (`queries`).
        output: The directory to fill.

    Returns:
        Counts and accuracies for the step record.

    Raises:
        ConfigError: No draws are configured.
        EngineError: More requests failed than the engine's `max_error_rate` allows.
    """
    plan, task = inference_task(recipe, config, inputs)
    replies, canary_summary = task.run(recipe, output, "probe")
    counts = DrawCounts()
    errors: list[dict[str, Any]] = []
    write_jsonl(output / "draws.jsonl", _draws(plan, replies, recipe, counts, errors))
    write_jsonl(output / "errors.jsonl", errors)
    accuracy = {}
    for view, hits in sorted(counts.hits.items()):
        accuracy[view.value] = stats.mean(hits, counts.clusters[view])
    record = {
        "model": config.model,
        "data": config.data,
        "profile_hash": profile_hash(recipe.profile),
        "draws": {view.value: count for view, count in config.draws.items()},
        "accuracy": accuracy,
        "truncated": counts.truncated,
        "errors": len(errors),
        "seed": recipe.seed,
    }
    write_json(output / "probe.json", record)
    total = max(1, len(plan) - len(errors))
    summary = {
        "model": config.model,
        "draws": total,
        "no_answer": round(counts.outcomes[Outcome.no_answer] / total, 4),
        "outside": round(counts.outside / total, 4),
        "truncated": counts.truncated,
        "errors": len(errors),
    }
    for name, estimate in accuracy.items():
        summary[f"accuracy_{name}"] = round(estimate.value, 4)
    return summary | canary_summary | log_failures("probe", len(plan), errors)


def _draws(
    plan: Iterable[PlannedDraw],
    replies: Iterable[Reply],
    recipe: Recipe,
    counts: DrawCounts,
    errors: list[dict[str, Any]],
) -> Iterator[Draw]:
    """Yield the judged draws and count them; add failed requests to `errors`."""
    for planned, reply in zip(plan, replies, strict=True):
        query = planned.query
        if reply.error:
            key = {"benchmark": query.benchmark, "id": query.id, "view": planned.view}
            errors.append(key | {"draw": planned.number, "error": reply.error})
            continue
        answer, outcome = judge(
            reply.text,
            query,
            recipe.profile.style,
            planned.permutation,
            truncated=reply.truncated,
        )
        draw = Draw(
            benchmark=query.benchmark,
            id=query.id,
            view=planned.view,
            draw=planned.number,
            permutation=planned.permutation,
            reply=reply.text,
            reasoning=reply.reasoning,
            truncated=reply.truncated,
            answer=answer,
            outcome=outcome,
        )
        counts.add(draw, query.cluster)
        yield draw
