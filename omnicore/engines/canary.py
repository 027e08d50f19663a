"""The canary: proof that who answers truly sees and hears, and is the model that it should be.

A server that drops sound answers every question all the same, and an audit of it would call nothing solvable by ear. So
before a step asks, the canary asks about media whose content is known: two spoken digits and silence, two written digits.
Everything is asked twice, greedily, with log-probs: what differs between two askings of the same is the server's noise, and
media are told apart only by answers that hold, or by log-probs that differ by more than that noise.

A checkpoint may hold `canary.json`, its answers to a fixed set of questions. Whoever answers in its name has to give them:
another model, or the same with another configuration, sees and hears as well, and its scores would be somebody else's.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import soundfile
from PIL import Image
from pydantic import ValidationError

from omnicore import live
from omnicore.answers import extract
from omnicore.config import EngineConfig, Profile, digest
from omnicore.engines.base import Batch, Engine, Reply, Request, Sampling
from omnicore.errors import ConfigError, DataError, EngineError
from omnicore.journal import read_json, write_json
from omnicore.media import RATE
from omnicore.prompts import parts
from omnicore.provenance import model_directory, sha256_file
from omnicore.schema import Media, Query, Record, View

Kind = Literal["image", "audio", "video"]
Files = Mapping[str, Mapping[str, Media]]

FILE = "canary.json"
# In nats. Two askings may agree by luck, or come out of a cache, so log-probs count only when they differ by more than rounding
# does: computed in bf16 in place of float32, those of the embedded models that perceive move by at most 0.047.
FLOOR = 0.05
TIMES_NOISE = 5.0  # for replies of two tokens, noise alone reaches that in one check of two thousand
# A reply is the stored one when its words are, and no token's log-prob is further off than CLOSE. Measured on the embedded
# models: the same one in bf16, or in other batches, gives all of its answers; another one, or one whose rope_theta is 1,000,000
# in place of 10,000, at most half on pictures alone and 28 % on all. One in five may turn on a near tie.
CLOSE = 0.15
AGREEMENT = 0.8

# Of split `base`: handwriting as places in digits.npz, speech as voices. Nothing that a benchmark asks about.
HANDWRITING = {"7": 374, "5": 850, "6": 360, "9": 813}
VOICES = {"7": "Annie", "5": "m8", "6": "belinda", "9": "victor"}
DIGITS = tuple(HANDWRITING)
# What a model is sure of tells little about which model it is: the reference shows two digits on top of each other.
MIXED = tuple(a + b for a, b in combinations(DIGITS, 2))
# The embedded models know no other words; any model understands them.
QUESTIONS = {"image": "Which digit is written?", "audio": "Which digit is spoken?", "video": "Which digit is written?"}
BOTH = "Add the written digit and the spoken digit. What is the last digit?"
SIDE, INK = 224, 176  # pixels: legible for a large model; one that shows 28 pixels scales it down
SECONDS = 0.6

_VERB = {"image": "see pictures", "audio": "hear", "video": "see videos"}
_CAUSES = {
    "image": "the server drops pictures (vLLM: --limit-mm-per-prompt with image=0), a chat template without a place for them, "
    "a model without a vision tower",
    "audio": "the server drops sound (vLLM: --limit-mm-per-prompt with audio=0, its audio extra not installed), use_audio_in_video "
    "left on, a chat template without a place for sound, a model without an audio tower",
    "video": "the server drops videos (vLLM: --limit-mm-per-prompt with video=0), frames sampled to none, a chat template "
    "without a place for them",
}


class Answer(Record):
    """What was thought and said to one of the fixed questions, with the log-prob of every token."""

    words: str
    logprobs: tuple[float, ...]


class Reference(Record):
    """`canary.json`. `asked` is the identity of the questions, as the profile puts them."""

    asked: str
    answers: dict[str, Answer]


@dataclass(frozen=True)
class _Shown:
    """What one medium holds, and what was said of it each time."""

    name: str
    digit: str | None
    answers: tuple[str, ...]
    replies: tuple[Reply, ...]


def shown(requests: Iterable[Request]) -> frozenset[Kind]:
    """The kinds of media that requests show: what the canary has to prove."""
    return frozenset(part.kind for request in requests for part in request.parts if isinstance(part, Media))


def check(engine: Engine, config: EngineConfig, profile: Profile, kinds: Set[Kind]) -> dict[str, str | float]:
    """Raises EngineError unless `engine`, reached as `config` says, perceives media of all `kinds` and answers as the reference
    does: `config.reference`, or the checkpoint's own `canary.json` for a model in this process.

    Returns, for a step's summary: by what each kind was told apart, the noise in nats, and the share of the reference's answers
    that were given, or why there are none.
    """
    if not kinds:
        return {}
    stored = _reference(engine, config, profile)
    with _media(kinds) as (root, media):
        pairs = {
            kind: [(name, digit, _query(name, QUESTIONS[kind], DIGITS, medium)) for name, digit, medium in _told(kind, media)]
            for kind in sorted(kinds)
        }
        asked = [query for told in pairs.values() for *_, query in told for _ in range(2)]
        fixed = _fixed(media) if isinstance(stored, Reference) else []
        replies = iter(_ask(engine, config, profile, [*asked, *fixed], root))
        seen = {kind: [_read(profile, *told, next(replies), next(replies)) for told in group] for kind, group in pairs.items()}
        noise = max(_apart(*each.replies) for group in seen.values() for each in group)
        by = {f"canary_{kind}": _tell_apart(engine.name, kind, group, noise) for kind, group in seen.items()}
    # JSON has no infinity; a server whose very words change has no figure for its noise.
    found = {**by, "canary_noise": round(noise, 4) if math.isfinite(noise) else "words"}
    if not isinstance(stored, Reference):
        return {**found, "canary_agreement": stored}
    given = [Reply(answer.words, logprobs=answer.logprobs) for answer in (stored.answers[query.id] for query in fixed)]
    same = [_apart(reply, expected) <= CLOSE for reply, expected in zip(replies, given, strict=True)]
    if same:
        live.show("omni_canary_agreement_ratio", sum(same) / len(same))
    if sum(same) < AGREEMENT * len(same):
        raise EngineError(
            f"{engine.name} perceives what it is shown, but answers as another or differently configured model would: {sum(same)} "
            f"of {len(same)} replies are those of {FILE} in {config.reference or engine.name}. Usual causes: another checkpoint "
            "under this name, a changed config.json (rope_theta, say), quantisation, another chat template"
        )
    return {**found, "canary_agreement": round(sum(same) / len(same), 4) if same else "no reference"}


def record(engine: Engine, config: EngineConfig, profile: Profile) -> Reference:
    """Asks the fixed questions. Raises EngineError."""
    with _media({"image", "audio"}) as (root, media):
        queries = _fixed(media)
        replies = _ask(engine, config, profile, queries, root)
    answers = {
        query.id: Answer(words=_words(reply), logprobs=tuple(round(p, 4) for p in reply.logprobs))
        for query, reply in zip(queries, replies, strict=True)
    }
    return Reference(asked=_asked(profile), answers=answers)


def remember(directory: Path, profile: Profile) -> None:
    """Writes `canary.json` into a checkpoint: what it answers when it is loaded from there, its weights rounded to bf16."""
    from omnicore.engines.transformers import TransformersEngine

    write_json(directory / FILE, record(TransformersEngine(directory, profile), EngineConfig(), profile))


def _tell_apart(name: str, kind: str, group: Sequence[_Shown], noise: float) -> str:
    """By what the two digits of a kind are told apart. Raises EngineError where they are not, or are exchanged, or where silence
    is told from neither: a model may well mistake it for one."""
    live.show("omni_canary_passed", 0, kind=kind)  # until it has: what follows raises
    first, second, *silence = group
    if set(first.answers) == {second.digit} and set(second.answers) == {first.digit}:
        raise EngineError(
            f"{name} says of {first.name} what {second.name} holds, and the reverse: the server mixes up the media of requests "
            "that are on their way together, or its cache of processed media does (vLLM: --mm-processor-cache-gb 0)"
        )
    by = _evidence(first, second, noise)
    if not by:
        raise EngineError(_unproven(name, kind, first, second, noise))
    for quiet in silence:
        if not (_evidence(first, quiet, noise) or _evidence(second, quiet, noise)):
            raise EngineError(_unproven(name, kind, first, quiet, noise))
    live.show("omni_canary_passed", 1, kind=kind)
    return by


def _evidence(a: _Shown, b: _Shown, noise: float) -> str:
    if len({*a.answers}) == len({*b.answers}) == 1 and a.answers != b.answers:
        return "answers"
    return "logprobs" if _gap(a, b) > max(FLOOR, TIMES_NOISE * noise) else ""


def _gap(a: _Shown, b: _Shown) -> float:
    return min(_apart(x, y) for x in a.replies for y in b.replies)


def _unproven(name: str, kind: str, a: _Shown, b: _Shown, noise: float) -> str:
    if not math.isfinite(noise):
        heard = "its greedy replies change from one asking of the same request to the next, so that they prove nothing"
    elif not (a.replies[0].logprobs and b.replies[0].logprobs):
        heard = "both are answered with the same words, and the server sends no log-probs that could differ"
    else:
        heard = f"their log-probs differ by {_gap(a, b):.2g} nats, two askings of the same request by {noise:.2g}"
    said = " | ".join(dict.fromkeys(repr((r.text or r.reasoning)[:80]) for r in (*a.replies, *b.replies)))
    return (
        f"{name} does not {_VERB[kind]}: {a.name} and {b.name} are answered alike ({said}); {heard}. Usual causes: {_CAUSES[kind]}"
    )


def _read(profile: Profile, name: str, digit: str | None, query: Query, *replies: Reply) -> _Shown:
    answers = tuple(extract(reply.text, query.options, profile.style) or _words(reply) for reply in replies)
    return _Shown(name, digit, answers, replies)


def _words(reply: Reply) -> str:
    """What was thought and said, wherever the server draws the line between the two."""
    return " ".join(re.sub(r"</?think>", " ", f"{reply.reasoning} {reply.text}").split())


def _apart(a: Reply, b: Reply) -> float:
    """In nats, the largest difference of a token's log-prob; infinite for other words."""
    if _words(a) != _words(b):
        return math.inf
    return max((abs(x - y) for x, y in zip(a.logprobs, b.logprobs, strict=False)), default=0.0)


