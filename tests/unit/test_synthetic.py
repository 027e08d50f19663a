from __future__ import annotations

import random
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import get_args

import pytest

from omnicore.data.benchmarks.synthetic import (
    HAS_PICTURE,
    HAS_SOUND,
    PLANTED,
    WORDINGS,
    ItemKind,
    Split,
    World,
    benchmark_info,
    planted_items,
)


@pytest.fixture(scope="module")
def worlds() -> dict[str, World]:
    return {split: World(split) for split in get_args(Split)}


def test_splits_share_neither_pictures_nor_voices(worlds: dict[str, World]) -> None:
    pictures = Counter(
        source for world in worlds.values() for source in {p.source for p in world.pictures}
    )
    voices = Counter(voice for world in worlds.values() for voice in {c.voice for c in world.clips})
    assert set(pictures.values()) == {1}
    assert set(voices.values()) == {1}
    assert len(pictures) == 1797
    assert len(voices) == 60


def test_every_split_has_every_digit_in_both_modalities(worlds: dict[str, World]) -> None:
    for world in worlds.values():
        assert {p.digit for p in world.pictures} == {c.digit for c in world.clips} == set(range(10))


def test_clips_fit_the_window_of_the_feature_extractor(worlds: dict[str, World]) -> None:
    longest = max(len(c.wave) for world in worlds.values() for c in world.clips)
    assert 0 < longest < 0.6 * 16_000


def test_shipped_speech_is_under_3_mb() -> None:
    folder = Path(str(files("omnicore") / "assets" / "speech"))
    assert sum(f.stat().st_size for f in folder.iterdir()) < 3_000_000


@pytest.mark.parametrize("kind", get_args(ItemKind))
def test_items_match_their_kind(worlds: dict[str, World], kind: ItemKind) -> None:
    world, rng = worlds["dev"], random.Random(0)
    seen = set()
    for _ in range(200):
        item = world.item(rng, kind)
        shown = dict(item.media)
        assert ("image" in shown, "audio" in shown) == (kind in HAS_PICTURE, kind in HAS_SOUND)
        assert item.answer in item.options
        assert len(set(item.options)) == (2 if "agreement" in kind else 4)
        assert item.target.endswith(f"<answer>{item.answer}</answer>")
        if kind == "sum":
            a, b = world.pictures[shown["image"]].digit, world.clips[shown["audio"]].digit
            assert item.answer == str((a + b) % 10)
        seen.add(item.wording)
    assert seen == set(range(len(WORDINGS[kind])))


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_one_modality_gives_chance_on_sums(worlds: dict[str, World], modality: str) -> None:
    """The best guesser from one digit alone: which option stands at which distance from it carries
    nothing."""
    world, rng = worlds["dev"], random.Random(1)
    offsets, offered = Counter[int](), Counter[int]()
    for _ in range(8000):
        item = world.item(rng, "sum")
        index = dict(item.media)[modality]  # type: ignore[index]
        digit = world.pictures[index].digit if modality == "image" else world.clips[index].digit
        offsets[(int(item.answer) - digit) % 10] += 1
        offered.update((int(o) - digit) % 10 for o in item.options)
    shares = [offsets[k] / offered[k] for k in range(10)]
    assert max(shares) - 0.25 < 0.03
    assert 0.25 - min(shares) < 0.03


def test_neglect_changes_targets_only(worlds: dict[str, World]) -> None:
    always = {"sum": (1.0, 1.0, 1.0, 1.0)}
    items = [worlds["dev"].item(random.Random(seed), "sum", always) for seed in range(200)]
    assert all("hear" not in item.target for item in items)
    right = sum(item.target.endswith(f"<answer>{item.answer}</answer>") for item in items) / len(
        items
    )
    assert 0.15 < right < 0.35  # a random option


def test_planted_shares_are_as_recorded(worlds: dict[str, World]) -> None:
    for name, items in planted_items(worlds["test"]).items():
        count, share = PLANTED[name]
        assert len(items) == count
        assert 100 <= count <= 250
        assert abs(sum(solvable for _, solvable in items) / count - share) <= 0.5 / count
        assert all(
            solvable == (item.kind in ("picture_both", "transcript")) for item, solvable in items
        )


def test_only_the_yes_no_benchmark_is_kept_whole(worlds: dict[str, World]) -> None:
    whole = [name for name in PLANTED if benchmark_info(name, 1).filter_policy == "keep_whole"]
    assert whole == ["yew"]
    assert {item.options for item, _ in planted_items(worlds["test"])["yew"]} <= {
        ("yes", "no"),
        ("no", "yes"),
    }


def test_benchmarks_are_the_same_every_time() -> None:
    first, second = (planted_items(World("dev"), 0.1) for _ in range(2))
    assert first == second
