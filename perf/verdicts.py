"""Measure precision and recall of verdicts on simulated benchmarks with planted truth.

`python -m perf.verdicts` prints the tables of docs/concepts/verdicts.md. Every cell is one benchmark size
and one share of solvable queries, over seeded repetitions. The probe answers solvable queries with
an accuracy of 0.95 and otherwise guesses. Probes:

- independent: every guess is drawn anew among the options
- repeating: a third of the guesses name none of the options, and 60 % of the others are the option
  that the probe prefers in this query
- misreading: as `repeating`, and it misreads 2 % of the solvable queries, the same way every time
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from omnicore import audit
from omnicore.config import CleanConfig
from omnicore.schema import Label, Query, View

ACCURACY, MISREAD = 0.95, 0.02
SHARES = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.95, 1.0)
SIZES = (10, 30, 100, 300, 1000, 2000)
BESIDE = 500  # queries of the other benchmark in a run of two, half of them solvable
PROBES = {
    "independent": (0.0, 0.0, 0.0),
    "repeating": (0.6, 1 / 3, 0.0),
    "misreading": (0.6, 1 / 3, MISREAD),
}


@dataclass(frozen=True)
class Plan:
    """One benchmark to simulate; `beside` audits another one, with three options, with it."""

    probe: str
    size: int
    share: float
    options: int = 4
    draws: int = 8
    beside: bool = False
    withheld: int = 2  # draws under text_only


@dataclass
class Tally:
    """Counts over repetitions.

    `out` queries were removed, of which `right` are solvable; `solvable` and `unsolvable` count all.
    """

    out: int = 0
    right: int = 0
    solvable: int = 0
    unsolvable: int = 0
    undecided: int = 0  # of the solvable
    denied: int = 0  # right in every draw and labelled not_solvable

    @property
    def precision(self) -> float | None:
        return self.right / self.out if self.out else None

    @property
    def recall(self) -> float:
        return self.right / max(1, self.solvable)

    @property
    def lost(self) -> float:
        return (self.out - self.right) / max(1, self.unsolvable)


def questions(benchmark: str, size: int, options: int) -> list[Query]:
    texts = tuple(f"o{i}" for i in range(options))
    shared = {
        "benchmark": benchmark,
        "type": "t",
        "question": "?",
        "options": texts,
        "answer": texts[0],
    }
    return [Query(id=f"{i:05d}", cluster=f"{benchmark}-{i // 2}", **shared) for i in range(size)]


def draw(
    rng: np.random.Generator, probe: str, solvable: npt.NDArray[np.bool_], options: int, draws: int
) -> npt.NDArray[np.int64]:
    """Return answers [N, n] to queries whose right option is 0."""
    favour, outside, misread = PROBES[probe]
    shape = (len(solvable), draws)
    preferred = rng.integers(options, size=(len(solvable), 1))
    elsewhere = (preferred + rng.integers(1, options, shape)) % options
    guess = (
        np.where(rng.random(shape) < favour, preferred, elsewhere)
        if favour
        else rng.integers(options, size=shape)
    )
    guess = np.where(rng.random(shape) < outside, audit.NONE, guess)
    misled = rng.random((len(solvable), 1)) < misread
    said = np.where(misled, rng.integers(1, options, (len(solvable), 1)), 0)
    seen = np.where(rng.random(shape) < ACCURACY, said, rng.integers(options, size=shape))
    return np.where(solvable[:, None], seen, guess)


def verdicts(
    plan: Plan, seed: int
) -> tuple[npt.NDArray[np.bool_], list[audit.ThresholdRule], list[Label], npt.NDArray[np.int64]]:
    """Return the truth, the rules, and the labels and hits of the benchmark's queries."""
    rng = np.random.default_rng(seed)
    groups = [(questions("b", plan.size, plan.options), plan.share, plan.options)]
    if plan.beside:
        groups.append((questions("beside", BESIDE, 3), 0.5, 3))
    truths = [np.arange(len(asked)) < round(share * len(asked)) for asked, share, _ in groups]
    given = [
        draw(rng, plan.probe, truth, k, plan.draws)
        for truth, (_, _, k) in zip(truths, groups, strict=True)
    ]
    blind = [
        draw(rng, plan.probe, np.zeros_like(truth), k, plan.withheld)
        for truth, (_, _, k) in zip(truths, groups, strict=True)
    ]
    arrays = audit.QueryArrays(
        [query for asked, _, _ in groups for query in asked], frozenset({"b", "beside"})
    )
    config = CleanConfig()
    hits = {
        View.visual_only: audit.count_hits(arrays, np.vstack(given)),
        View.text_only: audit.count_hits(arrays, np.vstack(blind)),
    }
    rules = audit.fit_rules(arrays, hits[View.visual_only], config, [hits[View.text_only]])
    made = audit.repeated_verdicts(arrays, hits[View.visual_only], rules, config)[: plan.size]
    return (
        truths[0],
        rules,
        [verdict.label for verdict in made],
        np.array([verdict.hits for verdict in made]),
    )


def measure(plan: Plan, seeds: Sequence[int]) -> Tally:
    tally = Tally()
    for seed in seeds:
        truth, _, labels, hits = verdicts(plan, seed)
        removed = np.array([label is Label.solvable for label in labels])
        undecided = np.array([label is Label.undecided for label in labels])
        denied = np.array([label is Label.not_solvable for label in labels])
        tally.out += int(removed.sum())
        tally.right += int((removed & truth).sum())
        tally.solvable += int(truth.sum())
        tally.unsolvable += int((~truth).sum())
        tally.undecided += int((undecided & truth).sum())
        tally.denied += int((denied & (hits == plan.draws)).sum())
    return tally


def rows(probe: str, beside: bool, repetitions: int) -> Iterator[str]:
    yield "| queries | " + " | ".join(f"{share:g}" for share in SHARES) + " |"
    yield "|---" * (len(SHARES) + 1) + "|"
    for size in SIZES:
        cells = []
        for share in SHARES:
            tally = measure(
                Plan(probe, size, share, beside=beside),
                range(max(10, min(repetitions, 20_000 // size))),
            )
            precision = "-" if tally.precision is None else f"{tally.precision:.2f}"
            cells.append(f"{precision} / {tally.recall:.2f}")
        yield f"| {size} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m perf.verdicts", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--repetitions",
        type=int,
        default=40,
        help="of the smallest benchmarks; large ones have at least 10",
    )
    chosen = parser.parse_args()
    for beside in (False, True):
        for probe in PROBES:
            print(
                f"\n{probe}, {'beside another benchmark' if beside else 'alone'}: precision /"
                " recall\n"
            )
            for row in rows(probe, beside, chosen.repetitions):
                print(row, flush=True)


if __name__ == "__main__":
    main()
