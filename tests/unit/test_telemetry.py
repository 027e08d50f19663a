import io
import json
import sys

import pytest

from omnicore import telemetry
from omnicore.journal import write_json, write_jsonl
from omnicore.telemetry import METRICS, Metrics, snapshot, told, track

HALF = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}
LABELS = {"step": "probe", "stage": "second_probe"}


def values(metrics, path):
    """{sample with labels: value} of a snapshot's text."""
    metrics.write(path)
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_has_prefix_help_and_bounded_labels(name):
    assert name.startswith("omni_")
    assert METRICS[name].help.endswith(".")
    assert set(METRICS[name].labels) <= {"step", "stage", "benchmark", "view", "kind"}
    assert name in {
        f"omni_{rest}" for rest in ("step_queries", "step_samples", "canary_passed", "training_steps", "training_loss")
    } or name.endswith(("_seconds", "_ratio", "_per_second"))


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("omni_step_speed", LABELS, "no metric 'omni_step_speed'"),
        ("omni_step_queries", {"step": "probe"}, "has labels"),
        ("omni_step_queries", {**LABELS, "run": "a"}, "has labels"),
        ("omni_accuracy_ratio", LABELS, "has labels"),
    ],
)
def test_names_and_labels_outside_the_table_are_refused(name, labels, message):
    with pytest.raises(ValueError, match=message):
        Metrics().set(name, 1, **labels)


def test_a_snapshot_is_prometheus_text(tmp_path):
    metrics = Metrics()
    metrics.set("omni_step_queries", 3, **LABELS)
    metrics.set("omni_step_queries", 4, **LABELS)
    assert values(metrics, tmp_path / "metrics.prom") == {'omni_step_queries{stage="second_probe",step="probe"}': 4.0}
    assert "# TYPE omni_step_queries gauge" in (tmp_path / "metrics.prom").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.prom"]


@pytest.mark.parametrize("samples", ["draws", "asked", "rollouts"])
def test_counts_and_throughput_come_from_the_summary(tmp_path, samples):
    metrics = snapshot("probe", "second_probe", 2.0, {"queries": 40, samples: 160, "model": "embedded:x"}, tmp_path)
    end = '{stage="second_probe",step="probe"}'
    assert values(metrics, tmp_path / "metrics.prom") == {
        f"omni_step_duration_seconds{end}": 2.0,
        f"omni_step_queries{end}": 40.0,
        f"omni_step_samples{end}": 160.0,
        f"omni_step_samples_per_second{end}": 80.0,
    }


def test_scores_leakage_and_curves_come_from_the_files(tmp_path):
    aggregates = {"macro": HALF, "micro": HALF, "chance_corrected": HALF}
    by_benchmark = {
        "words": {"raw": HALF, "clean": {**HALF, "value": 0.25}, "chance": 0.25},
        "sums": {"raw": HALF, "clean": None, "chance": 0.25},
    }
    scores = {"raw": aggregates, "clean": aggregates, "by_benchmark": by_benchmark, "no_answer": {"raw": 0.125, "clean": 0.0}}
    write_json(tmp_path / "scores.json", scores)
    write_json(
        tmp_path / "audit.json", {"leakage": {"words": {"visual_only": {"solved": HALF, "chance": 0.25, "corrected": HALF}}}}
    )
    curve = [
        {"step": 1, "loss": 3.0, "rate": 1e-4, "reward": 0.25},
        {"step": 2, "loss": 2.0, "reward": 0.5, "all_right": 0.25, "all_wrong": None},
    ]
    write_jsonl(tmp_path / "curves.jsonl", curve)
    found = values(snapshot("x", "y", 1.0, {}, tmp_path), tmp_path / "metrics.prom")
    end = 'stage="y",step="x"'
    assert found == {
        f"omni_step_duration_seconds{{{end}}}": 1.0,
        f'omni_accuracy_ratio{{benchmark="all",{end},view="raw"}}': 0.5,
        f'omni_accuracy_ratio{{benchmark="all",{end},view="clean"}}': 0.5,
        f'omni_accuracy_ratio{{benchmark="words",{end},view="raw"}}': 0.5,
        f'omni_accuracy_ratio{{benchmark="words",{end},view="clean"}}': 0.25,
        f'omni_accuracy_ratio{{benchmark="sums",{end},view="raw"}}': 0.5,
        f'omni_no_answer_ratio{{{end},view="raw"}}': 0.125,
        f'omni_no_answer_ratio{{{end},view="clean"}}': 0.0,
        f'omni_leakage_ratio{{benchmark="words",{end},view="visual_only"}}': 0.5,
        f"omni_training_steps{{{end}}}": 2.0,
        f"omni_training_loss{{{end}}}": 2.0,
        f"omni_reward_ratio{{{end}}}": 0.5,
        f"omni_groups_all_right_ratio{{{end}}}": 0.25,
    }


def test_figures_are_told_in_one_line():
    assert told({"queries": 1600, "raw": 0.61234, "model": "embedded:x"}) == "queries 1600  raw 0.612  model embedded:x"
    assert told({}) == ""


def test_without_a_terminal_progress_is_one_line_at_the_end(monkeypatch, capsys):
    monkeypatch.delenv("OMNI_PROGRESS", raising=False)
    with track(10, "probe text_only") as progress:
        progress.advance(4, loss=0.5)
        progress.advance(6, loss=0.25)
        assert capsys.readouterr() == ("", "")
    assert capsys.readouterr() == ("", "probe text_only: 10 of 10  loss 0.25\n")


def test_failed_work_does_not_say_that_it_ended(monkeypatch, capsys):
    monkeypatch.delenv("OMNI_PROGRESS", raising=False)
    with pytest.raises(RuntimeError, match="fell"), track(10, "sft"):
        raise RuntimeError("fell over")
    assert capsys.readouterr().err == ""


def test_the_progress_file_is_throttled_and_always_has_the_start_and_the_end(monkeypatch, tmp_path):
    path, clock = tmp_path / "progress.json", 100.0
    monkeypatch.setenv("OMNI_PROGRESS", str(path))
    monkeypatch.setattr(telemetry.time, "monotonic", lambda: clock)
    read = lambda: json.loads(path.read_text())  # noqa: E731
    with track(10, "rlvr") as progress:
        assert read() == {"label": "rlvr", "done": 0, "total": 10, "facts": {}}
        progress.advance(reward=0.25)
        assert read()["done"] == 0
        clock += 0.25
        progress.advance(reward=0.5)
        assert read() == {"label": "rlvr", "done": 2, "total": 10, "facts": {"reward": 0.5}}
        progress.advance(8, loss=float("nan"))
        assert read() == {"label": "rlvr", "done": 10, "total": 10, "facts": {"reward": 0.5, "loss": None}}
    assert [entry.name for entry in tmp_path.iterdir()] == ["progress.json"]


def test_work_does_not_fail_for_its_progress_file(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("OMNI_PROGRESS", str(tmp_path / "absent" / "progress.json"))
    with track(1, "sft") as progress:
        progress.advance()
    assert progress.done == 1
    assert "sft: 1 of 1" in capsys.readouterr().err


def test_a_terminal_shows_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.delenv("OMNI_PROGRESS", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with track(10, "evaluate") as progress:
        progress.advance(10, loss=0.5)
    shown = sys.stderr.getvalue()
    assert "evaluate" in shown
    assert "10/10" in shown
    assert "loss 0.5" in shown
