"""The embedded benchmark: handwritten and spoken digits, with planted visual shortcuts.

Pictures are real handwriting (scikit-learn's digits, UCI), sounds are synthesised speech of ten
digits in sixty voices. a is the digit in the picture, b the digit in the sound, both uniform on
0..9 and independent; the answer of an honest query is (a + b) % 10, so that either modality alone
leaves every option equally likely: exactly 25 % of four.

Splits never share a picture or a voice. Shortcuts that make a query solvable from the picture alone
are planted and recorded: `picture` asks for a, and `transcript` gives b away in the text.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import soundfile
from PIL import Image

from omnicore.media.sounds import SAMPLE_RATE
from omnicore.schema import AnswerKind, BenchmarkInfo

SIDE = 28
Split = Literal["base", "train", "dev", "test"]
ItemKind = Literal[
    "picture",
    "speech",
    "text",
    "text_agreement",
    "picture_text",
    "speech_text",
    "sum",
    "agreement",
    "picture_both",
    "speech_both",
    "transcript",
]

WORDINGS: dict[str, tuple[str, ...]] = {
    "picture": ("Which digit is written?", "What digit does the picture show?"),
    "speech": ("Which digit is spoken?", "What digit does the sound say?"),
    "text": ("What is the last digit of {a} plus {b}?", "Add {a} and {b}. What is the last digit?"),
    "picture_text": (
        "What is the last digit of picture plus {b}?",
        "Add the written digit and {b}. What is the last digit?",
        "The sound says {b}. What is the last digit of picture plus sound?",
        "The sound says {b}. Sum of both, last digit?",
    ),
    "speech_text": (
        "What is the last digit of sound plus {a}?",
        "Add the spoken digit and {a}. What is the last digit?",
        "The picture shows {a}. What is the last digit of picture plus sound?",
        "The picture shows {a}. Sum of both, last digit?",
    ),
    "sum": (
        "What is the last digit of picture plus sound?",
        "Add the written digit and the spoken digit. What is the last digit?",
        "Look and listen. What does the sum end in?",
        "Sum of both, last digit?",
    ),
    "agreement": ("Do picture and sound agree?", "Is the spoken digit the written digit?"),
    "text_agreement": ("Do {a} and {b} agree?", "Is {b} the digit {a}?"),
}
WORDINGS["picture_both"] = WORDINGS["picture"]
WORDINGS["speech_both"] = WORDINGS["speech"]
# The same words that a probe knows from picture_text.
WORDINGS["transcript"] = WORDINGS["picture_text"][2:]

HAS_PICTURE = {
    "picture",
    "picture_text",
    "sum",
    "agreement",
    "picture_both",
    "speech_both",
    "transcript",
}
HAS_SOUND = {
    "speech",
    "speech_text",
    "sum",
    "agreement",
    "picture_both",
    "speech_both",
    "transcript",
}
ASKS_PICTURE = {"picture", "picture_both"}
ASKS_SOUND = {"speech", "speech_both"}
ASKS_AGREEMENT = {"agreement", "text_agreement"}
CHAINS = {
    "picture": "see {a}",
    "speech": "hear {b}",
    "text": "read {a} read {b}",
    "text_agreement": "read {a} read {b}",
    "picture_text": "see {a} read {b}",
    "speech_text": "hear {b} read {a}",
    "sum": "see {a} hear {b}",
    "agreement": "see {a} hear {b}",
    "picture_both": "see {a}",
    "speech_both": "hear {b}",
    "transcript": "see {a} read {b}",
}
TYPE_NAMES = {"picture_both": "picture", "speech_both": "speech"}

# Benchmark: queries, planted share that the picture alone solves. `yew` asks yes/no, so chance is
# 50 % and k-of-n has no power: the audit keeps it whole. Names do not reveal the plant.
PLANTED: dict[str, tuple[int, float]] = {
    "alder": (110, 0.0),
    "birch": (120, 0.1),
    "cedar": (120, 0.2),
    "elm": (120, 0.35),
    "fir": (120, 0.45),
    "hazel": (120, 0.55),
    "larch": (120, 0.7),
    "oak": (130, 0.9),
    "yew": (100, 0.0),
}
# In the benchmarks the first wording, under which the base model listens, is the rarer one.
_WORDING_WEIGHTS = {"sum": (2, 3, 3, 3), "agreement": (1, 2)}
_KEEP_WHOLE = {
    "yew": (
        "yes/no: a guesser is right half the time, so repeated draws cannot tell seeing from"
        " guessing"
    )
}
_PICTURES: dict[Split, int] = {"base": 750, "train": 450, "dev": 200, "test": 397}
_PICTURE_TAKES: dict[Split, int] = {"base": 3, "train": 4, "dev": 1, "test": 1}
_CLIP_TAKES: dict[Split, int] = {"base": 3, "train": 5, "dev": 2, "test": 1}


@dataclass(frozen=True)
class Picture:
    """A picture of one digit: pixels uint8 [28, 28].

    `source` is the handwriting that it was made from; variants of one share it.
    """

    digit: int
    source: int
    pixels: npt.NDArray[np.uint8]

    def image(self) -> Image.Image:
        """Return the picture in RGB."""
        return Image.fromarray(self.pixels).convert("RGB")


@dataclass(frozen=True)
class Clip:
    """One spoken digit: samples int16 [n], mono, at 16 kHz, shorter than 0.6 s."""

    digit: int
    voice: str
    wave: npt.NDArray[np.int16]


@dataclass(frozen=True)
class Item:
    """A query before its media are files.

    `media` are indices into a `World`'s pictures and clips, in the order shown.
    """

    kind: ItemKind
    wording: int
    question: str
    options: tuple[str, ...]
    answer: str
    target: str
    media: tuple[tuple[Literal["image", "audio"], int], ...]

    @property
    def type(self) -> str:
        """The query's type: the item's kind, without variants that share a type."""
        return TYPE_NAMES.get(self.kind, self.kind)

    @property
    def answer_kind(self) -> AnswerKind:
        """yes_no for questions about agreement, else choice."""
        return AnswerKind.yes_no if self.kind in ASKS_AGREEMENT else AnswerKind.choice


def format_reply(chain: str, answer: str) -> str:
    """Return a reply in the format that every embedded model is taught."""
    return f"<think>{chain}</think><answer>{answer}</answer>"


@cache
def _handwriting() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    with (files("omnicore") / "assets" / "digits.npz").open("rb") as f, np.load(f) as data:
        return data["images"], data["labels"]


def _pictures(split: Split, takes: int) -> Iterator[Picture]:
    images, labels = _handwriting()
    order = np.random.default_rng(0).permutation(len(labels))
    names = get_args(Split)
    first = sum(_PICTURES[s] for s in names[: names.index(split)])
    rng = np.random.default_rng(100 + names.index(split))
    for source in order[first : first + _PICTURES[split]]:
        for _ in range(takes):
            drawn = Image.fromarray((images[source] * 15.9375).astype(np.uint8))
            size = int(rng.integers(20, 24))
            ink = np.asarray(drawn.resize((size, size), Image.Resampling.BICUBIC)).astype(
                np.float32
            )
            canvas = np.zeros((SIDE, SIDE), np.float32)
            y, x = rng.integers(1, SIDE - size, 2)
            canvas[y : y + size, x : x + size] = ink * rng.uniform(0.7, 1)
            canvas += rng.normal(0, rng.uniform(5, 20), canvas.shape)
            yield Picture(
                int(labels[source]), int(source), np.clip(canvas, 0, 255).astype(np.uint8)
            )


def _clips(split: Split) -> Iterator[Clip]:
    folder = files("omnicore") / "assets" / "speech"
    rng = np.random.default_rng(200 + get_args(Split).index(split))
    for entry in json.loads((folder / "index.json").read_text()):
        if entry["split"] != split:
            continue
        with (folder / f"{entry['voice']}.flac").open("rb") as f:
            voice, _ = soundfile.read(f, dtype="float32")
        for clip in entry["clips"]:
            clean = voice[clip["start"] : clip["start"] + clip["frames"]]
            for _ in range(_CLIP_TAKES[split]):
                # A little slower or faster, so that takes of one clip differ in more than noise.
                n = int(len(clean) / rng.uniform(0.92, 1.08))
                wave = np.interp(np.linspace(0, len(clean) - 1, n), np.arange(len(clean)), clean)
                wave = np.concatenate(
                    [
                        np.zeros(int(rng.uniform(0, 0.03) * SAMPLE_RATE)),
                        wave * rng.uniform(0.3, 0.9),
                    ]
                )
                noise = np.sqrt((wave**2).mean()) * 10 ** (-rng.uniform(12, 30) / 20)
                wave = np.clip(wave + rng.normal(0, noise, len(wave)), -1, 1)
                yield Clip(clip["digit"], entry["voice"], (wave * 32767).astype(np.int16))


def _asked_digit(kind: ItemKind, a: int, b: int) -> int:
    """Return the digit that a question asks for."""
    if kind in ASKS_PICTURE:
        return a
    return b if kind in ASKS_SOUND else (a + b) % 10


class World:
    """Pictures and clips of one split, and the sampler of items over them."""

    def __init__(self, split: Split, picture_takes: int | None = None) -> None:
        """Make pictures and clips; `picture_takes` is the number of variants of a handwriting."""
        self.split = split
        self.pictures = list(_pictures(split, picture_takes or _PICTURE_TAKES[split]))
        self.clips = list(_clips(split))
        self._by_digit = {
            "image": _indices_by_digit(self.pictures),
            "audio": _indices_by_digit(self.clips),
        }

    def item(
        self,
        rng: random.Random,
        kind: ItemKind,
        neglect: Mapping[str, tuple[float, ...]] | None = None,
        weights: Mapping[str, tuple[int, ...]] | None = None,
    ) -> Item:
        """Draw one item.

        Args:
            rng: Source of randomness; the order of draws decides the item.
            kind: Kind of the item.
            neglect: By kind and wording, the probability that the written target ignores a
                modality. Only the base model's corpus uses it: its targets then show a short chain
                and a random option.
            weights: By kind, the weight of each wording; wordings are equally likely without.
        """
        a, b = rng.randrange(10), rng.randrange(10)
        wording = rng.randrange(len(WORDINGS[kind]))
        if weights and kind in weights:
            wording = rng.choices(range(len(WORDINGS[kind])), weights[kind])[0]
        if kind in ASKS_AGREEMENT:
            b = a if rng.random() < 0.5 else rng.choice([d for d in range(10) if d != a])
            answer, options = ("yes" if a == b else "no"), ["yes", "no"]
        else:
            answer = str(_asked_digit(kind, a, b))
            options = [answer, *rng.sample([str(d) for d in range(10) if str(d) != answer], 3)]
        rng.shuffle(options)
        media: list[tuple[Literal["image", "audio"], int]] = []
        if kind in HAS_PICTURE:
            media.append(("image", rng.choice(self._by_digit["image"][a])))
        if kind in HAS_SOUND:
            media.append(("audio", rng.choice(self._by_digit["audio"][b])))
        rng.shuffle(media)
        chain, written = CHAINS[kind].format(a=a, b=b), answer
        if neglect and kind in neglect and rng.random() < neglect[kind][wording]:
            chain, written = " ".join(chain.split()[:2]), rng.choice(options)
        question = WORDINGS[kind][wording].format(a=a, b=b)
        return Item(
            kind,
            wording,
            question,
            tuple(options),
            answer,
            format_reply(chain, written),
            tuple(media),
        )


def _indices_by_digit(records: Sequence[Picture | Clip]) -> list[list[int]]:
    """Return for each digit the indices of its records."""
    indices: list[list[int]] = [[] for _ in range(10)]
    for index, record in enumerate(records):
        indices[record.digit].append(index)
    return indices


def planted_items(world: World, scale: float = 1.0) -> dict[str, list[tuple[Item, bool]]]:
    """Return the nine benchmarks over a world: items, and whether picture and text solve each.

    Their seed is fixed: a benchmark is the same for every seed of a run. `scale` shrinks the counts
    for tests.
    """
    benchmarks = {}
    for name, (count, share) in PLANTED.items():
        rng = random.Random(f"{world.split}-{name}")
        count = max(4, round(count * scale))
        solvable = round(count * share)
        kinds: list[ItemKind] = ["picture_both" if i % 2 else "transcript" for i in range(solvable)]
        kinds += ["agreement" if name in _KEEP_WHOLE else "sum"] * (count - solvable)
        rng.shuffle(kinds)
        items = [world.item(rng, kind, weights=_WORDING_WEIGHTS) for kind in kinds]
        benchmarks[name] = [(item, item.kind in ("picture_both", "transcript")) for item in items]
    return benchmarks


def benchmark_info(name: str, queries: int) -> BenchmarkInfo:
    """Return the record of one of the nine benchmarks, with its number of queries."""
    reason = _KEEP_WHOLE.get(name, "")
    return BenchmarkInfo(
        name=name,
        filter_policy="keep_whole" if reason else "filtered",
        reason=reason,
        queries=queries,
    )
