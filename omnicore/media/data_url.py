"""Media as text for OpenAI's chat completions, and back.

A picture is `image_url`, a sound `input_audio` of format wav, and a video `video_url` in the form
that vLLM reads as frames already chosen: `data:video/jpeg;base64,` and the frames' JPEGs, comma
between (VideoMediaIO.load_base64). So the server samples nothing, and the sound does not come
along. vLLM 0.32 takes only the first 32 frames and assumes one a second unless the request says
otherwise: send the fields of `video_settings` with it.
"""

from __future__ import annotations

import base64
import binascii
import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from omnicore.errors import DataError
from omnicore.media.images import load_image
from omnicore.media.limits import MAX_FRAMES
from omnicore.media.sounds import SAMPLE_RATE, Wave, load_audio
from omnicore.media.video import Video

_VIDEO = "data:video/jpeg;base64,"
_SENT_UNCHANGED = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
_ORIENTATION = 0x0112  # tag of EXIF; 1 is upright


def image_to_url(picture: Path | Image.Image) -> str:
    """Return a picture as data URL: its file's bytes where all servers read them as `load_image`.

    Otherwise what `load_image` reads is sent as PNG. Raises DataError as `load_image` does.
    """
    if isinstance(picture, Image.Image):
        return _png_url(picture.convert("RGB"))
    loaded = load_image(picture)
    with Image.open(picture) as image:
        mime_type = _SENT_UNCHANGED.get(image.format or "")
        if not mime_type or not _is_plain(image):
            return _png_url(loaded)
    return f"data:{mime_type};base64,{base64.b64encode(picture.read_bytes()).decode()}"


def _is_plain(image: Image.Image) -> bool:
    """Return whether all servers show the same of a picture.

    They differ in what they make of transparency, of turned cameras and of several frames.
    """
    if image.mode not in ("RGB", "L") or "transparency" in image.info:
        return False
    return image.getexif().get(_ORIENTATION, 1) <= 1 and getattr(image, "n_frames", 1) <= 1


def wav_to_base64(wave: Wave) -> str:
    """Return samples [n] at 16 kHz as a 16-bit WAV in base64: `data` of an `input_audio` of wav."""
    file = io.BytesIO()
    # libsndfile would scale by 32767 and read by 32768, which changes each sample a little.
    scaled = np.round(wave * np.float32(32768))
    samples = np.clip(scaled, -32768, 32767).astype(np.int16)
    soundfile.write(file, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return base64.b64encode(file.getvalue()).decode()


def video_to_url(video: Video) -> str:
    """Return the frames of a video as data URL, without its sound."""
    return _VIDEO + ",".join(base64.b64encode(jpeg).decode() for jpeg in video.jpegs)


def video_settings(fps: float) -> dict[str, Any]:
    """Return what a vLLM request must say beside its videos, all of `fps` frames a second.

    Seen with vLLM 0.32: Qwen3-VL writes the times of `media_io_kwargs` into its prompt;
    Qwen2.5-Omni reads only `mm_processor_kwargs`, and without it assumes 2 frames a second for
    every video; InternVL is told no times, and accepts both.
    """
    return {
        "media_io_kwargs": {"video": {"num_frames": -1, "fps": fps}},
        "mm_processor_kwargs": {"fps": fps},
    }


def image_from_url(url: str) -> Image.Image:
    """Return the RGB picture of an image's data URL.

    Raises:
        DataError: It is none, or larger than `load_image` allows.
    """
    head, comma, data = url.partition(",")
    if not (comma and head.startswith("data:image/") and head.endswith(";base64")):
        raise DataError(
            f"{url[:40]!r} is not a picture: give data:image/png;base64,...",
            code="media-url-invalid",
        )
    return load_image(io.BytesIO(_decode_base64(data, "picture")))


def wav_from_base64(data: str) -> Wave:
    """Return samples [n] at 16 kHz of a WAV in base64.

    Raises:
        DataError: It is none, or longer than `load_audio` allows.
    """
    return load_audio(io.BytesIO(_decode_base64(data, "sound")))


def video_from_url(url: str, fps: float = 1.0) -> Video:
    """Return the frames of a video's data URL, `fps` of them a second.

    Raises:
        DataError: They are none, or too many.
    """
    if not url.startswith(_VIDEO):
        raise DataError(
            f"{url[:40]!r} is not a video of frames: give {_VIDEO}FRAME,FRAME...",
            code="media-url-invalid",
        )
    frames = url[len(_VIDEO) :].split(",")
    if len(frames) > MAX_FRAMES:
        raise DataError(
            f"a video of {len(frames)} frames, more than {MAX_FRAMES}: send fewer",
            code="media-too-many-frames",
        )
    jpegs = tuple(_decode_base64(frame, "frame") for frame in frames)
    for jpeg in jpegs:
        load_image(io.BytesIO(jpeg))
    return Video(jpegs, tuple(number / fps for number in range(len(frames))), fps)


def _png_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _decode_base64(data: str, kind: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"the {kind} is not base64: {error}", code="media-not-base64") from error
