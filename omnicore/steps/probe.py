"""Probe: what a model answers with modalities withheld, several times a query, options re-shuffled
on every draw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
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

Plan = list[tuple[Query, View, int, tuple[int, ...]]]


def inference_task(
    recipe: Recipe, config: ProbeConfig, inputs: Mapping[str, Path]
) -> tuple[Plan, InferenceTask]:
    """All draws, view by view in the order of the queries' keys, and their requests.

    Raises ConfigError where there are none.
    """
    if not sum(config.draws.values()):
        raise ConfigError(
            "a probe without draws asks nothing: give draws of a view, as in draws={visual_only: 8}"
        )
    root = inputs["queries"]
    queries = sorted(read_jsonl(root / config.data, Query), key=lambda q: q.key)
    plan = [
        (query, view, number, draw_permutation(query, view, number, recipe.seed))
        for view, count in sorted(config.draws.items())
        for query in queries
        for number in range(count)
    ]
    requests = [
        Request(
            prompt_parts(query, view, recipe.profile, order),
            root,
            "/".join(query.key),
            answer_choices(query, recipe.profile, order),
        )
        for query, view, _, order in plan
    ]
    sampling = Sampling(config.temperature, recipe.profile.max_new_tokens)
    return plan, InferenceTask(config.engine, config.model, requests, sampling, config.batch_size)


def run(
    recipe: Recipe, config: ProbeConfig, inputs: Mapping[str, Path], output: Path
) -> dict[str, Any]:
    """Writes `draws.jsonl`, view by view in the order of the queries' keys, and `probe.json`; a
    request that failed for good stands in `errors.jsonl` in place of its draw.

    Raises EngineError when more fail than the engine's `max_error_rate`.
    """
    plan, asked = inference_task(recipe, config, inputs)
    replies, perceived = asked.run(recipe, output, "probe")
    seen: Counter[str] = Counter()
    errors: list[dict[str, Any]] = []
    hits: dict[View, list[tuple[float, str]]] = {}

    def drawn() -> Iterator[Draw]:
        for (query, view, number, order), reply in zip(plan, replies, strict=True):
            if reply.error:
                errors.append(
                    {
                        "benchmark": query.benchmark,
                        "id": query.id,
                        "view": view,
                        "draw": number,
                        "error": reply.error,
                    }
                )
                continue
            draw = _draw(query, view, number, order, reply, recipe)
            seen[draw.outcome] += 1
            seen["truncated"] += draw.truncated
            seen["outside"] += draw.answer is None and draw.outcome is Outcome.incorrect
            hits.setdefault(view, []).append(
                (float(draw.outcome is Outcome.correct), query.cluster)
            )
            yield draw

    write_jsonl(output / "draws.jsonl", drawn())
    write_jsonl(output / "errors.jsonl", errors)
    accuracy = {
        view.value: stats.mean(*zip(*found, strict=True)).model_dump()
        for view, found in sorted(hits.items())
    }
    facts = {
        "model": config.model,
        "data": config.data,
        "profile_hash": profile_hash(recipe.profile),
        "draws": {v.value: n for v, n in config.draws.items()},
        "accuracy": accuracy,
        "truncated": seen["truncated"],
        "errors": len(errors),
        "seed": recipe.seed,
    }
    write_json(output / "probe.json", facts)
    total = max(1, len(plan) - len(errors))
    return {
        "model": config.model,
        "draws": total,
        "no_answer": round(seen[Outcome.no_answer] / total, 4),
        "outside": round(seen["outside"] / total, 4),
        "truncated": seen["truncated"],
        "errors": len(errors),
        **{f"accuracy_{view}": round(e["value"], 4) for view, e in accuracy.items()},
        **perceived,
        **log_failures("probe", len(plan), errors),
    }


def _draw(
    query: Query, view: View, number: int, order: tuple[int, ...], reply: Reply, recipe: Recipe
) -> Draw:
    # A reply that was cut may still hold something that looks like an answer: what it would have ended with is not known.
    answer, outcome = (
        (None, Outcome.no_answer)
        if reply.truncated
        else judge(reply.text, query, recipe.profile.style, order)
    )
    return Draw(
        benchmark=query.benchmark,
        id=query.id,
        view=view,
        draw=number,
        permutation=order,
        reply=reply.text,
        reasoning=reply.reasoning,
        truncated=reply.truncated,
        answer=answer,
        outcome=outcome,
    )