def _ask(engine: Engine, config: EngineConfig, profile: Profile, queries: Sequence[Query], root: Path) -> list[Reply]:
    requests = [Request(parts(query, View.omni, profile), root) for query in queries]
    # A model in this process answers them at one go; a server gets them one by one, as it will those of the step.
    size = len(requests) if config.kind == "transformers" else 1
    batches = [Batch(requests[i : i + size], 0) for i in range(0, len(requests), size)]
    found = dict(pair for done in engine.answer(batches, Sampling(0, profile.max_new_tokens, logprobs=True)) for pair in done)
    replies = [reply for index in range(len(batches)) for reply in found[index]]
    for query, reply in zip(queries, replies, strict=True):
        if reply.error:
            raise EngineError(
                f"{engine.name} cannot be asked with {query.type}: {reply.error}. Usual causes: {_CAUSES[query.type]}"
            )
    return replies


def _reference(engine: Engine, config: EngineConfig, profile: Profile) -> Reference | str:
    """The stored answers, or why there are none. Raises ConfigError for a reference that holds none, DataError for a broken one."""
    place = config.reference or (engine.name if config.kind != "http" else "")
    path = model_directory(place) / FILE
    if not (place and path.is_file()):
        if config.reference:
            raise ConfigError(f"engine.reference {place} has no {FILE}: write it with `python -m omnicore.engines.canary DIR`")
        return "no reference"
    try:
        stored = Reference.model_validate(read_json(path))
    except ValidationError as error:
        raise DataError(f"{path} is broken: {error}; write it again with `python -m omnicore.engines.canary DIR`") from error
    return stored if stored.asked == _asked(profile) else "reference of another profile"


