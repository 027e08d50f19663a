"""What publishers' files hold: the members of a JSON text where they stand, and the format of a medium by its first bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_DECODER = json.JSONDecoder()
_BLANK = re.compile(r"[\s,]*")


def members(text: str, at: int = 0) -> Iterator[tuple[str, Any, int, int]]:
    """The members of the JSON list or object that opens at `at`: key (empty in a list), value, and where the value starts and
    ends. A key that stands twice comes twice, where json.loads would keep the last. Raises JSONDecodeError."""
    at = _blank(text, at)
    closing = {"[": "]", "{": "}"}.get(text[at : at + 1])
    if closing is None:
        raise json.JSONDecodeError("Expecting a list or an object", text, at)
    at = _blank(text, at + 1)
    while text[at : at + 1] != closing:
        key = ""
        if closing == "}":
            key, at = _DECODER.raw_decode(text, at)
            colon = _blank(text, at)
            if text[colon : colon + 1] != ":":
                raise json.JSONDecodeError("Expecting ':'", text, colon)
            at = _blank(text, colon + 1)
        value, end = _DECODER.raw_decode(text, at)
        yield key, value, at, end
        at = _blank(text, end)


def _blank(text: str, at: int) -> int:
    return _BLANK.match(text, at).end()  # type: ignore[union-attr]


_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"fLaC", ".flac"),
    (b"OggS", ".ogg"),
    (b"ID3", ".mp3"),
    (b"\xff\xfb", ".mp3"),
    (b"\xff\xf3", ".mp3"),
    (b"\xff\xf2", ".mp3"),
    (b"\x1aE\xdf\xa3", ".mkv"),
)


def suffix_of(data: bytes) -> str:
    """The suffix of a medium by its first bytes; empty for what is not known. Names in tables are often missing, or wrong."""
    if data[:4] == b"RIFF":
        return {b"WAVE": ".wav", b"WEBP": ".webp", b"AVI ": ".avi"}.get(data[8:12], "")
    if data[4:8] == b"ftyp":
        return ".m4a" if data[8:11] == b"M4A" else ".mp4"
    return next((suffix for magic, suffix in _MAGIC if data.startswith(magic)), "")
