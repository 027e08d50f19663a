"""Run a step: return the cached result, resume it, or execute it.

The key of a result covers all that can change it (`keys.py`), so a directory that holds the key
holds the result (`outputs.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnicore.config import TRAINING, digest
from omnicore.config.recipe import Recipe
from omnicore.data.prompts import profile_hash
from omnicore.errors import missing_package
from omnicore.lineage import model_card, signing
from omnicore.lineage.step_record import read_step, verify_step, write_step
from omnicore.processes import without_deprecations
from omnicore.progress import format_figures
from omnicore.runtime.keys import StepPlan, plan_step, read_input_records
from omnicore.runtime.outputs import (
    begin_work,
    check_output,
    exchange,
    finished_record,
    link_result,
    locked,
    other_work,
    remove_journals,
    undo_interrupted_exchange,
)
from omnicore.steps import STEPS
from omnicore.storage.digests import METRICS_FILE
from omnicore.storage.files import storage_errors
from omnicore.telemetry.live import active_step, push_metrics
from omnicore.telemetry.step_metrics import stage_label, step_metrics

if TYPE_CHECKING:
    from omnicore.engines.cost import CostEstimate
    from omnicore.training.memory import MemoryEstimate

INFERENCE_STEPS = {"probe", "evaluate", "distill"}
# The extra that brings a module; every other module that a step may lack belongs to `train`.
EXTRAS = {
    "aiohttp": "audit",
    "av": "audit",
    "pyarrow": "audit",
    "kubernetes": "cluster",
    "minio": "cluster",
}
RunFunction = Callable[[Recipe, Any, Mapping[str, Path], Path], dict[str, Any]]


def run_step(
    step: str,
    recipe: Recipe,
    inputs: Mapping[str, Path],
    output: Path,
    *,
    section: str | None = None,
    cache: Path | None = None,
    execute: RunFunction | None = None,
    replace: bool = False,
) -> dict[str, Any]:
    """Run a step: return the cached result, resume it, or execute it.

    Args:
        step: Name of the step.
        recipe: The whole recipe.
        inputs: Finished outputs of earlier steps, by role.
        output: Directory of the result: new, empty, or of an earlier run of this step.
        section: Part of the recipe that configures the step, as in `sft_distilled`; its name by
            default.
        cache: Directory in which the step runs, as `<step>-<key>`; the result is linked into
            `output`.
        execute: Runs the step in place of its own `run`, as in another process; not called for a
            cached result.
        replace: Whether to replace work of other settings in `output`: the new result is made
            beside it, and the two are exchanged once it is finished.

    Returns:
        The content of the result's `step.json`.

    Raises:
        ConfigError: The step, the section, a role or the output is wrong, or the output holds work
            of other settings.
        DataError: An input is unfinished, or was changed since it was finished.
        StorageError: The disk refuses a read or a write.
        StepBusy: Another process holds the output for longer than `outputs.WAIT`.
        OmniError: The error of the step, or of its job on a cluster (`cluster/launch.py`).
    """
    output = Path(output).resolve()
    paths = {role: Path(path).resolve() for role, path in inputs.items()}
    plan = plan_step(step, recipe, paths, output, section=section)
    for path in plan.inputs.values():
        # A changed or lost medium is reported for the queries that show it; a training is refused.
        verify_step(path, skip=() if step in TRAINING else ("media",))
    with storage_errors(output), ExitStack() as locks:
        locks.enter_context(locked(output))
        undo_interrupted_exchange(output)
        record = finished_record(output, plan.key)
        cached = record is not None
        if record is None:
            check_output(plan, output, replace)
            target = output
            if other_work(output, plan.key):
                target = output.with_name(output.name + ".replacing")
            directory = Path(cache).resolve() / f"{step}-{plan.key[:16]}" if cache else target
            if directory != output:
                locks.enter_context(locked(directory))
                record = finished_record(directory, plan.key)
                cached = record is not None
            if record is None:
                record = _execute(plan, directory, execute)
            if cache:
                link_result(plan, directory, target)
            if target != output:
                exchange(output, target)
    print_result(record, cached=cached)
    return record


def run_in_process(
    step: str, section: str, recipe: Recipe, inputs: Mapping[str, Path], output: Path
) -> dict[str, Any]:
    """Call the step's own `run` with live metrics, no cache and no lock; return its summary."""
    config = getattr(recipe, section)
    module = import_module(f"omnicore.steps.{step}")
    with active_step(step, stage_label(step, section, config, inputs)), without_deprecations():
        return dict(module.run(recipe, config, inputs, output))