def _asked(profile: Profile) -> str:
    """Answers to other questions are not compared. The media count by a number: their files' bytes depend on who writes them."""
    media = {kind: {name: Media(kind=kind, uri=name, sha256="0" * 64) for name in MIXED} for kind in ("image", "audio")}
    texts = {query.id: parts(query, View.text_only, profile) for query in _fixed(media)}
    return digest({"media": 1, "texts": texts, "system": profile.system, "max_new_tokens": profile.max_new_tokens})


def _told(kind: Kind, media: Files) -> Iterator[tuple[str, str | None, Media]]:
    what = {"image": "the written {}", "audio": "the spoken {}", "video": "the filmed {}"}[kind]
    for digit in DIGITS[:2]:
        yield what.format(digit), digit, media[kind][digit]
    if kind == "audio":
        yield "silence", None, media[kind]["silence"]


def _fixed(media: Files) -> list[Query]:
    """The questions of the reference: of a picture, of a sound, of both."""
    kinds = [kind for kind in ("image", "audio") if kind in media]
    queries = [_query(f"{kind}-{name}", QUESTIONS[kind], DIGITS, media[kind][name]) for kind in kinds for name in MIXED]
    if len(kinds) == 2:
        for name in MIXED:
            sums = tuple(str((int(name[0]) + int(digit)) % 10) for digit in DIGITS)
            queries.append(_query(f"both-{name}", BOTH, sums, media["image"][name], media["audio"][name]))
    return queries


