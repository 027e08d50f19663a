"""A training as a process of its own, scraped by a real Prometheus while it works, and asked for over its API."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from omnicore.journal import read_jsonl
from omnicore.provenance import write_step
from omnicore.recipe import load_recipe
from omnicore.run import run_step
from tests.monitoring import prometheus
from tests.seaweed import free_ports

ROOT = Path(__file__).parents[2]
SMALL = ["prepare.split=dev", "prepare.scale=0.02", "threads=1"]
TRAINING = ["rlvr.steps=6", "rlvr.prompts=3", "rlvr.group=4", "rlvr.warmup=1", "rlvr.beta=0.1", "rlvr.checkpoint_every=2"]
FIELDS = {
    "loss": "omni_training_loss",
    "reward": "omni_reward",
    "reward_std": "omni_reward_spread",
    "kl": "omni_kl_nats",
    "entropy": "omni_entropy_nats",
    "length": "omni_rollouts_length_tokens",
    "all_wrong": "omni_groups_all_wrong_ratio",
    "no_answer": "omni_rollouts_no_answer_ratio",
    "truncated": "omni_rollouts_truncated_ratio",
}


def test_a_training_is_seen_by_prometheus_step_by_step(tmp_path: Path) -> None:
    run_step("prepare", load_recipe("tiny", SMALL), {}, tmp_path / "prepare")
    shutil.copytree(ROOT / "omnicore" / "assets" / "models" / "tiny-base", tmp_path / "sft" / "checkpoint")
    write_step(tmp_path / "sft", {"step": "sft", "section": "sft", "key": "0", "seconds": 0, "summary": {}})
    (port,) = free_ports(1)
    changes = [part for change in (*SMALL, *TRAINING) for part in ("--set", change)]
    given = ["--input", f"data={tmp_path}/prepare", "--input", f"model={tmp_path}/sft", "--output", str(tmp_path / "rlvr")]
    env = {**os.environ, "OMNI_METRICS_PORT": str(port), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with prometheus(tmp_path, {port: {"run": "boost-1"}}) as seen:
        done = subprocess.run([sys.executable, "-m", "omnicore", "rlvr", *changes, *given], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert f"metrics at http://127.0.0.1:{port}/metrics" in done.stderr
        end = '{run="boost-1",stage="rlvr",step="rlvr"'
        steps = dict(seen.scraped(f"omni_training_steps{end}}}"))
        curve = {row["step"]: row for row in read_jsonl(tmp_path / "rlvr" / "curves.jsonl", dict)}
        assert len(set(steps.values()) & curve.keys()) >= 4  # it is asked ten times a second
        for field, name in FIELDS.items():
            series = f"{name}{end}}}" if field == "loss" else f'{name}{end},modality="all"}}'
            values = {at: value for at, value in seen.scraped(series) if steps.get(at, 0) in curve}
            # The values of one scrape are those of one step, but for one that fell between two settings of a value.
            right = [at for at, value in values.items() if value == curve[int(steps[at])][field]]
            assert len(right) >= len(values) - 2 > 3, name
        assert {value for _, value in seen.scraped(f"omni_samples_total{end}}}")} <= {12.0 * step for step in curve}
        sums = {sum(curve[i]["tokens"] for i in range(1, last + 1)) for last in curve}
        assert {value for _, value in seen.scraped(f"omni_tokens_total{end}}}")} <= sums
        saved = {value for _, value in seen.scraped(f"omni_checkpoint_saved_timestamp_seconds{end}}}")}
        assert len(saved) >= 2  # the start of the training, and a checkpoint
        for kind in ("image", "audio"):
            assert {value for _, value in seen.scraped(f'omni_canary_passed{end},kind="{kind}"}}')} == {1.0}
        for modality in ("vision", "audio", "omni"):
            assert seen.scraped(f'omni_reward{end},modality="{modality}"}}')
        assert max(value for _, value in seen.scraped(f"omni_training_step_duration_seconds{end}}}")) < 60
    last = (tmp_path / "rlvr" / "metrics.prom").read_text()
    assert 'omni_training_steps{stage="rlvr",step="rlvr"} 6.0' in last
