"""Rows of training sources, media beside them, and what prepare makes of both."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from omnicore.config.recipe import Recipe, load_recipe
from omnicore.data.benchmarks.synthetic import World
from omnicore.schema import Query
from omnicore.steps import prepare
from omnicore.storage.files import read_jsonl

COMMIT = "0123456789abcdef" * 2 + "01234567"


SMALL = [
    "prepare.split=dev",
    "prepare.scale=0.01",
    "profile.style=letter",
    "prepare.max_refused=0.9",
]


def recipe(training: dict[str, Any], *more: str) -> Recipe:
    return load_recipe("tiny", [*SMALL, f"prepare.training={json.dumps(training)}", *more])


# Pictures and sounds of a split are the same in every test, and take most of a small prepare.
world = cache(World)


def prepared(output: Path, training: dict[str, Any], *more: str) -> dict[str, Any]:
    output.mkdir(exist_ok=True)
    made = recipe(training, *more)
    with patch.object(prepare, "World", world):
        return prepare.run(made, made.prepare, {}, output)


def training_queries(output: Path, stage: str = "sft") -> dict[str, Query]:
    return {query.id: query for query in read_jsonl(output / f"{stage}.jsonl", Query)}


def problems(output: Path) -> dict[tuple[int, str], str]:
    return {
        (one["line"], one["field"]): one["message"]
        for one in read_jsonl(output / "problems.jsonl", dict)
    }


R1: dict[str, Any] = {
    "problem_id": 1,
    "problem": "What is it?",
    "data_type": "image",
    "problem_type": "multiple choice",
    "options": ["A. dog", "B. cat"],
    "solution": "<answer>B</answer>",
    "path": "./images/a.png",
    "data_source": "somewhere",
}


TEMPORAL: dict[str, Any] = {
    "problem_type": "temporal retrieval",
    "problem": "a door opens",
    "data_type": "video",
    "path": "film.mp4",
    "options": [],
}
