"""A stand-in for two models behind OpenAI's chat completions API.

`sees` names the colour of a picture and guesses everything else; `sees-and-hears` also recognises
the pitch of a tone. A real audit sends its requests to vLLM or `omnicore serve` instead.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import numpy as np
from PIL import Image
from questions import COLOURS, PITCHES

MODELS = ("sees", "sees-and-hears")


def reply(request: dict[str, Any]) -> str:
    """Return the reply to a chat request: the letter of an option inside <answer></answer>."""
    parts = request["messages"][-1]["content"]
    text = " ".join(part["text"] for part in parts if part["type"] == "text")
    if request["seed"] == 0:  # the canary: it only checks that different media change the reply
        return f"<answer>{number(request)}</answer>"
    options = re.findall(r"^([A-D])\. (.+)$", text, re.MULTILINE)
    known = perceived(parts, hears=request["model"] == "sees-and-hears")
    letters = [letter for letter, option in options if option in known]
    guess = options[number([request["seed"], text]) % len(options)][0]
    letter = letters[0] if letters else guess
    return f"<answer>{letter}</answer>"


def number(value: Any) -> int:
    """Return a number that depends on the whole value and on nothing else."""
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:4])


def perceived(parts: list[dict[str, Any]], hears: bool) -> set[str]:
    """Return the names of what a model perceives in the parts of a request."""
    images = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    sounds = [part["input_audio"]["data"] for part in parts if part["type"] == "input_audio"]
    return {colour(url) for url in images} | {pitch(data) for data in sounds if hears}


def pitch(data: str) -> str:
    """Return the name of the pitch of a tone given as base64 of a WAV file."""
    with wave.open(io.BytesIO(base64.b64decode(data))) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        seconds = len(samples) / file.getframerate()
    hertz = np.count_nonzero(np.diff(samples >= 0)) / 2 / seconds
    return min(PITCHES, key=lambda name: abs(PITCHES[name] - hertz))


def colour(url: str) -> str:
    """Return the name of the colour of a picture given as a data URL."""
    data = base64.b64decode(url.partition(",")[2])
    pixel = Image.open(io.BytesIO(data)).convert("RGB").getpixel((0, 0))

    def distance(name: str) -> int:
        return sum(abs(a - b) for a, b in zip(COLOURS[name], pixel, strict=True))

    return min(COLOURS, key=distance)


class Handler(BaseHTTPRequestHandler):
    """Serve GET /v1/models and POST /v1/chat/completions."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """List the models."""
        self.send({"object": "list", "data": [{"id": name} for name in MODELS]})

    def do_POST(self) -> None:
        """Reply to a chat request."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message = {"role": "assistant", "content": reply(request)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self.send({"object": "chat.completion", "model": request["model"], "choices": [choice]})

    def send(self, body: dict[str, Any]) -> None:
        """Send a JSON body with status 200."""
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        """Print nothing per request."""


@contextmanager
def serving() -> Iterator[str]:
    """Serve on a free port while the context is open; yield the base URL of the API."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
