"""Which rows a training step sees: a mixture of sources, modality classes or types, in shares that every batch holds.

The contract, for whoever resumes a training or splits it among processes:

- `Mixture.batch(step)` is the GLOBAL batch of optimizer step `step`, counted from 0: indices into the rows, `batch` of them,
  a function of (seed, step) and the configuration alone. A training that goes on at step s asks for `batch(s)` and is at the exact
  next row; nothing has to be saved.
- `Order` strings the batches of all steps together, as a DataLoader's sampler. Micro-batches are consecutive slices of it;
  accelerate gives slice i to process i % processes, so one step is `batch` rows whatever the number of processes, as long as
  micro-batch x accumulation x processes = batch. In a batch that is grouped by length, neighbouring slices are of like length, and
  processes wait little for each other.

Each group (source, class or type) is walked through in seeded permutations: no row comes twice before all of the group have come.
How many rows of a group are in a batch is its share of the batch rounded down or up, by systematic sampling: offsets that fill the
unit interval evenly (multiples of the golden ratio) round, so that a share of 1/3 in a batch of 64 is met over the steps, too.

With `balance: tokens`, weights are shares of tokens (prompt with media, and reply): a group's share of rows is its weight over the
mean length of its rows. With `window` above 1, the rows of so many steps are exchanged inside each group, short ones with short
ones: batches hold their shares as before and less padding.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache

import numpy as np

from omnicore.config import MixtureConfig, digest
from omnicore.errors import ConfigError
from omnicore.schema import Query

_GOLDEN = (5**0.5 - 1) / 2


def modality(query: Query) -> str:
    """The class of a query: `audio` (with text), `vision` (with text), `omni` (both) or `text`
    alone."""
    kinds = {medium.kind for medium in query.media}
    heard, seen = "audio" in kinds, bool(kinds - {"audio"})
    return "omni" if heard and seen else "audio" if heard else "vision" if seen else "text"


def group_of(query: Query, by: str) -> str:
    """The name of the group of a mixture that a query belongs to."""
    return modality(query) if by == "modality" else query.type if by == "type" else query.benchmark


class Mixture:
    """The batches of a training of `steps` steps over rows with these queries and lengths in
    tokens.

    Raises ConfigError when the weights name a group that has no rows, or leave one out that has.
    """

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
        members: dict[str, list[int]] = {}
        for index, query in enumerate(queries):
            members.setdefault(group_of(query, config.by), []).append(index)
        weights = config.weights or dict.fromkeys(members, 1.0)
        if weights.keys() != members.keys():
            missing, unknown = (
                sorted(members.keys() - weights.keys()),
                sorted(weights.keys() - members.keys()),
            )
            said = [f"no weight for {', '.join(missing)}"] * bool(missing) + [
                f"no rows of {', '.join(unknown)}"
            ] * bool(unknown)
            raise ConfigError(
                f"mixture.weights by {config.by}: {'; '.join(said)}. The rows hold"
                f" {', '.join(sorted(members))}: give each a weight, 0 to leave it out"
            )
        self.steps, self.size, self._seed, self._window, self._tokens = (
            steps,
            batch,
            seed,
            config.window,
            tokens,
        )
        self.groups = sorted(name for name, weight in weights.items() if weight)
        self._members = [members[name] for name in self.groups]
        shares = np.array([weights[name] for name in self.groups])
        if config.balance == "tokens":
            shares /= [
                max(1.0, float(np.mean([tokens[i] for i in each]))) for each in self._members
            ]
        self._shares = shares
        ends = np.round(np.cumsum(shares / shares.sum()) * batch, 9)
        ends[-1] = batch
        offsets = np.arange(steps) * _GOLDEN % 1
        counts = np.diff(np.floor(ends[None] + offsets[:, None]).astype(int), axis=1, prepend=0)
        self._taken = np.vstack(
            [np.zeros((1, len(ends)), int), np.cumsum(counts, axis=0)]
        )  # before each step, of each group
        self._batches = lru_cache(2)(
            self._exchanged
        )  # steps follow each other: a window is made once
        self._permutation = lru_cache(2 * len(self.groups))(self._shuffled)

    def batch(self, step: int) -> list[int]:
        """The rows of a step, counted from 0."""
        return list(self._batches(step // self._window)[step % self._window])

    def resample(self, count: int, taken: Collection[int], key: str) -> list[int]:
        """At most `count` further rows for a step that has `taken` already: by the same weights,
        none twice, a function of the arguments alone.

        Weighted sampling without replacement by exponential keys (Efraimidis and Spirakis,
        Information Processing Letters 97, 2006): the rows with the smallest of exponential noise
        over weight.
        """
        rows = np.concatenate([np.array(each) for each in self._members])
        weights = np.repeat(
            self._shares / self._shares.sum(), [len(each) for each in self._members]
        )
        weights /= np.repeat(
            [len(each) for each in self._members], [len(each) for each in self._members]
        )
        noise = (
            np.random.default_rng(int(digest(key)[:16], 16)).exponential(size=len(rows)) / weights
        )
        noise[np.isin(rows, list(taken))] = np.inf
        order = np.argsort(noise, kind="stable")[:count]
        return [int(rows[i]) for i in order if np.isfinite(noise[i])]

    def epochs(self) -> dict[str, float]:
        """How often the whole training walks through each group."""
        drawn = self._taken[-1].tolist()
        return {
            name: round(n / len(each), 3)
            for name, n, each in zip(self.groups, drawn, self._members, strict=True)
        }

    def _exchanged(self, window: int) -> list[list[int]]:
        """The batches of a window."""
        first = window * self._window
        last = min(first + self._window, self.steps)
        rng = random.Random(f"{self._seed}|window|{window}")
        order = list(range(last - first))
        rng.shuffle(order)  # else every window would begin with its shortest rows
        batches: list[list[int]] = [[] for _ in order]
        for which in range(len(self.groups)):
            drawn = [
                self._row(which, n)
                for n in range(self._taken[first, which], self._taken[last, which])
            ]
            if self._window > 1:
                drawn.sort(key=self._tokens.__getitem__)
            place = 0
            for step in order:
                count = self._taken[first + step + 1, which] - self._taken[first + step, which]
                batches[step] += drawn[place : place + count]
                place += count
        for rows in batches:
            if self._window > 1:
                rows.sort(key=self._tokens.__getitem__)
            else:
                rng.shuffle(rows)  # a slice of a batch is mixed like the whole
        return batches

    def _row(self, which: int, number: int) -> int:
        """The row of a group that is drawn as its `number`-th."""
        epoch, place = divmod(number, len(self._members[which]))
        return self._permutation(which, epoch)[place]

    def _shuffled(self, which: int, epoch: int) -> list[int]:
        rows = list(self._members[which])
        random.Random(f"{self._seed}|{self.groups[which]}|{epoch}").shuffle(rows)
        return rows


class RowOrder:
    """All batches of a mixture one after the other: a sampler for a DataLoader."""

    def __init__(self, mixture: Mixture) -> None:
        self._mixture = mixture

    def __len__(self) -> int:
        return self._mixture.steps * self._mixture.size

    def __iter__(self) -> Iterator[int]:
        for step in range(self._mixture.steps):
            yield from self._mixture.batch(step)
