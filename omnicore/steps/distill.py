"""Distill: the model's own rollouts on omni queries; those that pass every rule of
training/selection.py become training rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
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
from omnicore.schema import Outcome, Query, RejectionReason, View
from omnicore.scoring.verify import judge
from omnicore.storage.files import link_or_copy, read_jsonl, write_jsonl
from omnicore.training.selection import DistilledRollout, Key, select_rollouts


def run(
    recipe: Recipe, config: DistillConfig, inputs: Mapping[str, Path], output: Path
) -> dict[str, Any]:
    """Writes `selection.jsonl`, every rollout with what became of it, `errors.jsonl`, the requests
    that failed for good, and `distilled.jsonl`, the chosen rollouts.

    Raises TrainingError where none is chosen or a share cannot be held, DataError for draws of
    other queries, EngineError when more requests fail than the engine's `max_error_rate`, or a
    length is bounded and the server does not count tokens.
    """
    root = inputs["data"]
    prompts = read_jsonl(root / config.data, Query)
    solvable = _solvable(recipe, config, inputs)
    tries = [query for query in prompts for _ in range(config.num_generations)]
    requests = [
        Request(prompt_parts(query, View.omni, recipe.profile), root, "/".join(query.key))
        for query in tries
    ]
    sampling = Sampling(config.temperature, recipe.profile.max_new_tokens)
    asked = InferenceTask(
        recipe.engine, str(inputs["model"] / "checkpoint"), requests, sampling, config.batch_size
    )
    replies, perceived = asked.run(recipe, output, "distill")
    rollouts = [
        _rollout(query, number % config.num_generations, reply, recipe)
        for number, (query, reply) in enumerate(zip(tries, replies, strict=True))
    ]
    if (config.min_tokens or config.max_tokens) and not all(
        one.tokens or one.failed for one in rollouts
    ):
        raise EngineError(
            f"{recipe.engine.url} does not say how many tokens a reply has: leave out"
            " distill.min_tokens and max_tokens"
        )
    reasons = select_rollouts(rollouts, config, solvable, recipe.seed)
    errors = [
        {
            "benchmark": one.query.benchmark,
            "id": one.query.id,
            "sample": one.sample,
            "error": one.reply,
        }
        for one in rollouts
        if one.failed
    ]
    write_jsonl(output / "errors.jsonl", errors)
    write_jsonl(
        output / "selection.jsonl",
        (_line(one, reason) for one, reason in zip(rollouts, reasons, strict=True)),
    )
    rejected = Counter(reason for reason in reasons if reason)
    rows = [_row(one) for one, reason in zip(rollouts, reasons, strict=True) if not reason]
    if not rows:
        told = ", ".join(f"{count} {reason}" for reason, count in rejected.most_common())
        raise TrainingError(
            f"none of {len(tries)} rollouts became a row ({told}): nothing to distill; train"
            f" longer, sample more, or loosen the rule that took most. {output / 'selection.jsonl'}"
            " lists them"
        )
    for row in rows:
        for medium in row.media:
            link_or_copy(verify_media(medium, root), output / medium.uri)
    write_jsonl(output / "distilled.jsonl", rows)
    return {
        "prompts": len(prompts),
        "rollouts": len(rollouts),
        "kept": len(rows),
        "kept_share": round(len(rows) / len(rollouts), 4),
        "errors": len(errors),
        **{f"rejected_{reason}": rejected[reason] for reason in RejectionReason},
        **perceived,
        **log_failures("distill", len(rollouts), errors),
    }


def _solvable(recipe: Recipe, config: DistillConfig, inputs: Mapping[str, Path]) -> frozenset[Key]:
    """Queries that the probe behind input `draws` answers without the sound, by the rule of
    `clean`; none without draws."""
    if "draws" not in inputs:
        return frozenset()
    probe = read_probe(inputs["draws"])
    if probe.data != config.data:
        raise DataError(
            f"draws are of {probe.data}, and {config.data} is distilled: omnicore probe --section"
            " distill_probe asks those"
        )
    audited = read_queries(inputs["data"], probe.data)
    drawn = read_draws(inputs["draws"], probe, audited)
    hits = {
        view: audit.count_hits(audited, answers) for view, answers in sorted(drawn.answers.items())
    }
    visual = hits.pop(View.visual_only)
    rules = audit.fit_rules(audited, visual, recipe.clean, list(hits.values()))
    verdicts = audit.verdicts_by_policy(audited, drawn, visual, rules, recipe.clean)
    return frozenset((v.benchmark, v.id) for v in verdicts[recipe.clean.policy] if not v.kept)


def _rollout(query: Query, sample: int, reply: Reply, recipe: Recipe) -> DistilledRollout:
    # A reply that was cut may still hold something that looks like an answer: what it would have ended with is not known.
    nothing = reply.error or reply.truncated
    answer, outcome = (
        (None, Outcome.no_answer) if nothing else judge(reply.text, query, recipe.profile.style)
    )
    text = reply.error or reply.text
    return DistilledRollout(
        query,
        sample,
        text,
        reply.tokens,
        answer,
        outcome,
        cut=reply.truncated,
        failed=bool(reply.error),
    )


def _line(one: DistilledRollout, reason: RejectionReason | None) -> dict[str, Any]:
    return {
        "benchmark": one.query.benchmark,
        "id": one.query.id,
        "type": one.query.type,
        "sample": one.sample,
        "kept": reason is None,
        "reason": reason,
        "answer": one.answer,
        "outcome": one.outcome,
        "tokens": one.tokens,
        "reply": one.reply,
    }


def _row(one: DistilledRollout) -> Query:
    """The query with the reply as its target; its source keeps its name, so that a mixture can
    weigh it."""
    return one.query.model_copy(update={"id": f"{one.query.id}-{one.sample}", "target": one.reply})
