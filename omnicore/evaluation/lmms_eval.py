"""Results in the layout of lmms-eval, so that they can be laid beside those of other tools.

`results.json` has what lmms-eval writes as `<date>_results.json`: figures by task as
"metric,filter", and configs, versions, n-shot, higher_is_better and n-samples by task.
`samples_<task>.jsonl` has one line a query, as `<date>_samples_<task>.jsonl` does: doc_id, target,
input, resps, filtered_resps, the hashes and the metrics. Read at lmms-eval 03cbb1f and 0716c69.

A benchmark is a task, and its clean view a second one, `<benchmark>_clean`. Metrics are `strict`
and, where there is a publisher's rule, `official`; no time, path or host is written. `_stderr` is
the clustered one that the 95 % interval implies, half its width over 1.96. Queries whose request
failed have no sample: they are what "original" exceeds "effective" by.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omnicore import __version__
from omnicore.config import Profile
from omnicore.data.prompts import prompt_parts
from omnicore.schema import Outcome, Query, Response, View
from omnicore.storage.files import write_json, write_jsonl


def write_lmms_eval(
    folder: Path,
    scores: Mapping[str, Any],
    queries: Sequence[Query],
    kept: frozenset[tuple[str, str]],
    responses: Sequence[Response],
    profile: Profile,
) -> None:
    """Writes `results.json` and a `samples_<benchmark>.jsonl` each; `scores` as in
    `scores.json`."""
    folder.mkdir()
    found = {(r.benchmark, r.id): r for r in responses if r.view is View.omni}
    samples: dict[str, list[dict[str, Any]]] = defaultdict(list)
    places: dict[str, int] = defaultdict(int)
    for query in queries:
        place = places[query.benchmark]
        places[query.benchmark] += 1
        if query.key in found:
            samples[query.benchmark].append(
                _sample(place, query, query.key in kept, found[query.key], profile)
            )
    for task, rows in samples.items():
        write_jsonl(folder / f"samples_{task}.jsonl", rows)
    write_json(folder / "results.json", _results(scores, samples, profile))


def _sample(
    place: int, query: Query, kept: bool, response: Response, profile: Profile
) -> dict[str, Any]:
    target = ", ".join(o for o in query.options if o in {query.answer, *query.also}) or query.answer
    prompt = "".join(
        part if isinstance(part, str) else f"<{part.kind}>"
        for part in prompt_parts(query, View.omni, profile)
    )
    return {
        "doc_id": place,
        "id": query.id,
        "type": query.type,
        "cluster": query.cluster,
        "clean": kept,
        "target": target,
        "input": prompt,
        "resps": [[response.reply]],
        "filtered_resps": [response.answer or ""],
        "doc_hash": _hash(json.dumps(query.model_dump(mode="json"), sort_keys=True)),
        "prompt_hash": _hash(prompt),
        "target_hash": _hash(target),
        "outcome": response.outcome.value,
        "strict": float(response.outcome is Outcome.correct),
        **({} if response.official is None else {"official": response.official}),
    }


def _results(
    scores: Mapping[str, Any], samples: Mapping[str, Sequence[Mapping[str, Any]]], profile: Profile
) -> dict[str, Any]:
    figures: dict[str, dict[str, Any]] = {}
    numbers: dict[str, dict[str, int]] = {}
    for name, block in scores["by_benchmark"].items():
        for task, view in ((name, "raw"), (f"{name}_clean", "clean")):
            estimates = {
                "strict": block[view],
                "official": block["official"] and block["official"][view],
            }
            figures[task] = {"alias": task}
            for metric, estimate in estimates.items():
                if estimate:
                    figures[task][f"{metric},none"] = estimate["value"]
                    figures[task][f"{metric}_stderr,none"] = (
                        (estimate["high"] - estimate["low"]) / 2 / 1.96
                    )
            counted = block["counts"][view]
            numbers[task] = {
                "original": counted["queries"],
                "effective": counted["queries"] - counted["errors"],
            }
    decoding = {"temperature": 0, "do_sample": False, "max_new_tokens": profile.max_new_tokens}
    about = {
        name: scores[name] for name in ("profile_hash", "manifest_hash", "queries_hash", "profile")
    }
    config = {
        "output_type": "generate_until",
        "num_fewshot": 0,
        "generation_kwargs": decoding,
        "metadata": about,
    }
    model = scores["model"]
    return {
        "results": figures,
        "group_subtasks": {task: [] for task in figures},
        "configs": {task: {"task": task, **config} for task in figures},
        "versions": dict.fromkeys(figures, __version__),
        "n-shot": dict.fromkeys(figures, 0),
        "higher_is_better": {task: {"strict": True, "official": True} for task in figures},
        "n-samples": numbers,
        "config": {"model": model, "gen_kwargs": decoding},
        "task_hashes": {
            task: _hash("".join(f"sample_{i}{row['doc_hash']}" for i, row in enumerate(rows)))
            for task, rows in samples.items()
        },
        "model_source": "omnicore",
        "model_name": model,
        "model_name_sanitized": model.replace("/", "__").replace(":", "__"),
        "system_instruction": profile.system or None,
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
