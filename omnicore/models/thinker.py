"""Loading and saving the Qwen2.5-Omni thinker, in the layout of the published checkpoint.

Read is a whole Omni as it is published, of which talker, token2wav and voices (`spk_dict.pt`, a
pickle) are never touched, or a thinker alone. Written is a directory with a full-Omni `config.json`
(`architectures: ["Qwen2_5OmniModel"]`, the thinker's config inside), bf16 safetensors with weights
under `thinker.`, tokenizer and processor files. transformers' thinker class, its
AutoModelForMultimodalLM and vLLM load it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
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
from omnicore.models.processor import Encoder, load_processor
from omnicore.models.safe import VOICES
from omnicore.storage.digests import model_directory

PREFIX = "thinker."
EMBEDDED = ("tiny-base", "tiny-probe", "tiny-probe-2")
SHARD = "4GB"
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
    directory = model_directory(text)
    if not directory.is_dir():
        raise CheckpointError(
            f"no model directory at {text}: give a checkpoint directory or embedded:tiny-base"
        )
    for name in ("config.json", "tokenizer_config.json"):
        if not (directory / name).is_file():
            raise CheckpointError(f"{text} is not a checkpoint: {name} is missing")
    files.check_checkpoint(directory)
    return directory


def load(
    model: str | Path, dtype: torch.dtype = torch.float32, attention: str = "sdpa"
) -> tuple[Any, Encoder]:
    """A thinker and its encoder from a directory or `embedded:NAME`.

    Raises CheckpointError, and ConfigError where the package of an attention is missing.
    """
    directory = resolve(model)
    if (
        attention == "flash_attention_2" and not is_flash_attn_2_available()
    ):  # transformers would ask the hub for a kernel
        raise ConfigError(
            "attn_implementation=flash_attention_2 needs a GPU and its package: pip install flash-attn, or"
            " set attn_implementation=sdpa"
        )
    loaded, info = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
        directory,
        dtype=dtype,
        attn_implementation=attention,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # and refused below, by name
    )
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(
            f"{directory} lacks {len(missing)} weights of the thinker, {missing[0]} first: it is"
            " another model's"
        )
    if unlike := sorted(info["mismatched_keys"]):
        name, found, wanted = unlike[0]
        raise CheckpointError(
            f"{directory} has {len(unlike)} weights of another size than its config.json says,"
            f" {name} first: {list(found)} for {list(wanted)}; one of the two is another model's"
        )
    if name := first_not_finite(loaded.named_parameters()):
        raise CheckpointError(
            f"{directory}: the weight {name} holds numbers that are not finite, so the training"
            " that wrote it has diverged; take an earlier checkpoint, or train again with a lower"
            " learning rate"
        )
    encoder = Encoder(load_processor(directory))
    loaded.generation_config = GenerationConfig(
        eos_token_id=encoder.eos_id, pad_token_id=encoder.pad_id, do_sample=False
    )
    return loaded.eval(), encoder


def first_not_finite(weights: Iterable[tuple[str, torch.Tensor]]) -> str:
    """The name of the first of these weights that holds a number that is not finite; empty where
    there is none."""
    sums = {
        name: (weight.detach(), weight.detach().sum(dtype=torch.float32))
        for name, weight in weights
    }
    if not sums or bool(torch.stack([total for _, total in sums.values()]).isfinite().all()):
        return ""
    # A sum may overflow where no number does.
    return next(
        (name for name, (weight, _) in sums.items() if not bool(weight.isfinite().all())), ""
    )


def load_skeleton(model: str | Path, recipe: str = "") -> tuple[Any, str]:
    """A thinker without weights (on the device `meta`), and whose `config.json` gave its
    dimensions: the model's own, or, as long as its directory is not there, the one that is shipped
    with the recipe of this name.

    Raises CheckpointError.
    """
    shipped = Path(str(packaged("omnicore.config") / "recipes" / f"{recipe}.json"))
    if not Path(model).exists() and shipped.is_file():
        values, source = (
            json.loads(shipped.read_text()),
            f"as shipped with recipe {recipe}: {model} is not here yet",
        )
    else:
        directory = resolve(model)
        values, source = json.loads((directory / "config.json").read_text()), str(model)
    values = values.get("thinker_config", values)
    if values.get("model_type") != Qwen2_5OmniThinkerConfig.model_type:
        raise CheckpointError(
            f"{model} is a {values.get('model_type')}, and a Qwen2.5-Omni or its thinker is trained"
        )
    with torch.device("meta"):
        return (
            Qwen2_5OmniThinkerForConditionalGeneration(Qwen2_5OmniThinkerConfig.from_dict(values)),
            source,
        )


def save(
    model: Any,
    encoder: Encoder,
    directory: Path,
    dtype: torch.dtype = torch.bfloat16,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Writes a checkpoint, in bf16 where no other is asked for, of the model's own weights or those
    that are given, by the names that they have in memory.

    That the directory appears whole or not at all is the caller's care (`run_step`). Raises
    CheckpointError, before anything is written, for weights that are not finite.
    """
    if name := first_not_finite((weights or dict(model.named_parameters())).items()):
        raise CheckpointError(
            f"the weight {name} holds numbers that are not finite: nothing is written to"
            f" {directory}"
        )
    directory.mkdir(parents=True, exist_ok=True)
    # Through save_pretrained, since transformers renames weights in memory: state_dict() has other keys than a checkpoint.
    model.save_pretrained(directory, max_shard_size=SHARD, state_dict=weights)
    total = 0
    for shard in sorted(directory.glob("*.safetensors")):
        held = {
            PREFIX + k.removeprefix(PREFIX): v.to(dtype).contiguous()
            for k, v in load_file(shard).items()
        }
        total += sum(weight.nbytes for weight in held.values())
        save_file(held, shard, metadata={"format": "pt"})
        shard.chmod(0o644)  # safetensors writes 0600, which another user of an image could not read
    index = directory / files.INDEX
    if index.exists():
        listed = json.loads(index.read_text())
        listed["weight_map"] = {
            PREFIX + k.removeprefix(PREFIX): v for k, v in listed["weight_map"].items()
        }
        listed["metadata"]["total_size"] = total  # not of the dtype in memory
        index.write_text(json.dumps(listed, indent=2, sort_keys=True))
    thinker = json.loads((directory / "config.json").read_text())
    for name in _INDEX_NAMES:
        thinker[f"{name}_id"] = thinker[f"{name}_index"]
    thinker["dtype"] = str(dtype).removeprefix("torch.")
    for part in ("text_config", "audio_config", "vision_config"):
        thinker[part].pop(
            "dtype", None
        )  # that of the model in memory, which AutoModel would let win over the one that is asked for
    config = {
        "architectures": ["Qwen2_5OmniModel"],
        "model_type": "qwen2_5_omni",
        "enable_audio_output": False,
        "dtype": thinker["dtype"],
        "thinker_config": thinker,
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    torch.save(
        {}, directory / VOICES
    )  # no voices: the class that AutoModel takes asks for the file, talker or not
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
            for k in (
                "size",
                "patch_size",
                "temporal_patch_size",
                "merge_size",
                "image_mean",
                "image_std",
            )
            if k in image
        },
        "video_processor_type": "Qwen2VLVideoProcessor",
    }
    path.write_text(json.dumps(saved, indent=2, sort_keys=True))
