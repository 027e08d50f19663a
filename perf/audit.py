"""Time the audit at full size: 16,968 queries of nine benchmarks, 8 draws each.

`python -m perf.audit` times each part in its own process. It prints wall and CPU seconds of the
part (on a busy machine the CPU seconds are the better measure) and the peak resident memory of the
whole process, including interpreter, libraries and queries:

- verdicts: from arrays of answers to the verdicts and written manifests of all policies
- step: the whole clean step, from reading queries and 135,744 draws to writing all files
- journal: replaying 135,744 records, one per line as over HTTP, and 256 per line as in process
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from omnicore import audit
from omnicore.config import CleanConfig
from omnicore.config.recipe import load_recipe
from omnicore.data.prompts import draw_permutation
from omnicore.schema import BenchmarkInfo, Media, Query, View
from omnicore.steps import clean
from omnicore.storage.files import write_json, write_jsonl
from omnicore.storage.journal import Journal

QUERIES, DRAWS, OPTIONS, BENCHMARKS = 16_968, 8, 4, 9
# 500 characters.
REPLY = "<think>" + "The picture shows a drummer on the left. " * 12 + "</think><answer>{}</answer>"


def now() -> np.ndarray:
    """Return the wall and the CPU clock, in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def queries() -> list[Query]:
    texts = tuple(f"option {i}" for i in range(OPTIONS))
    media = (
        Media(kind="video", uri="media/a.mp4", sha256="0" * 64),
        Media(kind="audio", uri="media/a.mp4", sha256="0" * 64),
    )
    shared = {"question": "Who plays?", "options": texts, "media": media}
    return [
        Query(
            benchmark=f"b{i % BENCHMARKS}",
            id=f"{i:05d}",
            type=f"t{i % 7}",
            answer=texts[i % 4],
            cluster=f"v{i // 2}",
            **shared,
        )
        for i in range(QUERIES)
    ]


def answers(asked: list[Query], draws: int, seed: int) -> np.ndarray:
    """Return the answers of a probe that sees every other query with 95 % accuracy.

    On the others it repeats its guess.
    """
    rng = np.random.default_rng(seed)
    shape = (len(asked), draws)
    right = np.array([q.options.index(q.answer) for q in asked])[:, None]
    guess = np.where(
        rng.random(shape) < 0.5,
        rng.integers(OPTIONS, size=(len(asked), 1)),
        rng.integers(OPTIONS, size=shape),
    )
    sees = (np.arange(len(asked))[:, None] % 2 == 0) & (rng.random(shape) < 0.95)
    return np.where(sees, right, guess)


def lines(asked: list[Query], given: np.ndarray) -> Iterator[dict[str, object]]:
    for q, row in zip(asked, given.tolist(), strict=True):
        for i, column in enumerate(row):
            answer = q.options[column]
            yield {
                "benchmark": q.benchmark,
                "id": q.id,
                "view": "visual_only",
                "draw": i,
                "permutation": draw_permutation(q, View.visual_only, i, 0),
                "reply": REPLY.format(answer),
                "reasoning": "",
                "truncated": False,
                "answer": answer,
                "outcome": "correct" if answer == q.answer else "incorrect",
            }


def prepare(root: Path) -> None:
    """Write every file that the parts below read."""
    asked = queries()
    for folder, draws, seed in (("probe", DRAWS, 0), ("second", 4, 1)):
        (root / folder).mkdir()
        write_jsonl(root / folder / "draws.jsonl", lines(asked, answers(asked, draws, seed)))
        facts = {"model": folder, "profile_hash": "a" * 64, "draws": {"visual_only": draws}}
        write_json(root / folder / "probe.json", facts)
    (root / "prepare").mkdir()
    write_jsonl(root / "prepare" / "queries.jsonl", asked)
    infos = [
        BenchmarkInfo(name=f"b{i}", filter_policy="filtered", queries=0) for i in range(BENCHMARKS)
    ]
    write_json(
        root / "prepare" / "benchmarks.json", [info.model_dump(mode="json") for info in infos]
    )
    for batch in (1, 256):
        with (root / f"{batch}.journal").open("w") as file:
            for start in range(0, QUERIES * DRAWS, batch):
                replies = ",".join(
                    f'{{"text":"{REPLY.format(i)}"}}'
                    for i in range(start, min(start + batch, QUERIES * DRAWS))
                )
                file.write(f'[{{"key":"0-{start}","replies":[{replies}]}}]\n')


def verdicts(root: Path) -> np.ndarray:
    asked = queries()
    given = answers(asked, DRAWS, 0)
    arrays = audit.QueryArrays(asked, frozenset(f"b{i}" for i in range(BENCHMARKS)))
    place = np.arange(DRAWS)[None].repeat(QUERIES, axis=0)
    orders = audit.OptionOrders(place // OPTIONS, place % OPTIONS)
    start = now()
    config = CleanConfig()
    hits = audit.count_hits(arrays, given)
    found = audit.fit_rules(arrays, hits, config)
    by_policy = {
        "repeated": audit.repeated_verdicts(arrays, hits, found, config),
        "single_pass": audit.single_pass_verdicts(arrays, given, found),
        "circular": audit.circular_verdicts(
            arrays, given, audit.full_rotations(arrays, orders), config
        )
        or [],
    }
    for policy, made in by_policy.items():
        write_json(root / f"{policy}.json", audit.build_manifest(policy, "probe", "a" * 64, made))
    return now() - start


def step(root: Path) -> np.ndarray:
    inputs = {"queries": root / "prepare", "draws": root / "probe", "second_draws": root / "second"}
    start = now()
    clean.run(load_recipe("tiny"), CleanConfig(), inputs, root)
    return now() - start


def journal(root: Path, batch: int) -> np.ndarray:
    start = now()
    log = Journal(root / f"{batch}.journal")
    seconds = now() - start
    assert f"0-{(QUERIES * DRAWS - 1) // batch * batch}" in log
    return seconds


PARTS: dict[str, Callable[[Path], np.ndarray]] = {
    "verdicts": verdicts,
    "step": step,
    "journal, one a line": lambda root: journal(root, 1),
    "journal, 256 a line": lambda root: journal(root, 256),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m perf.audit", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.part:
        wall, cpu = PARTS[chosen.part](chosen.root)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{chosen.part:<20} {wall:6.2f} s  {cpu:6.2f} s CPU  {peak:6.0f} MiB")
        return
    with tempfile.TemporaryDirectory() as folder:
        # Also in its own process: a child's peak memory starts from that of its parent.
        subprocess.run(
            [
                sys.executable,
                "-c",
                (
                    "from pathlib import Path; import perf.audit;"
                    f" perf.audit.prepare(Path({folder!r}))"
                ),
            ],
            check=True,
        )
        for part in PARTS:
            subprocess.run(
                [sys.executable, "-m", "perf.audit", "--part", part, "--root", folder], check=True
            )


if __name__ == "__main__":
    main()
