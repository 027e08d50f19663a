"""Load and save the Qwen2.5-Omni thinker, in the layout of the published checkpoint.

It loads a whole published Omni, of which talker, token2wav and voices (`spk_dict.pt`, a pickle) are
never touched, or a thinker by itself. It saves a directory with a full-Omni `config.json`
(`architectures: ["Qwen2_5OmniModel"]`, the thinker's config inside), bf16 safetensors with weights
under `thinker.`, tokenizer and processor files. transformers' thinker class, its
AutoModelForMultimodalLM and vLLM load it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.resources import files as packaged
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    GenerationConfig,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
)
from transformers.utils import is_flash_attn_2_available

from omnicore.errors import CheckpointError, ConfigError
from omnicore.models import files
from omnicore.models.processor import Encoder
from omnicore.models.safe import VOICES
from omnicore.models.upstream import load_processor
from omnicore.storage.digests import model_directory

PREFIX = "thinker."
EMBEDDED = ("tiny-base", "tiny-probe", "tiny-probe-2")
SHARD = "4GB"
# config.json names them *_index, vLLM reads *_id: both spellings are written.
_INDEX_NAMES = ("audio_token", "image_token", "video_token")
# Settings of the image processor that hold for videos too.
_VIDEO_SETTINGS = (
    "size",
    "patch_size",
    "temporal_patch_size",
    "merge_size",
    "image_mean",
    "image_std",
)


def resolve(model: str | Path) -> Path:
    """Return the directory of a model given as a path or as `embedded:NAME`.

    Raises:
        CheckpointError: There is no such directory, or its files are not a safe, whole checkpoint.
    """
    text = str(model)
    if text.startswith("embedded:"):
        name = text.removeprefix("embedded:")
        if name not in EMBEDDED:
            raise CheckpointError(
                f"no embedded model {name!r}: there are {', '.join(EMBEDDED)}",
                code="checkpoint-not-found",
            )
    directory = model_directory(text)
    if not directory.is_dir():
        raise CheckpointError(
            f"no model directory at {text}: give a checkpoint directory or embedded:tiny-base",
            code="checkpoint-not-found",
            path=text,
        )
    for name in ("config.json", "tokenizer_config.json"):
        if not (directory / name).is_file():
            raise CheckpointError(
                f"{text} is not a checkpoint: {name} is missing",
                code="checkpoint-missing-file",
                path=directory / name,
            )
    files.check_checkpoint(directory)
    return directory


def load(
    model: str | Path, dtype: torch.dtype = torch.float32, attention: str = "sdpa"
) -> tuple[Any, Encoder]:
    """Load a thinker and its encoder.

    Args:
        model: A directory or `embedded:NAME`.
        dtype: Of the weights in memory.
        attention: transformers' `attn_implementation`.

    Raises:
        CheckpointError: The checkpoint is missing, damaged, unsafe or of another model.
        ConfigError: The package of the attention is missing.
    """
    directory = resolve(model)
    # transformers would download a kernel from the hub.
    if attention == "flash_attention_2" and not is_flash_attn_2_available():
        raise ConfigError(
            "attn_implementation=flash_attention_2 needs a GPU and its package: pip install"
            " flash-attn, or set attn_implementation=sdpa",
            code="package-missing",
            field="attn_implementation",
        )
    loaded, info = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
        directory,
        dtype=dtype,
        attn_implementation=attention,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        # Refused below with the weight's name.
        ignore_mismatched_sizes=True,
    )
    _require_all_weights(loaded, info, directory)
    encoder = Encoder(load_processor(directory))
    loaded.generation_config = GenerationConfig(
        eos_token_id=encoder.eos_id, pad_token_id=encoder.pad_id, do_sample=False
    )
    return loaded.eval(), encoder


def _require_all_weights(loaded: Any, info: Mapping[str, Any], directory: Path) -> None:
    """Raise CheckpointError if weights were missing, of another size or not finite."""
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{directory} lacks {len(missing)} weights of the thinker, {missing[0]} first: it is of"
            " another model",
            code="checkpoint-missing-weights",
            path=directory,
            field=missing[0],
        )
    mismatched = sorted(info["mismatched_keys"])
    if mismatched:
        name, size, expected = mismatched[0]
        raise CheckpointError(
            f"{directory} has {len(mismatched)} weights of another size than its config.json says,"
            f" {name} first: {list(size)} for {list(expected)}; one of the two is of another model",
            code="checkpoint-wrong-shape",
            path=directory,
            field=name,
        )
    not_finite = first_not_finite(loaded.named_parameters())
    if not_finite:
        raise CheckpointError(
            f"{directory}: the weight {not_finite} holds numbers that are not finite, so the"
            " training that wrote it has diverged; take an earlier checkpoint, or train again with"
            " a lower learning rate",
            code="checkpoint-not-finite",
            path=directory,
            field=not_finite,
        )


def first_not_finite(weights: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Return the name of the first weight with a number that is not finite; empty without one."""
    named = [(name, weight.detach()) for name, weight in weights]
    if not named:
        return ""
    sums = torch.stack([weight.sum(dtype=torch.float32) for _, weight in named])
    if bool(sums.isfinite().all()):
        return ""
    # A sum may overflow although all numbers are finite.
    for name, weight in named:
        if not bool(weight.isfinite().all()):
            return name
    return ""


