"""What goes to a GPU, shown on a device that computes nothing: everything that a model is given
follows it there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from omnicore.config import Profile
from omnicore.engines.base import Request
from omnicore.schema import Media
from tests.media_files import make_picture, make_tone, medium


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global engine, generate, runtime, torch

    import torch

    from omnicore.engines import transformers as engine
    from omnicore.models import runtime
    from omnicore.models.generate import generate


META = "meta"


@pytest.fixture
def request_with_media(tmp_path: Path) -> Request:
    media: list[Media | str] = [
        medium(make_picture(tmp_path / "a.png", "red", (28, 28)), "image"),
        medium(make_tone(tmp_path / "a.wav", 440, 0.3), "audio"),
    ]
    return Request((*media, "Which?"), tmp_path)


def test_a_model_goes_where_the_process_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "device", lambda: torch.device(META))
    found = engine.TransformersEngine("embedded:tiny-base", Profile(), workers=2)
    assert {p.device.type for p in found.model.parameters()} == {META}
    assert found._workers == 1, "a GPU is not to be used across a fork"


def test_prompts_and_media_follow_the_model(request_with_media: Request) -> None:
    loaded = engine.TransformersEngine("embedded:tiny-base", Profile())
    given: dict[str, Any] = {}

    def answer(**batch: Any) -> Any:
        given.update(
            {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
        )
        return SimpleNamespace(
            sequences=torch.full((1, batch["input_ids"].shape[1] + 1), loaded.encoder.eos_id)
        )

    model = SimpleNamespace(device=torch.device(META), eval=lambda: None, generate=answer)
    prompt = loaded.reader.prompt(request_with_media)
    generate(model, loaded.encoder, [prompt], max_new_tokens=1, temperature=0)
    assert {"input_ids", "attention_mask", "pixel_values", "input_features"} <= given.keys()
    assert {tensor.device.type for tensor in given.values()} == {META}


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert runtime.device() == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runtime.device() == torch.device("cpu")
