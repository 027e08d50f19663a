"""distill: the model's own rollouts on omni queries; those with the right answer become training rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnicore.config import DistillConfig, EngineConfig
from omnicore.engines.asking import Asking
from omnicore.engines.base import Request, Sampling
from omnicore.errors import TrainingError
from omnicore.journal import read_jsonl, write_jsonl
from omnicore.media import bring
from omnicore.prompts import parts
from omnicore.recipe import Recipe
from omnicore.schema import Outcome, Query, View
from omnicore.training.rewards import outcome


def run(recipe: Recipe, config: DistillConfig, inputs: Mapping[str, Path], output: Path) -> dict[str, Any]:
    root = inputs["data"]
    prompts = read_jsonl(root / config.data, Query)
    tries = [query for query in prompts for _ in range(config.samples)]
    requests = [Request(parts(query, View.omni, recipe.profile), root) for query in tries]
    sampling = Sampling(config.temperature, recipe.profile.max_new_tokens)
    asked = Asking(EngineConfig(), str(inputs["model"] / "checkpoint"), requests, sampling, config.batch)
    replies, perceived = asked.answers(recipe, output, "distill")
    rollouts, rows = [], []
    for number, (query, reply) in enumerate(zip(tries, replies, strict=True)):
        judged = Outcome.no_answer if reply.truncated else outcome(reply.text, query, recipe.profile)
        rollouts.append({"id": query.id, "sample": number % config.samples, "reply": reply.text, "outcome": judged})
        if judged is Outcome.correct:
            for medium in query.media:
                bring(root / medium.uri, output / medium.uri)
            update = {"benchmark": "distilled", "id": f"{query.id}-{number % config.samples}", "target": reply.text}
            rows.append(query.model_copy(update=update))
    if not rows:
        raise TrainingError(f"none of {len(tries)} rollouts had the right answer: nothing to distill; train longer or sample more")
    write_jsonl(output / "rollouts.jsonl", rollouts)
    write_jsonl(output / "distilled.jsonl", rows)
    kept = {"kept": len(rows), "kept_share": round(len(rows) / len(tries), 4)}
    return {"prompts": len(prompts), "rollouts": len(tries), **kept, **perceived}