def load_skeleton(model: str | Path, recipe: str = "") -> tuple[Any, str]:
    """Return a thinker without weights (on the device `meta`), and where its dimensions come from.

    They come from the model's own config.json, or, while its directory does not exist, from the
    file that is shipped with the recipe of this name.

    Raises:
        CheckpointError: There is neither, or the model is no Qwen2.5-Omni.
    """
    shipped = Path(str(packaged("omnicore.config") / "recipes" / f"{recipe}.json"))
    if not Path(model).exists() and shipped.is_file():
        path, source = shipped, f"as shipped with recipe {recipe}: {model} does not exist yet"
    else:
        path, source = resolve(model) / "config.json", str(model)
    values = json.loads(path.read_text())
    values = values.get("thinker_config", values)
    if values.get("model_type") != Qwen2_5OmniThinkerConfig.model_type:
        raise CheckpointError(
            f"{model} is a {values.get('model_type')}; only Qwen2.5-Omni and its thinker can be"
            " trained",
            code="checkpoint-other-model-type",
            path=path,
            field="model_type",
        )
    config = Qwen2_5OmniThinkerConfig.from_dict(values)
    with torch.device("meta"):
        return Qwen2_5OmniThinkerForConditionalGeneration(config), source


def save(
    model: Any,
    encoder: Encoder,
    directory: Path,
    dtype: torch.dtype = torch.bfloat16,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write a checkpoint.

    The caller (`run_step`) makes sure that the directory appears complete or not at all.

    Args:
        model: The thinker.
        encoder: Its encoder.
        directory: Where to write.
        dtype: Of the weights in the files.
        weights: Weights by their names in memory; by default the model's own.

    Raises:
        CheckpointError: A weight is not finite; nothing is written then.
    """
    not_finite = first_not_finite((weights or dict(model.named_parameters())).items())
    if not_finite:
        raise CheckpointError(
            f"the weight {not_finite} holds numbers that are not finite: nothing is written to"
            f" {directory}; lower the learning rate",
            code="checkpoint-not-finite",
            path=directory,
            field=not_finite,
        )
    directory.mkdir(parents=True, exist_ok=True)
    # By save_pretrained, since transformers renames weights in memory: state_dict() has other keys
    # than a checkpoint.
    model.save_pretrained(directory, max_shard_size=SHARD, state_dict=weights)
    size = sum(_convert_shard(shard, dtype) for shard in sorted(directory.glob("*.safetensors")))
    _convert_index(directory / files.INDEX, size)
    _write_config(directory / "config.json", dtype)
    # No voices: the class that AutoModel takes requires the file, with or without a talker.
    torch.save({}, directory / VOICES)
    _save_processor(encoder, directory)


def _prefixed(name: str) -> str:
    """Return a weight's name in a full-Omni checkpoint."""
    return PREFIX + name.removeprefix(PREFIX)


def _convert_shard(shard: Path, dtype: torch.dtype) -> int:
    """Rewrite a shard with a checkpoint's names and `dtype`; return the bytes of its weights."""
    weights = {}
    for name, weight in load_file(shard).items():
        weights[_prefixed(name)] = weight.to(dtype).contiguous()
    save_file(weights, shard, metadata={"format": "pt"})
    # safetensors writes 0600, which another user of an image could not read.
    shard.chmod(0o644)
    return sum(weight.nbytes for weight in weights.values())


def _convert_index(index: Path, size: int) -> None:
    """Give the index, if there is one, the names and the size of the converted shards."""
    if not index.exists():
        return
    content = json.loads(index.read_text())
    shards = content["weight_map"].items()
    content["weight_map"] = {_prefixed(name): shard for name, shard in shards}
    # transformers wrote the size of the dtype in memory.
    content["metadata"]["total_size"] = size
    index.write_text(json.dumps(content, indent=2, sort_keys=True))


def _write_config(path: Path, dtype: torch.dtype) -> None:
    """Wrap the thinker's config.json in that of a full Omni."""
    thinker = json.loads(path.read_text())
    for name in _INDEX_NAMES:
        thinker[f"{name}_id"] = thinker[f"{name}_index"]
    thinker["dtype"] = str(dtype).removeprefix("torch.")
    for section in ("text_config", "audio_config", "vision_config"):
        # The dtype in memory; AutoModel would prefer it to the one that its caller asks for.
        thinker[section].pop("dtype", None)
    config = {
        "architectures": ["Qwen2_5OmniModel"],
        "model_type": "qwen2_5_omni",
        "enable_audio_output": False,
        "dtype": thinker["dtype"],
        "thinker_config": thinker,
    }
    path.write_text(json.dumps(config, indent=2, sort_keys=True))


def _save_processor(encoder: Encoder, directory: Path) -> None:
    """Save the processor with the section of videos that this processor leaves out.

    vLLM, and transformers with torchvision, build the whole upstream processor from it.
    """
    encoder.processor.save_pretrained(directory)
    path = directory / "processor_config.json"
    config = json.loads(path.read_text())
    image = config["image_processor"]
    video = {name: image[name] for name in _VIDEO_SETTINGS if name in image}
    config["video_processor"] = video | {"video_processor_type": "Qwen2VLVideoProcessor"}
    path.write_text(json.dumps(config, indent=2, sort_keys=True))
