"""Short messages out of the error bodies of servers."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from pydantic_core import from_json, to_json

MAX_CHARACTERS = 300  # of a message

_TITLE = re.compile(r"<(title|h1)[^>]*>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
_NUMBERS = re.compile(r"[-+]?\d[\d.e+-]*(?:[,\s]+[-+]?\d[\d.e+-]*){7,}")  # eight or more
_BASE64 = re.compile(r"[A-Za-z0-9+/=]{80,}")
# vLLM writes a list of pydantic's errors as Python does, each with all that was sent.
_PYDANTIC = re.compile(r"'loc': \(([^)]*)\), 'msg': ('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")")


def error_message(content: bytes) -> str:
    """Extract the message of an error body, on one line of about 300 characters.

    Messages of a JSON error and the title of a page are found. Runs of numbers and base64, which
    are the medium that was sent, are left out; of a longer message, the middle.
    """
    text = content.decode(errors="replace")
    with suppress(ValueError):
        text = _json_message(from_json(content))
    title = _TITLE.search(text)
    if title:
        text = f"a page titled {title[2]!r}"
    reasons = [_pydantic_reason(match) for match in _PYDANTIC.finditer(text)]
    if reasons:
        text = "; ".join(dict.fromkeys(reasons))
    text = " ".join(_NUMBERS.sub("...", _BASE64.sub("...", text)).split())
    if len(text) > MAX_CHARACTERS:
        text = f"{text[: MAX_CHARACTERS // 2]} ... {text[-MAX_CHARACTERS // 2 :]}"
    return text or "nothing"


def _pydantic_reason(match: re.Match[str]) -> str:
    field = ".".join(re.findall(r"[\w-]+", match[1]))
    return f"{field}: {match[2][1:-1]}"


def _json_message(error: Any) -> str:
    """Find the message in OpenAI's `error.message` or FastAPI's `detail`, a text or a list."""
    if isinstance(error, str):
        return error
    if isinstance(error, list):
        return "; ".join(dict.fromkeys(map(_json_message, error)))
    if not isinstance(error, dict):
        return to_json(error).decode()
    if error.get("msg"):
        field = ".".join(map(str, error.get("loc") or ["request"]))
        return f"{field}: {error['msg']}"
    for key in ("error", "message", "detail"):
        if error.get(key):
            return _json_message(error[key])
    return to_json(error).decode()
