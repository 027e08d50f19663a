"""The processor: prompts and media to tensors, the same way in the trainer and in the engine.

`Encoder` is the only code that turns a prompt into token ids. Each medium is processed once and
reused for every draw and epoch; a test holds the ids equal to those of the upstream processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from transformers import Qwen2_5OmniProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    smart_resize,
)
from transformers.utils import is_torchvision_available

from omnicore.errors import ConfigError, TooLongError
from omnicore.media.sounds import SAMPLE_RATE
from omnicore.models.upstream import NoVideoProcessor, constructor_arguments

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|AUDIO|>",
    "<|audio_bos|>",
    "<|audio_eos|>",
    "<|IMAGE|>",
    "<|VIDEO|>",
    "<|vision_bos|>",
    "<|vision_eos|>",
    "<|vision_pad|>",
)
_PLACEHOLDER = {"image": "<|IMAGE|>", "audio": "<|AUDIO|>", "video": "<|VIDEO|>"}
_MEDIA_TEXT = {
    "image": "<|vision_bos|><|IMAGE|><|vision_eos|>",
    "audio": "<|audio_bos|><|AUDIO|><|audio_eos|>",
    "video": "<|vision_bos|><|VIDEO|><|vision_eos|>",
}

# Tensors that are as wide as a sound is long.
_PER_FRAME = {"input_features", "feature_attention_mask"}
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Features:
    """One processed medium.

    Attributes:
        kind: What it is.
        tensors: The model's inputs, each with a leading dimension to concatenate.
        tokens: Tokens that it takes in a prompt.
    """

    kind: Literal["image", "audio", "video"]
    tensors: dict[str, torch.Tensor]
    tokens: int

    @property
    def size(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


PromptPart = str | Features


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt with the media it refers to, in the order of their placeholders."""

    ids: list[int]
    media: tuple[Features, ...]


