"""Sft: fine-tune on written replies; first bi-modal, last on self-distilled omni queries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnicore import processes
from omnicore.config import SftConfig
from omnicore.config.recipe import Recipe
from omnicore.progress import track
from omnicore.storage.files import append_jsonl, write_jsonl


def run(
    recipe: Recipe, config: SftConfig, inputs: Mapping[str, Path], output: Path
) -> dict[str, Any]:
    """Write `checkpoint/`, `curves.jsonl` and `too_long.jsonl`.

    Args:
        recipe: The whole recipe.
        config: Its section of this step.
        inputs: Outputs of prepare or distill (`data`) and optionally sft or rlvr (`model`).
        output: The directory to fill.

    Returns:
        Counts and figures for the step record; empty on ranks other than 0.

    Raises:
        TrainingError: A check before or during training failed.
    """
    from omnicore.engines import canary
    from omnicore.engines.transformers import PromptReader
    from omnicore.models import thinker
    from omnicore.models.runtime import set_up_torch
    from omnicore.training import parallel, sft, tracking, trainable_modules
    from omnicore.training.checkpoints import DIRECTORY, Checkpoints
    from omnicore.training.rows import filter_by_length, read_rows

    parallel.check_parallel(config)
    set_up_torch(recipe)
    model, encoder = thinker.load(
        inputs["model"] / "checkpoint" if "model" in inputs else recipe.model,
        **trainable_modules.load_options(config),
    )
    found = read_rows(
        inputs["data"] / config.data,
        PromptReader(encoder, recipe.profile),
        recipe.profile,
        targets=True,
    )
    rows = filter_by_length(
        found, config, output, context=model.config.text_config.max_position_embeddings
    )
    curve: list[dict[str, Any]] = []
    checkpoints = Checkpoints(
        output / DIRECTORY,
        {"curves": curve},
        every=config.save_steps,
        keep=config.save_total_limit,
    )
    data_seconds = 0.0
    with (
        tracking.tracker_arguments(recipe.tracker, output) as trackers,
        track(config.steps, "sft") as progress,
    ):
        progress.advance(len(curve))
        write_jsonl(output / "curves.jsonl", curve)

        def log(record: dict[str, Any]) -> None:
            nonlocal data_seconds
            data_seconds += record.pop("data_seconds")  # no time may enter a file that has a digest
            curve.append(record)
            append_jsonl(output / "curves.jsonl", record)
            progress.advance(1, loss=record["loss"])

        epochs = sft.train(
            model,
            encoder,
            rows,
            config,
            seed=recipe.seed,
            log=log,
            checkpoints=checkpoints,
            trackers=trackers,
        )
    if not processes.is_main():
        return {}
    thinker.save(model, encoder, output / "checkpoint")
    filmed = "video" in canary.media_kinds(row.request for row in rows)
    canary.write_reference(output / "checkpoint", recipe.profile, videos=filmed)
    write_jsonl(output / "curves.jsonl", curve)
    return {
        "rows": len(rows),
        "too_long": len(found) - len(rows),
        "steps": len(curve),
        "loss_first": curve[0]["loss"],
        "loss_last": curve[-1]["loss"],
        "data_seconds": round(data_seconds, 3),
        **{f"epochs_{name}": times for name, times in epochs.items()},
    }