def estimate_step(
    step: str, recipe: Recipe, inputs: Mapping[str, Path], *, section: str | None = None
) -> CostEstimate | MemoryEstimate:
    """Estimate a step's requests, tokens and hours, or a training's GPU memory; write nothing.

    Raises:
        ConfigError: A role is wrong, or the training cannot fit.
        DataError: An input is not a finished output.
    """
    config = getattr(recipe, section or step)
    if step in TRAINING:  # the estimate reads no rows, so that inputs may be missing
        memory: MemoryEstimate = import_module("omnicore.training.memory").estimate_memory(
            recipe, config, inputs
        )
        memory.check()
        return memory
    read_input_records(step, inputs)
    _, task = import_module(f"omnicore.steps.{step}").inference_task(recipe, config, inputs)
    cost: CostEstimate = task.estimate_cost(recipe)
    return cost


def print_result(record: Mapping[str, Any], *, cached: bool) -> None:
    """Print a result's section, time and first six figures on one line."""
    figures = dict(list(record["summary"].items())[:6])
    took = "done before" if cached else f"{record['seconds']:.1f} s"
    print(f"{record['section']}: {took}  {format_figures(figures)}".rstrip(), flush=True)


def _execute(plan: StepPlan, directory: Path, execute: RunFunction | None) -> dict[str, Any]:
    """Run the step in `directory`, write its card, metrics and record; return the record."""
    begin_work(plan, directory)
    started, clock = datetime.now(UTC), time.monotonic()
    stage = stage_label(plan.step, plan.section, plan.config, plan.inputs)
    try:
        if _runs_as_job(plan):
            return _run_as_job(plan, directory, stage)
        summary = _call(plan, directory, execute)
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] == "omnicore":
            raise
        extra = EXTRAS.get(error.name or "", "train")
        raise missing_package(error.name, extra, f"step {plan.step}") from error
    _write_card(plan, directory)
    seconds = round(time.monotonic() - clock, 3)
    metrics = step_metrics(plan.step, stage, seconds, summary, directory)
    metrics.write(directory / METRICS_FILE)
    record = write_step(directory, _record_fields(plan, started, seconds, summary))
    remove_journals(directory)
    push_metrics(metrics, plan.step, stage)
    return record


def _runs_as_job(plan: StepPlan) -> bool:
    """Return whether a job on a cluster runs it: a training, or a model in the step's process."""
    engine = getattr(plan.config, "engine", plan.recipe.engine)
    holds_model = plan.step in INFERENCE_STEPS and engine.kind == "transformers"
    return plan.recipe.launcher.kind != "process" and (plan.step in TRAINING or holds_model)


def _run_as_job(plan: StepPlan, directory: Path, stage: str) -> dict[str, Any]:
    from omnicore.cluster.step_job import run_as_job

    with active_step(plan.step, stage):
        run_as_job(plan.step, plan.section, plan.recipe, plan.inputs, directory, plan.key)
    remove_journals(directory)
    return read_step(directory)


def _call(plan: StepPlan, directory: Path, execute: RunFunction | None) -> dict[str, Any]:
    if f"{model_card.CHECKPOINT}/" in STEPS[plan.step].writes:
        signing.check_signing_key()  # before hours of training, not after
    if execute:
        return execute(plan.recipe, plan.config, plan.inputs, directory)
    return run_in_process(plan.step, plan.section, plan.recipe, plan.inputs, directory)


def _write_card(plan: StepPlan, directory: Path) -> None:
    """Describe and sign the checkpoint of a step that wrote one."""
    checkpoint = directory / model_card.CHECKPOINT
    if not checkpoint.is_dir():
        return
    card = model_card.create_card(
        plan.section, plan.recipe, plan.config, plan.inputs, plan.digests, plan.models
    )
    model_card.write_card(checkpoint, card)
    signing.sign_checkpoint(checkpoint)


def _record_fields(
    plan: StepPlan, started: datetime, seconds: float, summary: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "step": plan.step,
        "section": plan.section,
        "key": plan.key,
        "config": plan.config.model_dump(mode="json"),
        "config_hash": digest(plan.config),
        "recipe": plan.recipe.name,
        "recipe_hash": plan.recipe.identity,
        "profile": plan.recipe.profile.model_dump(mode="json"),
        "profile_hash": profile_hash(plan.recipe.profile),
        "seed": plan.recipe.seed,
        "inputs": plan.digests,
        "input_keys": plan.keys,
        "models": plan.models,
        "decides": plan.decides,
        "started": started.isoformat(timespec="seconds"),
        "seconds": seconds,
        "summary": summary,
    }
