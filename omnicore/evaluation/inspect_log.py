"""Write an evaluation as a log of inspect_ai, for `inspect view` and its data frames.

One sample a query: the prompt as sent, the target, the reply, and as scores `strict` (C correct, I
incorrect, N no answer), `official` where the publisher has a rule, and one score an ablation
(`no_audio`, `no_image`). The overall figures are metrics of the score `strict`, raw and clean, with
their interval. inspect_ai is optional (`pip install inspect_ai`) and writes the file itself, so the
format is that of the installed version; read at 0.3.285.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnicore.errors import ConfigError, DataError
from omnicore.evaluation.scores import HIDDEN
from omnicore.lineage.step_record import verify_step
from omnicore.schema import Outcome, Response, View
from omnicore.storage.files import read_json, read_jsonl
from omnicore.version import __version__

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample, EvalScore
    from inspect_ai.scorer import Score

LETTERS = {Outcome.correct: "C", Outcome.incorrect: "I", Outcome.no_answer: "N"}


def write_inspect_log(evaluation: Path, file: Path) -> int:
    """Write the output of evaluate to `file`, which ends in `.eval` or `.json`.

    Returns:
        The number of samples.

    Raises:
        ConfigError: inspect_ai is not installed, or `file` has another suffix.
        DataError: `evaluation` is not an intact output of evaluate.
    """
    if file.suffix not in (".eval", ".json"):
        raise ConfigError(
            f"{file}: an inspect log ends in .eval or .json", code="inspect-log-suffix", path=file
        )
    try:
        from inspect_ai.log import write_eval_log
    except ModuleNotFoundError as error:
        raise ConfigError(
            "an inspect log needs inspect_ai: pip install inspect_ai", code="inspect-missing"
        ) from error
    record = verify_step(evaluation)
    if record["step"] != "evaluate":
        raise DataError(
            f"{evaluation} is an output of {record['step']}; give one of evaluate",
            code="inspect-log-not-evaluation",
            path=evaluation,
        )
    log = _log(evaluation, record)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_eval_log(log, str(file))
    return len(log.samples or [])


def _log(evaluation: Path, record: Mapping[str, Any]) -> EvalLog:
    from inspect_ai.log import (
        EvalConfig,
        EvalDataset,
        EvalLog,
        EvalPlan,
        EvalResults,
        EvalSpec,
        EvalStats,
    )
    from inspect_ai.model import GenerateConfig

    scores = read_json(evaluation / "scores.json")
    samples = list(_samples(evaluation, scores["model"]))
    decoding = GenerateConfig(temperature=0, max_tokens=scores["profile"]["max_new_tokens"])
    hashes = ("profile_hash", "manifest_hash", "queries_hash")
    return EvalLog(
        status="success",
        eval=EvalSpec(
            created=record["started"],
            task="omniclean",
            task_version=__version__,
            dataset=EvalDataset(
                name=",".join(scores["by_benchmark"]),
                samples=len(samples),
                sample_ids=[str(sample.id) for sample in samples],
            ),
            model=scores["model"],
            model_generate_config=decoding,
            config=EvalConfig(epochs=1),
            packages={"omnicore": __version__},
            metadata={name: scores[name] for name in hashes} | {"omnicore_key": record["key"]},
        ),
        plan=EvalPlan(name="greedy", config=decoding),
        results=EvalResults(
            total_samples=len(read_jsonl(evaluation / "items.jsonl", dict)),
            completed_samples=len(samples),
            scores=[_overall(scores)],
        ),
        stats=EvalStats(started_at=record["started"], completed_at=record["started"]),
        samples=samples,
    )


def _overall(scores: Mapping[str, Any]) -> EvalScore:
    """Return the score `strict` with raw and clean figures as metrics."""
    from inspect_ai.log import EvalMetric, EvalScore

    metrics = {}
    for view in ("raw", "clean"):
        for level, estimate in (scores[view] or {}).items():
            name = f"{view}_{level}"
            interval = {"low": estimate["low"], "high": estimate["high"], "queries": estimate["n"]}
            metrics[name] = EvalMetric(name=name, value=estimate["value"], metadata=interval)
    return EvalScore(name="strict", scorer="strict", metrics=metrics)


def _samples(evaluation: Path, model: str) -> Iterator[EvalSample]:
    """Yield a sample for every query that was asked with all modalities."""
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ModelOutput

    responses: dict[tuple[str, str], dict[View, Response]] = {}
    for response in read_jsonl(evaluation / "responses.jsonl", Response):
        responses.setdefault((response.benchmark, response.id), {})[response.view] = response
    for file in sorted((evaluation / "lmms_eval").glob("samples_*.jsonl")):
        benchmark = file.stem.removeprefix("samples_")
        for row in read_jsonl(file, dict):
            views = responses[benchmark, row["id"]]
            yield EvalSample(
                id=f"{benchmark}/{row['id']}",
                epoch=1,
                input=row["input"],
                target=row["target"],
                output=ModelOutput.from_content(
                    model,
                    views[View.omni].reply,
                    "max_tokens" if views[View.omni].truncated else "stop",
                ),
                scores=_scores(views),
                metadata={
                    "benchmark": benchmark,
                    "type": row["type"],
                    "cluster": row["cluster"],
                    "clean": row["clean"],
                },
            )


def _scores(views: Mapping[View, Response]) -> dict[str, Score]:
    from inspect_ai.scorer import Score

    scores = {}
    for view, response in views.items():
        name = "strict" if view is View.omni else HIDDEN[view]
        scores[name] = Score(value=LETTERS[response.outcome], answer=response.answer or "")
    official = views[View.omni].official
    if official is not None:
        scores["official"] = Score(value=official)
    return scores
