"""A stand-in for a vision-language model behind OpenAI's chat completions API.

It names the colour of a picture and guesses everything else. A real audit asks vLLM or `omnicore
serve` in its place.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from PIL import Image
from questions import COLOURS

MODEL = "colour-blind-to-sound"


def reply(request: dict[str, Any]) -> str:
    """Return the reply to a chat request: the letter of an option inside <answer></answer>."""
    parts = request["messages"][-1]["content"]
    text = " ".join(part["text"] for part in parts if part["type"] == "text")
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).digest()
    guess = int.from_bytes(digest[:4])
    options = re.findall(r"^([A-D])\. (.+)$", text, re.MULTILINE)
    if request["seed"] == 0:  # the canary: it only checks that different pictures change the reply
        return f"<answer>{guess}</answer>"
    images = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    seen = colour(images[0]) if images else ""
    letters = [letter for letter, option in options if option == seen]
    letter = letters[0] if letters else options[guess % len(options)][0]
    return f"<answer>{letter}</answer>"


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
        """List the model."""
        self.send({"object": "list", "data": [{"id": MODEL}]})

    def do_POST(self) -> None:
        """Reply to a chat request."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message = {"role": "assistant", "content": reply(request)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self.send({"object": "chat.completion", "model": MODEL, "choices": [choice]})

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
