from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from omnicore.data.benchmarks.synthetic import World
from omnicore.errors import CheckpointError
from tests.errors import refused


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global collate, EncodedWorld, thinker, torch

    import torch

    from omnicore.models import thinker
    from omnicore.models.processor import collate
    from omnicore.training.pretrain import EncodedWorld


@pytest.fixture
def saved(tmp_path: Path, encoder: Any, random_model: Any) -> Path:
    thinker.save(random_model, encoder, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="module")
def batch(encoder: Any) -> dict[str, torch.Tensor]:
    world, rng = World("dev"), random.Random(0)
    data = EncodedWorld(world, encoder)
    prompts = [data.prompt(world.item(rng, kind)) for kind in ("sum", "picture", "speech", "text")]
    tensors = collate(prompts, None, encoder.pad_id)
    del tensors["labels"]
    return tensors


@pytest.mark.usefixtures("no_grad")
@pytest.mark.parametrize(
    "model", ["saved", "embedded:tiny-base", "embedded:tiny-probe", "embedded:tiny-probe-2"]
)
def test_from_pretrained_gives_the_same_logits(
    model: str, batch: dict[str, torch.Tensor], request: pytest.FixtureRequest
) -> None:
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    directory = request.getfixturevalue("saved") if model == "saved" else thinker.resolve(model)
    ours, _ = thinker.load(directory)
    plain = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(directory).float().eval()
    assert float((ours(**batch).logits - plain(**batch).logits).abs().max()) == 0


@pytest.mark.usefixtures("no_grad")
def test_saving_a_loaded_model_changes_nothing(
    saved: Path, batch: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    model, encoder = thinker.load(saved)
    thinker.save(model, encoder, tmp_path / "again")
    again, _ = thinker.load(tmp_path / "again")
    assert float((model(**batch).logits - again(**batch).logits).abs().max()) == 0
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        saved / "model.safetensors"
    ).read_bytes()


def test_layout_is_of_the_published_checkpoint(saved: Path) -> None:
    from safetensors import safe_open

    config = json.loads((saved / "config.json").read_text())
    assert config["architectures"] == ["Qwen2_5OmniModel"]
    assert (
        config["thinker_config"]["audio_token_id"] == config["thinker_config"]["audio_token_index"]
    )
    assert (
        "rope_scaling" not in config["thinker_config"]["text_config"]
    )  # vLLM would let it win over rope_parameters
    with safe_open(saved / "model.safetensors", framework="pt") as weights:
        names = list(weights.keys())
        assert "thinker.lm_head.weight" in names
        assert all(name.startswith("thinker.") for name in names)
        assert weights.get_tensor(names[0]).dtype == torch.bfloat16
    assert json.loads((saved / "processor_config.json").read_text())["video_processor"]


@pytest.mark.parametrize(
    ("model", "path"), [("embedded:nothing", None), ("no/such/dir", "no/such/dir")]
)
def test_unknown_model_is_refused(model: str, path: str | None) -> None:
    with refused(CheckpointError, "checkpoint-not-found", path=path):
        thinker.resolve(model)


def test_embedded_models_are_small_and_documented() -> None:
    for name in thinker.EMBEDDED:
        directory = thinker.resolve(f"embedded:{name}")
        assert sum(f.stat().st_size for f in directory.iterdir()) < 2_500_000
        facts = json.loads((directory / "provenance.json").read_text())
        assert facts["name"] == name
        for skill, least in facts["plan"]["criterion"].items():
            assert facts["measured"]["dev"][skill] >= least
