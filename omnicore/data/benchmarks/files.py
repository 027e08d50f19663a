"""What publishers' files hold: the members of a JSON text where they stand, and the format of a
medium by its first bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from omnicore.errors import DataError

_DECODER = json.JSONDecoder()
_BLANK = re.compile(r"[\s,]*")


def json_members(text: str, at: int = 0) -> Iterator[tuple[str, Any, int, int]]:
    """The members of the JSON list or object that opens at `at`: key (empty in a list), value, and
    where the value starts and ends.

    A key that stands twice comes twice, where json.loads would keep the last. Raises
    JSONDecodeError.
    """
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


_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\..*)")
_PART = re.compile(r"(.*_part)(\d+)(\..*)")


def check_shards(paths: Iterable[Path]) -> None:
    """Raises DataError naming the shards that are missing of a file in several (`x-00000-of-00002`,
    `x_part1`, `x_part2`)."""
    names = {path.name: path.parent for path in paths}
    wanted: dict[str, Path] = {}
    for name, folder in names.items():
        if match := _SHARD.fullmatch(name):
            before, _, total, after = match.groups()
            wanted |= {f"{before}-{i:05d}-of-{total}{after}": folder for i in range(int(total))}
        elif match := _PART.fullmatch(name):
            before, number, after = match.groups()
            wanted |= {f"{before}{i}{after}": folder for i in range(1, int(number) + 1)}
    if lost := sorted(name for name, folder in wanted.items() if not (folder / name).is_file()):
        named = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        raise DataError(f"{wanted[lost[0]]} lacks {named}: copy all shards of the file")


_MAGIC = (
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
    *(
        (bytes([0xFF, second]), ".mp3") for second in (0xFA, 0xFB, 0xF2, 0xF3, 0xE2, 0xE3)
    ),  # MPEG-1, 2 and 2.5; with a CRC, without
    *((bytes([0xFF, second]), ".aac") for second in (0xF0, 0xF1, 0xF8, 0xF9)),
    (b"\x1aE\xdf\xa3", ".mkv"),
    (b"FLV\1", ".flv"),
    (b"\0\0\1\xba", ".mpg"),
    (b"0&\xb2u\x8ef\xcf\x11", ".asf"),
)
_FORMS = {b"WAVE": ".wav", b"WEBP": ".webp", b"AVI ": ".avi", b"AIFF": ".aiff", b"AIFC": ".aiff"}
_BRANDS = {b"M4A ": ".m4a", b"M4B ": ".m4a", b"avif": ".avif", b"avis": ".avif", b"heic": ".heic"}


def media_suffix(data: bytes) -> str:
    """The suffix of a medium by its first bytes; empty for what is not known.

    Names in tables are often missing, or wrong.
    """
    if data[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM"):
        return _FORMS.get(data[8:12], "")
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], ".mp4")
    return next((suffix for magic, suffix in _MAGIC if data.startswith(magic)), "")
