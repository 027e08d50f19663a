"""List the steps by name, with their inputs and outputs.

Importing this package loads no step. A step's module is `omnicore.steps.<name>` with `run(recipe,
config, inputs, output) -> summary`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class StepInfo(NamedTuple):
    """Inputs and outputs of one step.

    Attributes:
        summary: One line for the CLI's help.
        writes: The files that it writes.
        required: Steps whose finished output may be the input, by the input's role.
        optional: The same for inputs that may be absent.
        reads: Fields of the recipe that it reads beside its own section, the seed and the profile.
    """

    summary: str
    writes: str
    required: Mapping[str, tuple[str, ...]] = {}
    optional: Mapping[str, tuple[str, ...]] = {}
    reads: tuple[str, ...] = ()


STEPS: dict[str, StepInfo] = {
    "prepare": StepInfo(
        "benchmark and training sets as queries and media files",
        "queries.jsonl, controls.jsonl, benchmarks.json, sft.jsonl, rlvr.jsonl, distill.jsonl,"
        " planted.json, media/",
    ),
    "probe": StepInfo(
        "ask a probe model with modalities withheld, several draws a query",
        "draws.jsonl, errors.jsonl, probe.json",
        {"queries": ("prepare",)},
    ),
    "clean": StepInfo(
        "from draws to verdicts: which queries can be solved without the sound",
        "manifest.json, manifest.<policy>.json (single_pass, repeated, circular), audit.json",
        {"queries": ("prepare",), "draws": ("probe",)},
        {"second_draws": ("probe",)},
    ),
    "evaluate": StepInfo(
        "score a model on the raw and the clean view, with ablations",
        "responses.jsonl, errors.jsonl, items.jsonl, scores.json, lmms_eval/",
        {"queries": ("prepare",), "manifest": ("clean",)},
        {"model": ("sft", "rlvr")},
        reads=("model", "engine"),
    ),
    "sft": StepInfo(
        "supervised fine-tuning on written replies",
        "checkpoint/, curves.jsonl",
        {"data": ("prepare", "distill")},
        {"model": ("sft", "rlvr")},
        reads=("model",),
    ),
    "rlvr": StepInfo(
        "GRPO on verifiable rewards over mixed modalities",
        "checkpoint/, curves.jsonl, rollouts.jsonl",
        {"data": ("prepare",), "model": ("sft",)},
    ),
    "distill": StepInfo(
        "the model's own verified rollouts on omni queries, as training rows",
        "distilled.jsonl, selection.jsonl, errors.jsonl",
        {"data": ("prepare",), "model": ("rlvr",)},
        {"draws": ("probe",)},
        reads=("engine", "clean"),
    ),
    "report": StepInfo(
        "one page and one JSON file of an audit, or of a whole run",
        "report.html, report.json",
        {"queries": ("prepare",), "audit": ("clean",), "draws": ("probe",)},
        {
            "second_draws": ("probe",),
            # All of these or none: then the page shows the audit alone.
            "base": ("evaluate",),
            "sft": ("evaluate",),
            "rlvr": ("evaluate",),
            "distilled": ("evaluate",),
            "sft_curves": ("sft",),
            "rlvr_curves": ("rlvr",),
            "distilled_curves": ("sft",),
            "distill": ("distill",),
            "distill_draws": ("probe",),
            "control": ("evaluate",),
        },
        reads=("*",),
    ),
    "promote": StepInfo(
        "decide whether a candidate replaces the champion, on the clean view; release it with its"
        " scores",
        "decision.json, release/",
        {
            "champion": ("evaluate",),
            "candidate": ("evaluate",),
            "queries": ("prepare",),
            "manifest": ("clean",),
        },
        {"model": ("sft", "rlvr")},
    ),
}
