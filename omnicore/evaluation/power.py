"""How small a difference between two models a set of queries can show, and how many more it needs.

A paired comparison on n queries has a standard error; a true difference of (z_0.975 + z_power)
times it is found significant (two-sided, 5 %) with the chance `power`. The error comes from a
pilot, two evaluations of the same queries, or from one evaluation and an assumed share of queries
on which two models differ. Queries of one cluster (a video) count together: more queries of the
same videos help less than more videos, so the number needed assumes the same number of queries a
cluster.

Source of the formula: Miller, arXiv 2411.00640, section 5 (power analysis), with clustered errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from omnicore.errors import ConfigError
from omnicore.lineage.step_record import verify_step
from omnicore.schema import Outcome, Record, Response, View
from omnicore.storage.files import read_jsonl

SIGNIFICANCE = 0.05
POWER = 0.8
# Shares of queries on which two models differ, from two checkpoints of one training to strangers.
DISCORDANCES = (0.05, 0.1, 0.2, 0.3)


class PowerEstimate(Record):
    """What n queries can show; all differences in 0..1.

    `discordance` is the share of queries on which the models differ, `design_effect` the
    variance of the difference over that of as many independent queries, `detectable` the
    difference found with the chance `power` on these queries, `needed` the number of queries
    that find `effect` with it.
    """

    queries: int
    clusters: int
    discordance: float
    design_effect: float
    standard_error: float
    power: float
    detectable: float
    effect: float
    needed: int


def power_of_pair(
    differences: npt.ArrayLike,
    clusters: Sequence[str],
    *,
    effect: float = 0.02,
    power: float = POWER,
) -> PowerEstimate:
    """Estimate power from the outcomes of two models on the same queries.

    Args:
        differences: Outcome of B less that of A for each query, in -1..1, shape [n].
        clusters: Cluster of each query.
        effect: The true difference to be found, in 0..1.
        power: The wanted chance to find it.

    Raises:
        ConfigError: Fewer than two clusters, or no query on which the models differ: there is no
            error to plan with.
    """
    values = np.asarray(differences, dtype=np.float64)
    discordance = float((values != 0).mean()) if values.size else 0.0
    variance = _clustered_variance(values, clusters)
    if variance == 0:
        raise ConfigError(
            "the two evaluations agree on every query, so their difference has no spread to plan"
            " with; give one evaluation instead, or one of another model",
            code="power-no-difference",
        )
    independent = values.var() / len(values)
    return _estimate(
        len(values), len(set(clusters)), discordance, variance, independent, effect, power
    )


def power_of_one(
    outcomes: npt.ArrayLike,
    clusters: Sequence[str],
    discordance: float,
    *,
    effect: float = 0.02,
    power: float = POWER,
) -> PowerEstimate:
    """Estimate power from one model's outcomes and an assumed share of queries that change.

    Args:
        outcomes: 1 for a right query, else 0, shape [n].
        clusters: Cluster of each query.
        discordance: Assumed share of queries on which a second model differs, in 0..1. Its changes
            are taken to be as alike within a cluster as the outcomes are.
        effect: As in `power_of_pair`.
        power: As in `power_of_pair`.

    Raises:
        ConfigError: Fewer than two clusters, or `effect` above `discordance`.
    """
    values = np.asarray(outcomes, dtype=np.float64)
    if effect > discordance:
        raise ConfigError(
            f"a difference of {effect:.3g} needs at least that share of queries to change, not"
            f" {discordance:.3g}; raise --discordance",
            code="power-discordance-too-small",
            field="discordance",
        )
    clustered = _clustered_variance(values, clusters)
    independent = values.var() / len(values)
    design_effect = max(1.0, clustered / independent) if independent else 1.0
    plain = discordance / len(values)
    return _estimate(
        len(values), len(set(clusters)), discordance, plain * design_effect, plain, effect, power
    )


def evaluation_power(
    a: Path, b: Path | None, view: str, effect: float, power: float
) -> list[PowerEstimate]:
    """Estimate power from finished evaluations.

    Args:
        a: Output of evaluate.
        b: Another model's on the same queries, or None to assume DISCORDANCES.
        view: `raw` or `clean`.
        effect: As in `power_of_pair`.
        power: As in `power_of_pair`.

    Returns:
        One estimate for a pair; else one for each assumed discordance of at least `effect`.
    """
    first, clusters = _outcomes(a, view)
    if b:
        second, _ = _outcomes(b, view)
        shared = sorted(first.keys() & second.keys())
        differences = [second[key] - first[key] for key in shared]
        named = [clusters[key] for key in shared]
        return [power_of_pair(differences, named, effect=effect, power=power)]
    keys = sorted(first)
    outcomes, named = [first[key] for key in keys], [clusters[key] for key in keys]
    return [
        power_of_one(outcomes, named, discordance, effect=effect, power=power)
        for discordance in DISCORDANCES
        if discordance >= effect
    ]


def _outcomes(
    evaluation: Path, view: str
) -> tuple[dict[tuple[str, str], float], dict[tuple[str, str], str]]:
    """Return hits and clusters of the queries of a view that have a reply, by benchmark and id."""
    verify_step(evaluation)
    items = {
        (item["benchmark"], item["id"]): item
        for item in read_jsonl(evaluation / "items.jsonl", dict)
        if view == "raw" or item["kept"]
    }
    outcomes = {}
    for response in read_jsonl(evaluation / "responses.jsonl", Response):
        key = (response.benchmark, response.id)
        if response.view is View.omni and key in items:
            outcomes[key] = float(response.outcome is Outcome.correct)
    return outcomes, {key: items[key]["cluster"] for key in outcomes}


def _estimate(
    queries: int,
    clusters: int,
    discordance: float,
    variance: float,
    independent: float,
    effect: float,
    power: float,
) -> PowerEstimate:
    error = math.sqrt(variance)
    normal = NormalDist()
    width = normal.inv_cdf(1 - SIGNIFICANCE / 2) + normal.inv_cdf(power)
    return PowerEstimate(
        queries=queries,
        clusters=clusters,
        discordance=discordance,
        design_effect=variance / independent,
        standard_error=error,
        power=power,
        detectable=width * error,
        effect=effect,
        needed=math.ceil(queries * (width * error / effect) ** 2),
    )


def _clustered_variance(values: npt.NDArray[np.float64], clusters: Sequence[str]) -> float:
    """Return the variance of the mean of values whose clusters share their luck."""
    codes = np.unique(np.asarray(clusters), return_inverse=True)[1]
    count = int(codes.max(initial=-1)) + 1
    if count < 2:
        raise ConfigError(
            f"power needs queries of at least two clusters (videos), not {count}",
            code="power-too-few-clusters",
        )
    sums = np.bincount(codes, weights=values - values.mean(), minlength=count)
    return float((sums**2).sum() / len(values) ** 2 * count / (count - 1))
