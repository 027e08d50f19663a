"""Write a small benchmark: a table of questions with the paths of their pictures and sounds.

Half of the questions ask for the colour of the square, which the picture shows; the other half ask
for the pitch of the tone, which only the sound tells.
"""

from __future__ import annotations

import json
import random
import wave
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {
    "red": (200, 30, 30),
    "green": (30, 160, 30),
    "blue": (30, 30, 200),
    "grey": (90, 90, 90),
}
PITCHES = {"low": 200, "middle": 400, "high": 800, "very high": 1600}
PER_TYPE = 100
RATE = 16_000


def write_benchmark(folder: Path) -> Path:
    """Write pictures, sounds and `questions.jsonl` into `folder`; return the table's path."""
    chance = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name, colour in COLOURS.items():
        Image.new("RGB", (32, 32), colour).save(folder / f"{name}.png")
    for name, hertz in PITCHES.items():
        write_tone(folder / f"{name}.wav", hertz)
    rows = []
    for index in range(2 * PER_TYPE):
        colour, pitch = chance.choice(list(COLOURS)), chance.choice(list(PITCHES))
        asks_colour = index < PER_TYPE
        rows.append(
            {
                "id": f"q{index}",
                "kind": "colour" if asks_colour else "pitch",
                "q": "Which colour is shown?" if asks_colour else "How high is the tone?",
                "choices": list(COLOURS if asks_colour else PITCHES),
                "gold": colour if asks_colour else pitch,
                "picture": f"{colour}.png",
                "tone": f"{pitch}.wav",
            }
        )
    table = folder / "questions.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return table


def write_tone(path: Path, hertz: int) -> None:
    """Write half a second of a sine wave as 16-bit mono WAV."""
    times = np.arange(RATE // 2) / RATE
    samples = (8000 * np.sin(2 * np.pi * hertz * times)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())
