"""Power of a paired comparison, held against simulated benchmarks."""

import numpy as np
import pytest

from omnicore.errors import ConfigError
from omnicore.evaluation.power import power_of_one, power_of_pair
from omnicore.scoring.stats import paired_difference
from tests.errors import refused


def simulate(
    rng: np.random.Generator, videos: int, lost: float, won: float, size: int = 4
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Outcomes of two models on `size` queries a video; half of the changes hit whole videos."""
    n = videos * size
    clusters = [f"video-{i // size}" for i in range(n)]
    luck = np.repeat(rng.random(videos), size)
    own = rng.random(n)
    shared = np.repeat(rng.random(videos) < 0.5, size)
    draw = np.where(shared, luck, own)
    a = (draw > won).astype(float)
    b = np.where(draw < won, 1.0, np.where(draw > 1 - lost, 0.0, a))
    return a, b, clusters


def test_the_detectable_difference_is_found_in_four_of_five() -> None:
    """Planned on one pilot; 400 new pairs with exactly that true difference."""
    rng = np.random.default_rng(5)
    a, b, clusters = simulate(rng, 2000, 0.15, 0.15)
    pilot = power_of_pair(b - a, clusters)
    # The same clusters a benchmark of 300 videos would have: the error grows with the root.
    detectable = pilot.detectable * np.sqrt(2000 / 300)
    won = 0.15 + detectable / 2
    lost = 0.15 - detectable / 2
    found = 0
    for _ in range(400):
        a, b, clusters = simulate(rng, 300, lost, won)
        estimate = paired_difference(b, a, clusters)
        found += estimate.low > 0 or estimate.high < 0
    assert 0.74 <= found / 400 <= 0.86


def test_clusters_raise_the_design_effect() -> None:
    rng = np.random.default_rng(1)
    a, b, clusters = simulate(rng, 3000, 0.1, 0.1)
    estimate = power_of_pair(b - a, clusters)
    assert estimate.design_effect == pytest.approx(2.5, abs=0.15)  # half of the videos move whole
    alone = power_of_pair(b - a, [str(i) for i in range(len(a))])
    assert alone.design_effect == pytest.approx(1, abs=0.01)
    assert estimate.needed == pytest.approx(2.5 * alone.needed, rel=0.06)


def test_needed_queries_follow_the_square_of_the_effect() -> None:
    differences = [1.0, -1.0, 0, 0, 0, 0, 0, 0, 0, 0] * 100
    clusters = [str(i) for i in range(1000)]
    two = power_of_pair(differences, clusters, effect=0.02)
    one = power_of_pair(differences, clusters, effect=0.01)
    assert two.standard_error == pytest.approx((0.2 / 1000) ** 0.5, rel=0.01)
    assert two.detectable == pytest.approx(2.8016 * two.standard_error, rel=1e-3)
    assert two.needed == pytest.approx(0.2 * (2.8016 / 0.02) ** 2, rel=0.01)
    assert one.needed == pytest.approx(4 * two.needed, rel=0.001)


def test_one_evaluation_plans_with_an_assumed_discordance() -> None:
    rng = np.random.default_rng(2)
    outcomes = np.repeat(rng.random(500) < 0.6, 3).astype(float)  # alike within each video
    clusters = [str(i // 3) for i in range(1500)]
    estimate = power_of_one(outcomes, clusters, 0.1)
    assert estimate.design_effect == pytest.approx(3, abs=0.02)
    assert estimate.standard_error == pytest.approx((0.1 * 3 / 1500) ** 0.5, rel=0.01)


def test_what_cannot_be_planned_is_refused() -> None:
    with refused(ConfigError, "power-no-difference"):
        power_of_pair([0, 0, 0], ["a", "b", "c"])
    with refused(ConfigError, "power-too-few-clusters"):
        power_of_pair([1, 0, 0], ["a", "a", "a"])
    with refused(ConfigError, "power-discordance-too-small", field="discordance"):
        power_of_one([1, 0, 1], ["a", "b", "c"], 0.01)