class Encoder:
    """Turn media into `Features` and the parts of a user turn into a `Prompt`.

    Attributes:
        suppressed: Token ids that no reply may contain.
        pad_id: Token id of padding.
        eos_id: Token id of the end of turn.
    """

    def __init__(self, processor: NoVideoProcessor) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.suppressed: list[int] = []
        for token in SPECIAL:
            number = self.tokenizer.convert_tokens_to_ids(token)
            if token not in ("<|im_end|>", "<|endoftext|>") and number is not None:
                self.suppressed.append(number)
        self.pad_id, self.eos_id = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id

    def image(self, picture: Any) -> Features:
        """Process a PIL image to `pixel_values` [patches, d] and `image_grid_thw` [1, 3]."""
        output = self.processor.image_processor(images=[picture], return_tensors="pt")
        grid = output["image_grid_thw"]
        tokens = int(grid.prod()) // self.processor.image_processor.merge_size**2
        tensors = {"pixel_values": output["pixel_values"], "image_grid_thw": grid}
        return Features("image", tensors, tokens)

    def audio(self, wave: np.ndarray[Any, Any]) -> Features:
        """Process float32 mono sound at 16 kHz.

        Upstream pads to 300 s, which costs 15 MB and 150 ms a sound, and the model drops the
        padding; here only the frames that hold sound are kept.

        Returns:
            `input_features` [1, mel, frames] and `feature_attention_mask` [1, frames].

        Raises:
            TooLongError: The sound is longer than the model's input; upstream drops the rest
                silently.
        """
        extractor = self.processor.feature_extractor
        if len(wave) > extractor.n_samples:
            raise TooLongError(
                f"a sound of {len(wave) / SAMPLE_RATE:.1f} s, and the model takes at most"
                f" {self.longest_sound:g} s: give it a clip (start, end), or leave it out",
                code="media-sound-too-long",
            )
        # As much silence as one window covers: the last frame then equals that of 300 s of padding.
        hop = extractor.hop_length
        length = min(extractor.n_samples, -(-(len(wave) + extractor.n_fft) // hop) * hop)
        output = extractor(
            [wave],
            sampling_rate=SAMPLE_RATE,
            padding="max_length",
            max_length=length,
            return_attention_mask=True,
            return_tensors="pt",
        )
        frames = int(output["attention_mask"].sum())
        tensors = {
            "input_features": output["input_features"][..., :frames].contiguous(),
            "feature_attention_mask": output["attention_mask"][:, :frames].contiguous(),
        }
        return Features("audio", tensors, audio_tokens(frames))

    def video(self, frames: Sequence[Any], fps: float) -> Features:
        """Process PIL frames, `fps` of them a second.

        Returns:
            `pixel_values_videos` [patches, d], `video_grid_thw` [1, 3] and `video_second_per_grid`
            [1], the time that one step of the grid spans.

        Raises:
            ConfigError: torchvision is missing, which upstream's video processor needs.
        """
        if not is_torchvision_available():
            raise ConfigError(
                "a model in this process needs torchvision for videos: install it, or use a server"
                " (engine.kind=http)",
                code="package-missing",
                field="engine.kind",
            )
        from transformers import Qwen2VLVideoProcessor

        processor = Qwen2VLVideoProcessor(**constructor_arguments(self.processor.video))
        stacked = torch.stack(
            [torch.from_numpy(np.array(frame)).permute(2, 0, 1) for frame in frames]
        )
        # The size of upstream's call, which overrides the checkpoint's: another one would give the
        # model other patches.
        size = Qwen2_5OmniProcessor.videos_kwargs["size"]
        output = processor(videos=[stacked], do_sample_frames=False, size=size, return_tensors="pt")
        grid = output["video_grid_thw"]
        tensors = {
            "pixel_values_videos": output["pixel_values_videos"],
            "video_grid_thw": grid,
            "video_second_per_grid": torch.tensor([processor.temporal_patch_size / fps]),
        }
        return Features("video", tensors, int(grid.prod()) // processor.merge_size**2)

    def tokens(self, kind: Literal["image", "audio", "video"], size: tuple[int, ...]) -> int:
        """Return how many tokens a medium of this size takes.

        Args:
            kind: What it is.
            size: As `media.read.measure` gives it.
        """
        if kind == "audio":
            return audio_tokens(-(-size[0] // self.processor.feature_extractor.hop_length))
        picture = self.processor.image_processor
        side, limits, steps = picture.patch_size * picture.merge_size, picture.size, 1
        *frames, width, height = size
        if frames:
            limits = Qwen2_5OmniProcessor.videos_kwargs["size"]
            steps = -(-frames[0] // picture.temporal_patch_size)
        high, wide = smart_resize(
            height,
            width,
            factor=side,
            min_pixels=limits["shortest_edge"],
            max_pixels=limits["longest_edge"],
        )
        return int(steps * (high // side) * (wide // side))

    @property
    def longest_sound(self) -> float:
        """Seconds of the longest sound; the feature extractor drops the rest of a longer one."""
        return float(self.processor.feature_extractor.n_samples / SAMPLE_RATE)

    def prompt(self, parts: Sequence[PromptPart], system: str = "") -> Prompt:
        """Build a prompt of a system message and one user turn.

        It ends where the assistant's reply begins; placeholders are repeated once a media token.
        """
        media = tuple(part for part in parts if isinstance(part, Features))
        content: list[dict[str, str]] = []
        for part in parts:
            if isinstance(part, Features):
                content.append({"type": part.kind})
            else:
                content.append({"type": "text", "text": part})
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if system:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
        text = self.tokenizer.apply_chat_template(
            messages,
            chat_template=self.processor.chat_template,
            tokenize=False,
            add_generation_prompt=True,
        )
        text = _repeat_placeholders(text, media)
        return Prompt(self.tokenizer(text)["input_ids"], media)

    def reply_ids(self, reply: str) -> list[int]:
        """Return the ids of a written reply with the end-of-turn token."""
        return [*self.tokenizer(reply)["input_ids"], self.eos_id]

    def text(self, ids: Any) -> list[str]:
        """Return the texts of sequences of ids, without special tokens and outer blanks."""
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in texts]


def _repeat_placeholders(text: str, media: Sequence[Features]) -> str:
    """Repeat the placeholder of each medium once a token of it."""
    for feature in media:
        once, token = _MEDIA_TEXT[feature.kind], _PLACEHOLDER[feature.kind]
        # `\0` marks what is expanded already, so that the next medium of the same kind finds its
        # own place.
        marked = "\0" * feature.tokens + f"\1{feature.kind}\1"
        text = text.replace(once, once.replace(token, marked), 1)
    for kind, token in _PLACEHOLDER.items():
        mark = f"\1{kind}\1"
        end = text.find(mark)
        while end >= 0:
            start = end
            while start and text[start - 1] == "\0":
                start -= 1
            text = text[:start] + token * (end - start) + text[end + len(mark) :]
            end = text.find(mark)
    return text


def audio_tokens(frames: int) -> int:
    """Return the tokens of mel frames.

    As upstream's _get_feat_extract_output_lengths: two convolutions of stride 2, then pooling by 2.
    """
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def media_tensors(media: Sequence[Features], device: torch.device = CPU) -> dict[str, torch.Tensor]:
    """Concatenate the features of a batch on `device`, in the order of their placeholders.

    Sounds are padded to the longest one.
    """
    tensors: dict[str, list[torch.Tensor]] = {}
    for feature in media:
        for name, tensor in feature.tensors.items():
            tensors.setdefault(name, []).append(tensor)
    for name in _PER_FRAME & tensors.keys():
        width = max(tensor.shape[-1] for tensor in tensors[name])
        padded = []
        for tensor in tensors[name]:
            padded.append(torch.nn.functional.pad(tensor, (0, width - tensor.shape[-1])))
        tensors[name] = padded
    return {name: torch.cat(each).to(device) for name, each in tensors.items()}


def collate(
    prompts: Sequence[Prompt],
    replies: Sequence[list[int]] | None,
    pad_id: int,
    device: torch.device = CPU,
) -> dict[str, torch.Tensor]:
    """Build a left-padded batch: prompts end, and replies start, in the same column.

    Args:
        prompts: Of the rows.
        replies: Token ids of the rows' replies; None for none.
        pad_id: Token id of padding.
        device: Where the tensors go.

    Returns:
        input_ids, attention_mask, labels [rows, prompt + reply] (-100 outside of the reply, so that
        the loss is on the reply only) and the media tensors.
    """
    replies = replies or [[]] * len(prompts)
    width = max(len(prompt.ids) for prompt in prompts)
    tail = max(map(len, replies))
    ids = torch.full((len(prompts), width + tail), pad_id)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        ids[row, width - len(prompt.ids) : width] = torch.tensor(prompt.ids)
        mask[row, width - len(prompt.ids) : width + len(reply)] = 1
        if reply:
            ids[row, width : width + len(reply)] = torch.tensor(reply)
            labels[row, width : width + len(reply)] = torch.tensor(reply)
    media = [feature for prompt in prompts for feature in prompt.media]
    text = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    batch = {name: tensor.to(device) for name, tensor in text.items()}
    return batch | media_tensors(media, device)
