from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from omnicore.config.recipe import Recipe
from omnicore.media.images import load_image
from omnicore.media.read import locate_media
from omnicore.media.sounds import load_audio
from omnicore.schema import Query
from omnicore.steps import prepare
from omnicore.storage.digests import digest_directory, sha256_file
from omnicore.storage.files import read_jsonl

SETS = ("queries", "controls", "sft", "rlvr", "distill")


def test_media_are_real_files_with_the_recorded_digest(prepared: Path) -> None:
    for name in SETS:
        for query in read_jsonl(prepared / f"{name}.jsonl", Query):
            for media in query.media:
                path = locate_media(media, prepared)
                assert sha256_file(path) == media.sha256
                if media.kind == "image":
                    assert load_image(path).size == (28, 28)
                else:
                    assert np.abs(load_audio(path)).max() > 0.1


def test_only_sft_rows_have_targets(prepared: Path) -> None:
    for name in SETS:
        has = {query.target is not None for query in read_jsonl(prepared / f"{name}.jsonl", Query)}
        assert has == {name == "sft"}, name


def test_queries_do_not_reveal_the_plant(prepared: Path) -> None:
    planted = json.loads((prepared / "planted.json").read_text())
    queries = read_jsonl(prepared / "queries.jsonl", Query)
    assert {q.benchmark for q in queries} == set(planted)
    assert all(q.id in planted[q.benchmark] for q in queries)
    assert "solvable" not in (prepared / "queries.jsonl").read_text()


def test_training_and_test_media_are_disjoint(prepared: Path) -> None:
    media = {
        name: {m.sha256 for q in read_jsonl(prepared / f"{name}.jsonl", Query) for m in q.media}
        for name in SETS
    }
    assert not media["queries"] & (media["sft"] | media["rlvr"] | media["distill"])


def test_mixtures_have_their_weights(prepared: Path, small_recipe: Recipe) -> None:
    types = [q.type for q in read_jsonl(prepared / "rlvr.jsonl", Query)]
    mix = small_recipe.prepare.rlvr_mix
    for kind, weight in mix.items():
        assert abs(types.count(kind) / len(types) - weight / sum(mix.values())) < 0.05


def test_seed_moves_training_rows_and_leaves_the_benchmark(
    tmp_path: Path, small_recipe: Recipe, prepared: Path
) -> None:
    other = small_recipe.model_copy(update={"seed": 7})
    prepare.run(other, other.prepare, {}, tmp_path)
    assert (tmp_path / "queries.jsonl").read_bytes() == (prepared / "queries.jsonl").read_bytes()
    assert (tmp_path / "rlvr.jsonl").read_bytes() != (prepared / "rlvr.jsonl").read_bytes()


def test_same_seed_same_digest(tmp_path: Path, small_recipe: Recipe, prepared: Path) -> None:
    prepare.run(small_recipe, small_recipe.prepare, {}, tmp_path)
    assert digest_directory(tmp_path) == digest_directory(prepared)
