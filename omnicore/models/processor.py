"""The processor: prompts and media to tensors, the same way in the trainer and in the engine.

`Encoder` is the only code that turns a prompt into token ids. Media are processed once each and
reused for every draw and epoch; a test holds its ids equal to those of the upstream processor's own
call.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import Qwen2_5OmniProcessor, Qwen2Tokenizer, WhisperFeatureExtractor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
    smart_resize,
)
from transformers.processing_utils import ProcessorMixin
from transformers.utils import is_torchvision_available

from omnicore.errors import ConfigError, TooLongError
from omnicore.media.sounds import SAMPLE_RATE

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


_PER_FRAME = {"input_features", "feature_attention_mask"}  # as wide as a sound is long
CPU = torch.device("cpu")


class NoVideoProcessor(Qwen2_5OmniProcessor):  # type: ignore[misc]
    """The upstream processor without its video part, which alone needs torchvision."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "feature_extractor", "tokenizer"]

    def __init__(
        self,
        image_processor: Any = None,
        feature_extractor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        video: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        self.video = (
            video or {}
        )  # settings of the video part that a machine with torchvision builds
        ProcessorMixin.__init__(
            self, image_processor, feature_extractor, tokenizer, chat_template=chat_template
        )
        for name in ("image", "audio", "video"):
            setattr(self, f"{name}_token", getattr(tokenizer, f"{name}_token"))
            setattr(self, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
        for name in ("vision_bos", "vision_eos", "audio_bos", "audio_eos"):
            setattr(self, f"{name}_token", getattr(tokenizer, f"{name}_token"))

    @property
    def model_input_names(self) -> list[str]:
        parts = (self.tokenizer, self.feature_extractor, self.image_processor)
        names = [name for part in parts for name in part.model_input_names]
        return list(dict.fromkeys([*names, "feature_attention_mask"]))


NoVideoProcessor.__name__ = (  # processor_config.json must name the upstream class
    "Qwen2_5OmniProcessor"
)


def load_processor(directory: Path) -> NoVideoProcessor:
    """Reads tokenizer, feature extractor, image processor and chat template of a published or own
    checkpoint."""
    saved = (
        json.loads((directory / "processor_config.json").read_text())
        if (directory / "processor_config.json").exists()
        else {}
    )
    flat = (
        directory / "preprocessor_config.json"
    )  # the layout of the published checkpoint: both parts in one file
    preprocessor = json.loads(flat.read_text()) if flat.exists() else {}
    image = Qwen2VLImageProcessorPil(
        **_known(Qwen2VLImageProcessorPil, saved.get("image_processor", preprocessor))
    )
    audio = WhisperFeatureExtractor(
        **_known(WhisperFeatureExtractor, saved.get("feature_extractor", preprocessor))
    )
    tokenizer = Qwen2Tokenizer.from_pretrained(directory)
    video = saved.get("video_processor", preprocessor)
    return NoVideoProcessor(
        image,
        audio,
        tokenizer,
        chat_template=_chat_template(directory) or tokenizer.chat_template,
        video=video,
    )


def _known(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    drop = {
        "processor_class",
        "image_processor_type",
        "video_processor_type",
        "feature_extractor_type",
        "return_attention_mask",
    }
    known = {k: v for k, v in values.items() if k not in drop}
    return {**known, "return_attention_mask": True} if cls is WhisperFeatureExtractor else known


def _chat_template(directory: Path) -> str | None:
    if (directory / "chat_template.jinja").exists():
        return (directory / "chat_template.jinja").read_text()
    if (directory / "chat_template.json").exists():
        return str(json.loads((directory / "chat_template.json").read_text())["chat_template"])
    return None


@dataclass(frozen=True)
class Features:
    """One processed medium: the model's tensors (each with a leading dimension to concatenate) and
    its tokens."""

    kind: Literal["image", "audio", "video"]
    tensors: dict[str, torch.Tensor]
    tokens: int

    @property
    def size(self) -> int:
        """Bytes of the tensors."""
        return sum(t.nbytes for t in self.tensors.values())


PromptPart = str | Features


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt with the media it refers to, in the order of their placeholders."""

    ids: list[int]
    media: tuple[Features, ...]


class Encoder:
    """Turns media into `Features` and parts of a user turn into a `Prompt`."""

    def __init__(self, processor: NoVideoProcessor) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        ids = self.tokenizer.convert_tokens_to_ids
        self.suppressed = [
            ids(t)
            for t in SPECIAL
            if t not in ("<|im_end|>", "<|endoftext|>") and ids(t) is not None
        ]
        self.pad_id, self.eos_id = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id

    def image(self, picture: Any) -> Features:
        """A PIL image to `pixel_values` [patches, d] and `image_grid_thw` [1, 3]."""
        out = self.processor.image_processor(images=[picture], return_tensors="pt")
        grid = out["image_grid_thw"]
        tokens = int(grid.prod()) // self.processor.image_processor.merge_size**2
        return Features(
            "image", {"pixel_values": out["pixel_values"], "image_grid_thw": grid}, tokens
        )

    def audio(self, wave: np.ndarray[Any, Any]) -> Features:
        """float32 mono at 16 kHz to `input_features` [1, mel, frames] and `feature_attention_mask` [1, frames], of the frames that
        hold sound: upstream pads to 300 s, which costs 15 MB and 150 ms a sound, and the model drops the padding.

        Raises TooLongError for a sound that is longer than the model hears: upstream drops the rest without a word.
        """
        extractor = self.processor.feature_extractor
        if len(wave) > extractor.n_samples:
            raise TooLongError(
                f"a sound of {len(wave) / SAMPLE_RATE:.1f} s, and the model hears {self.longest_sound:g}"
                " s: give it a clip (start, end), or leave it out"
            )
        # As much silence as one window reaches into: the last frame is then what it is before 300 s of padding, to the bit.
        length = min(
            extractor.n_samples,
            -(-(len(wave) + extractor.n_fft) // extractor.hop_length) * extractor.hop_length,
        )
        out = extractor(
            [wave],
            sampling_rate=SAMPLE_RATE,
            padding="max_length",
            max_length=length,
            return_attention_mask=True,
            return_tensors="pt",
        )
        frames = int(out["attention_mask"].sum())
        tensors = {
            "input_features": out["input_features"][..., :frames].contiguous(),
            "feature_attention_mask": out["attention_mask"][:, :frames].contiguous(),
        }
        return Features("audio", tensors, audio_tokens(frames))

    def video(self, frames: Sequence[Any], fps: float) -> Features:
        """PIL frames, `fps` of them a second, to `pixel_values_videos` [patches, d],
        `video_grid_thw` [1, 3] and `video_second_per_grid` [1], the time that one step of the grid
        spans.

        Raises ConfigError where torchvision is missing: upstream's video processor needs it.
        """
        if not is_torchvision_available():
            raise ConfigError(
                "a model in this process needs torchvision for videos: install it, or ask a server"
                " (engine.kind=http)"
            )
        from transformers import Qwen2VLVideoProcessor

        processor = Qwen2VLVideoProcessor(**_known(Qwen2VLVideoProcessor, self.processor.video))
        stacked = torch.stack(
            [torch.from_numpy(np.array(frame)).permute(2, 0, 1) for frame in frames]
        )
        # The size of upstream's call, which overrides the checkpoint's: another one would show the model other patches.
        size = Qwen2_5OmniProcessor.videos_kwargs["size"]
        out = processor(videos=[stacked], do_sample_frames=False, size=size, return_tensors="pt")
        grid = out["video_grid_thw"]
        tensors = {
            "pixel_values_videos": out["pixel_values_videos"],
            "video_grid_thw": grid,
            "video_second_per_grid": torch.tensor([processor.temporal_patch_size / fps]),
        }
        return Features("video", tensors, int(grid.prod()) // processor.merge_size**2)

    def tokens(self, kind: Literal["image", "audio", "video"], size: tuple[int, ...]) -> int:
        """How many tokens a medium takes that is as large as `media.measure` says."""
        if kind == "audio":
            return audio_tokens(-(-size[0] // self.processor.feature_extractor.hop_length))
        picture = self.processor.image_processor
        side, limits = picture.patch_size * picture.merge_size, picture.size
        *frames, width, height = size
        steps = 1
        if frames:
            limits, steps = (
                Qwen2_5OmniProcessor.videos_kwargs["size"],
                -(-frames[0] // picture.temporal_patch_size),
            )
        shortest, longest = limits["shortest_edge"], limits["longest_edge"]
        high, wide = smart_resize(
            height, width, factor=side, min_pixels=shortest, max_pixels=longest
        )
        return int(steps * (high // side) * (wide // side))

    @property
    def longest_sound(self) -> float:
        """Seconds; the feature extractor drops what a sound holds beyond."""
        return float(self.processor.feature_extractor.n_samples / SAMPLE_RATE)

    def prompt(self, parts: Sequence[PromptPart], system: str = "") -> Prompt:
        """Ids of `system` and one user turn up to where the assistant speaks, placeholders repeated
        per media token."""
        media = tuple(p for p in parts if isinstance(p, Features))
        content = [
            {"type": p.kind} if isinstance(p, Features) else {"type": "text", "text": p}
            for p in parts
        ]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if system:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
        text = self.tokenizer.apply_chat_template(
            messages,
            chat_template=self.processor.chat_template,
            tokenize=False,
            add_generation_prompt=True,
        )
        for feature in media:
            once = _MEDIA_TEXT[feature.kind]
            token = _PLACEHOLDER[feature.kind]
            # `\0` marks what is expanded already, so that the next of the same kind finds its own place.
            text = text.replace(
                once, once.replace(token, "\0" * feature.tokens + f"\1{feature.kind}\1"), 1
            )
        for kind, token in _PLACEHOLDER.items():
            while (end := text.find(f"\1{kind}\1")) >= 0:
                start = end
                while start and text[start - 1] == "\0":
                    start -= 1
                text = text[:start] + token * (end - start) + text[end + len(kind) + 2 :]
        return Prompt(self.tokenizer(text)["input_ids"], media)

    def reply_ids(self, reply: str) -> list[int]:
        """Ids of a written reply with the end-of-turn token."""
        return [*self.tokenizer(reply)["input_ids"], self.eos_id]

    def text(self, ids: Any) -> list[str]:
        return [t.strip() for t in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]


def audio_tokens(frames: int) -> int:
    """Tokens of mel frames: upstream's _get_feat_extract_output_lengths, two convolutions of stride
    2, then pooling by 2."""
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def media_tensors(media: Sequence[Features], device: torch.device = CPU) -> dict[str, torch.Tensor]:
    """Concatenates features of a batch, on `device`, in the order in which their placeholders
    stand; sounds padded."""
    names = dict.fromkeys(name for feature in media for name in feature.tensors)
    found = {name: [f.tensors[name] for f in media if name in f.tensors] for name in names}
    for name in _PER_FRAME & found.keys():
        width = max(t.shape[-1] for t in found[name])
        found[name] = [torch.nn.functional.pad(t, (0, width - t.shape[-1])) for t in found[name]]
    return {name: torch.cat(tensors).to(device) for name, tensors in found.items()}


def collate(
    prompts: Sequence[Prompt],
    replies: Sequence[list[int]] | None,
    pad_id: int,
    device: torch.device = CPU,
) -> dict[str, torch.Tensor]:
    """A left-padded batch on `device`: prompts end, and replies start, in the same column.

    Returns input_ids, attention_mask, labels [batch, prompt + reply] (-100 outside the reply: loss
    on the answer only) and the media tensors.
    """
    replies = replies or [[]] * len(prompts)
    width = max(len(p.ids) for p in prompts)
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
    return {
        **{name: tensor.to(device) for name, tensor in text.items()},
        **media_tensors(media, device),
    }
