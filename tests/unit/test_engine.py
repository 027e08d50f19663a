from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from omnicore.config import Profile
from omnicore.config.recipe import Recipe
from omnicore.data.prompts import prompt_parts
from omnicore.engines.base import Batch, FinishedBatches, Reply, Request, Sampling, run_requests
from omnicore.errors import DataError, EngineError
from omnicore.media.read import read_media
from omnicore.schema import Query, View
from omnicore.storage.files import read_jsonl
from tests.errors import refused
from tests.media_files import make_picture, make_tone, medium


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global torch

    import torch


class Counting:
    """Answers with the seed and the question; dies at a given batch."""

    name = "counting"

    def __init__(self, dies_at: int | None = None) -> None:
        self.batches = 0
        self._dies_at = dies_at

    def answer(self, batches: Sequence[Batch], sampling: Sampling) -> Iterator[FinishedBatches]:
        for index, batch in enumerate(batches):
            if self.batches == self._dies_at:
                raise KeyboardInterrupt
            self.batches += 1
            yield [(index, [Reply(f"{batch.seed} {r.parts[-1]}") for r in batch.requests])]


def requests(count: int) -> list[Request]:
    return [Request((f"question {i}",), Path()) for i in range(count)]


def test_killed_run_resumes_with_the_same_replies(tmp_path: Path) -> None:
    how: dict[str, Any] = {"seed": 5, "batch": 4, "label": "x"}
    whole = list(
        run_requests(
            Counting(), requests(10), Sampling(1, 1), journal=tmp_path / "a.journal", **how
        )
    )
    with pytest.raises(KeyboardInterrupt):
        run_requests(
            Counting(dies_at=2), requests(10), Sampling(1, 1), journal=tmp_path / "b.journal", **how
        )
    second = Counting()
    assert (
        list(
            run_requests(
                second, requests(10), Sampling(1, 1), journal=tmp_path / "b.journal", **how
            )
        )
        == whole
    )
    assert second.batches == 1  # two batches were journaled


class Failing(Counting):
    """Fails permanently on every question that names one of the numbers."""

    def __init__(self, *numbers: int) -> None:
        super().__init__()
        self._numbers = numbers

    def answer(self, batches: Sequence[Batch], sampling: Sampling) -> Iterator[FinishedBatches]:
        for done in super().answer(batches, sampling):
            for index, replies in reversed(done):
                failed = any(replies[0].text.endswith(f" {n}") for n in self._numbers)
                yield [(index, [Reply(error="HTTP 500")] if failed else replies)]


def test_failed_requests_are_sent_again_on_a_rerun(tmp_path: Path) -> None:
    how: dict[str, Any] = {"seed": 0, "batch": 1, "label": "x", "journal": tmp_path / "a.journal"}
    replies = list(
        run_requests(Failing(2, 5), requests(10), Sampling(1, 1), max_error_rate=0.2, **how)
    )
    assert [i for i, reply in enumerate(replies) if reply.error] == [2, 5]
    again = Counting()
    assert not any(
        reply.error for reply in run_requests(again, requests(10), Sampling(1, 1), **how)
    )
    assert again.batches == 2


def test_more_failures_than_allowed_are_counted(tmp_path: Path) -> None:
    how: dict[str, Any] = {
        "seed": 0,
        "batch": 1,
        "label": "probe",
        "journal": tmp_path / "a.journal",
    }
    with refused(EngineError, "engine-error-rate", field="engine.max_error_rate") as caught:
        run_requests(Failing(2, 5), requests(10), Sampling(1, 1), max_error_rate=0.1, **how)
    assert "probe: 2 of 10 requests failed, more than the 10.0%" in str(caught.value)
    assert "2 x HTTP 500" in str(caught.value)


@pytest.mark.parametrize(
    ("allowed", "listed"),
    [(0.0, "1 x HTTP 500 (b/2)"), (0.25, "3 x HTTP 500 (b/2, and 1 other queries)")],
)
def test_failures_name_the_queries(tmp_path: Path, allowed: float, listed: str) -> None:
    asked = [replace(request, name=f"b/{i // 2 + 1}") for i, request in enumerate(requests(10))]
    with refused(EngineError, "engine-error-rate") as caught:
        run_requests(
            Failing(2, 3, 5),
            asked,
            Sampling(1, 1),
            seed=0,
            batch=1,
            label="x",
            journal=tmp_path / "a.journal",
            max_error_rate=allowed,
        )
    assert f"{listed}. Fix the cause" in str(caught.value)


def test_every_batch_has_its_own_seed(tmp_path: Path) -> None:
    replies = run_requests(
        Counting(),
        requests(8),
        Sampling(1, 1),
        seed=0,
        batch=4,
        journal=tmp_path / "a.journal",
        label="x",
    )
    seeds = [reply.text.split()[0] for reply in replies]
    assert len(set(seeds[:4])) == len(set(seeds[4:])) == 1
    assert seeds[0] != seeds[4]


@pytest.fixture(scope="module")
def engine() -> Any:
    from omnicore.engines.transformers import TransformersEngine

    return TransformersEngine("embedded:tiny-base", Profile())


def test_tiny_base_sees_and_hears(engine: Any, prepared: Path, small_recipe: Recipe) -> None:
    queries = [
        q for q in read_jsonl(prepared / "controls.jsonl", Query) if q.type in ("picture", "speech")
    ]
    asked = [Request(prompt_parts(q, View.omni, small_recipe.profile), prepared) for q in queries]
    replies = engine.generate(Batch(asked, 0), Sampling(0, small_recipe.profile.max_new_tokens))
    right = sum(
        f"<answer>{q.answer}</answer>" in reply.text
        for q, reply in zip(queries, replies, strict=True)
    )
    assert right / len(queries) > 0.7


