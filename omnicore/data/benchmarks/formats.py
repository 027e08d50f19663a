"""Formats of publishers' files: members of a JSON text with their places, media by first bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_DECODER = json.JSONDecoder()
_BLANK = re.compile(r"[\s,]*")

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"fLaC", ".flac"),
    (b"OggS", ".ogg"),
    (b"#!AMR", ".amr"),
    (b"caff", ".caf"),
    (b".snd", ".au"),
    (b"ID3", ".mp3"),
    # MPEG-1, 2 and 2.5 layer 3; with a CRC, without.
    (b"\xff\xfa", ".mp3"),
    (b"\xff\xfb", ".mp3"),
    (b"\xff\xf2", ".mp3"),
    (b"\xff\xf3", ".mp3"),
    (b"\xff\xe2", ".mp3"),
    (b"\xff\xe3", ".mp3"),
    # ADTS of MPEG-4 and 2; with a CRC, without.
    (b"\xff\xf0", ".aac"),
    (b"\xff\xf1", ".aac"),
    (b"\xff\xf8", ".aac"),
    (b"\xff\xf9", ".aac"),
    (b"\x1aE\xdf\xa3", ".mkv"),
    (b"FLV\1", ".flv"),
    (b"\0\0\1\xba", ".mpg"),
    (b"0&\xb2u\x8ef\xcf\x11", ".asf"),
)
_RIFF_FORMS = {
    b"WAVE": ".wav",
    b"WEBP": ".webp",
    b"AVI ": ".avi",
    b"AIFF": ".aiff",
    b"AIFC": ".aiff",
}
_MP4_BRANDS = {
    b"M4A ": ".m4a",
    b"M4B ": ".m4a",
    b"avif": ".avif",
    b"avis": ".avif",
    b"heic": ".heic",
}


def json_members(text: str, at: int = 0) -> Iterator[tuple[str, Any, int, int]]:
    """Yield the members of the JSON list or object that opens at `at`.

    A key that stands twice comes twice; json.loads would keep only the last.

    Yields:
        Key (empty in a list), value, and where the value starts and ends.

    Raises:
        JSONDecodeError: The text is broken.
    """
    at = _skip_blank(text, at)
    closing = {"[": "]", "{": "}"}.get(text[at : at + 1])
    if closing is None:
        raise json.JSONDecodeError("Expecting a list or an object", text, at)
    at = _skip_blank(text, at + 1)
    while text[at : at + 1] != closing:
        key = ""
        if closing == "}":
            key, at = _DECODER.raw_decode(text, at)
            colon = _skip_blank(text, at)
            if text[colon : colon + 1] != ":":
                raise json.JSONDecodeError("Expecting ':'", text, colon)
            at = _skip_blank(text, colon + 1)
        value, end = _DECODER.raw_decode(text, at)
        yield key, value, at, end
        at = _skip_blank(text, end)


def _skip_blank(text: str, at: int) -> int:
    return _BLANK.match(text, at).end()  # type: ignore[union-attr]


def media_suffix(data: bytes) -> str:
    """Return the suffix of a medium by its first bytes, empty for an unknown format.

    Names in tables are often missing, or wrong.
    """
    if data[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM"):
        return _RIFF_FORMS.get(data[8:12], "")
    if data[4:8] == b"ftyp":
        return _MP4_BRANDS.get(data[8:12], ".mp4")
    for magic, suffix in _MAGIC:
        if data.startswith(magic):
            return suffix
    return ""
