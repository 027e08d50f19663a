"""evaluate: one greedy reply per query, scored on the raw view and on the clean view side by side.

The clean view is a filter by the manifest. The ablations ask the clean queries again with the sound or the picture
hidden: a model that uses both falls to chance there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omnicore import stats
from omnicore.answers import judge
from omnicore.config import EvaluateConfig, Recipe
from omnicore.engines import open_engine
from omnicore.engines.base import Request, Sampling, ask
from omnicore.errors import DataError
from omnicore.journal import read_json, read_jsonl, write_json, write_jsonl
from omnicore.prompts import parts, profile_hash
from omnicore.schema import Manifest, Outcome, Query, Response, View

HIDDEN = {View.visual_only: "no_audio", View.audio_only: "no_image", View.text_only: "no_media"}
Scored = Sequence[tuple[Query, Outcome]]


def _points(rows: Scored) -> tuple[list[float], list[str]]:
    return [float(outcome is Outcome.correct) for _, outcome in rows], [query.cluster for query, _ in rows]


def _by(rows: Scored, name: str) -> dict[str, list[tuple[Query, Outcome]]]:
    groups: dict[str, list[tuple[Query, Outcome]]] = defaultdict(list)
    for query, outcome in rows:
        groups[getattr(query, name)].append((query, outcome))
    return dict(sorted(groups.items()))


def _estimate(rows: Scored) -> dict[str, Any] | None:
    return stats.mean(*_points(rows)).model_dump() if rows else None


def aggregates(rows: Scored) -> dict[str, dict[str, Any]]:
    """Macro over benchmarks, micro over queries, and the macro corrected for chance, each with a clustered interval."""
    groups = {name: _points(part) for name, part in _by(rows, "benchmark").items()}
    chances = {name: chance(q for q, _ in part) for name, part in _by(rows, "benchmark").items()}
    return {
        "macro": stats.macro(groups).model_dump(),
        "micro": stats.mean(*_points(rows)).model_dump(),
        "chance_corrected": stats.chance_corrected(groups, chances).model_dump(),
    }


def chance(queries: Iterable[Query]) -> float:
    """What a guesser among the options gets."""
    shares = [1 / len(q.options) for q in queries]
    return sum(shares) / len(shares)


def score(
    queries: Sequence[Query], controls: Sequence[Query], kept: frozenset[tuple[str, str]], responses: Sequence[Response]
) -> dict[str, Any]:
    """The figures of `scores.json` from responses under every view."""
    outcome = {(r.benchmark, r.id, r.view): r.outcome for r in responses}
    raw = [(q, outcome[*q.key, View.omni]) for q in queries]
    clean = [(q, o) for q, o in raw if q.key in kept]
    everything = [*raw, *((q, outcome[*q.key, View.omni]) for q in controls)]
    clean_groups = _by(clean, "benchmark")
    ablation = {}
    for view, name in HIDDEN.items():
        if rows := [(q, outcome[*q.key, view]) for q, _ in clean if (*q.key, view) in outcome]:
            ablation[name] = _estimate(rows)
    return {
        "raw": aggregates(raw),
        "clean": aggregates(clean),
        "by_benchmark": {
            name: {"raw": _estimate(rows), "clean": _estimate(clean_groups.get(name, [])), "chance": chance(q for q, _ in rows)}
            for name, rows in _by(raw, "benchmark").items()
        },
        "by_type": {name: _estimate(rows) for name, rows in _by(everything, "type").items()},
        "by_wording": {
            name: {wording: _estimate(part) for wording, part in _by(rows, "wording").items()}
            for name, rows in _by(everything, "type").items()
        },
        "ablation": ablation,
        "no_answer": {
            name: sum(o is Outcome.no_answer for _, o in rows) / len(rows) for name, rows in (("raw", raw), ("clean", clean))
        },
    }


def run(recipe: Recipe, config: EvaluateConfig, inputs: Mapping[str, Path], output: Path) -> dict[str, Any]:
    """Writes `responses.jsonl`, `errors.jsonl` and `scores.json`. Raises DataError for a manifest of another profile or other
    queries, EngineError when more requests fail than the engine's `max_error_rate`."""
    root = inputs["queries"]
    queries, controls = read_jsonl(root / "queries.jsonl", Query), read_jsonl(root / "controls.jsonl", Query)
    manifest = Manifest.model_validate(read_json(inputs["manifest"] / "manifest.json"))
    hashed = profile_hash(recipe.profile)
    if manifest.profile_hash != hashed:
        raise DataError(
            f"the manifest was made with profile {manifest.profile_hash[:12]}, this recipe has {hashed[:12]}: audit again with it"
        )
    kept = manifest.kept()
    if missing := [q.key for q in queries if q.key not in {(v.benchmark, v.id) for v in manifest.verdicts}]:
        raise DataError(
            f"the manifest has no verdict on {len(missing)} of {len(queries)} queries ({missing[0]} first): run clean on them"
        )
    if recipe.engine.kind == "transformers":
        from omnicore.training.runtime import set_up

        set_up(recipe, threads=1)
    model = str(inputs["model"] / "checkpoint") if "model" in inputs else recipe.model
    engine = open_engine(recipe.engine, model, recipe.profile, workers=recipe.threads)
    sampling = Sampling(0, recipe.profile.max_new_tokens)
    asked = [(q, View.omni) for q in (*queries, *controls)]
    asked += [(q, view) for view in config.ablations for q in queries if q.key in kept]
    requests = [Request(parts(q, view, recipe.profile), root) for q, view in asked]
    replies = ask(
        engine,
        requests,
        sampling,
        seed=recipe.seed,
        batch=config.batch if recipe.engine.kind == "transformers" else 1,
        journal=output / "replies.journal",
        label="evaluate",
        max_error_rate=recipe.engine.max_error_rate,
    )
    responses, errors = [], []
    for (query, view), reply in zip(asked, replies, strict=True):
        key = {"benchmark": query.benchmark, "id": query.id, "view": view}
        if reply.error:
            errors.append({**key, "error": reply.error})
            continue
        answer, outcome = (None, Outcome.no_answer) if reply.truncated else judge(reply.text, query, recipe.profile.style)
        told = {"reply": reply.text, "reasoning": reply.reasoning, "truncated": reply.truncated}
        responses.append(Response(**key, **told, answer=answer, outcome=outcome))
    responses.sort(key=lambda r: (r.benchmark, r.id, r.view))
    write_jsonl(output / "responses.jsonl", responses)
    write_jsonl(output / "errors.jsonl", errors)
    scores = score(queries, controls, kept, responses)
    name = recipe.model if "model" not in inputs else "checkpoint"
    write_json(output / "scores.json", {"model": name, "profile_hash": hashed, "manifest_hash": manifest.content_hash, **scores})
    macro = {view: round(scores[view]["macro"]["value"], 4) for view in ("raw", "clean")}
    return {"queries": len(queries), "asked": len(asked), **macro}
