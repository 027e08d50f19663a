"""docs/walks.md is run as it reads; `python -m tests.e2e.test_walks` writes its outputs anew."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.media_files import make_video
from tests.seeing_stub import Seen, seeing
from tests.stub_server import Answer, Stub, completion, last_text

PAGE = Path(__file__).parents[2] / "docs" / "walks.md"
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
# What differs from run to run: figures before these units, dates, and widths that follow them.
VARIES = re.compile(
    r"\d[\d.,]*(?= s\b| MB| GiB| CPU| samples)|\d{4}-\d\d-\d\d \d\d:\d\d|(?<=-)[0-9a-f]{8}\b|[0-9a-f]{12,}|torch \S+|at /\S+"
    r"|(?<=page_bytes )\d+|(?<=hours )\s*[\d.]+|^\s*[\d,]+(?=  \S+\.(?:md|json|jsonl|csv)$)",
    re.MULTILINE,
)
SMALL = ["prepare.scale=0.05", "threads=1"]


def reply(request: dict[str, Any]) -> Answer:
    """Answers the canary as a model that sees and hears; guesses the questions by their text."""
    text = last_text(request)
    if "Which animal" not in text and "How many" not in text:
        return named(SEEING(request), request["model"])
    letters = re.findall(r"^([A-Z])\. ", text, re.MULTILINE)
    number = int(hashlib.sha256(f"{text}{request['seed']}".encode()).hexdigest()[:8], 16)
    return completion(f"<answer>{letters[number % len(letters)]}</answer>", model=request["model"])


def deaf(request: dict[str, Any]) -> Answer:
    return named(DEAF(request), request["model"])


def named(answer: Answer, model: str) -> Answer:
    """Return an answer under the name that was asked for."""
    return replace(answer, body=answer.body.replace(b'"stub"', f'"{model}"'.encode()))


def drop_sound(seen: Sequence[Seen]) -> Sequence[Seen]:
    return [medium for medium in seen if medium.kind != "audio"]


SEEING, DEAF = seeing(), seeing(drop_sound)


def write_questions(folder: Path) -> None:
    """Thirty questions about two clips, and a recipe of three lines."""
    for name, hertz in (("a", 440), ("b", 660)):
        make_video(folder / f"{name}.mp4", 1, 4, (64, 48), hertz)
    rows = []
    for number in range(30):
        heard = number % 2 == 0
        question = (
            f"Which animal is heard at {number}?" if heard else f"How many are shown at {number}?"
        )
        choices = ["a cat", "a dog", "an owl"] if heard else ["two", "three", "four"]
        clip = "a.mp4" if number < 15 else "b.mp4"
        kind = "sound" if heard else "picture"
        row = {
            "q": question,
            "choices": choices,
            "gold": "ABC"[number % 3],
            "clip": clip,
            "kind": kind,
        }
        rows.append(json.dumps(row))
    (folder / "questions.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "mine.yaml").write_text(
        "extends: qwen3-vl-audit\nprobe: {draws: {visual_only: 4}}\nseed: 7\n"
    )


def train_a_little(folder: Path) -> None:
    """Three evaluations of embedded checkpoints below runs/few, by the commands of the quick start."""
    few = "runs/few"
    sft = ["--set", "sft.steps=2", "--set", "sft.train_batch_size=4"]
    model = f"model={few}/"
    clean = ["--input", f"queries={few}/prepare", "--input", f"manifest={few}/clean"]
    for words in (
        ["prepare", "--output", f"{few}/prepare"],
        ["probe", "--set", "probe.draws={visual_only: 2, text_only: 1}", *clean[:2]],
        ["clean", *clean[:2], "--input", f"draws={few}/probe"],
        ["sft", *sft, "--input", f"data={few}/prepare"],
        [
            "sft",
            *sft,
            "--set",
            "seed=1",
            "--input",
            f"data={few}/prepare",
            "--output",
            f"{few}/other",
        ],
        ["evaluate", *clean, "--output", f"{few}/evaluate-base"],
        ["evaluate", *clean, "--input", f"{model}sft", "--output", f"{few}/evaluate-sft"],
        ["evaluate", *clean, "--input", f"{model}other", "--output", f"{few}/evaluate-other"],
    ):
        output = [] if "--output" in words else ["--output", f"{few}/{words[0]}"]
        settings = [part for value in SMALL for part in ("--set", value)]
        run(["omnicore", *words, *settings, *output], folder, {})


def run(words: Sequence[str], folder: Path, ports: dict[str, str]) -> str:
    """Run a command of the page; its servers' ports are free ones, and printed as on the page."""
    given = []
    for word in words[1:]:
        for shown, free in ports.items():
            word = word.replace(shown, free)
        given.append(word)
    done = subprocess.run(
        [sys.executable, "-m", "omnicore", *given],
        cwd=folder,
        env={**os.environ, "COLUMNS": "100", "OMNI_MEDIA_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    printed = done.stdout + "".join(
        f"{line}\n" for line in done.stderr.splitlines() if line.startswith("omnicore: ")
    )
    assert done.returncode in (0, 2), done.stderr
    for shown, free in ports.items():
        printed = printed.replace(free, shown)
    return printed


@contextmanager
def servers() -> Iterator[dict[str, str]]:
    """The page's servers: the probe, a deaf one, and the model to score."""
    names = {":8000": (reply, "probe"), ":8001": (deaf, "deaf"), ":8002": (reply, "listener")}
    stubs = {}
    for port, (answer, name) in names.items():
        listed = json.dumps({"object": "list", "data": [{"id": name}]}).encode()
        stubs[port] = Stub(answer, models=Answer(listed)).__enter__()
    try:
        found = {port: f":{stub.url.split(':')[2].split('/')[0]}" for port, stub in stubs.items()}
        # A run's folder has the port in its name, behind a hyphen.
        yield found | {
            port.replace(":", "-"): free.replace(":", "-") for port, free in found.items()
        }
    finally:
        for stub in stubs.values():
            stub.__exit__(None, None, None)


def filled(folder: Path) -> str:
    """Return the page with what its commands print now."""
    write_questions(folder)
    train_a_little(folder)
    with servers() as ports:

        def fill(match: re.Match[str]) -> str:
            commands = [line for line in match[1].splitlines() if line.startswith("$ ")]
            outputs = []
            for command in commands:
                printed = run(shlex.split(command[2:]), folder, ports)
                outputs.append(f"{command}\n{printed.rstrip()}\n")
            return "```console\n" + "".join(outputs) + "```"

        return BLOCK.sub(fill, PAGE.read_text())


@pytest.mark.slow
def test_the_page_shows_what_its_commands_print(tmp_path: Path) -> None:
    now, page = filled(tmp_path), PAGE.read_text()
    assert len(BLOCK.findall(page)) >= 8
    for shown, printed in zip(BLOCK.findall(page), BLOCK.findall(now), strict=True):
        assert fixed(printed) == fixed(shown)


def fixed(text: str) -> str:
    """Return the lines of a text without what varies, sorted: steps of one second have no order."""
    plain = re.sub(r"[ \t]+", " ", VARIES.sub("#", text))
    return "\n".join(sorted(plain.splitlines()))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        PAGE.write_text(filled(Path(scratch)))
