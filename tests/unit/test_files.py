"""Whole models as they are published, and what is wrong with the files of a checkpoint."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omnicore.errors import CheckpointError
from omnicore.models import files
from tests.errors import refused
from tests.published import publish


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global AutoModelForMultimodalLM, load_file, Qwen2_5OmniThinkerForConditionalGeneration
    global save_file, thinker, torch

    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForMultimodalLM, Qwen2_5OmniThinkerForConditionalGeneration

    from omnicore.models import thinker


FIRST, SECOND, LAST = (f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("published"))


@pytest.fixture
def directory(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "model"))


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=torch.arange(20)[None]).logits


def test_a_whole_omni_is_loaded_and_saved_as_transformers_does(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, encoder = thinker.load(published)
    upstream = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
        published, dtype=torch.float32
    )
    expected = logits(upstream)
    assert torch.equal(logits(model), expected)
    assert not (published / "unpickled").exists(), "the voices were opened"
    assert encoder.processor.chat_template
    upstream.save_pretrained(tmp_path / "alone")  # the thinker's own config.json and names
    encoder.processor.save_pretrained(tmp_path / "alone")
    assert torch.equal(logits(thinker.load(tmp_path / "alone")[0]), expected)
    monkeypatch.setattr(thinker, "SHARD", "1MB")
    thinker.save(model, encoder, tmp_path / "saved")
    files.check_checkpoint(tmp_path / "saved")
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) > 1
    # vLLM would let a left-over rope_scaling win over rope_parameters, and drop the theta.
    assert (
        "rope_scaling"
        not in json.loads((tmp_path / "saved" / "config.json").read_text())["thinker_config"][
            "text_config"
        ]
    )
    again = [
        thinker.load(tmp_path / "saved")[0],
        Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
            tmp_path / "saved", dtype=torch.float32
        ),
        AutoModelForMultimodalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32).thinker,
    ]
    for found in again:
        assert torch.equal(logits(found), expected)


def test_talker_is_never_read_into_memory(directory: Path) -> None:
    """A gigabyte of it, all holes: what was read would be resident."""
    size = 1 << 30
    header = json.dumps(
        {"talker.huge": {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}}
    ).encode()
    with (directory / "talker.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(file.tell() + size)
    index = json.loads((directory / files.INDEX).read_text())
    index["weight_map"]["talker.huge"] = "talker.safetensors"
    index["metadata"]["total_size"] += size
    (directory / files.INDEX).write_text(json.dumps(index))
    Path("/proc/self/clear_refs").write_text("5")  # the peak of what is resident begins anew
    before = resident("VmRSS")
    thinker.load(directory)
    assert resident("VmHWM") - before < 256 << 10


def resident(name: str) -> int:
    """In KiB."""
    return int(
        next(
            line.split()[1]
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith(name)
        )
    )


def _cut(directory: Path) -> None:
    os.truncate(directory / SECOND, (directory / SECOND).stat().st_size - 1)


def _grown(directory: Path) -> None:
    with (directory / SECOND).open("ab") as file:
        file.write(b"0")


def _json(name: str, **change: Any) -> Callable[[Path], None]:
    def harm(directory: Path) -> None:
        found = json.loads((directory / name).read_text())
        (directory / name).write_text(json.dumps({**found, **change}))

    return harm


def _weight(shard: str, change: Callable[[dict[str, Any], str], None]) -> Callable[[Path], None]:
    """Changes the first weight of a shard."""

    def harm(directory: Path) -> None:
        weights = load_file(directory / shard)
        change(weights, min(weights))
        save_file(weights, directory / shard, metadata={"format": "pt"})

    return harm


def _moved(directory: Path) -> None:
    index = json.loads((directory / files.INDEX).read_text())
    index["weight_map"]["thinker.model.norm.weight"] = LAST
    (directory / files.INDEX).write_text(json.dumps(index))


def _pickled(directory: Path) -> None:
    for path in directory.glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))


@pytest.mark.parametrize(
    ("harm", "code", "name"),
    [
        (_cut, "checkpoint-damaged-shard", SECOND),
        (_grown, "checkpoint-damaged-shard", SECOND),
        (lambda d: (d / FIRST).write_bytes(b"\xff" * 64), "checkpoint-damaged-shard", FIRST),
        (lambda d: (d / LAST).unlink(), "checkpoint-missing-shard", files.INDEX),
        (
            _json(files.INDEX, weight_map={"a": "../evil.safetensors"}),
            "checkpoint-missing-shard",
            files.INDEX,
        ),
        (_moved, "checkpoint-index-mismatch", FIRST),
        (
            _weight(LAST, lambda w, name: w.update(more=w[name].clone())),
            "checkpoint-index-mismatch",
            LAST,
        ),
        (_json(files.INDEX, metadata={"total_size": 12}), "checkpoint-size-mismatch", files.INDEX),
        (_json(files.INDEX, weight_map=[]), "checkpoint-invalid-index", files.INDEX),
        (lambda d: (d / files.INDEX).write_text("{"), "checkpoint-invalid-json", files.INDEX),
        (lambda d: (d / files.INDEX).unlink(), "checkpoint-no-index", ""),
        (lambda d: (d / FIRST).rename(d / "model.safetensors"), "checkpoint-two-models", ""),
        (
            _weight(FIRST, lambda w, name: w.update({name: w[name].to(torch.int8)})),
            "checkpoint-unsupported-dtype",
            FIRST,
        ),
        (_pickled, "checkpoint-no-weights", ""),
        (
            _json("config.json", auto_map={"AutoModel": "evil.Model"}),
            "checkpoint-remote-code",
            "config.json",
        ),
        (lambda d: (d / "adapter_config.json").write_text("{}"), "checkpoint-is-adapter", ""),
        (lambda d: (d / "config.json").unlink(), "checkpoint-missing-file", "config.json"),
        (lambda d: (d / "config.json").write_text("{"), "checkpoint-invalid-json", "config.json"),
        (
            lambda d: (d / "tokenizer_config.json").unlink(),
            "checkpoint-missing-file",
            "tokenizer_config.json",
        ),
    ],
)
def test_damaged_checkpoints_are_refused(
    directory: Path, harm: Callable[[Path], None], code: str, name: str
) -> None:
    harm(directory)
    with refused(CheckpointError, code, path=directory / name):
        thinker.load(directory)


def _dropped(weights: dict[str, Any]) -> None:
    del weights["thinker.lm_head.weight"]


def _widened(weights: dict[str, Any]) -> None:
    weights["thinker.lm_head.weight"] = torch.zeros(378, 64)


@pytest.mark.parametrize(
    ("harm", "code"),
    [(_dropped, "checkpoint-missing-weights"), (_widened, "checkpoint-wrong-shape")],
)
def test_weights_of_another_config_are_refused(
    directory: Path, harm: Callable[[dict[str, Any]], None], code: str
) -> None:
    weights = {
        name: value
        for shard in (FIRST, SECOND, LAST)
        for name, value in load_file(directory / shard).items()
    }
    harm(weights)
    for path in directory.glob("model*"):
        path.unlink()
    save_file(weights, directory / files.WEIGHTS, metadata={"format": "pt"})
    with refused(CheckpointError, code, path=directory, field="lm_head.weight"):
        thinker.load(directory)
