"""probe: what a model answers with modalities withheld, several times a query, options re-shuffled on every draw."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnicore import stats
from omnicore.answers import judge
from omnicore.config import ProbeConfig, Recipe
from omnicore.engines.base import Request, Sampling, ask
from omnicore.journal import read_jsonl, write_json, write_jsonl
from omnicore.prompts import parts, permutation, profile_hash
from omnicore.schema import Draw, Outcome, Query


def run(recipe: Recipe, config: ProbeConfig, inputs: Mapping[str, Path], output: Path) -> dict[str, Any]:
    from omnicore.engines.transformers import TransformersEngine
    from omnicore.training.runtime import set_up

    set_up(recipe, threads=1)
    root = inputs["queries"]
    queries = read_jsonl(root / "queries.jsonl", Query)
    engine = TransformersEngine(config.model, recipe.profile.system, workers=recipe.threads)
    sampling = Sampling(config.temperature, recipe.profile.max_new_tokens)
    draws: list[Draw] = []
    for view, count in config.draws.items():
        plan = [(q, d, permutation(q, view, d, recipe.seed)) for q in queries for d in range(count)]
        requests = [Request(parts(q, view, recipe.profile, order), root) for q, _, order in plan]
        replies = ask(
            engine,
            requests,
            sampling,
            seed=recipe.seed,
            batch=config.batch,
            journal=output / f"{view}.journal",
            label=f"probe {view}",
        )
        for (query, number, order), reply in zip(plan, replies, strict=True):
            shown = [query.options[i] for i in order]
            answer, outcome = judge(reply, shown, query.answer, recipe.profile.style)
            draws.append(
                Draw(
                    benchmark=query.benchmark,
                    id=query.id,
                    view=view,
                    draw=number,
                    permutation=order,
                    reply=reply,
                    answer=answer,
                    outcome=outcome,
                )
            )
    draws.sort(key=lambda d: (d.benchmark, d.id, d.view, d.draw))
    write_jsonl(output / "draws.jsonl", draws)
    cluster = {q.key: q.cluster for q in queries}
    accuracy = {}
    for view in sorted({d.view for d in draws}):
        seen = [d for d in draws if d.view == view]
        hits = [float(d.outcome is Outcome.correct) for d in seen]
        accuracy[view.value] = stats.mean(hits, [cluster[d.benchmark, d.id] for d in seen]).model_dump()
    facts = {
        "model": config.model,
        "profile_hash": profile_hash(recipe.profile),
        "draws": {v.value: n for v, n in config.draws.items()},
        "accuracy": accuracy,
    }
    write_json(output / "probe.json", facts)
    return {
        "model": config.model,
        "draws": len(draws),
        "no_answer": sum(d.outcome is Outcome.no_answer for d in draws) / max(1, len(draws)),
        **{f"accuracy_{view}": round(e["value"], 4) for view, e in accuracy.items()},
    }
