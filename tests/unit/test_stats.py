import math
from fractions import Fraction

import numpy as np
import pytest

from omnicore.scoring import stats

NAMES = [str(i) for i in range(1000)]


def clustered(rng, base, clusters=40, largest=6, strength=2.0):
    """One benchmark: hits of queries in clusters that share their own true rate, which varies about
    `base`."""
    size = rng.integers(1, largest, clusters)
    rate = rng.beta(base * strength, (1 - base) * strength, clusters)
    owner = np.repeat(np.arange(clusters), size)
    return (rng.random(owner.size) < rate[owner]).astype(float), [NAMES[i] for i in owner]


def coverage(covers, times=1000):
    rng = np.random.default_rng(7)
    return sum(covers(rng) for _ in range(times)) / times


def holds(estimate, truth):
    return estimate.low <= truth <= estimate.high


@pytest.mark.parametrize("base", [0.3, 0.5, 0.9])
def test_interval_of_a_mean_covers(base):
    assert 0.93 <= coverage(lambda rng: holds(stats.mean(*clustered(rng, base)), base)) <= 0.97


def test_interval_that_ignores_clusters_does_not_cover():
    def covers(rng):
        values, _ = clustered(rng, 0.5)
        return holds(stats.mean(values, NAMES[: len(values)]), 0.5)

    assert coverage(covers) < 0.9


def shared(rng):
    """Two groups over the same 40 pictures, one query of each a picture: hits move together."""
    rate = rng.beta(1, 1, 40)
    groups = {g: ((rng.random(40) < rate).astype(float), NAMES[:40]) for g in "ab"}
    return groups, 0.5


def test_macro_interval_covers_when_groups_share_clusters():
    assert (
        0.93
        <= coverage(lambda rng: holds(stats.macro_mean((found := shared(rng))[0]), found[1]))
        <= 0.97
    )


def test_macro_interval_fails_if_shared_clusters_are_split():
    def covers(rng):
        groups, truth = shared(rng)
        return holds(
            stats.macro_mean({g: (v, [g + c for c in names]) for g, (v, names) in groups.items()}),
            truth,
        )

    assert coverage(covers) < 0.92


def test_interval_of_a_chance_corrected_macro_covers():
    def covers(rng):
        groups = {"a": clustered(rng, 0.4), "b": clustered(rng, 0.8)}
        return holds(
            stats.chance_corrected(groups, {"a": 0.25, "b": 0.5}), (0.15 / 0.75 + 0.3 / 0.5) / 2
        )

    assert 0.93 <= coverage(covers) <= 0.97


@pytest.mark.parametrize(("count", "bound"), [(2, 0.98), (6, 0.53), (40, 0.1), (1000, 0.004)])
def test_no_difference_seen_is_no_certainty(count, bound):
    values = [float(i % 2) for i in range(count)]
    found = stats.paired_difference(
        values, values, NAMES[:count] if count <= len(NAMES) else [str(i) for i in range(count)]
    )
    assert found.value == 0
    assert found.high == -found.low == pytest.approx(bound, rel=0.1)


def test_paired_interval_covers_and_is_narrower():
    rng = np.random.default_rng(1)
    inside, paired_width, loose_width = 0, 0.0, 0.0
    for _ in range(1000):
        hard = rng.random(150)
        a, b = (hard < 0.7).astype(float), ((hard < 0.6) ^ (rng.random(150) < 0.05)).astype(float)
        found = stats.paired_difference(a, b, NAMES[:150])
        inside += holds(found, 0.7 - (0.6 * 0.95 + 0.4 * 0.05))
        paired_width += found.high - found.low
        loose_width += math.hypot(
            *(e.high - e.low for e in (stats.mean(a, NAMES[:150]), stats.mean(b, NAMES[:150])))
        )
    assert 930 <= inside <= 970
    assert paired_width < 0.7 * loose_width


def test_known_values():
    found = stats.mean([1, 1, 0, 0], ["a", "a", "b", "b"])
    assert (found.value, found.n) == (0.5, 4)
    # two clusters: error sqrt(2 * (1/4)^2 + 2 * (1/4)^2) = 0.5 at one degree of freedom, so nearly nothing is known
    assert found.low < 0.01
    assert found.high > 0.99
    # 100 independent queries: Wilson at t(99) = 1.9842 and the error of a sample, sqrt(p (1 - p) / 99)
    found = stats.mean([1] * 80 + [0] * 20, NAMES[:100])
    pull = 1.9842**2 / 99
    centre, half = (0.8 + pull / 2) / (1 + pull), math.sqrt(0.16 * pull + pull**2 / 4) / (1 + pull)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), abs=1e-5)


