"""A step that stands for a real one: journaled batches, counted, and stopped or held up on
demand."""

import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from omnicore.config import digest
from omnicore.config.recipe import load_recipe
from omnicore.lineage.step_record import read_step, write_step
from omnicore.storage.files import write_jsonl
from omnicore.storage.journal import Journal

BATCHES, GATED = 12, 5


def wait_for(condition, seconds=60):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.01)


class Fake:
    """Stands for a step's module: journaled batches whose content depends on the seed; counts what
    it really does.

    It fails at batch `stop_at` with `error`, or waits before batch GATED until the file `gate`
    exists.
    """

    def __init__(self, *, stop_at=None, error=None, gate=None):
        self.stop_at, self.error, self.gate = stop_at, error, gate
        self.runs = self.batches = 0
        self.seen = None

    def run(self, recipe, config, inputs, output):
        self.runs += 1
        self.seen = (recipe, config, dict(inputs))
        journal = Journal(output / "work.journal")
        half_made = output / f"half-made-{time.time_ns()}"
        half_made.touch()
        for number in range(BATCHES):
            if number == self.stop_at:
                raise self.error
            if number == GATED and self.gate:
                wait_for(Path(self.gate).exists)
            if str(number) not in journal:
                self.batches += 1
                journal.append([{"key": str(number), "value": digest([recipe.seed, number])}])
            if number == BATCHES // 2:
                (output / "media").mkdir()
                (output / "media" / "a.bin").write_bytes(b"picture")
        write_jsonl(output / "rows.jsonl", (journal[key] for key in journal))
        half_made.unlink()
        return {"queries": 4, "samples": BATCHES, "share": 0.25}


def put(monkeypatch, step, fake):
    module = ModuleType(step)
    module.run = fake.run
    monkeypatch.setitem(sys.modules, f"omnicore.steps.{step}", module)
    return fake


@pytest.fixture
def fake(monkeypatch):
    return put(monkeypatch, "prepare", Fake())


@pytest.fixture
def tiny():
    return load_recipe("tiny")


def made(path, step, content="rows"):
    """A finished output of `step`, made without running it."""
    path.mkdir(parents=True)
    (path / "rows.jsonl").write_text(content)
    write_step(path, {"step": step, "section": step, "key": "k", "seconds": 1.0, "summary": {}})
    return path


def finish(output):
    """Records the files of a finished output as they are now, where a test has changed them."""
    write_step(output, read_step(output))


def names(path):
    return sorted(entry.name for entry in path.iterdir())
