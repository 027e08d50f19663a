"""Evaluate: one greedy reply per query, scored on the raw view and on the clean view side by side.

The clean view is a filter by the manifest. The ablations ask the clean queries again with the sound
or the picture hidden: a model that uses both falls to chance there. Every reply has two scores:
`strict`, ours, and `official`, the publisher's own rule. A request that failed for good has none:
it stands in `errors.jsonl`, is in no figure, and is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnicore.config import EvaluateConfig
from omnicore.config.recipe import Recipe
from omnicore.data import benchmarks
from omnicore.data.prompts import answer_choices, profile_hash, prompt_parts
from omnicore.engines.base import Reply, Request, Sampling, log_failures
from omnicore.engines.task import InferenceTask
from omnicore.errors import DataError
from omnicore.evaluation import lmms_eval
from omnicore.evaluation.scores import compute_scores, queries_hash
from omnicore.evaluation.verdicts import require_verdicts
from omnicore.schema import Manifest, Outcome, Query, Response, View
from omnicore.scoring.verify import judge
from omnicore.storage.files import read_json, read_jsonl, write_json, write_jsonl

Asked = tuple[Query, View]


@dataclass(frozen=True)
class Shown:
    """What an evaluation reads, and the queries that it asks with the view that each is shown
    under."""

    queries: list[Query]
    controls: list[Query]
    manifest: Manifest
    asked: list[Asked]


def inference_task(
    recipe: Recipe, config: EvaluateConfig, inputs: Mapping[str, Path]
) -> tuple[Shown, InferenceTask]:
    """Every query and control, then the clean queries again under each ablation.

    Raises DataError as `run` does.
    """
    root = inputs["queries"]
    queries = read_jsonl(root / "queries.jsonl", Query)
    controls = (
        read_jsonl(root / "controls.jsonl", Query) if (root / "controls.jsonl").is_file() else []
    )
    manifest = Manifest.model_validate(read_json(inputs["manifest"] / "manifest.json"))
    _check_manifest(manifest, recipe, queries)
    kept = manifest.kept()
    asked = [(q, View.omni) for q in (*queries, *controls)]
    asked += [(q, view) for view in config.ablations for q in queries if q.key in kept]
    requests = [
        Request(
            prompt_parts(q, view, recipe.profile),
            root,
            "/".join(q.key),
            answer_choices(q, recipe.profile),
        )
        for q, view in asked
    ]
    model = str(inputs["model"] / "checkpoint") if "model" in inputs else recipe.model
    sampling = Sampling(0, recipe.profile.max_new_tokens)
    return Shown(queries, controls, manifest, asked), InferenceTask(
        recipe.engine, model, requests, sampling, config.batch_size
    )


def run(
    recipe: Recipe, config: EvaluateConfig, inputs: Mapping[str, Path], output: Path
) -> dict[str, Any]:
    """Writes `responses.jsonl`, `errors.jsonl`, `items.jsonl`, `scores.json` and `lmms_eval/`.

    Raises DataError for a manifest of another profile or other queries, EngineError when more
    requests fail than the engine's `max_error_rate`.
    """
    shown, asked = inference_task(recipe, config, inputs)
    replies, perceived = asked.run(recipe, output, "evaluate")
    queries, manifest = shown.queries, shown.manifest
    kept = manifest.kept()
    errors: list[dict[str, Any]] = []
    responses = sorted(
        _responses(shown.asked, replies, recipe, errors), key=lambda r: (r.benchmark, r.id, r.view)
    )
    write_jsonl(output / "responses.jsonl", responses)
    write_jsonl(output / "errors.jsonl", errors)
    fields = ("benchmark", "id", "type", "cluster")
    write_jsonl(
        output / "items.jsonl",
        ({**{f: getattr(q, f) for f in fields}, "kept": q.key in kept} for q in queries),
    )
    scores = {
        "model": recipe.model if "model" not in inputs else "checkpoint",
        "profile_hash": profile_hash(recipe.profile),
        "profile": recipe.profile.model_dump(mode="json"),
        "manifest_hash": manifest.content_hash,
        "queries_hash": queries_hash(queries),
        **compute_scores(queries, shown.controls, kept, responses),
        "errors": len(errors),
    }
    write_json(output / "scores.json", scores)
    lmms_eval.write_lmms_eval(
        output / "lmms_eval", scores, queries, kept, responses, recipe.profile
    )
    macro = {view: round(scores[view]["macro"]["value"], 4) for view in ("raw", "clean")}
    truncated = sum(r.truncated for r in responses)
    failures = log_failures("evaluate", len(shown.asked), errors)
    figures = {
        "queries": len(queries),
        "asked": len(shown.asked),
        **macro,
        "truncated": truncated,
        "errors": len(errors),
    }
    return {**figures, **perceived, **failures}


def _check_manifest(manifest: Manifest, recipe: Recipe, queries: Sequence[Query]) -> None:
    """Raise DataError where a manifest is of another profile, or lacks a verdict on a query."""
    profile = profile_hash(recipe.profile)
    # An imported list comes from outside: it was made under none of our profiles.
    if manifest.policy != "imported" and manifest.profile_hash != profile:
        raise DataError(
            f"the manifest was made with profile {manifest.profile_hash[:12]}, this recipe has"
            f" {profile[:12]}; audit again with it",
            code="evaluate-manifest-profile-differs",
            field="profile_hash",
        )
    require_verdicts(manifest, [q.key for q in queries], "run clean on them")


def _responses(
    asked: Iterable[Asked], replies: Iterable[Reply], recipe: Recipe, errors: list[dict[str, Any]]
) -> Iterator[Response]:
    """Judged replies; those that failed for good go to `errors`."""
    rules = {
        name: benchmarks.official_scorer(name) for name in {query.benchmark for query, _ in asked}
    }
    for (query, view), reply in zip(asked, replies, strict=True):
        if reply.error:
            errors.append(
                {"benchmark": query.benchmark, "id": query.id, "view": view, "error": reply.error}
            )
            continue
        # A reply that was cut may still hold something that looks like an answer: what it would have ended with is not known.
        # The publisher's rule sees what there is, as the publisher would.
        answer, outcome = (
            (None, Outcome.no_answer)
            if reply.truncated
            else judge(reply.text, query, recipe.profile.style)
        )
        rule = rules[query.benchmark]
        yield Response(
            benchmark=query.benchmark,
            id=query.id,
            view=view,
            reply=reply.text,
            reasoning=reply.reasoning,
            truncated=reply.truncated,
            answer=answer,
            outcome=outcome,
            official=rule(query, reply.text) if rule else None,
        )
