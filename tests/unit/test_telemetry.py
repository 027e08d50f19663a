import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from omnicore.telemetry.metrics import METRICS, Metrics

LABELS = {"step": "probe", "stage": "second_probe"}
# Counts and values without a unit; the names of all others end in their unit, https://prometheus.io/docs/practices/naming/
UNITLESS = {
    "omni_step_succeeded",
    "omni_step_queries",
    "omni_step_samples",
    "omni_canary_passed",
    "omni_training_steps",
    "omni_training_active",
    "omni_training_loss",
    "omni_training_gradient_norm",
    "omni_reward",
    "omni_reward_spread",
}


@pytest.mark.parametrize("name", METRICS)
def test_metric_has_prefix_unit_help_and_bounded_labels(name):
    metric = METRICS[name]
    assert re.fullmatch(r"omni_[a-z_]+", name)
    assert metric.help.endswith(".")
    assert set(metric.labels) <= {"step", "stage", "benchmark", "modality", "view", "kind", "bound"}
    assert name.endswith("_total") == (metric.kind == "counter")
    if metric.kind == "gauge":
        assert name in UNITLESS or name.endswith(
            ("_seconds", "_ratio", "_per_second", "_tokens", "_nats")
        )
    if "no unit" in metric.help:
        assert name in UNITLESS


@pytest.mark.parametrize("change", ["set", "increment"])
@pytest.mark.parametrize(
    ("name", "labels", "error"),
    [
        ("omni_step_speed", LABELS, KeyError),
        ("omni_step_queries", {"step": "probe"}, ValueError),
        ("omni_step_queries", {**LABELS, "run": "a"}, ValueError),
        ("omni_accuracy_ratio", LABELS, ValueError),
    ],
)
def test_undefined_names_and_labels_are_refused(name, labels, error, change):
    with pytest.raises(error):
        getattr(Metrics(), change)(name, 1, **labels)


def test_values_are_written_as_prometheus_text(tmp_path):
    metrics = Metrics()
    metrics.increment("omni_samples_total", 8, **LABELS)
    metrics.increment("omni_samples_total", 8, **LABELS)
    metrics.set("omni_step_queries", 3, **LABELS)
    metrics.set("omni_step_queries", 4, **LABELS)
    metrics.write(tmp_path / "metrics.prom")
    assert (tmp_path / "metrics.prom").read_text().splitlines() == [
        f"# HELP omni_samples_total {METRICS['omni_samples_total'].help}",
        "# TYPE omni_samples_total counter",
        'omni_samples_total{stage="second_probe",step="probe"} 16.0',
        f"# HELP omni_step_queries {METRICS['omni_step_queries'].help}",
        "# TYPE omni_step_queries gauge",
        'omni_step_queries{stage="second_probe",step="probe"} 4.0',
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.prom"]


def test_threads_may_share_the_values(tmp_path):
    metrics = Metrics()
    with ThreadPoolExecutor(8) as pool:
        for _ in range(200):
            pool.submit(metrics.increment, "omni_samples_total", 1, **LABELS)
    metrics.write(tmp_path / "metrics.prom")
    assert (tmp_path / "metrics.prom").read_text().endswith(" 200.0\n")


def test_written_files_are_read_back_and_joined(tmp_path):
    for stage, value in (("sft", 2.5), ("rlvr", float("nan"))):
        metrics = Metrics()
        metrics.set("omni_training_loss", value, step="sft", stage=stage)
        metrics.write(tmp_path / stage)
    both = Metrics()
    for stage in ("sft", "rlvr"):
        both.read(tmp_path / stage)
    both.write(tmp_path / "both")
    assert (tmp_path / "both").read_text().splitlines()[1:] == [
        "# TYPE omni_training_loss gauge",
        'omni_training_loss{stage="sft",step="sft"} 2.5',
        'omni_training_loss{stage="rlvr",step="sft"} NaN',
    ]
