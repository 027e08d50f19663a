"""The upstream processor without its video part, and its files in a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import Qwen2_5OmniProcessor, Qwen2Tokenizer, WhisperFeatureExtractor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessorMixin

# Fields of a saved configuration that no constructor takes.
_NOT_ARGUMENTS = {
    "processor_class",
    "image_processor_type",
    "video_processor_type",
    "feature_extractor_type",
    "return_attention_mask",
}


class NoVideoProcessor(Qwen2_5OmniProcessor):  # type: ignore[misc]
    """The upstream processor without its video part, which is the only part that needs torchvision.

    It skips the upstream constructor, which requires the video part.
    """

    @classmethod
    def get_attributes(cls) -> list[str]:
        """Return the names of the parts."""
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
        """Create a processor; `video` holds the settings of the video part for `Encoder.video`."""
        self.video = video or {}
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
        """The model's inputs that this processor makes."""
        names: dict[str, None] = {}
        for part in (self.tokenizer, self.feature_extractor, self.image_processor):
            names |= dict.fromkeys(part.model_input_names)
        return list(names | {"feature_attention_mask": None})


# processor_config.json must name the upstream class.
NoVideoProcessor.__name__ = "Qwen2_5OmniProcessor"


def load_processor(directory: Path) -> NoVideoProcessor:
    """Load tokenizer, feature extractor, image processor and chat template of a checkpoint."""
    saved = _read_json(directory / "processor_config.json")
    # The published checkpoint has the settings of all parts in one file.
    preprocessor = _read_json(directory / "preprocessor_config.json")
    image = constructor_arguments(saved.get("image_processor", preprocessor))
    audio = constructor_arguments(saved.get("feature_extractor", preprocessor))
    tokenizer = Qwen2Tokenizer.from_pretrained(directory)
    return NoVideoProcessor(
        Qwen2VLImageProcessorPil(**image),
        WhisperFeatureExtractor(**audio, return_attention_mask=True),
        tokenizer,
        chat_template=_chat_template(directory) or tokenizer.chat_template,
        video=saved.get("video_processor", preprocessor),
    )


def _read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file, empty if there is none."""
    if not path.exists():
        return {}
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def constructor_arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a part's constructor among its saved settings."""
    return {name: value for name, value in settings.items() if name not in _NOT_ARGUMENTS}


def _chat_template(directory: Path) -> str | None:
    template = directory / "chat_template.jinja"
    if template.exists():
        return template.read_text()
    content = _read_json(directory / "chat_template.json")
    return str(content["chat_template"]) if content else None
