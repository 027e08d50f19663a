"""Queries and draws of a generated probe, and the clean step on them."""

import numpy as np
import pytest

from omnicore.config import CleanConfig
from omnicore.config.recipe import load_recipe
from omnicore.schema import (
    BenchmarkInfo,
    Outcome,
    Query,
)
from omnicore.steps import clean
from omnicore.storage.files import write_json, write_jsonl

PLAN = {"visual_only": 8, "text_only": 2, "audio_only": 0}
FACTS = {"model": "embedded:test", "profile_hash": "a" * 64, "draws": PLAN, "accuracy": {}}
VIEWS = {"visual_only", "text_only"}
SIZES = {"alder": 80, "birch": 120, "yew": 40}


def make_queries():
    """Alder: nobody can solve any; birch: the first half is solvable; yew: yes/no, kept whole."""
    rows = []
    for name, size in SIZES.items():
        for i in range(size):
            options = ("yes", "no") if name == "yew" else ("3", "5", "8", "13")
            rows.append(
                make_query(name, f"{i:03d}", options, options[i % len(options)], f"{name}-{i // 2}")
            )
    return rows


def make_query(benchmark, name, options, answer, cluster):
    return Query(
        benchmark=benchmark,
        id=name,
        type="sum",
        question="?",
        options=options,
        answer=answer,
        cluster=cluster,
    )


def make_draws(queries, counts, seed, accuracy=0.97):
    """Draw lines of a probe that sees the first half of birch under visual_only and guesses
    elsewhere, a third of the time none of the options, half the time its favourite."""
    rng, rows = np.random.default_rng(seed), []
    for query in queries:
        favourite = query.options[rng.integers(len(query.options))]
        for view, n in counts.items():
            for i in range(n):
                order = rng.permutation(len(query.options)).tolist()
                given = rng.choice([None, favourite, query.options[order[0]]], p=[0.33, 0.34, 0.33])
                if (
                    view == "visual_only"
                    and query.benchmark == "birch"
                    and int(query.id) < 60
                    and rng.random() < accuracy
                ):
                    given = query.answer
                worth = (
                    Outcome.correct if given == query.answer else Outcome.incorrect
                )  # None: none of the options is named
                row = {
                    "benchmark": query.benchmark,
                    "id": query.id,
                    "view": view,
                    "draw": i,
                    "permutation": order,
                }
                rows.append(
                    {**row, "reply": f"<answer>{given}</answer>", "answer": given, "outcome": worth}
                )
    return rows


@pytest.fixture(scope="module")
def good():
    queries = make_queries()
    return queries, make_draws(queries, PLAN, 0), make_draws(queries, {"visual_only": 4}, 1)


@pytest.fixture
def inputs(good, tmp_path):
    queries, draws, second = good
    for name in ("prepare", "probe", "second", "out"):
        (tmp_path / name).mkdir()
    write_jsonl(tmp_path / "prepare/queries.jsonl", queries)
    policy = {"alder": "filtered", "birch": "filtered", "yew": "keep_whole"}
    infos = [
        BenchmarkInfo(name=n, queries=s, filter_policy=policy[n], reason="yes/no")
        for n, s in SIZES.items()
    ]
    write_json(
        tmp_path / "prepare/benchmarks.json", [info.model_dump(mode="json") for info in infos]
    )
    write_jsonl(tmp_path / "probe/draws.jsonl", draws)
    write_json(tmp_path / "probe/probe.json", FACTS)
    write_jsonl(tmp_path / "second/draws.jsonl", second)
    write_json(
        tmp_path / "second/probe.json",
        {**FACTS, "model": "embedded:second", "draws": {"visual_only": 4}},
    )
    return {
        "queries": tmp_path / "prepare",
        "draws": tmp_path / "probe",
        "second_draws": tmp_path / "second",
    }


def run(inputs, **config):
    output = inputs["queries"].parent / "out"
    return clean.run(load_recipe("tiny"), CleanConfig(**config), inputs, output), output
