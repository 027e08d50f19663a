"""Loading and saving the Qwen2.5-Omni thinker, in the layout of the published checkpoint.

A directory holds a full-Omni `config.json` (`architectures: ["Qwen2_5OmniModel"]`, the thinker's config inside), bf16
safetensors with weights under `thinker.`, tokenizer and processor files. transformers' thinker class and vLLM both load
it. Only safetensors are read; remote code is refused.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, Qwen2_5OmniThinkerForConditionalGeneration

from omnicore.errors import CheckpointError
from omnicore.models.processor import Encoder, load_processor

PREFIX = "thinker."
EMBEDDED = ("tiny-base", "tiny-probe", "tiny-probe-2")
# config.json names them *_index, vLLM reads *_id: both spellings are written.
_INDEX_NAMES = ("audio_token", "image_token", "video_token")


def resolve(model: str | Path) -> Path:
    """The directory of a model given as a path or as `embedded:NAME`.

    Raises CheckpointError naming what is missing.
    """
    text = str(model)
    if text.startswith("embedded:"):
        name = text.removeprefix("embedded:")
        if name not in EMBEDDED:
            raise CheckpointError(f"no embedded model {name!r}: there are {', '.join(EMBEDDED)}")
        directory = Path(str(files("omnicore") / "assets" / "models" / name))
    else:
        directory = Path(text)
    if not directory.is_dir():
        raise CheckpointError(f"no model directory at {text}: give a checkpoint directory or embedded:tiny-base")
    for name in ("config.json", "tokenizer_config.json"):
        if not (directory / name).is_file():
            raise CheckpointError(f"{text} is not a checkpoint: {name} is missing")
    _refuse_unsafe(directory)
    return directory


def _refuse_unsafe(directory: Path) -> None:
    for path in sorted(directory.glob("*.json")):
        try:
            if "auto_map" in json.loads(path.read_text()):
                raise CheckpointError(f"{path} asks for remote code (auto_map), which is never run: remove the key")
        except ValueError as error:
            raise CheckpointError(f"{path} is not JSON: {error}") from error
    shards = sorted(directory.glob("*.safetensors"))
    if not shards:
        raise CheckpointError(f"{directory} has no .safetensors weights; pickled weights are never loaded: convert them")
    for shard in shards:
        try:
            with safe_open(shard, framework="pt") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{shard} is damaged or truncated ({error}): fetch or make the checkpoint again") from error


def load(model: str | Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Encoder]:
    """A thinker and its encoder from a directory or `embedded:NAME`. Raises CheckpointError."""
    directory = resolve(model)
    loaded, info = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
        directory, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(f"{directory} lacks {len(missing)} weights of the thinker, {missing[0]} first: it is another model's")
    encoder = Encoder(load_processor(directory))
    loaded.generation_config = GenerationConfig(eos_token_id=encoder.eos_id, pad_token_id=encoder.pad_id, do_sample=False)
    return loaded.eval(), encoder


def save(model: Any, encoder: Encoder, directory: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Writes a checkpoint, in bf16 where no other is asked for. That the directory appears whole or not at all is the caller's care
    (`run_step`)."""
    directory.mkdir(parents=True, exist_ok=True)
    # Through save_pretrained, since transformers renames weights in memory: state_dict() has other keys than a checkpoint.
    model.save_pretrained(directory, max_shard_size="4GB")
    for shard in sorted(directory.glob("*.safetensors")):
        weights = {PREFIX + k.removeprefix(PREFIX): v.to(dtype).contiguous() for k, v in load_file(shard).items()}
        save_file(weights, shard, metadata={"format": "pt"})
        shard.chmod(0o644)  # safetensors writes 0600, which another user of an image could not read
    index = directory / "model.safetensors.index.json"
    if index.exists():
        listed = json.loads(index.read_text())
        listed["weight_map"] = {PREFIX + k.removeprefix(PREFIX): v for k, v in listed["weight_map"].items()}
        index.write_text(json.dumps(listed, indent=2, sort_keys=True))
    thinker = json.loads((directory / "config.json").read_text())
    for name in _INDEX_NAMES:
        thinker[f"{name}_id"] = thinker[f"{name}_index"]
    thinker["dtype"] = str(dtype).removeprefix("torch.")
    config = {
        "architectures": ["Qwen2_5OmniModel"],
        "model_type": "qwen2_5_omni",
        "enable_audio_output": False,
        "dtype": thinker["dtype"],
        "thinker_config": thinker,
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    _save_processor(encoder, directory)


def _save_processor(encoder: Encoder, directory: Path) -> None:
    encoder.processor.save_pretrained(directory)
    # A machine with torchvision, and vLLM, build the whole upstream processor: it needs the section that ours leaves out.
    path = directory / "processor_config.json"
    saved = json.loads(path.read_text())
    image = saved["image_processor"]
    saved["video_processor"] = {
        **{
            k: image[k]
            for k in ("size", "patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std")
            if k in image
        },
        "video_processor_type": "Qwen2VLVideoProcessor",
    }
    path.write_text(json.dumps(saved, indent=2, sort_keys=True))
