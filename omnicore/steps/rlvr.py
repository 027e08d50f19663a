"""Rlvr: train by reinforcement learning on verifiable rewards over mixed modalities."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnicore import processes
from omnicore.config import EngineConfig, RlvrConfig
from omnicore.config.recipe import Recipe
from omnicore.progress import track
from omnicore.schema import View
from omnicore.storage.files import append_jsonl, write_jsonl


def run(
    recipe: Recipe, config: RlvrConfig, inputs: Mapping[str, Path], output: Path
) -> dict[str, Any]:
    """Write `checkpoint/`, `curves.jsonl`, `rollouts.jsonl` and `too_long.jsonl`.

    Args:
        recipe: The whole recipe.
        config: Its section of this step.
        inputs: Outputs of prepare (`data`) and sft (`model`).
        output: The directory to fill.

    Returns:
        Counts and figures for the step record; empty on ranks other than 0.

    Raises:
        TrainingError: A check before or during training failed.
    """
    from omnicore.engines import canary
    from omnicore.engines.media_orders import frequent_orders
    from omnicore.engines.transformers import TransformersEngine
    from omnicore.models import thinker
    from omnicore.models.runtime import set_up_torch
    from omnicore.training import parallel, rlvr, tracking, trainable_modules
    from omnicore.training.checkpoints import DIRECTORY, Checkpoints
    from omnicore.training.rows import filter_by_length, read_rows

    parallel.check_parallel(config)
    set_up_torch(recipe)
    engine = TransformersEngine(
        inputs["model"] / "checkpoint", recipe.profile, **trainable_modules.load_options(config)
    )
    model, encoder = engine.model, engine.encoder
    view = {"muted_audio": View.visual_only, "text_only": View.text_only}.get(
        config.control, View.omni
    )
    found = read_rows(
        inputs["data"] / config.data, engine.reader, recipe.profile, targets=False, view=view
    )
    context = model.config.text_config.max_position_embeddings
    rows = filter_by_length(
        found, config, output, context=context, room=recipe.profile.max_new_tokens
    )
    asked = [row.request for row in rows]
    perceived = canary.verify_engine(
        engine, EngineConfig(), recipe.profile, canary.media_kinds(asked), frequent_orders(asked)
    )
    curve: list[dict[str, Any]] = []
    rollouts: list[dict[str, Any]] = []
    checkpoints = Checkpoints(
        output / DIRECTORY,
        {"curves": curve, "rollouts": rollouts},
        every=config.save_steps,
        keep=config.save_total_limit,
    )
    with (
        tracking.tracker_arguments(recipe.tracker, output) as trackers,
        track(config.steps, "rlvr") as progress,
    ):
        progress.advance(len(curve))
        write_jsonl(output / "curves.jsonl", curve)
        write_jsonl(output / "rollouts.jsonl", rollouts)

        def log(record: dict[str, Any]) -> None:
            curve.append(record)
            append_jsonl(output / "curves.jsonl", record)
            progress.advance(1, reward=record.get("reward", 0.0))

        def journal(record: dict[str, Any]) -> None:
            rollouts.append(record)
            append_jsonl(output / "rollouts.jsonl", record)

        checked = rlvr.train(
            model,
            encoder,
            rows,
            config,
            recipe.profile,
            seed=recipe.seed,
            log=log,
            journal=journal,
            checkpoints=checkpoints,
            trackers=trackers,
        )
    if not processes.is_main():
        return {}
    thinker.save(model, encoder, output / "checkpoint")
    filmed = "video" in canary.media_kinds(row.request for row in rows)
    canary.write_reference(output / "checkpoint", recipe.profile, videos=filmed)
    write_jsonl(output / "curves.jsonl", curve)
    write_jsonl(output / "rollouts.jsonl", rollouts)
    last = curve[-max(1, len(curve) // 5) :]
    return {
        "prompts": len(rows),
        "too_long": len(found) - len(rows),
        "steps": len(curve),
        "rollouts": len(rollouts),
        "control": config.control,
        "correct_first": curve[0]["correct"],
        "correct_last": round(sum(r["correct"] for r in last) / len(last), 4),
        **checked,
        **perceived,
    }
