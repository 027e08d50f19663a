"""docs/audit.md is run as it reads: the fixture stands for the folder of Daily-Omni, a stub for the
model servers."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from omnicore.data.benchmarks import NAMES, get_adapter
from tests.benchmarks.native import copy
from tests.stub_server import Answer, Stub, completion, last_text

GUIDE = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith(".venv/bin/omnicore ")
]
MODELS = (
    "Qwen/Qwen3-VL-30B-A3B-Thinking",
    "OpenGVLab/InternVL3_5-30B-A3B",
    "Qwen/Qwen2.5-Omni-3B",
    "Qwen/Qwen2.5-Omni-7B",
)


def reply(request: dict[str, Any]) -> Answer:
    """Guesses by a hash of all that it is shown."""
    number = int(hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:8], 16)
    letters = re.findall(r"^([A-Z])\. ", last_text(request), re.MULTILINE)
    said = (
        letters[number % len(letters)] if request["seed"] else number
    )  # the canary, whose seed is 0, needs different replies to different media
    return completion(
        f"<answer>{said}</answer>", model=request["model"], reasoning_content="Let me look."
    )


def run(line: str, folder: Path, settings: list[str]) -> subprocess.CompletedProcess[str]:
    arguments = shlex.split(line)[1:]
    if "qwen3-vl-audit" in arguments:
        arguments += [part for setting in settings for part in ("--set", setting)]
    environment = {**os.environ, "OMNI_MEDIA_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "omnicore", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_guide_runs_as_written(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    copy("daily_omni", tmp_path / "data").rename(tmp_path / "data" / "Daily-Omni")
    listed = Answer(
        json.dumps({"object": "list", "data": [{"id": name} for name in MODELS]}).encode()
    )
    said = []
    with Stub(reply, models=listed) as stub:
        # The fixture has items that are broken on purpose.
        settings = [
            f"{section}engine.url={stub.url}" for section in ("", "probe.", "second_probe.")
        ] + ["prepare.max_refused=0.5"]
        for line in COMMANDS:
            done = run(line, tmp_path, settings)
            assert done.returncode == 0, f"{line}\n{done.stderr}"
            said.append(done.stdout)
    runs = tmp_path / "runs" / "daily"
    assert len(COMMANDS) >= 11
    assert "hours" in said[1]
    assert re.search(r"prompt tokens +[1-9]", said[1])
    draws = [json.loads(line) for line in (runs / "probe" / "draws.jsonl").read_text().splitlines()]
    queries = (runs / "prepare" / "queries.jsonl").read_text().splitlines()
    assert len(draws) == 10 * len(queries)
    assert {draw["reasoning"] for draw in draws} == {"Let me look."}
    assert {part["type"] for r in stub.requests[:1] for part in r["messages"][-1]["content"]} <= {
        "text",
        "image_url",
        "video_url",
    }
    assert "<title>" in (runs / "report" / "report.html").read_text()
    scores = json.loads((runs / "evaluate" / "scores.json").read_text())
    assert scores["by_benchmark"]["daily_omni"]["official"]["raw"]["n"] == len(queries)


def test_withheld_sound_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    copy("daily_omni", tmp_path / "data").rename(tmp_path / "data" / "Daily-Omni")
    listed = Answer(
        json.dumps({"object": "list", "data": [{"id": name} for name in MODELS]}).encode()
    )
    with Stub(reply, models=listed) as stub:
        settings = [
            f"probe.engine.url={stub.url}",
            "prepare.max_refused=0.5",
            "probe.draws.visual_only=1",
            "probe.draws.text_only=1",
        ]
        for line in (COMMANDS[0], COMMANDS[2]):
            done = run(line, tmp_path, settings)
            assert done.returncode == 0, done.stderr
    asked = [r for r in stub.requests if r["seed"]]
    kinds = [{part["type"] for part in r["messages"][-1]["content"]} for r in asked]
    assert {"text", "video_url"} in kinds
    assert {"text"} in kinds
    assert not any("input_audio" in shown for shown in kinds)
    videos = [
        p["video_url"]["url"]
        for r in asked
        for p in r["messages"][-1]["content"]
        if p["type"] == "video_url"
    ]
    assert all(url.startswith("data:video/jpeg;base64,") for url in videos)


def test_table_lists_every_registered_benchmark() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| `[^|]+ \| ([^|]+) \|$", GUIDE, re.MULTILINE))
    assert sorted(rows) == sorted(NAMES)
    for name, policy in rows.items():
        entry = get_adapter(name).ENTRY
        assert policy.startswith(
            {"filtered": "filtered", "keep_whole": "kept whole"}[entry.filter_policy]
        ), name
        assert f"| `{name}` | `{entry.annotations[0]}` |" in GUIDE
        assert [layout for layout in entry.annotations[1:] if f"| `{layout}`" not in GUIDE] == [], (
            name
        )
