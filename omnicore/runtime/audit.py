"""A whole audit in one run folder: prepare, probe, clean, evaluate, report.

Every step is `run_step` with its output below the run folder, so that the same command resumes an
interrupted audit and returns a finished one. `estimate_audit` prepares the benchmark, which asks
nobody, and prices the rest.
"""

from __future__ import annotations

import json
import re
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from omnicore.config.recipe import Recipe, load_recipe
from omnicore.data.prompts import profile_hash
from omnicore.engines.cost import CostEstimate
from omnicore.errors import ConfigError, EngineError
from omnicore.evaluation.frames import VIEWS
from omnicore.lineage.step_record import write_step
from omnicore.runtime.run import estimate_step, run_step
from omnicore.schema import Label, Query, Verdict
from omnicore.storage.digests import STEP_FILE
from omnicore.storage.files import read_json, read_jsonl, write_json

SECONDS = 10.0  # for a server to say which models it has


class Endpoint(NamedTuple):
    """A served model: root of an OpenAI-compatible API, and the name under which it serves."""

    url: str
    model: str


class Price(NamedTuple):
    """Money a million tokens, of prompts and of replies."""

    prompt: float
    reply: float

    def of(self, estimate: CostEstimate) -> float:
        """Return the most that an estimate costs: every reply as long as it may be."""
        return (estimate.prompt * self.prompt + estimate.reply * self.reply) / 1e6


class Audit(NamedTuple):
    """What an audit runs on: recipe and run folder, the prepared set, and the models to score.

    `prepared` is an output of prepare, or None to prepare the recipe's sources.
    """

    recipe: Recipe
    run: Path
    prepared: Path | None
    second: bool
    evaluate: Sequence[Endpoint]


def parse_endpoint(text: str, model: str = "") -> Endpoint:
    """Return the endpoint of `URL` or `NAME@URL`.

    A server that has one model need not have it named: it is asked.

    Raises:
        ConfigError: No http:// or https:// address, or the server has several models.
        EngineError: The server does not answer.
    """
    named, at, url = text.rpartition("@http")
    url = f"http{url}" if at else text
    if not url.startswith(("http://", "https://")):
        raise ConfigError(
            f"{text!r} is not the address of a server; write URL or NAME@URL, as in"
            " http://127.0.0.1:8000/v1",
            code="endpoint-invalid",
            field=text,
        )
    url = url.rstrip("/")
    return Endpoint(url, named or model or _only_model(url))


def audit_recipe(
    name: str,
    overrides: Sequence[str],
    probe: Endpoint,
    second: Endpoint | None,
) -> Recipe:
    """Return a recipe whose probes ask the given servers; overrides are applied last."""
    changes = list(_endpoint_overrides("probe.", probe))
    if second:
        changes += _endpoint_overrides("second_probe.", second)
    return load_recipe(name, [*changes, *overrides])


def run_audit(audit: Audit) -> Path:
    """Run what is not finished yet.

    Returns:
        The page, `report/report.html` in the run folder.

    Raises:
        OmniError: As the step that fails does; finished steps stay.
    """
    recipe, run = audit.recipe, audit.run
    inputs = {"queries": _prepare(audit)}
    inputs["draws"] = _step("probe", recipe, {"queries": inputs["queries"]}, run / "probe")
    if audit.second:
        queries = {"queries": inputs["queries"]}
        inputs["second_draws"] = _step(
            "probe", recipe, queries, run / "second_probe", "second_probe"
        )
    cleaned = _step("clean", recipe, inputs, run / "clean")
    for endpoint in audit.evaluate:
        given = {"queries": inputs["queries"], "manifest": cleaned}
        _step("evaluate", _evaluation_recipe(recipe, endpoint), given, run / _folder(endpoint))
    _step("report", recipe, {**inputs, "audit": cleaned}, run / "report")
    return run / "report" / "report.html"