def test_all_right_is_not_certainty():
    found = stats.mean([1] * 40, NAMES[:40])
    assert found.high == found.value == 1
    assert 0.85 < found.low < 0.95
    none = stats.mean([0] * 40, NAMES[:40])
    assert (none.low, none.high) == pytest.approx((0, 1 - found.low))


def test_forty_copies_of_one_picture_count_once():
    assert stats.mean([1] * 40, ["a"] * 40).low < 0.01


def test_interval_stays_in_range_and_holds_the_value():
    rng = np.random.default_rng(3)
    for _ in range(300):
        n = int(rng.integers(1, 12))
        values, clusters = rng.integers(0, 2, n).astype(float), rng.choice(list("abcd"), n).tolist()
        other = rng.integers(0, 2, n).astype(float)
        for found, low in (
            (stats.mean(values, clusters), 0),
            (stats.paired_difference(values, other, clusters), -1),
        ):
            assert low - 1e-12 <= found.low <= found.value <= found.high <= 1 + 1e-12


def test_macro_weighs_groups_alike_and_mean_weighs_queries():
    groups = {"small": ([1.0, 1.0], ["a", "b"]), "large": ([0.0] * 8, NAMES[:8])}
    assert stats.macro_mean(groups).value == 0.5
    assert stats.macro_mean(groups).n == 10
    assert stats.mean([1.0] * 2 + [0.0] * 8, NAMES[:10]).value == 0.2


def test_group_of_one_cluster_widens_macro_interval():
    rest = {str(g): ([1.0, 0.0] * 50, NAMES[:100]) for g in range(8)}
    with_lone = stats.macro_mean({**rest, "lone": ([1.0], ["x"])})
    assert 0.1 < with_lone.high - with_lone.low < 0.5


def test_chance_corrected_scale():
    groups = {"a": ([1.0, 0.0, 0.0, 0.0] * 9, NAMES[:36])}
    assert stats.chance_corrected(groups, {"a": 0.25}).value == pytest.approx(0)
    assert stats.chance_corrected({"a": ([1.0] * 36, NAMES[:36])}, {"a": 0.25}).value == 1
    assert stats.chance_corrected({"a": ([0.0] * 36, NAMES[:36])}, {"a": 0.5}).value == -1
    plain, corrected = stats.mean(*groups["a"]), stats.chance_corrected(groups, {"a": 0.25})
    assert (corrected.low, corrected.high) == pytest.approx(
        [(x - 0.25) / 0.75 for x in (plain.low, plain.high)]
    )


def test_order_does_not_matter():
    values, clusters = clustered(np.random.default_rng(0), 0.4)
    shuffled = np.random.default_rng(1).permutation(len(values))
    one, other = (
        stats.mean(values, clusters),
        stats.mean(values[shuffled], [clusters[i] for i in shuffled]),
    )
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.mean([], []), "no values"),
        (lambda: stats.macro_mean({}), "no groups"),
        (lambda: stats.macro_mean({"a": ([], [])}), "no values"),
        (lambda: stats.mean([1.0], ["a", "b"]), "2 clusters"),
        (lambda: stats.mean([1.2], ["a"]), "not in"),
        (lambda: stats.mean([float("nan")], ["a"]), "not in"),
        (lambda: stats.paired_difference([1.0, 0.0], [-1.0, 0.0], ["a", "b"]), "not in"),
        (lambda: stats.paired_difference([1.0, 0.0], [1.0], ["a", "b"]), "2 clusters"),
        (lambda: stats.chance_corrected({"a": ([1.0], ["a"])}, {"a": 1.0}), "chance level"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("n", "k", "options"), [(8, 6, 4), (8, 0, 4), (8, 9, 4), (12, 11, 2), (9, 7, 3), (1, 1, 6)]
)
def test_binomial_tail(n, k, options):
    p = Fraction(1, options)
    expected = sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))
    assert stats.binomial_tail(n, k, 1 / options) == pytest.approx(float(expected), rel=1e-12)


T975 = [
    (1, 12.7062),
    (2, 4.3027),
    (3, 3.1824),
    (5, 2.5706),
    (10, 2.2281),
    (30, 2.0423),
    (1000, 1.9623),
]


@pytest.mark.parametrize(("freedom", "known"), T975)
def test_quantile_of_t(freedom, known):
    assert stats._t_quantile_975(freedom) == pytest.approx(known, rel=2e-3)
