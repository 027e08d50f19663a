"""Which rows each step sees: shares, walks without repeats, padding, and that a step's batch
depends on nothing else."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from omnicore.config import MixtureConfig
from omnicore.errors import ConfigError
from omnicore.schema import Media, Query
from omnicore.training.mixture import Mixture, RowOrder, group_of, modality
from tests.errors import refused

KINDS = {"vision": ("image",), "audio": ("audio",), "omni": ("video", "audio"), "text": ()}


def query(number: int, kind: str, source: str = "s") -> Query:
    media = tuple(Media(kind=k, uri="x", sha256="0" * 64) for k in KINDS[kind])  # type: ignore[arg-type]
    return Query(
        benchmark=source,
        id=str(number),
        type=f"t-{kind}",
        question="?",
        options=("1", "2"),
        answer="1",
        media=media,
        cluster="c",
    )


def rows(**counts: int) -> list[Query]:
    made = [query(i, kind) for kind, count in counts.items() for i in range(count)]
    random.Random(0).shuffle(made)
    return made


def made(
    queries: Sequence[Query],
    tokens: Sequence[int] | None = None,
    batch: int = 8,
    steps: int = 50,
    seed: int = 0,
    **config: object,
) -> Mixture:
    return Mixture(
        queries,
        tokens or [10] * len(queries),
        MixtureConfig.model_validate(config),
        batch=batch,
        steps=steps,
        seed=seed,
    )


@pytest.mark.parametrize(
    ("kind", "by"), [(kind, by) for kind in KINDS for by in ("source", "modality", "type")]
)
def test_groups(kind: str, by: str) -> None:
    assert modality(query(0, kind)) == kind
    assert (
        group_of(query(0, kind, "src"), by)
        == {"source": "src", "modality": kind, "type": f"t-{kind}"}[by]
    )


@pytest.mark.parametrize(
    ("weights", "batch", "window"),
    [
        ({}, 8, 1),
        ({"vision": 1, "audio": 1}, 16, 4),
        ({"vision": 2, "audio": 1}, 16, 1),  # a third of 16: 5 or 6
        ({"vision": 0.02, "audio": 1}, 8, 3),  # less than one a batch
        ({"vision": 0, "audio": 1}, 8, 1),
    ],
)
def test_every_batch_holds_the_shares(weights: dict[str, float], batch: int, window: int) -> None:
    queries = rows(vision=40, audio=300)
    steps = 200
    mixture = made(queries, batch=batch, steps=steps, by="modality", weights=weights, window=window)
    share = {k: w / sum(weights.values()) for k, w in weights.items()} or {
        "vision": 0.5,
        "audio": 0.5,
    }
    total: Counter[str] = Counter()
    for step in range(steps):
        chosen = mixture.batch(step)
        assert len(chosen) == batch
        found = Counter(modality(queries[i]) for i in chosen)
        for name in share:
            assert abs(found[name] - share[name] * batch) < 1, (step, name)
        total += found
    for name in share:
        assert total[name] / (batch * steps) == pytest.approx(share[name], abs=2 / steps)


@pytest.mark.parametrize("window", [1, 5])
def test_no_row_repeats_before_its_group_is_exhausted(window: int) -> None:
    queries = rows(vision=10, audio=35)
    mixture = made(queries, by="modality", window=window, batch=4, steps=60)
    drawn = [i for step in range(60) for i in mixture.batch(step)]
    for name, size in (("vision", 10), ("audio", 35)):
        counts = Counter(i for i in drawn if modality(queries[i]) == name)
        assert len(counts) == size
        assert max(counts.values()) - min(counts.values()) <= 1
    assert mixture.epochs() == {"audio": round(120 / 35, 3), "vision": 12.0}
    first = [i for i in drawn if modality(queries[i]) == "vision"]
    assert first[:10] != first[10:20]  # another order in the next epoch


def test_a_batch_is_a_function_of_seed_and_step_alone() -> None:
    queries, tokens = rows(vision=33, omni=20), [5 + i % 7 for i in range(53)]
    given = {"by": "modality", "weights": {"vision": 1, "omni": 3}, "window": 4}
    whole = made(queries, tokens, steps=30, **given)
    in_order = [whole.batch(step) for step in range(30)]
    backwards = made(queries, tokens, steps=30, **given)
    assert [backwards.batch(step) for step in reversed(range(30))] == in_order[::-1]
    assert list(RowOrder(whole)) == [i for chosen in in_order for i in chosen]
    assert len(RowOrder(whole)) == 30 * 8
    assert [
        made(queries, tokens, steps=30, seed=1, **given).batch(step) for step in range(30)
    ] != in_order


def test_balance_by_tokens_gives_shares_of_tokens() -> None:
    queries = rows(vision=50, audio=200)
    tokens = [300 if modality(q) == "vision" else 100 for q in queries]
    mixture = made(queries, tokens, by="modality", balance="tokens", batch=16, steps=100)
    total: Counter[str] = Counter()
    for step in range(100):
        for i in mixture.batch(step):
            total[modality(queries[i])] += tokens[i]
    assert total["vision"] / total.total() == pytest.approx(0.5, abs=0.01)


def padding(mixture: Mixture, tokens: Sequence[int], micro: int) -> float:
    """Share of pad tokens in micro-batches."""
    padded = real = 0
    order = list(RowOrder(mixture))
    for start in range(0, len(order), micro):
        lengths = [tokens[i] for i in order[start : start + micro]]
        padded += max(lengths) * len(lengths)
        real += sum(lengths)
    return 1 - real / padded


@pytest.mark.parametrize("micro", [16, 4])
def test_grouping_by_length_spares_padding(micro: int) -> None:
    rng = random.Random(1)
    queries = rows(vision=400, audio=400, omni=400)
    tokens = [round(rng.lognormvariate(5, 0.7)) + 20 for _ in queries]
    before, after = (
        padding(
            made(queries, tokens, by="modality", batch=16, steps=64, window=window), tokens, micro
        )
        for window in (1, 16)
    )
    assert before > 0.4
    assert after < 0.5 * before, (before, after)


def test_windows_do_not_begin_with_their_shortest_rows() -> None:
    queries = rows(vision=640)
    tokens = list(range(10, 650))
    mixture = made(queries, tokens, batch=8, steps=80, window=8)
    means = [sum(tokens[i] for i in mixture.batch(step)) / 8 for step in range(80)]
    assert len({min(range(8), key=lambda k: means[first + k]) for first in range(0, 80, 8)}) > 3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"by": "modality", "weights": {"vision": 1}},
            "no weight for audio. The rows hold audio, vision",
        ),
        ({"by": "modality", "weights": {"vision": 1, "audio": 1, "omni": 1}}, "no rows of omni"),
        ({"weights": {"other": 1}}, "mixture.weights by source: no weight for s; no rows of other"),
    ],
)
def test_weights_must_match_the_groups(config: dict[str, object], message: str) -> None:
    with refused(ConfigError, "recipe-mixture-weights", field="mixture.weights") as caught:
        made(rows(vision=3, audio=3), **config)
    assert message in str(caught.value)


@pytest.mark.parametrize("weights", [{"a": -1, "b": 2}, {"a": 0}])
def test_weights_are_shares(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="weights are shares"):
        MixtureConfig(weights=weights)


def test_resampled_rows_keep_shares_without_repeats() -> None:
    queries = rows(vision=300, audio=100, omni=200, text=50)
    weights = {"vision": 2, "audio": 1, "omni": 1, "text": 0}
    mixture = made(queries, by="modality", weights=weights)
    drawn = [mixture.resample(8, mixture.batch(step), f"0|{step}|1") for step in range(50)]
    for step, chosen in enumerate(drawn):
        assert len(set(chosen)) == len(chosen) == 8
        assert not set(chosen) & set(mixture.batch(step))
    counts = Counter(modality(queries[i]) for chosen in drawn for i in chosen)
    assert set(counts) == {"vision", "audio", "omni"}
    assert counts["vision"] / 400 == pytest.approx(0.5, abs=0.08)  # three standard errors
    assert counts["audio"] / 400 == pytest.approx(0.25, abs=0.07)


def test_resampling_is_a_function_of_its_key() -> None:
    queries = rows(omni=6, audio=4)
    mixture = made(queries, by="modality", weights={"omni": 1, "audio": 0})
    omni = {i for i, q in enumerate(queries) if modality(q) == "omni"}
    first = sorted(omni)[:2]
    assert mixture.resample(3, first, "k") == made(
        queries, by="modality", weights={"omni": 1, "audio": 0}
    ).resample(3, first, "k")
    assert mixture.resample(3, first, "k") != mixture.resample(3, first, "other")
    assert set(mixture.resample(9, first, "k")) == omni - set(first)