def estimate_audit(audit: Audit) -> Iterator[tuple[str, CostEstimate]]:
    """Yield the name and cost of every step that asks a server.

    Evaluations are priced as if the clean view kept every query: no verdict is known yet.
    """
    inputs = {"queries": _prepare(audit)}
    sections = ("probe", "second_probe") if audit.second else ("probe",)
    for section in sections:
        yield section, _asking_cost("probe", audit.recipe, inputs, section)
    with tempfile.TemporaryDirectory(prefix="omni-") as scratch:
        whole = _keep_all(audit.recipe, inputs["queries"], Path(scratch))
        for endpoint in audit.evaluate:
            recipe = _evaluation_recipe(audit.recipe, endpoint)
            given = {**inputs, "manifest": whole}
            yield _folder(endpoint), _asking_cost("evaluate", recipe, given, "evaluate")


def audit_scores(audit: Audit) -> dict[str, dict[str, float]]:
    """Return the macro accuracy of each evaluated model, raw and clean, by model."""
    scores = {}
    for endpoint in audit.evaluate:
        written = read_json(audit.run / _folder(endpoint) / "scores.json")
        macro = {view: written[view]["macro"]["value"] for view in VIEWS if written[view]}
        scores[endpoint.model] = macro
    return scores


def _only_model(url: str) -> str:
    try:
        with urllib.request.urlopen(f"{url}/models", timeout=SECONDS) as answer:
            models = [str(model["id"]) for model in json.load(answer)["data"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"{url}/models does not say which models are served: {error}; start the server, or"
            " name the model, as in NAME@URL",
            code="endpoint-unreachable",
            field=url,
        ) from error
    if len(models) != 1:
        raise ConfigError(
            f"{url} serves {len(models)} models ({', '.join(models[:5])}); name one, as in"
            f" {models[0] if models else 'NAME'}@{url}",
            code="endpoint-ambiguous",
            field=url,
        )
    return models[0]


def _endpoint_overrides(place: str, endpoint: Endpoint) -> Iterator[str]:
    yield f"{place}engine.kind=http"
    yield f"{place}engine.url={endpoint.url}"
    yield f"{place}model={endpoint.model}"


def _prepare(audit: Audit) -> Path:
    if audit.prepared:
        return audit.prepared
    return _step("prepare", audit.recipe, {}, audit.run / "prepare")


def _step(
    step: str, recipe: Recipe, inputs: Mapping[str, Path], output: Path, section: str | None = None
) -> Path:
    run_step(step, recipe, inputs, output, section=section)
    return output


def _evaluation_recipe(recipe: Recipe, endpoint: Endpoint) -> Recipe:
    engine = recipe.engine.model_copy(update={"kind": "http", "url": endpoint.url})
    return recipe.model_copy(update={"engine": engine, "model": endpoint.model})


def _folder(endpoint: Endpoint) -> str:
    """Return the folder of an evaluation: two servers of one model have one each."""
    port = endpoint.url.partition("//")[2].partition("/")[0]
    return re.sub(r"[^A-Za-z0-9.-]+", "-", f"evaluate-{endpoint.model}-{port}")


def _asking_cost(
    step: str, recipe: Recipe, inputs: Mapping[str, Path], section: str
) -> CostEstimate:
    estimate = estimate_step(step, recipe, inputs, section=section)
    assert isinstance(estimate, CostEstimate)  # neither step trains
    return estimate


def _keep_all(recipe: Recipe, prepared: Path, scratch: Path) -> Path:
    """Write an output of clean that keeps every query."""
    from omnicore.audit import build_manifest

    verdicts = [
        Verdict(
            benchmark=query.benchmark,
            id=query.id,
            label=Label.not_solvable,
            hits=0,
            draws=1,
            null=1,
            binomial=1,
        )
        for query in read_jsonl(prepared / "queries.jsonl", Query)
    ]
    manifest = build_manifest("repeated", "none", profile_hash(recipe.profile), verdicts)
    write_json(scratch / "manifest.json", manifest)
    record = {"step": "clean", "section": "clean", "key": "price", "seconds": 0, "summary": {}}
    write_step(scratch, record)
    return scratch


def is_prepared(folder: Path) -> bool:
    """Return whether a folder is a finished output of prepare."""
    file = folder / STEP_FILE
    return file.is_file() and read_json(file).get("step") == "prepare"
