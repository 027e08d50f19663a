"""Distill: make training rows of the model's own rollouts on omni queries.

Rollouts that pass every rule of `training/selection.py` become rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omnicore import audit
from omnicore.audit.files import read_draws, read_probe, read_queries
from omnicore.config import DistillConfig
from omnicore.config.recipe import Recipe
from omnicore.data.prompts import prompt_parts
from omnicore.engines.base import Reply, Request, Sampling, log_failures
from omnicore.engines.task import InferenceTask
from omnicore.errors import DataError, EngineError, TrainingError
from omnicore.media.read import verify_media
from omnicore.schema import Outcome, Query, QueryKey, RejectionReason, View
from omnicore.scoring.verify import judge
from omnicore.storage.files import link_or_copy, read_jsonl, write_jsonl
from omnicore.training.selection import DistilledRollout, select_rollouts


def run(
    recipe: Recipe, config: DistillConfig, inputs: Mapping[str, Path], output: Path
) -> dict[str, Any]:
    """Write `selection.jsonl`, `errors.jsonl` and `distilled.jsonl`.

    `selection.jsonl` lists every rollout and why it was kept or rejected, `errors.jsonl` the
    requests that failed permanently, `distilled.jsonl` the kept rollouts as training rows.

    Args:
        recipe: The whole recipe.
        config: Its section of this step.
        inputs: Outputs of prepare (`data`), rlvr (`model`) and optionally probe (`draws`).
        output: The directory to fill.

    Returns:
        Counts for the step record.

    Raises:
        TrainingError: No rollout is kept, or a share cannot be reached.
        DataError: The draws are of other queries.
        EngineError: More requests failed than the engine's `max_error_rate` allows, or a length is
            bounded and the server does not count tokens.
    """
    root = inputs["data"]
    prompts = read_jsonl(root / config.data, Query)
    solvable = _solvable_queries(recipe, config, inputs)
    asked = [query for query in prompts for _ in range(config.num_generations)]
    rollouts, canary_summary = _generate(asked, recipe, config, inputs, output)
    reasons = select_rollouts(rollouts, config, solvable, recipe.seed)
    errors = [_error_record(rollout) for rollout in rollouts if rollout.failed]
    write_jsonl(output / "errors.jsonl", errors)
    judged = list(zip(rollouts, reasons, strict=True))
    selection = output / "selection.jsonl"
    write_jsonl(selection, (_selection_record(rollout, reason) for rollout, reason in judged))
    rejected = Counter(reason for reason in reasons if reason)
    rows = [_training_row(rollout) for rollout, reason in judged if not reason]
    if not rows:
        counts = ", ".join(f"{count} {reason}" for reason, count in rejected.most_common())
        raise TrainingError(
            f"none of {len(asked)} rollouts became a row ({counts}): nothing to distill; train"
            " longer, sample more, or loosen the rule that rejected most."
            f" {selection} lists them",
            code="distill-no-rows",
            path=selection,
        )
    for row in rows:
        for medium in row.media:
            link_or_copy(verify_media(medium, root), output / medium.uri)
    write_jsonl(output / "distilled.jsonl", rows)
    summary = {
        "prompts": len(prompts),
        "rollouts": len(rollouts),
        "kept": len(rows),
        "kept_share": round(len(rows) / len(rollouts), 4),
        "errors": len(errors),
    }
    for reason in RejectionReason:
        summary[f"rejected_{reason}"] = rejected[reason]
    return summary | canary_summary | log_failures("distill", len(rollouts), errors)


def _generate(
    asked: Sequence[Query],
    recipe: Recipe,
    config: DistillConfig,
    inputs: Mapping[str, Path],
    output: Path,
) -> tuple[list[DistilledRollout], dict[str, str | float]]:
    """Return one judged rollout per asked query, and what the canary measured."""
    requests = [
        Request(prompt_parts(query, View.omni, recipe.profile), inputs["data"], "/".join(query.key))
        for query in asked
    ]
    model = str(inputs["model"] / "checkpoint")
    sampling = Sampling(config.temperature, recipe.profile.max_new_tokens)
    task = InferenceTask(recipe.engine, model, requests, sampling, config.batch_size)
    replies, canary_summary = task.run(recipe, output, "distill")
    rollouts = []
    for number, (query, reply) in enumerate(zip(asked, replies, strict=True)):
        rollouts.append(_rollout(query, number % config.num_generations, reply, recipe))
    bounded = config.min_tokens or config.max_tokens
    if bounded and not all(rollout.tokens or rollout.failed for rollout in rollouts):
        raise EngineError(
            f"{recipe.engine.url} does not report how many tokens a reply has: leave out"
            " distill.min_tokens and max_tokens",
            code="distill-tokens-unknown",
            field="distill.min_tokens",
        )
    return rollouts, canary_summary


def _solvable_queries(
    recipe: Recipe, config: DistillConfig, inputs: Mapping[str, Path]
) -> frozenset[QueryKey]:
    """Return the queries that the probe of input `draws` solves without the sound.

    The verdicts are those of `clean`; without draws there are none.
    """
    if "draws" not in inputs:
        return frozenset()
    folder = inputs["draws"]
    probe = read_probe(folder)
    if probe.data != config.data:
        raise DataError(
            f"draws are of {probe.data}, and {config.data} is distilled: probe it with omnicore"
            " probe --section distill_probe",
            code="distill-draws-of-other-data",
            path=folder,
            field="data",
        )
    arrays = read_queries(inputs["data"], probe.data)
    draws = read_draws(folder, probe, arrays)
    hits = {}
    for view, answers in sorted(draws.answers.items()):
        hits[view] = audit.count_hits(arrays, answers)
    visual = hits.pop(View.visual_only)
    rules = audit.fit_rules(arrays, visual, recipe.clean, list(hits.values()))
    verdicts = audit.verdicts_by_policy(arrays, draws, visual, rules, recipe.clean)
    chosen = verdicts[recipe.clean.policy]
    return frozenset((v.benchmark, v.id) for v in chosen if not v.kept)


def _rollout(query: Query, sample: int, reply: Reply, recipe: Recipe) -> DistilledRollout:
    answer: str | None = None
    outcome = Outcome.no_answer
    if not reply.error:
        style = recipe.profile.style
        answer, outcome = judge(reply.text, query, style, truncated=reply.truncated)
    return DistilledRollout(
        query,
        sample,
        reply.error or reply.text,
        reply.tokens,
        answer,
        outcome,
        truncated=reply.truncated,
        failed=bool(reply.error),
    )


def _error_record(rollout: DistilledRollout) -> dict[str, Any]:
    return {
        "benchmark": rollout.query.benchmark,
        "id": rollout.query.id,
        "sample": rollout.sample,
        "error": rollout.reply,
    }


def _selection_record(rollout: DistilledRollout, reason: RejectionReason | None) -> dict[str, Any]:
    return {
        "benchmark": rollout.query.benchmark,
        "id": rollout.query.id,
        "type": rollout.query.type,
        "sample": rollout.sample,
        "kept": reason is None,
        "reason": reason,
        "answer": rollout.answer,
        "outcome": rollout.outcome,
        "tokens": rollout.tokens,
        "reply": rollout.reply,
    }


def _training_row(rollout: DistilledRollout) -> Query:
    """Return the query with the reply as its target.

    The row keeps the name of its source, so that a mixture can weigh it.
    """
    name = f"{rollout.query.id}-{rollout.sample}"
    return rollout.query.model_copy(update={"id": name, "target": rollout.reply})