def _query(name: str, question: str, options: tuple[str, ...], *media: Media) -> Query:
    known = {"benchmark": "canary", "id": name, "type": media[-1].kind, "cluster": name}
    return Query(**known, question=question, options=options, answer=options[0], media=media)


@contextmanager
def _media(kinds: Set[Kind]) -> Iterator[tuple[Path, Files]]:
    """Files of all kinds of media in a directory of their own, and what each holds. All of a kind are of one size: else the
    number of tokens alone would tell them apart for a server that feeds its model nothing but zeros."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if "image" in kinds:
            for name in (*DIGITS, *MIXED):
                _draw(*name).save(root / f"image-{name}.png", compress_level=1)
        if "audio" in kinds:
            for name, digits in {"silence": "", **{name: name for name in (*DIGITS, *MIXED)}}.items():
                soundfile.write(root / f"audio-{name}.wav", _speak(*digits), RATE, subtype="PCM_16")
        if "video" in kinds:
            for digit in DIGITS[:2]:
                _film(_draw(digit), root / f"video-{digit}.mp4")
        media: dict[str, dict[str, Media]] = {kind: {} for kind in kinds}
        for path in sorted(root.iterdir()):
            kind, _, name = path.stem.partition("-")
            media[kind][name] = Media.model_validate({"kind": kind, "uri": path.name, "sha256": sha256_file(path)})
        yield root, media


def _draw(*digits: str) -> Image.Image:
    """Handwriting; of several digits, their mean."""
    with (files("omnicore") / "assets" / "digits.npz").open("rb") as file, np.load(file) as data:
        ink = sum(data["images"][HANDWRITING[digit]] for digit in digits) / len(digits)  # [8, 8] of 0..16
    picture = Image.new("L", (SIDE, SIDE))
    scaled = Image.fromarray((ink * 15.9375).astype(np.uint8)).resize((INK, INK), Image.Resampling.BICUBIC)
    picture.paste(scaled, ((SIDE - INK) // 2,) * 2)
    return picture.convert("RGB")


def _speak(*digits: str) -> npt.NDArray[np.int16]:
    """A spoken digit and the silence after it; of several digits, their mean."""
    folder = files("omnicore") / "assets" / "speech"
    index = {entry["voice"]: entry["clips"] for entry in json.loads((folder / "index.json").read_text())}
    mixed = np.zeros(int(SECONDS * RATE))
    for digit in digits:
        clip = next(clip for clip in index[VOICES[digit]] if clip["digit"] == int(digit))
        with (folder / f"{VOICES[digit]}.flac").open("rb") as file:
            wave, _ = soundfile.read(file, start=clip["start"], frames=clip["frames"], dtype="int16")
        mixed[: len(wave)] += wave / len(digits)
    return mixed.astype(np.int16)


def _film(picture: Image.Image, path: Path) -> None:
    """Two seconds of a still picture."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for _ in range(16):
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))  # type: ignore[no-untyped-call]
        container.mux(stream.encode())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m omnicore.engines.canary", description=f"Writes {FILE} into checkpoints.")
    parser.add_argument("directories", type=Path, nargs="+", metavar="DIR")
    for directory in parser.parse_args().directories:
        remember(directory, Profile())


if __name__ == "__main__":
    main()
