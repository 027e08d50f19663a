"""docs/operate.md as it reads: a training at work, scraped by a real Prometheus that has the rules,
and asked for over its API."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from omnicore.config.recipe import Recipe, load_recipe
from omnicore.lineage.step_record import write_step
from omnicore.runtime.run import run_step
from omnicore.storage.files import read_jsonl
from tests.monitoring import INTERVAL, Prometheus, needs, started
from tests.seaweed import free_ports

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "operate.md").read_text()
TRAIN, CURL, RULES, SERVE = [
    line
    for block in re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)
    for line in block.splitlines()
]
(CONFIG,) = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
SMALL = ["prepare.split=dev", "prepare.scale=0.02", "threads=1"]
TRAINING = [
    "rlvr.steps=6",
    "rlvr.prompts_per_step=3",
    "rlvr.num_generations=4",
    "rlvr.warmup_steps=1",
    "rlvr.beta=0.1",
    "rlvr.save_steps=2",
]
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


@pytest.mark.slow
def test_prometheus_scrapes_a_training_step_by_step(tmp_path: Path) -> None:
    for binary in ("prometheus", "curl"):
        needs(binary)
    hand, output = tmp_path / "runs" / "hand", tmp_path / "runs" / "hand" / "rlvr"
    run_step("prepare", load_recipe("tiny", SMALL), {}, hand / "prepare")
    shutil.copytree(
        ROOT / "omnicore" / "assets" / "models" / "tiny-base", hand / "sft" / "checkpoint"
    )
    write_step(
        hand / "sft", {"step": "sft", "section": "sft", "key": "0", "seconds": 0, "summary": {}}
    )
    (tmp_path / "k8s").symlink_to(ROOT / "k8s")
    ports = dict(zip(("9400", "9090", "9091"), map(str, free_ports(3)), strict=True))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    def mine(text: str) -> str:
        """On free ports, with the interpreter of this test."""
        own = {
            **ports,
            ".venv/bin/omnicore": f"{sys.executable} -m omnicore",
            ".venv/bin/python": sys.executable,
        }
        return re.sub("|".join(map(re.escape, own)), lambda found: own[found[0]], text)

    (tmp_path / "runs" / "prometheus.yml").write_text(
        mine(CONFIG).replace("5s", f"{INTERVAL * 1000:.0f}ms")
    )
    subprocess.run(mine(RULES), shell=True, cwd=tmp_path, check=True)
    changes = " ".join(f"--set {change}" for change in (*SMALL, *TRAINING))
    url = f"http://127.0.0.1:{ports['9090']}"
    with started(
        shlex.split(mine(SERVE)), f"{url}/-/ready", tmp_path / "prometheus.log", cwd=tmp_path
    ):
        seen = Prometheus(url)
        line = f"{mine(TRAIN).removesuffix(' &')} {changes}"
        training = subprocess.Popen(
            line, shell=True, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True
        )
        looked = subprocess.run(
            shlex.split(mine(CURL)), capture_output=True, text=True, check=False
        )
        said = training.communicate()[1]
        assert training.returncode == 0, said
        assert f"metrics at http://127.0.0.1:{ports['9400']}/metrics" in said
        assert looked.returncode == 0
        rules = [rule["name"] for group in seen.get("rules")["groups"] for rule in group["rules"]]
        assert len(rules) == len(
            re.findall(
                r"^ +- alert: ", (ROOT / "k8s/base/monitoring/rules.yaml").read_text(), re.MULTILINE
            )
        )
        check(seen, output)
    assert (
        'omni_training_steps{stage="rlvr",step="rlvr"} 6.0' in (output / "metrics.prom").read_text()
    )


def check(seen: Prometheus, output: Path) -> None:
    end = '{run="laptop",stage="rlvr",step="rlvr"'
    steps = dict(seen.scraped(f"omni_training_steps{end}}}"))
    curve = {row["step"]: row for row in read_jsonl(output / "curves.jsonl", dict)}
    assert len(set(steps.values()) & curve.keys()) >= 4  # it is asked ten times a second
    for field, name in FIELDS.items():
        series = f"{name}{end}}}" if field == "loss" else f'{name}{end},modality="all"}}'
        values = {at: value for at, value in seen.scraped(series) if steps.get(at, 0) in curve}
        # The values of one scrape are those of one step, but for one that fell between two settings of a value.
        right = [at for at, value in values.items() if value == curve[int(steps[at])][field]]
        assert len(right) >= len(values) - 2 > 3, name
    assert {value for _, value in seen.scraped(f"omni_samples_total{end}}}")} <= {
        12.0 * step for step in curve
    }
    sums = {sum(curve[i]["tokens"] for i in range(1, last + 1)) for last in curve}
    assert {value for _, value in seen.scraped(f"omni_tokens_total{end}}}")} <= sums
    saved = {value for _, value in seen.scraped(f"omni_checkpoint_saved_timestamp_seconds{end}}}")}
    assert len(saved) >= 2  # the start of the training, and a checkpoint
    for kind in ("image", "audio"):
        assert {value for _, value in seen.scraped(f'omni_canary_passed{end},kind="{kind}"}}')} == {
            1.0
        }
    for modality in ("vision", "audio", "omni"):
        assert seen.scraped(f'omni_reward{end},modality="{modality}"}}')
    assert (
        max(value for _, value in seen.scraped(f"omni_training_step_duration_seconds{end}}}")) < 600
    )
    active = [value for _, value in seen.scraped(f"omni_training_active{end}}}")]
    assert active == sorted(active, reverse=True)
    assert set(active) == {1.0, 0.0}  # it trains, then it saves what it has trained
    ended = [value for _, value in seen.scraped(f"omni_training_step_timestamp_seconds{end}}}")]
    assert ended == sorted(ended)
    assert len(set(ended)) >= 4


def test_named_recipe_values_and_files_exist() -> None:
    named = set(re.findall(r"`((?:sft|rlvr|engine|profile)\.[a-z_.]+)`", GUIDE))
    assert len(named) > 6
    for name in named:
        held: type[BaseModel] = Recipe
        for part in name.split("."):
            assert part in held.model_fields, name
            held = held.model_fields[part].annotation or BaseModel
    for link in re.findall(r"\]\(([^)#]+)\)", GUIDE):
        assert (ROOT / "docs" / link).exists(), link


def test_runbook_has_every_alert_and_no_other() -> None:
    rules = yaml.safe_load((ROOT / "k8s/base/monitoring/rules.yaml").read_text())["spec"]["groups"]
    told = re.findall(r"^### (\w+)$", GUIDE, re.MULTILINE)
    assert len(told) == len(set(told))
    assert set(told) == {rule["alert"] for group in rules for rule in group["rules"]}
