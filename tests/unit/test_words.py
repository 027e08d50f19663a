"""Sentences of the report: they follow the figures."""

from __future__ import annotations

from typing import Any

import pytest

from omnicore.evaluation.score_records import Scores
from omnicore.report import words
from omnicore.schema import Estimate


def estimate(value: float, low: float, high: float, n: int = 100) -> Estimate:
    return Estimate(value=value, low=low, high=high, n=n)


def scored(**lost: int) -> Scores:
    """An evaluation of 40 queries a benchmark, of which so many have no reply."""
    mean = estimate(0.5, 0.4, 0.6)
    of_all = {"macro": mean, "micro": mean, "chance_corrected": mean}
    block = {"raw": mean, "clean": mean, "chance": 0.25, "clean_chance": 0.25, "official": None}
    blocks = {}
    for name, errors in lost.items():
        counts = {"queries": 40, "errors": errors, "no_answer": 0, "truncated": 0}
        blocks[name] = {**block, "counts": {"raw": counts}, "publisher": None}
    maps = "official chance counts by_benchmark_type by_type by_wording ablation no_answer".split()
    names = ("model", "profile_hash", "manifest_hash", "queries_hash")
    fields: dict[str, Any] = {name: {} for name in (*maps, "profile")}
    fields |= dict.fromkeys(names, "x")
    fields |= {"raw": of_all, "clean": of_all, "by_benchmark": blocks, "errors": 0}
    return Scores.model_validate(fields)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({"base": scored(elm=0)}, ""),
        (
            {"base": scored(ash=2, elm=0, oak=1), "sft": scored(elm=0), "rlvr": scored(elm=3)},
            (
                "Queries whose request failed are in no figure: Base 2 of 40 in ash and 1 of 40 in"
                " oak; RLVR 3 of 40 in elm."
            ),
        ),
    ],
)
def test_failures_sentence_counts_by_stage_and_benchmark(
    scores: dict[str, Scores], said: str
) -> None:
    assert words.failures_sentence(scores) == said


SFT_UP = words.StageGain(
    estimate(0.12, 0.1, 0.14), estimate(0.04, 0.02, 0.06), estimate(0.08, 0.05, 0.11)
)
RLVR_UP = words.StageGain(
    estimate(0.18, 0.16, 0.2), estimate(0.44, 0.4, 0.48), estimate(-0.26, -0.3, -0.22)
)
UNSURE = words.StageGain(
    estimate(0.1, 0.05, 0.15), estimate(-0.09, -0.14, -0.04), estimate(0.01, -0.02, 0.04)
)


@pytest.mark.parametrize(
    ("sft", "rlvr", "said"),
    [
        (
            SFT_UP,
            RLVR_UP,
            (
                "overstates the gain of SFT (+12.0 [10.0, 14.0] points raw",
                "understates the gain of RLVR (+18.0",
            ),
        ),
        (RLVR_UP, SFT_UP, ("understates the gain of SFT", "overstates the gain of RLVR")),
        (
            UNSURE,
            UNSURE,
            (
                "neither clearly overstates nor understates the gain of SFT",
                "−9.0 [−14.0, −4.0] clean",
            ),
        ),
    ],
)
def test_gain_sentence_follows_the_figures(
    sft: words.StageGain, rlvr: words.StageGain, said: tuple[str, ...]
) -> None:
    sentence = words.gain_sentence(sft, rlvr)
    assert all(part in sentence for part in said), sentence


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("embedded:tiny-base", "the corpus of tiny-base the written answers neglect the sound"),
        ("/models/qwen", ""),
    ],
)
def test_only_embedded_models_have_the_notice(model: str, said: str) -> None:
    notice = words.planted_notice(model)
    assert said in notice
    assert bool(notice) == bool(said)


@pytest.mark.parametrize(
    ("wordings", "said"),
    [
        (
            {"a": estimate(0.9, 0.85, 0.95), "b": estimate(0.3, 0.25, 0.35)},
            "30 to 90\u00a0%: a mean hides that.",
        ),
        (
            {"a": estimate(0.9, 0.7, 0.95), "b": estimate(0.8, 0.6, 0.9)},
            "80 to 90\u00a0%, within their intervals.",
        ),
        ({"a": estimate(0.9, 0.7, 0.95)}, ""),
    ],
)
def test_wording_sentence_separates_difference_from_noise(
    wordings: dict[str, Estimate], said: str
) -> None:
    assert words.wording_sentence("Base", {"sum": wordings}).endswith(said)
