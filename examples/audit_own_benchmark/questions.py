"""Write a small benchmark in the layout of OmniBench's repository, which `prepare` reads.

`dataset/questions.jsonl` has one question per line; pictures lie in `mm_data/image`, sounds in
`mm_data/audio`. Half of the questions ask for the colour of the square, which the picture shows;
the other half ask for the pitch of the tone, which only the sound tells.
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


def write_benchmark(root: Path) -> None:
    """Write questions, pictures and sounds below `root`."""
    chance = random.Random(0)
    for folder in ("dataset", "mm_data/image", "mm_data/audio"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, colour in COLOURS.items():
        Image.new("RGB", (32, 32), colour).save(root / "mm_data/image" / f"{name}.png")
    for name, hertz in PITCHES.items():
        write_tone(root / "mm_data/audio" / f"{name}.wav", hertz)
    rows = []
    for index in range(2 * PER_TYPE):
        colour, pitch = chance.choice(list(COLOURS)), chance.choice(list(PITCHES))
        asks_colour = index < PER_TYPE
        rows.append(
            {
                "index": index,
                "task type": "colour" if asks_colour else "pitch",
                "audio type": "tone",
                "question": "Which colour is shown?" if asks_colour else "How high is the tone?",
                "options": list(COLOURS if asks_colour else PITCHES),
                "answer": colour if asks_colour else pitch,
                "image_path": f"{colour}.png",
                "audio_path": f"{pitch}.wav",
            }
        )
    lines = [json.dumps(row) + "\n" for row in rows]
    (root / "dataset" / "questions.jsonl").write_text("".join(lines))


def write_tone(path: Path, hertz: int) -> None:
    """Write half a second of a sine wave as 16-bit mono WAV."""
    times = np.arange(RATE // 2) / RATE
    samples = (8000 * np.sin(2 * np.pi * hertz * times)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())
