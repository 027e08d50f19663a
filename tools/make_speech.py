"""Make the shipped assets again: spoken digits (espeak-ng) and handwritten digits (scikit-learn).

    python tools/make_speech.py omnicore/assets

Needs the development extra (`espeakng-loader`, `scikit-learn`). espeak-ng is GPL-3.0, so it is used
only here, to make sounds; the package neither links nor ships it. Clips are clean: `prepare` adds
noise, gain and lead-in.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE = 16_000
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VOICES = (
    "m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f3 f4 f5 Alex Andy Annie Denis Gene Hugo Jacky Lee Marco Mario"
    " Michael Mike Reed adam anika belinda benjamin boris caleb david ed edward gustave ian john"
    " linda max michel miguel norbert pablo paul pedro quincy rob robert sandro shelby steph travis"
    " victor zac Alicia Andrea antonio aunty marcelo"
).split()
ACCENTS = ("en-us", "en", "en-gb-x-rp", "en-029")
TAKES = 2
# Seconds; with a lead-in of up to 0.03 s a clip stays under the 1 s window of the feature extractor.
LONGEST = 0.5


class Espeak:
    """Espeak-ng's synchronous synthesis through ctypes."""

    def __init__(self) -> None:
        import espeakng_loader

        self._lib = ctypes.CDLL(espeakng_loader.get_library_path())
        # AUDIO_OUTPUT_SYNCHRONOUS = 2
        self._rate = self._lib.espeak_Initialize(2, 0, espeakng_loader.get_data_path().encode(), 0)
        if self._rate <= 0:
            raise RuntimeError("espeak-ng did not start")
        self._chunks: list[np.ndarray[Any, Any]] = []
        callback_type = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
        )

        def collect(samples: Any, count: int, _events: Any) -> int:
            if count > 0:
                self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
            return 0

        self._callback = callback_type(collect)  # kept alive: the library holds only the pointer
        self._lib.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, voice: str, rate: int, pitch: int) -> np.ndarray[Any, Any]:
        """Return float32 samples at 16 kHz, silence trimmed at 2 % of the peak, peak 0.95."""
        self._chunks.clear()
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        self._lib.espeak_SetParameter(1, rate, 0)  # words a minute
        self._lib.espeak_SetParameter(3, pitch, 0)
        data = text.encode() + b"\0"
        self._lib.espeak_Synth(data, ctypes.c_size_t(len(data)), 0, 0, 0, 1, None, None)
        self._lib.espeak_Synchronize()
        wave = np.concatenate(self._chunks).astype(np.float32) / 32768
        n = int(len(wave) * RATE / self._rate)
        wave = np.interp(np.arange(n) * self._rate / RATE, np.arange(len(wave)), wave).astype(
            np.float32
        )
        loud = np.flatnonzero(np.abs(wave) > 0.02 * np.abs(wave).max())
        wave = wave[loud[0] : loud[-1] + 1]
        return wave / np.abs(wave).max() * 0.95


def make_speech(out: Path) -> None:
    """Write one FLAC a voice with all its clips, and `index.json` with their places."""
    espeak, rng = Espeak(), np.random.default_rng(0)
    order = np.random.default_rng(1).permutation(len(VOICES))
    splits = ["base"] * 28 + ["train"] * 14 + ["dev"] * 7 + ["test"] * 11  # by voice
    index = []
    for place, voice_id in enumerate(order):
        voice, parts, start = VOICES[voice_id], [], 0
        clips = []
        for digit, word in enumerate(WORDS):
            for _ in range(TAKES):
                rate, accent = int(rng.integers(170, 280)), ACCENTS[rng.integers(len(ACCENTS))]
                pitch = int(rng.integers(25, 75))
                wave = espeak.say(word, f"{accent}+{voice}", rate, pitch)
                while len(wave) > LONGEST * RATE:
                    rate += 30
                    wave = espeak.say(word, f"{accent}+{voice}", rate, pitch)
                    if rate > 600:
                        wave = wave[: int(LONGEST * RATE)]
                clips.append({"digit": digit, "start": start, "frames": len(wave)})
                parts.append(wave)
                start += len(wave)
        # 8 bits: quantisation noise lies far below the noise that `prepare` adds, and all voices stay
        # under 3 MB.
        soundfile.write(
            out / f"{voice}.flac", np.concatenate(parts), RATE, subtype="PCM_S8", format="FLAC"
        )
        index.append({"voice": voice, "split": splits[place], "clips": clips})
    lines = ",\n".join(json.dumps(entry) for entry in index)
    (out / "index.json").write_text(f"[\n{lines}\n]\n")


def make_digits(out: Path) -> None:
    """Write scikit-learn's handwritten digits as `digits.npz`."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    np.savez_compressed(
        out / "digits.npz",
        images=digits.images.astype(np.uint8),
        labels=digits.target.astype(np.uint8),
    )


if __name__ == "__main__":
    assets = Path(sys.argv[1])
    (assets / "speech").mkdir(parents=True, exist_ok=True)
    make_speech(assets / "speech")
    make_digits(assets)
