"""Media as text for OpenAI's chat completions, and back.

A picture is `image_url`, a sound `input_audio` of format wav, and a video `video_url` in the form
that vLLM reads as frames already chosen: `data:video/jpeg;base64,` and the frames' JPEGs, comma
between (VideoMediaIO.load_base64). So the server samples nothing, and no sound can come along. vLLM
0.32 takes no more than the first 32 of them and holds them for one a second unless the request says
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
from omnicore.media.read import SAMPLE_RATE, Wave, load_audio, load_image
from omnicore.media.video import MAX_FRAMES, Video

_VIDEO = "data:video/jpeg;base64,"
_SENT_AS_THEY_ARE = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}


def image_to_url(picture: Path | Image.Image) -> str:
    """A picture as data URL: the bytes of its file where every server reads them as `load_image`
    does, else PNG of that.

    Raises DataError as `load_image` does.
    """
    if isinstance(picture, Image.Image):
        return _png(picture.convert("RGB"))
    shown = load_image(picture)
    with Image.open(picture) as image:
        kind = _SENT_AS_THEY_ARE.get(image.format or "")
        # Servers differ in what they make of transparency, of turned cameras and of the frames of an animation.
        plain = (
            image.mode in ("RGB", "L")
            and "transparency" not in image.info
            and not image.getexif().get(0x0112, 1) > 1
        )
        if not kind or not plain or getattr(image, "n_frames", 1) > 1:
            return _png(shown)
    return f"data:{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"


def wav_to_base64(wave: Wave) -> str:
    """Samples [n] at 16 kHz as a 16-bit WAV in base64: `data` of `input_audio`, whose `format` is
    wav."""
    file = io.BytesIO()
    # By hand: libsndfile scales by 32767 and reads by 32768, which would change each sample a little on the way.
    whole = np.clip(np.round(wave * np.float32(32768)), -32768, 32767).astype(np.int16)
    soundfile.write(file, whole, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return base64.b64encode(file.getvalue()).decode()


def video_to_url(video: Video) -> str:
    """The frames, and nothing of the sound."""
    return _VIDEO + ",".join(base64.b64encode(jpeg).decode() for jpeg in video.jpegs)


def video_settings(fps: float) -> dict[str, Any]:
    """What a vLLM request must say beside its videos of `fps` frames a second; it counts for all of
    them.

    Seen with vLLM 0.32: Qwen3-VL writes the times of `media_io_kwargs` into its prompt;
    Qwen2.5-Omni knows `mm_processor_kwargs` alone, and without it holds every video for 2 frames a
    second; InternVL is told no times, and is as content with both.
    """
    return {
        "media_io_kwargs": {"video": {"num_frames": -1, "fps": fps}},
        "mm_processor_kwargs": {"fps": fps},
    }


def image_from_url(url: str) -> Image.Image:
    """The RGB picture of an image's data URL.

    Raises DataError when it is none, or larger than `load_image` allows.
    """
    head, comma, data = url.partition(",")
    if not (comma and head.startswith("data:image/") and head.endswith(";base64")):
        raise DataError(f"{url[:40]!r} is no picture: give data:image/png;base64,...")
    return load_image(io.BytesIO(_bytes(data, "picture")))


def wav_from_base64(data: str) -> Wave:
    """Samples [n] at 16 kHz of a WAV in base64.

    Raises DataError when it is none, or longer than `load_audio` allows.
    """
    return load_audio(io.BytesIO(_bytes(data, "sound")))


def video_from_url(url: str, fps: float = 1.0) -> Video:
    """The frames of a video's data URL, `fps` of them a second.

    Raises DataError when they are none, or too many.
    """
    if not url.startswith(_VIDEO):
        raise DataError(f"{url[:40]!r} is no video of frames: give {_VIDEO}FRAME,FRAME...")
    frames = url[len(_VIDEO) :].split(",")
    if len(frames) > MAX_FRAMES:
        raise DataError(f"a video of {len(frames)} frames, more than {MAX_FRAMES}: send fewer")
    video = Video(
        tuple(_bytes(frame, "frame") for frame in frames),
        tuple(i / fps for i in range(len(frames))),
        fps,
    )
    for jpeg in video.jpegs:
        load_image(io.BytesIO(jpeg))
    return video


def _png(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _bytes(data: str, what: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"the {what} is not base64: {error}") from error