def test_media_are_processed_once_for_all_draws(
    engine: Any, prepared: Path, small_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from omnicore.engines import transformers as module

    query = next(q for q in read_jsonl(prepared / "queries.jsonl", Query) if len(q.media) == 2)
    reader = module.PromptReader(engine.encoder, Profile())
    opened: list[Path] = []
    monkeypatch.setattr(
        module,
        "read_media",
        lambda media, root, profile: (opened.append(root), read_media(media, root, profile))[1],
    )
    prompts = [
        reader.prompt(Request(prompt_parts(query, View.omni, small_recipe.profile), prepared))
        for _ in range(5)
    ]
    assert len(opened) == 2
    assert all(p.ids == prompts[0].ids for p in prompts)


def test_full_cache_drops_the_oldest_media(
    engine: Any, prepared: Path, small_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from omnicore.engines import transformers as module

    pictures = list(
        dict.fromkeys(
            m
            for q in read_jsonl(prepared / "queries.jsonl", Query)
            for m in q.media
            if m.kind == "image"
        )
    )
    monkeypatch.setattr(
        module,
        "CACHE_BYTES",
        3 * engine.reader.features(pictures[0], prepared, engine.reader.profile).size,
    )
    reader = module.PromptReader(engine.encoder, Profile())
    read_again: list[Any] = []
    monkeypatch.setattr(
        module,
        "read_media",
        lambda media, root, profile: (read_again.append(media), read_media(media, root, profile))[
            1
        ],
    )
    for picture in [*pictures[:4], pictures[3], pictures[0]]:
        reader.features(picture, prepared, reader.profile)
    assert read_again == [*pictures[:4], pictures[0]]


def test_sampling_is_seeded(engine: Any, prepared: Path, small_recipe: Recipe) -> None:
    queries = read_jsonl(prepared / "queries.jsonl", Query)[:16]
    asked = [
        Request(prompt_parts(q, View.visual_only, small_recipe.profile), prepared) for q in queries
    ]
    first, again, other = (
        engine.generate(Batch(asked, seed), Sampling(1.0, 14)) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_forked_workers_give_the_same_replies(prepared: Path, small_recipe: Recipe) -> None:
    from omnicore.engines.transformers import TransformersEngine

    torch.set_num_threads(1)
    queries = read_jsonl(prepared / "queries.jsonl", Query)[:24]
    asked = [Request(prompt_parts(q, View.omni, small_recipe.profile), prepared) for q in queries]
    batches = [Batch(asked[i : i + 8], seed=i) for i in (0, 8, 16)]
    one, two = (
        TransformersEngine("embedded:tiny-base", Profile(), workers=n).answer(
            batches, Sampling(1.0, 14)
        )
        for n in (1, 2)
    )
    assert dict(pair for done in one for pair in done) == dict(
        pair for done in two for pair in done
    )


def test_missing_media_is_named(
    engine: Any, prepared: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    query = read_jsonl(prepared / "queries.jsonl", Query)[0]
    with pytest.raises(DataError, match=r"media/.* is missing: run prepare again"):
        type(engine.reader)(engine.encoder, Profile()).prompt(
            Request(prompt_parts(query, View.omni, small_recipe.profile), tmp_path)
        )


def test_unreadable_medium_is_error_of_one_request(engine: Any, tmp_path: Path) -> None:
    files = [
        make_picture(tmp_path / f"{colour}.png", colour, (28, 28))
        for colour in ("red", "blue", "green")
    ]
    red, blue, green = (medium(path, "image") for path in files)
    files[0].write_text("no picture")
    make_picture(files[1], "white", (28, 28))  # a picture, but another one
    files[2].unlink()
    files.append(make_picture(tmp_path / "grey.png", "grey", (28, 28)))
    asked = [
        Request((shown, "Which digit?"), tmp_path)
        for shown in (red, medium(files[3], "image"), blue, green)
    ]
    replies = engine.generate(Batch(asked, 0), Sampling(0, 4))
    changed = (
        "is not the file that was prepared, its sha256 differs: run prepare again, or copy it again"
    )
    assert [reply.error for reply in replies] == [
        f"red.png {changed}",
        "",
        f"blue.png {changed}",
        "green.png is missing: run prepare again, or copy the image there",
    ]
    assert replies[1] == engine.generate(Batch(asked[1:2], 0), Sampling(0, 4))[0]


@pytest.mark.parametrize("asked", [["short", "long", "short"], ["long"]])
def test_too_long_sound_is_an_error_of_its_request(
    engine: Any, tmp_path: Path, asked: list[str]
) -> None:
    """The embedded models hear one second."""
    heard = {"short": medium(make_tone(tmp_path / "short.wav", 300, 1.0), "audio")}
    heard["long"] = medium(make_tone(tmp_path / "long.wav", 300, 1.5), "audio")
    batch = [Request((heard[name], "Which digit?"), tmp_path) for name in asked]
    replies = engine.generate(Batch(batch, 0), Sampling(0, 4))
    for name, reply in zip(asked, replies, strict=True):
        if name == "short":
            assert reply.error == ""
        else:
            assert reply.error.startswith("long.wav: a sound of 1.5 s")
            assert " 1 s: " in reply.error  # the limit
    assert all(reply.tokens for reply in replies if not reply.error)
    clipped = heard["long"].model_copy(update={"start": 0.5})
    assert not engine.generate(
        Batch([Request((clipped, "Which digit?"), tmp_path)], 0), Sampling(0, 4)
    )[0].error
