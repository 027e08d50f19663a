"""Write results in the layout of lmms-eval, so that they can be compared with other tools'.

`results.json` has the fields that lmms-eval writes as `<date>_results.json`: figures by task as
"metric,filter", and configs, versions, n-shot, higher_is_better and n-samples by task.
`samples_<task>.jsonl` has one line per query, as `<date>_samples_<task>.jsonl` does: doc_id,
target, input, resps, filtered_resps, the hashes and the metrics. Read at lmms-eval 03cbb1f and
0716c69.

A benchmark is a task, and its clean view another, `<benchmark>_clean`. Metrics are `strict` and,
where the publisher has a rule, `official`; no time, path or host is written. `_stderr` is the
clustered standard error that the 95 % interval implies: half its width over 1.96. Queries whose
request failed have no sample; "original" minus "effective" counts them.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omnicore.config import Profile
from omnicore.data.prompts import prompt_parts
from omnicore.evaluation.score_records import GroupScores, Scores
from omnicore.schema import Estimate, Outcome, Query, QueryKey, Response, View
from omnicore.storage.files import write_json, write_jsonl
from omnicore.version import __version__

Sample = Mapping[str, Any]


def write_lmms_eval(
    folder: Path,
    scores: Scores,
    queries: Sequence[Query],
    kept: frozenset[QueryKey],
    responses: Sequence[Response],
    profile: Profile,
) -> None:
    """Write `results.json` and a `samples_<benchmark>.jsonl` per benchmark into a new `folder`."""
    folder.mkdir()
    omni = {(r.benchmark, r.id): r for r in responses if r.view is View.omni}
    samples: dict[str, list[Sample]] = defaultdict(list)
    seen: dict[str, int] = defaultdict(int)
    for query in queries:
        number = seen[query.benchmark]
        seen[query.benchmark] += 1
        if query.key in omni:
            sample = _sample(number, query, query.key in kept, omni[query.key], profile)
            samples[query.benchmark].append(sample)
    for task, rows in samples.items():
        write_jsonl(folder / f"samples_{task}.jsonl", rows)
    write_json(folder / "results.json", _results(scores, samples, profile))


def _sample(
    number: int, query: Query, kept: bool, response: Response, profile: Profile
) -> dict[str, Any]:
    answers = {query.answer, *query.also}
    target = ", ".join(o for o in query.options if o in answers) or query.answer
    prompt = _prompt_text(query, profile)
    sample = {
        "doc_id": number,
        "id": query.id,
        "type": query.type,
        "cluster": query.cluster,
        "clean": kept,
        "target": target,
        "input": prompt,
        "resps": [[response.reply]],
        "filtered_resps": [response.answer or ""],
        "doc_hash": _sha256(json.dumps(query.model_dump(mode="json"), sort_keys=True)),
        "prompt_hash": _sha256(prompt),
        "target_hash": _sha256(target),
        "outcome": response.outcome.value,
        "strict": float(response.outcome is Outcome.correct),
    }
    if response.official is not None:
        sample["official"] = response.official
    return sample


def _prompt_text(query: Query, profile: Profile) -> str:
    pieces = []
    for part in prompt_parts(query, View.omni, profile):
        pieces.append(part if isinstance(part, str) else f"<{part.kind}>")
    return "".join(pieces)


def _results(
    scores: Scores, samples: Mapping[str, Sequence[Sample]], profile: Profile
) -> dict[str, Any]:
    figures: dict[str, dict[str, Any]] = {}
    numbers: dict[str, dict[str, int]] = {}
    for name, block in scores.by_benchmark.items():
        for task, view in ((name, "raw"), (f"{name}_clean", "clean")):
            counts = block.counts[view]
            figures[task] = _task_figures(task, view, block)
            numbers[task] = {
                "original": counts.queries,
                "effective": counts.queries - counts.errors,
            }
    decoding = {"temperature": 0, "do_sample": False, "max_new_tokens": profile.max_new_tokens}
    config = {
        "output_type": "generate_until",
        "num_fewshot": 0,
        "generation_kwargs": decoding,
        "metadata": {
            "profile_hash": scores.profile_hash,
            "manifest_hash": scores.manifest_hash,
            "queries_hash": scores.queries_hash,
            "profile": scores.profile,
        },
    }
    model = scores.model
    return {
        "results": figures,
        "group_subtasks": {task: [] for task in figures},
        "configs": {task: {"task": task, **config} for task in figures},
        "versions": dict.fromkeys(figures, __version__),
        "n-shot": dict.fromkeys(figures, 0),
        "higher_is_better": {task: {"strict": True, "official": True} for task in figures},
        "n-samples": numbers,
        "config": {"model": model, "gen_kwargs": decoding},
        "task_hashes": {task: _task_hash(rows) for task, rows in samples.items()},
        "model_source": "omnicore",
        "model_name": model,
        "model_name_sanitized": model.replace("/", "__").replace(":", "__"),
        "system_instruction": profile.system or None,
    }


def _task_figures(task: str, view: str, block: GroupScores) -> dict[str, Any]:
    official = block.official[view] if block.official else None
    estimates: dict[str, Estimate | None] = {"strict": getattr(block, view), "official": official}
    figures: dict[str, Any] = {"alias": task}
    for metric, estimate in estimates.items():
        if estimate:
            figures[f"{metric},none"] = estimate.value
            figures[f"{metric}_stderr,none"] = (estimate.high - estimate.low) / 2 / 1.96
    return figures


def _task_hash(rows: Sequence[Sample]) -> str:
    return _sha256("".join(f"sample_{i}{row['doc_hash']}" for i, row in enumerate(rows)))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
