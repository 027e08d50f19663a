"""Which rows a training step sees: a mixture of sources, modalities or types.

The contract, for resuming a training and for splitting it among processes:

- `Mixture.batch(step)` is the GLOBAL batch of optimizer step `step`, counted from 0: indices into
  the rows, a function of (seed, step) and the configuration alone. A training that resumes at step
  s continues with `batch(s)`, the exact next rows; no position has to be saved.
- `RowOrder` strings the batches of all steps together. Micro-batches are consecutive slices of it;
  accelerate gives slice i to process i % processes, so one step is `batch` rows whatever the
  number of processes, as long as micro-batch x accumulation x processes = batch. In a batch that
  is grouped by length, neighbouring slices are of similar length, and processes wait little for
  each other.

Each group (source, modality or type) is walked through in seeded permutations: no row repeats
before all rows of the group have come. The number of rows of a group in a batch is its share of
the batch, rounded down or up by systematic sampling: the fractions add offsets that fill the unit
interval evenly (multiples of the golden ratio), so a share of 1/3 in a batch of 64 is met over the
steps too.

With `balance: tokens`, weights are shares of tokens (prompt with media, and reply): a group's
share of rows is its weight over the mean length of its rows. With `window` above 1, the rows of so
many steps are exchanged within each group, short ones with short ones: batches keep their shares
and have less padding.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np

from omnicore.config import MixtureConfig, digest
from omnicore.errors import ConfigError
from omnicore.schema import Query

_GOLDEN = (5**0.5 - 1) / 2


def modality(query: Query) -> str:
    """Return what a query shows beside its text: `audio`, `vision`, `omni` (both) or `text`."""
    kinds = {medium.kind for medium in query.media}
    has_sound, has_picture = "audio" in kinds, bool(kinds - {"audio"})
    if has_sound and has_picture:
        return "omni"
    if has_sound:
        return "audio"
    return "vision" if has_picture else "text"


def group_of(query: Query, by: str) -> str:
    """Return the name of the group of a mixture that a query belongs to."""
    if by == "modality":
        return modality(query)
    return query.type if by == "type" else query.benchmark


class Mixture:
    """The batches of a training."""

    def __init__(
        self,
        queries: Sequence[Query],
        tokens: Sequence[int],
        config: MixtureConfig,
        *,
        batch: int,
        steps: int,
        seed: int,
    ) -> None:
        """Plan all batches.

        Args:
            queries: One a row.
            tokens: Length of each row, prompt, media and reply together.
            config: What is mixed, and in what shares.
            batch: Rows of a step on all processes together.
            steps: Optimizer steps of the training.
            seed: Seed of the permutations.

        Raises:
            ConfigError: The weights name a group that has no rows, or omit one that has.
        """
        members: dict[str, list[int]] = {}
        for index, query in enumerate(queries):
            members.setdefault(group_of(query, config.by), []).append(index)
        weights = config.weights or dict.fromkeys(members, 1.0)
        _require_weights(weights, members, config.by)
        self.steps, self.size = steps, batch
        self._seed, self._window, self._tokens = seed, config.window, tokens
        self.groups = sorted(name for name, weight in weights.items() if weight)
        self._members = [members[name] for name in self.groups]
        self._shares = np.array([weights[name] for name in self.groups])
        if config.balance == "tokens":
            self._shares /= [self._mean_length(rows) for rows in self._members]
        self._drawn_before = self._count_draws()
        # Steps follow each other: a window is planned once.
        self._batches = lru_cache(2)(self._plan_window)
        self._permutation = lru_cache(2 * len(self.groups))(self._permute)

    def batch(self, step: int) -> list[int]:
        """Return the rows of a step, counted from 0."""
        return list(self._batches(step // self._window)[step % self._window])

    def resample(self, count: int, taken: Collection[int], key: str) -> list[int]:
        """Return at most `count` other rows for a step, by the same weights, none twice.

        Weighted sampling without replacement by exponential keys (Efraimidis and Spirakis,
        Information Processing Letters 97, 2006): the rows with the smallest of exponential noise
        over weight.

        Args:
            count: Rows to draw.
            taken: Rows that the step has already.
            key: Seed: equal arguments give equal rows.
        """
        rows = np.concatenate([np.array(each) for each in self._members])
        sizes = [len(each) for each in self._members]
        weights = np.repeat(self._shares / self._shares.sum(), sizes)
        weights /= np.repeat(sizes, sizes)
        rng = np.random.default_rng(int(digest(key)[:16], 16))
        noise = rng.exponential(size=len(rows)) / weights
        noise[np.isin(rows, list(taken))] = np.inf
        order = np.argsort(noise, kind="stable")[:count]
        return [int(rows[place]) for place in order if np.isfinite(noise[place])]

    def epochs(self) -> dict[str, float]:
        """Return how often the whole training walks through each group."""
        epochs = {}
        totals = self._drawn_before[-1].tolist()
        for name, total, rows in zip(self.groups, totals, self._members, strict=True):
            epochs[name] = round(total / len(rows), 3)
        return epochs

    def _mean_length(self, rows: Sequence[int]) -> float:
        return max(1.0, float(np.mean([self._tokens[row] for row in rows])))

    def _count_draws(self) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        """Return the rows drawn of each group before each step [steps + 1, groups]."""
        ends = np.round(np.cumsum(self._shares / self._shares.sum()) * self.size, 9)
        ends[-1] = self.size
        offsets = np.arange(self.steps) * _GOLDEN % 1
        rounded = np.floor(ends[None] + offsets[:, None]).astype(int)
        counts = np.diff(rounded, axis=1, prepend=0)
        return np.vstack([np.zeros((1, len(ends)), int), np.cumsum(counts, axis=0)])

    def _plan_window(self, window: int) -> list[list[int]]:
        """Return the batches of a window."""
        first = window * self._window
        last = min(first + self._window, self.steps)
        rng = random.Random(f"{self._seed}|window|{window}")
        order = list(range(last - first))
        # Otherwise every window would begin with its shortest rows.
        rng.shuffle(order)
        batches: list[list[int]] = [[] for _ in order]
        drawn_before = self._drawn_before
        for group in range(len(self.groups)):
            numbers = range(drawn_before[first, group], drawn_before[last, group])
            drawn = [self._row(group, number) for number in numbers]
            if self._window > 1:
                drawn.sort(key=self._tokens.__getitem__)
            place = 0
            for step in order:
                count = drawn_before[first + step + 1, group] - drawn_before[first + step, group]
                batches[step] += drawn[place : place + count]
                place += count
        for rows in batches:
            if self._window > 1:
                rows.sort(key=self._tokens.__getitem__)
            else:
                # A slice of a batch is then mixed like the whole.
                rng.shuffle(rows)
        return batches

    def _row(self, group: int, number: int) -> int:
        """Return the row of a group that is drawn as its `number`-th."""
        epoch, place = divmod(number, len(self._members[group]))
        return self._permutation(group, epoch)[place]

    def _permute(self, group: int, epoch: int) -> list[int]:
        rows = list(self._members[group])
        random.Random(f"{self._seed}|{self.groups[group]}|{epoch}").shuffle(rows)
        return rows


def _require_weights(
    weights: Mapping[str, float], members: Mapping[str, Sequence[int]], by: str
) -> None:
    """Raise ConfigError unless each group that has rows has a weight, and no other."""
    faults = []
    missing, unknown = members.keys() - weights.keys(), weights.keys() - members.keys()
    if missing:
        faults.append(f"no weight for {', '.join(sorted(missing))}")
    if unknown:
        faults.append(f"no rows of {', '.join(sorted(unknown))}")
    if faults:
        raise ConfigError(
            f"mixture.weights by {by}: {'; '.join(faults)}. The rows hold"
            f" {', '.join(sorted(members))}: give each a weight, 0 to leave it out",
            code="recipe-mixture-weights",
            field="mixture.weights",
        )


class RowOrder:
    """The rows of all batches of a mixture from a step on, one after the other."""

    def __init__(self, mixture: Mixture, first_step: int = 0) -> None:
        self._mixture, self._first_step = mixture, first_step

    def __len__(self) -> int:
        return (self._mixture.steps - self._first_step) * self._mixture.size

    def __iter__(self) -> Iterator[int]:
        for step in range(self._first_step, self._mixture.steps):
            yield from self._mixture.batch(step)
