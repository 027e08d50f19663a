from __future__ import annotations

import random
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omnicore.data.benchmarks.synthetic import World
from omnicore.errors import ConfigError
from tests.errors import refused


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global collate, load_processor, media_tensors, Qwen2_5OmniProcessor, thinker, torch

    import torch
    from transformers import Qwen2_5OmniProcessor

    from omnicore.models import thinker
    from omnicore.models.processor import collate, media_tensors
    from omnicore.models.upstream import load_processor


TORCHVISION = find_spec("torchvision") is not None


@pytest.fixture(scope="module")
def world() -> World:
    return World("dev")


@pytest.mark.parametrize(
    "order", [("image",), ("audio",), ("image", "audio"), ("audio", "image", "audio", "image"), ()]
)
def test_prompt_equals_the_upstream_processor(
    encoder: Any, world: World, order: tuple[str, ...]
) -> None:
    pictures = [world.pictures[i].image() for i in range(order.count("image"))]
    waves = [world.clips[7 * i].wave.astype("float32") / 32768 for i in range(order.count("audio"))]
    left = {
        "image": [encoder.image(p) for p in pictures],
        "audio": [encoder.audio(w) for w in waves],
    }
    prompt = encoder.prompt([*(left[kind].pop(0) for kind in order), "Sum of both?"])
    messages = [
        {
            "role": "user",
            "content": [
                *({"type": kind} for kind in order),
                {"type": "text", "text": "Sum of both?"},
            ],
        }
    ]
    processor = encoder.processor
    text = encoder.tokenizer.apply_chat_template(
        messages, chat_template=processor.chat_template, tokenize=False, add_generation_prompt=True
    )
    upstream = processor(
        text=[text], images=pictures or None, audio=waves or None, return_tensors="pt"
    )
    assert upstream["input_ids"][0].tolist() == prompt.ids
    for name, tensor in media_tensors(prompt.media).items():
        if name not in ("input_features", "feature_attention_mask"):
            assert torch.equal(tensor, upstream[name]), name
        else:  # upstream pads to the longest sound that there can be
            frames = upstream["feature_attention_mask"].sum(1).max()
            heard = (
                upstream["feature_attention_mask"][:, :frames, None].transpose(1, 2)
                if tensor.dim() == 3
                else 1
            )
            assert torch.equal(tensor, upstream[name][..., :frames] * heard), name


def test_system_turn_comes_first(encoder: Any) -> None:
    text = encoder.tokenizer.decode(encoder.prompt(["Sum?"], system="Listen.").ids)
    assert (
        text
        == "<|im_start|>system\nListen.<|im_end|>\n<|im_start|>user\nSum?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_collate_pads_left_and_scores_the_reply_alone(encoder: Any) -> None:
    prompts = [
        encoder.prompt(["Sum?"]),
        encoder.prompt(["What is the last digit of picture plus sound?"]),
    ]
    replies = [encoder.reply_ids("<think>see 1</think><answer>2</answer>"), encoder.reply_ids("3")]
    batch = collate(prompts, replies, encoder.pad_id)
    for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        labels, ids, mask = (
            batch["labels"][row],
            batch["input_ids"][row],
            batch["attention_mask"][row],
        )
        assert labels[labels != -100].tolist() == reply
        assert ids[mask.bool()].tolist() == prompt.ids + reply
    first = [int((labels != -100).nonzero()[0]) for labels in batch["labels"]]
    assert first[0] == first[1]


def test_written_reply_is_read_back(encoder: Any) -> None:
    for reply in (
        "<think>see 3 hear 5</think><answer>8</answer>",
        "<think>see 3 hear 4</think><answer>no</answer>",
    ):
        assert encoder.text([encoder.reply_ids(reply)]) == [reply]


def test_media_tokens_are_suppressed_and_end_of_turn_is_not(encoder: Any) -> None:
    names = set(encoder.tokenizer.convert_ids_to_tokens(encoder.suppressed))
    assert {"<|AUDIO|>", "<|IMAGE|>", "<|VIDEO|>", "<|im_start|>"} <= names
    assert encoder.eos_id not in encoder.suppressed


def test_processor_survives_saving(encoder: Any, world: World, tmp_path: Any) -> None:
    encoder.processor.save_pretrained(tmp_path)
    again = type(encoder)(load_processor(tmp_path))
    picture, clip = world.pictures[0].image(), world.clips[0].wave.astype("float32") / 32768
    one, two = (e.prompt([e.image(picture), e.audio(clip), "Sum?"]) for e in (encoder, again))
    assert one.ids == two.ids
    for name, tensor in media_tensors(one.media).items():
        assert torch.equal(tensor, media_tensors(two.media)[name]), name


def test_random_items_encode_to_known_tokens_only(encoder: Any, world: World) -> None:
    rng = random.Random(0)
    for kind in ("sum", "agreement", "transcript"):
        item = world.item(rng, kind)
        assert (
            encoder.tokenizer.decode(encoder.prompt([item.question]).ids).count(item.question) == 1
        )


FRAMES = [
    Image.fromarray(np.random.default_rng(i).integers(0, 255, (56, 84, 3), dtype=np.uint8))
    for i in range(5)
]


@pytest.mark.skipif(TORCHVISION, reason="torchvision is installed")
def test_video_without_torchvision_is_refused(encoder: Any) -> None:
    with refused(ConfigError, "package-missing", field="engine.kind"):
        encoder.video(FRAMES, 2.0)


@pytest.mark.skipif(
    not TORCHVISION,
    reason="upstream's video processor needs torchvision, which is not installed",
)
def test_video_equals_the_upstream_processor() -> None:
    _, encoder = thinker.load("embedded:tiny-base")
    video, sound = encoder.video(FRAMES, 2.0), encoder.audio(np.zeros(8000, np.float32))
    prompt = encoder.prompt([video, sound, "Which digit is spoken?"])
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "video"},
                {"type": "audio"},
                {"type": "text", "text": "Which digit is spoken?"},
            ],
        }
    ]
    text = encoder.tokenizer.apply_chat_template(
        messages,
        chat_template=encoder.processor.chat_template,
        tokenize=False,
        add_generation_prompt=True,
    )
    whole = Qwen2_5OmniProcessor.from_pretrained(thinker.resolve("embedded:tiny-base"))
    frames = np.stack([np.array(frame) for frame in FRAMES])
    how = {"do_sample_frames": False, "fps": 2.0}
    upstream = whole(
        text=text,
        videos=[frames],
        audio=[np.zeros(8000, np.float32)],
        return_tensors="pt",
        videos_kwargs=how,
    )
    assert upstream["input_ids"][0].tolist() == prompt.ids
    for name in ("pixel_values_videos", "video_grid_thw"):
        assert torch.equal(video.tensors[name], upstream[name]), name
