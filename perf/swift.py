"""Compare an RLVR step with ms-swift's: `python -m perf.swift --swift ENV/bin/swift`.

ms-swift wants other versions than omnicore, so it needs a separate environment:

  python -m venv ENV
  ENV/bin/pip install ms-swift==4.6.0 transformers==5.19.0 trl==0.29.1 qwen-omni-utils librosa soundfile decord msgspec torchvision

Both train the embedded model by GRPO on pictures with sound, all weights, in float32, on one
thread, on the same rows, 16 prompts a step with 8 rollouts of at most 14 tokens, and take turns.
Ours is timed from step to step, ms-swift's by its own `step_time`; each run's first step, which
loads, is left out. Of ours, `verified` leaves out groups without an advantage, which ms-swift
trains on; `random` trains on all.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from omnicore.config.recipe import load_recipe
from perf.training import Bench

REWARD = """\
import re

from swift.rewards import ORM, orms


class Exact(ORM):
    def __call__(self, completions, solution, **_):
        found = [re.search(r"<answer>(.*?)</answer>", said) for said in completions]
        return [float(bool(answer) and answer[1].strip() == right) for answer, right in zip(found, solution)]


orms["exact"] = Exact
"""


def row_of(row: Any) -> dict[str, Any]:
    """A training row in ms-swift's form; media are named in the order of their places."""
    places, files = "", {"image": [], "audio": []}  # type: ignore[var-annotated]
    for part in row.request.parts:
        if isinstance(part, str):
            places += part
        else:
            places += f"<{part.kind}>"
            files[part.kind].append(str(row.request.root / part.uri))
    return {
        "messages": [{"role": "user", "content": places}],
        "solution": row.query.answer,
        "images": files["image"],
        "audios": files["audio"],
    }


def swift(program: Path, bench: Bench, steps: int, root: Path) -> list[float]:
    """Seconds of ms-swift's steps but the first.

    Raises CalledProcessError when it fails; its output goes to stderr.
    """
    from omnicore.models import thinker

    model, encoder, rows = bench.start("rlvr.jsonl", targets=False)
    thinker.save(model, encoder, root / "model")
    (root / "rows.jsonl").write_text(
        "\n".join(json.dumps(row_of(row)) for row in rows if omni(row))
    )
    (root / "reward.py").write_text(REWARD)
    config = bench.recipe.rlvr
    options = {
        "rlhf_type": "grpo",
        "model": root / "model",
        "model_type": "qwen2_5_omni",
        "template": "qwen2_5_omni",
        "dataset": root / "rows.jsonl",
        "external_plugins": root / "reward.py",
        "reward_funcs": "exact",
        "tuner_type": "full",
        "freeze_vit": "false",
        "freeze_aligner": "false",
        "torch_dtype": "float32",
        "fp16": "false",
        "bf16": "false",
        "beta": 0,
        "per_device_train_batch_size": config.prompts_per_step * config.num_generations,
        "num_generations": config.num_generations,
        "max_completion_length": bench.recipe.profile.max_new_tokens,
        "temperature": config.temperature,
        "learning_rate": config.learning_rate,
        "max_steps": steps,
        "gradient_checkpointing": "false",
        "vit_gradient_checkpointing": "false",
        "split_dataset_ratio": 0,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "output_dir": root / "out",
    }
    command = [
        str(program),
        "rlhf",
        *(word for name, value in options.items() for word in (f"--{name}", str(value))),
    ]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "ENABLE_AUDIO_OUTPUT": "0",
    }
    environment.pop("PYTHONPATH", None)  # it is another environment
    subprocess.run(command, cwd=root, env=environment, stdout=sys.stderr, check=True)
    (log,) = root.glob("out/**/logging.jsonl")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    return [record["step_time"] for record in records if "step_time" in record][1:]


def omni(row: Any) -> bool:
    return {media.kind for media in row.query.media} == {"image", "audio"}


def table(program: Path, rounds: int, steps: int, scale: float) -> list[str]:
    found: dict[str, list[float]] = {"verified": [], "random": [], "ms-swift": []}
    for turn in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            bench = Bench(load_recipe("tiny", [f"prepare.scale={scale}", "threads=1"]), root)
            found["ms-swift"] += swift(program, bench, steps, root)
            for reward in ("verified", "random"):
                found[reward] += [
                    step.wall for step in bench.rlvr(steps, reward, "rlvr.jsonl", omni)
                ]
        print(f"round {turn + 1} of {rounds}, load {os.getloadavg()[0]:.2f}", file=sys.stderr)
    median = {who: statistics.median(seconds) for who, seconds in found.items()}
    lines = ["| step | median | ms-swift's, of ours | steps |", "| --- | --- | --- | --- |"]
    return lines + [
        f"| {who} | {s:.2f} s | {median['ms-swift'] / s:.2f} | {len(found[who])} |"
        for who, s in median.items()
    ]


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--swift", type=Path, required=True, metavar="ENV/bin/swift")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--steps", type=int, default=6, help="of each run (default: 6)")
    given = options.parse_args()
    print(
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, no GPU, load average"
        f" {os.getloadavg()[0]:.2f} before"
    )
    print("\n".join(table(given.swift, given.rounds, given.steps, 0.25)))
    print(f"load average {os.getloadavg()[0]:.2f} after")


if __name__ == "__main__":
    main()
