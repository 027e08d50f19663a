"""A whole Qwen2.5-Omni of random weights, tiny, laid out as Qwen/Qwen2.5-Omni-3B is published:
thinker, talker and token2wav in shards with an index, a `config.json` of before transformers 5,
processor files of before that, and the voices as a pickle."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

SHARDS = 3


class Evil:
    """Unpickled, it leaves a directory behind."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.place,)


def publish(directory: Path, seed: int = 0) -> Path:
    """Fills `directory`, and gives it back."""
    import torch
    from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

    from omnicore.models import tiny

    processor = tiny.build_processor()
    thinker = tiny.build_config(processor.tokenizer)
    talker = {
        "embedding_size": tiny.HIDDEN,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
    }
    dit = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "head_dim": 32,
        "num_embeds": 65,
    }
    torch.manual_seed(seed)
    model = Qwen2_5OmniForConditionalGeneration(
        Qwen2_5OmniConfig(
            thinker_config=thinker.to_dict(),
            talker_config=talker,
            token2wav_config={
                "dit_config": dit,
                "bigvgan_config": {"upsample_initial_channel": 64},
            },
        )
    ).to(torch.bfloat16)
    model.save_pretrained(directory)
    _shard(directory)
    _config(directory)
    _processor(directory, processor)
    (directory / "spk_dict.pt").write_bytes(pickle.dumps(Evil(directory / "unpickled")))
    return directory


def _shard(directory: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(weights)
    each = -(-len(names) // SHARDS)
    where = {}
    for number in range(SHARDS):
        shard = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        held = {name: weights[name] for name in names[number * each : (number + 1) * each]}
        save_file(held, directory / shard, metadata={"format": "pt"})
        where |= dict.fromkeys(held, shard)
    total = sum(weight.nbytes for weight in weights.values())
    (directory / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": where})
    )


def _config(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    config["architectures"] = ["Qwen2_5OmniModel"]
    text = config["thinker_config"]["text_config"]
    rope = text.pop("rope_parameters")
    text["rope_theta"] = rope["rope_theta"]
    text["rope_scaling"] = {
        "mrope_section": rope["mrope_section"],
        "rope_type": "default",
        "type": "default",
    }
    (directory / "config.json").write_text(json.dumps(config))


def _processor(directory: Path, processor: Any) -> None:
    from omnicore.models import tiny

    processor.tokenizer.save_pretrained(directory)
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": tiny.CHAT_TEMPLATE}))
    flat = {**processor.image_processor.to_dict(), **processor.feature_extractor.to_dict()}
    (directory / "preprocessor_config.json").write_text(
        json.dumps({**flat, "processor_class": "Qwen2_5OmniProcessor"})
    )
