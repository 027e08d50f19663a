"""Estimate rates with clustered intervals: means, macro averages, chance correction, differences.

One rule makes every interval. An estimate is a sum of influences, one per query. Queries of one
cluster (a picture, a video) have correlated errors, so influences are summed within a cluster
before they are squared (clustered standard errors, Miller, arXiv 2411.00640). A cluster that occurs
in several groups counts once, with all its influences together. Student's t with clusters minus
groups degrees of freedom widens the interval where clusters are few.

All figures are bounded (a proportion by 0 and 1, a difference by -1 and 1). Value +- t * se would
exceed the bound near it and shrink to a point on it: 40 right of 40 is not certainty. So the
interval is Wilson's score interval at the effective sample size that the clustered error implies
(Franco et al., J. Surv. Stat. Methodol. 7, 2019); away from the bounds it is value +- t * se.

Limit: with fewer than forty clusters, hits (or misses) rarer than one in ten, and clusters that are
nearly all right or all wrong, the interval holds the truth in 80 to 93 % of cases instead of 95
(tests/unit/test_coverage_of_intervals.py has the rest).

Student's quantile and the binomial tail are written out here because no extra installs scipy, which
would add 140 MB to the images for two formulas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from omnicore.schema import Estimate

Values = (
    Sequence[float] | npt.NDArray[np.floating] | npt.NDArray[np.integer] | npt.NDArray[np.bool_]
)
Clusters = Sequence[str]
Groups = Mapping[str, tuple[Values, Clusters]]


def mean(values: Values, clusters: Clusters) -> Estimate:
    """Estimate the mean of n values in 0..1, such as hits or hit rates.

    A single cluster shows no spread: the largest possible one is assumed, so that the interval is
    nearly the whole range.

    Args:
        values: The values.
        clusters: Name of the cluster of each value.

    Raises:
        ValueError: There are no values, the lengths differ, or a value is outside 0..1.
    """
    return macro_mean({"": (values, clusters)})


def macro_mean(groups: Groups) -> Estimate:
    """Estimate the mean of the groups' means: each group (a benchmark) has the same weight.

    Args:
        groups: Values in 0..1 and the cluster of each value, by group.

    Raises:
        ValueError: As for `mean`.
    """
    return chance_corrected(groups, dict.fromkeys(groups, 0.0))


def chance_corrected(groups: Groups, chances: Mapping[str, float]) -> Estimate:
    """Estimate the mean over groups of (p - c) / (1 - c), p a group's mean and c its chance level.

    0 is guessing, 1 is all right; below chance it is negative.

    Args:
        groups: Values in 0..1 and the cluster of each value, by group.
        chances: Chance level of each group.

    Raises:
        ValueError: As for `mean`, and where a chance level is outside 0 <= c < 1.
    """
    parts = []
    for name, (values, clusters) in groups.items():
        chance = chances[name]
        if not 0 <= chance < 1:
            raise ValueError(f"chance level of {name!r} is {chance}: it must lie in 0 <= c < 1")
        parts.append(((_as_array(values, clusters) - chance) / (1 - chance), clusters))
    # No score is below that of no hit at all, which is -c / (1 - c) in each group.
    floors = [-chances[name] / (1 - chances[name]) for name in groups]
    return _estimate(parts, low=sum(floors) / max(1, len(parts)))


def paired_difference(a: Values, b: Values, clusters: Clusters) -> Estimate:
    """Estimate the mean of a - b over the same queries.

    Pairing makes the difference of two models independent of how hard the queries are.

    Args:
        a: Values in 0..1.
        b: Values in 0..1 of the same queries.
        clusters: Name of the cluster of each query.

    Raises:
        ValueError: As for `mean`.
    """
    difference = _as_array(a, clusters) - _as_array(b, clusters)
    if difference.any():
        return _estimate([(difference, clusters)], low=-1.0)
    # Where no query differs the standard error is 0, and a point would claim certainty. The share
    # that may differ unseen, either way, is the upper bound for 0 among as many clusters.
    known = len(set(clusters))
    bound = _wilson_bounds(0.0, 0.0, _t_quantile_975(max(1, known - 1)), known)[1]
    return Estimate(value=0.0, low=-bound, high=bound, n=len(difference))


def binomial_tail(n: int, k: int, p: float) -> float:
    """Return the exact chance of k or more successes in n independent draws of chance p."""
    if k <= 0:
        return 1.0
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


def beta_binomial_tail(n: int, k: int, mean: float, spread: float) -> float:
    """Return the chance of k or more successes in n draws with a common random chance.

    Args:
        n: Number of draws.
        k: Number of successes.
        mean: Mean of the beta distribution of the common chance.
        spread: Correlation of two draws, in 0..1: 0 is the binomial, and at 1 all n draws are
            alike.
    """
    if k <= 0 or mean >= 1:
        return 1.0
    if mean <= 0 or spread >= 1:
        return mean
    if spread <= 0:
        return binomial_tail(n, k, mean)
    a, b = (share * (1 - spread) / spread for share in (mean, 1 - mean))

    def log_beta(x: float, y: float) -> float:
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    return math.fsum(
        math.comb(n, i) * math.exp(log_beta(i + a, n - i + b) - log_beta(a, b))
        for i in range(k, n + 1)
    )


def _as_array(values: Values, clusters: Clusters) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if not array.size:
        raise ValueError("no values: an empty set has no mean")
    if array.shape != (len(clusters),):
        raise ValueError(f"values have shape {array.shape} but there are {len(clusters)} clusters")
    if not ((array >= 0) & (array <= 1)).all():  # nor NaN
        raise ValueError("a value is not in 0..1")
    return array


def _estimate(parts: Sequence[tuple[npt.NDArray[np.float64], Clusters]], low: float) -> Estimate:
    """Estimate the mean of the parts' means, with its interval inside [low, 1]."""
    if not parts:
        raise ValueError("no groups: an empty set has no mean")
    codes: dict[str, int] = {}
    coded = []
    for _, clusters in parts:
        coded.append(np.array([codes.setdefault(c, len(codes)) for c in clusters]))
    width = 1 - low
    sums = np.zeros(len(codes))
    for (values, _), code in zip(parts, coded, strict=True):
        sizes = np.bincount(code, minlength=len(codes))
        own = int((sizes > 0).sum())
        if own > 1:
            # Residuals about an estimated mean are too small, most of all those of a large cluster,
            # which determines the mean. Divided by 1 - share they are those about the mean of the
            # others (jackknife, CR3: Bell & McCaffrey 2002).
            scale = (
                math.sqrt((own - 1) / own)
                / (1 - sizes[code] / len(values))
                / (len(parts) * len(values))
            )
            sums += np.bincount(
                code, weights=(values - values.mean()) * scale, minlength=len(codes)
            )
        else:
            # The largest standard deviation within the bounds.
            sums[code[0]] += width / 2 / len(parts)
    value = float(np.mean([values.mean() for values, _ in parts]))
    error = math.sqrt(float((sums**2).sum()))
    n = sum(len(values) for values, _ in parts)
    t = _t_quantile_975(max(1, len(codes) - len(parts)))
    left, right = _wilson_bounds((value - low) / width, error / width, t, len(codes))
    return Estimate(value=value, low=low + width * left, high=low + width * right, n=n)


def _wilson_bounds(p: float, error: float, t: float, clusters: int) -> tuple[float, float]:
    """Return the score interval of a proportion p with standard error `error`.

    On a bound the error is 0: there every cluster counts as one draw.
    """
    spread = max(0.0, p * (1 - p))
    inverse = error**2 / spread if spread > 1e-12 else 1 / clusters  # of the effective sample size
    pull = t**2 * inverse
    centre = (p + pull / 2) / (1 + pull)
    half = t * math.sqrt(spread * inverse + t**2 * inverse**2 / 4) / (1 + pull)
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def _t_quantile_975(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t.

    Closed forms for 1 and 2 degrees of freedom, else Abramowitz & Stegun 26.7.5, within 0.2 %.
    """
    if freedom == 1:
        return math.tan(0.475 * math.pi)
    if freedom == 2:
        return 0.95 * math.sqrt(2 / (4 * 0.975 * 0.025))
    z = 1.959963984540054
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(terms, 1))
