"""Metrics of a finished step, from files in the formats of docs/architecture.md."""

import pytest

from omnicore.config import EvaluateConfig, RlvrConfig, SftConfig
from omnicore.storage.files import write_json, write_jsonl
from omnicore.telemetry.step_metrics import stage_label, step_metrics

HALF = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}
END = 'stage="y",step="x"'


def values(metrics, path):
    """{sample with labels: value} of what is written."""
    metrics.write(path)
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


@pytest.mark.parametrize(
    ("summary", "failed"),
    [
        ({"draws": 160}, None),
        ({"asked": 160, "errors": 8}, 0.05),
        ({"draws": 160, "errors": 40}, 0.2),
        ({"rollouts": 160}, None),
    ],
)
def test_counts_and_throughput_come_from_the_summary(tmp_path, summary, failed):
    found = values(
        step_metrics("x", "y", 2.0, {"queries": 40, "model": "z", **summary}, tmp_path),
        tmp_path / "metrics.prom",
    )
    assert found == {
        f"omni_step_succeeded{{{END}}}": 1.0,
        f"omni_step_duration_seconds{{{END}}}": 2.0,
        f"omni_step_queries{{{END}}}": 40.0,
        f"omni_step_queries_per_second{{{END}}}": 20.0,
        f"omni_step_samples{{{END}}}": 160.0,
        f"omni_step_samples_per_second{{{END}}}": 80.0,
        **({f"omni_engine_error_ratio{{{END}}}": failed} if failed else {}),
    }


def test_canary_and_data_time_come_from_the_summary(tmp_path):
    summary = {"canary_audio": "answers", "canary_agreement": 0.75, "data_seconds": 0.5}
    found = values(step_metrics("x", "y", 1.0, summary, tmp_path), tmp_path / "metrics.prom")
    assert found == {
        f"omni_step_succeeded{{{END}}}": 1.0,
        f"omni_step_duration_seconds{{{END}}}": 1.0,
        f'omni_canary_passed{{kind="audio",{END}}}': 1.0,
        f"omni_canary_agreement_ratio{{{END}}}": 0.75,
        f"omni_training_data_seconds{{{END}}}": 0.5,
    }


def test_scores_and_leakage_come_from_the_files(tmp_path):
    aggregates = {"macro": HALF, "micro": HALF, "chance_corrected": HALF}
    by_benchmark = {
        "words": {"raw": HALF, "clean": {**HALF, "value": 0.25}, "chance": 0.25},
        "sums": {"raw": HALF, "clean": None, "chance": 0.25},
    }
    counts = {
        "raw": {"queries": 12, "errors": 2, "truncated": 5},
        "clean": {"queries": 8, "errors": 0, "truncated": 0},
    }
    scores = {
        "raw": aggregates,
        "clean": aggregates,
        "by_benchmark": by_benchmark,
        "counts": counts,
    }
    write_json(tmp_path / "scores.json", {**scores, "no_answer": {"raw": 0.125, "clean": 0.0}})
    replies = {"words": {"visual_only": {"draws": 20, "failed": 4, "truncated": 2, "no_answer": 2}}}
    replies["sums"] = {"visual_only": {"draws": 4, "failed": 0, "truncated": 0, "no_answer": 0}}
    leakage = {"words": {"visual_only": {"solved": HALF, "chance": 0.25, "corrected": HALF}}}
    write_json(tmp_path / "audit.json", {"leakage": leakage, "replies": replies})
    write_json(tmp_path / "decision.json", {"difference": {**HALF, "low": -0.25}})
    assert values(step_metrics("x", "y", 1.0, {}, tmp_path), tmp_path / "metrics.prom") == {
        f"omni_step_succeeded{{{END}}}": 1.0,
        f"omni_step_duration_seconds{{{END}}}": 1.0,
        f'omni_accuracy_ratio{{benchmark="all",{END},view="raw"}}': 0.5,
        f'omni_accuracy_ratio{{benchmark="all",{END},view="clean"}}': 0.5,
        f'omni_accuracy_ratio{{benchmark="words",{END},view="raw"}}': 0.5,
        f'omni_accuracy_ratio{{benchmark="words",{END},view="clean"}}': 0.25,
        f'omni_accuracy_ratio{{benchmark="sums",{END},view="raw"}}': 0.5,
        f'omni_no_answer_ratio{{{END},view="raw"}}': 0.125,
        f'omni_no_answer_ratio{{{END},view="clean"}}': 0.0,
        f'omni_truncated_ratio{{{END},view="raw"}}': 0.5,
        f'omni_truncated_ratio{{{END},view="clean"}}': 0.0,
        f'omni_leakage_ratio{{benchmark="words",{END},view="visual_only"}}': 0.5,
        f'omni_no_answer_ratio{{{END},view="visual_only"}}': 0.2,
        f'omni_truncated_ratio{{{END},view="visual_only"}}': 0.1,
        f'omni_promotion_difference_ratio{{bound="value",{END}}}': 0.5,
        f'omni_promotion_difference_ratio{{bound="low",{END}}}': -0.25,
        f'omni_promotion_difference_ratio{{bound="high",{END}}}': 0.6,
    }


def test_curves_give_the_last_values_and_the_sums(tmp_path):
    curve = [
        {
            "step": 1,
            "loss": 3.0,
            "learning_rate": 1e-4,
            "reward": 0.25,
            "samples": 8,
            "tokens": 100,
        },
        {
            "step": 2,
            "loss": 2.0,
            "reward": 0.5,
            "kl": 0.125,
            "all_wrong": None,
            "samples": 8,
            "tokens": 60,
        }
        | {"by_modality": {"audio": {"reward": 0.75, "groups": 3}}},
    ]
    write_jsonl(tmp_path / "curves.jsonl", curve)
    assert values(step_metrics("x", "y", 2.0, {}, tmp_path), tmp_path / "metrics.prom") == {
        f"omni_step_succeeded{{{END}}}": 1.0,
        f"omni_step_duration_seconds{{{END}}}": 2.0,
        f"omni_step_samples{{{END}}}": 16.0,
        f"omni_step_samples_per_second{{{END}}}": 8.0,
        f"omni_step_tokens{{{END}}}": 160.0,
        f"omni_step_tokens_per_second{{{END}}}": 80.0,
        f"omni_training_steps{{{END}}}": 2.0,
        f"omni_training_loss{{{END}}}": 2.0,
        f'omni_reward{{modality="all",{END}}}': 0.5,
        f'omni_reward{{modality="audio",{END}}}': 0.75,
        f'omni_kl_nats{{modality="all",{END}}}': 0.125,
    }


@pytest.mark.parametrize(
    ("made", "stage"),
    [
        (None, "base"),
        (("sft_distilled", SftConfig(data="x")), "sft_distilled"),
        (("rlvr", RlvrConfig(data="x")), "rlvr"),
        (("rlvr", RlvrConfig(data="x", control="random_reward")), "rlvr_random_reward"),
    ],
)
def test_evaluation_has_the_stage_of_its_model(tmp_path, made, stage):
    if made:
        record = {"step": "x", "section": made[0], "config": made[1].model_dump(mode="json")}
        write_json(
            tmp_path / "step.json",
            {**record, "key": "0", "digest": "0", "seconds": 0, "summary": {}},
        )
        assert stage_label(made[0], *made, {}) == stage
    assert (
        stage_label("evaluate", "evaluate", EvaluateConfig(), {"model": tmp_path} if made else {})
        == stage
    )
