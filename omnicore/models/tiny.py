"""The embedded model: the classes of Qwen2.5-Omni at about one million parameters.

Hidden 128 with 4 heads gives a text head_dim of 32, the smallest that vLLM serves. A 28x28 picture
is one token, half a second of speech 7 to 13.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2Tokenizer,
    WhisperFeatureExtractor,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from omnicore.data.benchmarks import synthetic
from omnicore.models.processor import SPECIAL
from omnicore.models.upstream import NoVideoProcessor

PATCH, MEL = 14, 64
HIDDEN, LAYERS, HEADS, KV_HEADS, FFN = 128, 3, 4, 2, 384
VISION, AUDIO = 64, 64
# Whole tags are single tokens: a reply of the tiny model is then 11 to 12 tokens long.
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{"
    " m['content'] }}{% else %}{% for c in m['content'] %}{% if c['type'] in ('image', 'image_url')"
    " %}<|vision_bos|><|IMAGE|><|vision_eos|>{% elif c['type'] in ('audio', 'input_audio')"
    " %}<|audio_bos|><|AUDIO|><|audio_eos|>{% elif c['type'] == 'video'"
    " %}<|vision_bos|><|VIDEO|><|vision_eos|>{% elif 'text' in c %}{{ c['text'] }}{% endif %}{%"
    " endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt"
    " %}<|im_start|>assistant\n{% endif %}"
)


def corpus() -> Iterable[str]:
    """Return text that covers the embedded benchmark's words, for the tokenizer only."""
    for wordings in synthetic.WORDINGS.values():
        for wording in wordings:
            yield wording.format(a=2, b=3) + " 1 2 3 4"
    yield from (
        "see 3 hear 4 read 5",
        "user assistant system",
        "0 1 2 3 4 5 6 7 8 9",
        "yes no",
        "no yes",
    )


def build_tokenizer() -> Qwen2Tokenizer:
    """Return a byte-level BPE trained on `corpus` in the real tokenizer class."""
    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        list(corpus()) * 20,
        trainers.BpeTrainer(vocab_size=512, show_progress=False, initial_alphabet=sorted(alphabet)),
    )
    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(m) if not isinstance(m, str) else tuple(m.split(" ")) for m in model["merges"]]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=merges,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        model_max_length=2048,
        extra_special_tokens={
            "image_token": "<|IMAGE|>",
            "audio_token": "<|AUDIO|>",
            "video_token": "<|VIDEO|>",
            "vision_bos_token": "<|vision_bos|>",
            "vision_eos_token": "<|vision_eos|>",
            "audio_bos_token": "<|audio_bos|>",
            "audio_eos_token": "<|audio_eos|>",
        },
    )
    tokenizer.add_tokens(
        [t for t in SPECIAL if t not in tokenizer.get_vocab()], special_tokens=True
    )
    tokenizer.add_tokens(list(TAGS))
    return tokenizer


def build_processor() -> NoVideoProcessor:
    """Return the processor: a picture is one token, a sound is padded to one second."""
    side = synthetic.SIDE**2
    image = Qwen2VLImageProcessorPil(
        size={"shortest_edge": side, "longest_edge": side}, patch_size=PATCH
    )
    # chunk_length is in seconds, and audio is always padded to it: 1, not Whisper's 30.
    audio = WhisperFeatureExtractor(
        feature_size=MEL, chunk_length=1, hop_length=160, n_fft=400, return_attention_mask=True
    )
    return NoVideoProcessor(image, audio, build_tokenizer(), chat_template=CHAT_TEMPLATE)


def build_config(tokenizer: Any) -> Qwen2_5OmniThinkerConfig:
    """Return the configuration of a model with this tokenizer."""
    ids = tokenizer.convert_tokens_to_ids
    head_dim = HIDDEN // HEADS
    third = head_dim // 6
    return Qwen2_5OmniThinkerConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": HIDDEN,
            "intermediate_size": FFN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": False,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [
                    head_dim // 2 - 2 * third,
                    third,
                    third,
                ],  # must sum to head_dim / 2
            },
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "initializer_range": 0.02,
        },
        vision_config={
            "depth": 1,
            "hidden_size": VISION,
            "intermediate_size": 2 * VISION,
            "num_heads": 4,
            "out_hidden_size": HIDDEN,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 8 * PATCH,
            "fullatt_block_indexes": [0],
        },
        audio_config={
            "num_mel_bins": MEL,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 2 * AUDIO,
            "d_model": AUDIO,
            "max_source_positions": 100,
            "n_window": 50,
            "output_dim": HIDDEN,
        },
        audio_token_index=ids("<|AUDIO|>"),
        image_token_index=ids("<|IMAGE|>"),
        video_token_index=ids("<|VIDEO|>"),
        audio_start_token_id=ids("<|audio_bos|>"),
        audio_end_token_id=ids("<|audio_eos|>"),
        vision_start_token_id=ids("<|vision_bos|>"),
        vision_end_token_id=ids("<|vision_eos|>"),
        vision_token_id=ids("<|vision_pad|>"),
        tie_word_embeddings=False,
    )


def build_model(tokenizer: Any, seed: int) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """Return a randomly initialised thinker."""
    torch.manual_seed(seed)
    model = Qwen2_5OmniThinkerForConditionalGeneration(build_config(tokenizer))
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    return model
