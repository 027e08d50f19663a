"""Evaluate: ask for one greedy reply per query, and score the raw and the clean view.

The clean view is a filter by the manifest. The ablations ask the clean queries again with the sound
or the picture hidden: a model that uses both falls to chance there. Every reply has two scores:
`strict`, by our rule, and `official`, by the publisher's. A request that failed permanently has
none: it is listed in `errors.jsonl`, counted, and in no figure.
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
from omnicore.evaluation.lmms_eval import write_lmms_eval
from omnicore.evaluation.score_records import EvaluatedQuery, Scores
from omnicore.evaluation.scores import compute_figures, queries_hash
from omnicore.evaluation.verdicts import require_verdicts
from omnicore.schema import BENCHMARK_QUERIES, Manifest, Query, Response, View
from omnicore.scoring.verify import judge
from omnicore.storage.files import read_json, read_jsonl, write_json, write_jsonl

QueryView = tuple[Query, View]


@dataclass(frozen=True)
class EvaluationPlan:
    """Inputs of an evaluation, and the requests that it sends.

    Attributes:
        queries: Queries of the benchmarks.
        controls: Controls, outside the benchmarks.
        manifest: Manifest of the clean view.
        asked: Queries with the view under which each is shown, in the order of the requests.
    """

    queries: list[Query]
    controls: list[Query]
    manifest: Manifest
    asked: list[QueryView]


def inference_task(
    recipe: Recipe, config: EvaluateConfig, inputs: Mapping[str, Path]
) -> tuple[EvaluationPlan, InferenceTask]:
    """Build the requests: all queries and controls, then the clean queries under each ablation.

    Raises:
        DataError: The manifest is of another profile or other queries.
    """
    root = inputs["queries"]
    queries = read_jsonl(root / config.data, Query)
    controls_file = root / "controls.jsonl"
    controls = []
    if config.data == BENCHMARK_QUERIES and controls_file.is_file():
        controls = read_jsonl(controls_file, Query)
    manifest = Manifest.model_validate(read_json(inputs["manifest"] / "manifest.json"))
    _check_manifest(manifest, recipe, queries)
    kept = manifest.kept()
    clean = [query for query in queries if query.key in kept]
    asked = [(query, View.omni) for query in (*queries, *controls)]
    for view in config.ablations:
        asked += [(query, view) for query in clean]
    requests = [_request(query, view, recipe, root) for query, view in asked]
    model = str(inputs["model"] / "checkpoint") if "model" in inputs else recipe.model
    sampling = Sampling(0, recipe.profile.max_new_tokens)
    task = InferenceTask(recipe.engine, model, requests, sampling, config.batch_size)
    return EvaluationPlan(queries, controls, manifest, asked), task


def _request(query: Query, view: View, recipe: Recipe, root: Path) -> Request:
    parts = prompt_parts(query, view, recipe.profile)
    return Request(parts, root, "/".join(query.key), answer_choices(query, recipe.profile))


def run(
    recipe: Recipe, config: EvaluateConfig, inputs: Mapping[str, Path], output: Path
) -> dict[str, Any]:
    """Write `responses.jsonl`, `errors.jsonl`, `items.jsonl`, `scores.json` and `lmms_eval/`.

    Args:
        recipe: The whole recipe.
        config: Its section of this step.
        inputs: Outputs of prepare (`queries`), clean (`manifest`) and a training (`model`; without
            it, `recipe.model` is evaluated).
        output: The directory to fill.

    Returns:
        Counts and scores for the step record.

    Raises:
        DataError: The manifest is of another profile or other queries, or a view has no reply.
        EngineError: More requests failed than the engine's `max_error_rate` allows.
    """
    plan, task = inference_task(recipe, config, inputs)
    replies, canary_summary = task.run(recipe, output, "evaluate")
    queries, kept = plan.queries, plan.manifest.kept()
    errors: list[dict[str, Any]] = []
    responses = list(_responses(plan.asked, replies, recipe, errors))
    responses.sort(key=lambda r: (r.benchmark, r.id, r.view))
    write_jsonl(output / "responses.jsonl", responses)
    write_jsonl(output / "errors.jsonl", errors)
    write_jsonl(output / "items.jsonl", (EvaluatedQuery.of(q, q.key in kept) for q in queries))
    figures = compute_figures(queries, plan.controls, kept, responses)
    scores = Scores(
        model=recipe.model if "model" not in inputs else "checkpoint",
        profile_hash=profile_hash(recipe.profile),
        profile=recipe.profile.model_dump(mode="json"),
        manifest_hash=plan.manifest.content_hash,
        queries_hash=queries_hash(queries),
        errors=len(errors),
        **dict(figures),
    )
    write_json(output / "scores.json", scores)
    write_lmms_eval(output / "lmms_eval", scores, queries, kept, responses, recipe.profile)
    summary = {
        "queries": len(queries),
        "asked": len(plan.asked),
        "raw": round(scores.raw.macro.value, 4),
        "clean": round(scores.clean.macro.value, 4),
        "truncated": sum(r.truncated for r in responses),
        "errors": len(errors),
    }
    failures = log_failures("evaluate", len(plan.asked), errors)
    return summary | canary_summary | failures


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
    asked: Iterable[QueryView],
    replies: Iterable[Reply],
    recipe: Recipe,
    errors: list[dict[str, Any]],
) -> Iterator[Response]:
    """Yield the judged replies; add failed requests to `errors`."""
    rules: dict[str, Any] = {}
    for (query, view), reply in zip(asked, replies, strict=True):
        if reply.error:
            key = {"benchmark": query.benchmark, "id": query.id, "view": view}
            errors.append(key | {"error": reply.error})
            continue
        if query.benchmark not in rules:
            rules[query.benchmark] = benchmarks.official_scorer(query.benchmark)
        rule = rules[query.benchmark]
        style = recipe.profile.style
        answer, outcome = judge(reply.text, query, style, truncated=reply.truncated)
        yield Response(
            benchmark=query.benchmark,
            id=query.id,
            view=view,
            reply=reply.text,
            reasoning=reply.reasoning,
            truncated=reply.truncated,
            answer=answer,
            outcome=outcome,
            # The publisher's rule scores a truncated reply as it is, as the publisher would.
            official=rule(query, reply.text) if rule else None,
        )
