"""The canary: proof that who answers truly sees and hears, and is the model that it should be.

A server that drops sound answers every question all the same, and an audit of it would call nothing
solvable by ear. So before a step asks, the canary asks about media whose content is known: two
spoken digits and silence, two written digits. Everything is asked twice, greedily, with log-probs:
what differs between two askings of the same is the server's noise, and media are told apart only by
answers that hold, or by log-probs that differ by more than that noise. Where requests show several
media together, the same is asked of each among the others (orders.py), and of a video at two rates.

A checkpoint may hold `canary.json`, its answers to a fixed set of questions. Whoever answers in its
name has to give them: another model, or the same with another configuration, sees and hears as
well, and its scores would be somebody else's.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from omnicore.config import EngineConfig, Profile, digest
from omnicore.data.prompts import prompt_parts
from omnicore.engines import canary_media, media_orders
from omnicore.engines.base import Batch, Engine, Reply, Request, Sampling
from omnicore.engines.canary_media import DIGITS, MIXED, MediaFiles, MediaKind
from omnicore.engines.media_orders import MediaOrder
from omnicore.errors import ConfigError, DataError, EngineError
from omnicore.schema import Media, Query, Record, View
from omnicore.scoring.extract import extract
from omnicore.storage.digests import model_directory
from omnicore.storage.files import read_json, write_json
from omnicore.telemetry import live

FILE = "canary.json"
# In nats. Two askings may agree by luck, or come out of a cache, so log-probs count only when they differ by more than rounding
# does: computed in bf16 in place of float32, those of the embedded models that perceive move by at most 0.047.
FLOOR = 0.05
# Each kind was told apart alone. One that is lost beside others, or an order that is not kept, makes one and the same prompt: what
# differs by more than float32 rounds was given. The embedded models, sure of another medium, move by 0.009.
LEAST = 0.001
TIMES_NOISE = (
    5.0  # for replies of two tokens, noise alone reaches that in one check of two thousand
)
# A reply is the stored one when its words are, and no token's log-prob is further off than CLOSE. Measured on the embedded
# models: the same one in bf16, or in other batches, gives all of its answers; another one, or one whose rope_theta is 1,000,000
# in place of 10,000, at most half on pictures alone and 28 % on all. One in five may turn on a near tie.
CLOSE = 0.15
AGREEMENT = 0.8

# The embedded models know no other words; any model understands them.
QUESTIONS = {
    "image": "Which digit is written?",
    "audio": "Which digit is spoken?",
    "video": "Which digit is written?",
}
RATE = "How many seconds does the video last?"
BOTH = "Add the written digit and the spoken digit. What is the last digit?"

_VERB = {"image": "see pictures", "audio": "hear", "video": "see videos"}
_CAUSES = {
    "image": (
        "the server drops pictures (vLLM: --limit-mm-per-prompt with image=0), a chat template"
        " without a place for them, a model without a vision tower"
    ),
    "audio": (
        "the server drops sound (vLLM: --limit-mm-per-prompt with audio=0, its audio extra not"
        " installed), use_audio_in_video left on, a chat template without a place for sound, a"
        " model without an audio tower"
    ),
    "video": (
        "the server drops videos (vLLM: --limit-mm-per-prompt with video=0), frames sampled to"
        " none, a chat template without a place for them"
    ),
}
_LOST = (
    "the server keeps the first media only (vLLM: --limit-mm-per-prompt), or drops a kind beside"
    " another"
)
_REORDERED = (
    "the server puts media in an order of its own: a chat template that gathers kinds (vLLM:"
    " --chat-template-content-format openai)"
)
_RATELESS = (
    "the server ignores media_io_kwargs and mm_processor_kwargs, which say how many frames a second"
    " a video has. Where the model is told no times at all, as InternVL, set"
    " engine.video_rate=unseen"
)


class Answer(Record):
    """What was thought and said to one of the fixed questions, with the log-prob of every token."""

    words: str
    logprobs: tuple[float, ...]


class Reference(Record):
    """`canary.json`.

    `asked` is the identity of the questions, as the profile puts them.
    """

    asked: str
    answers: dict[str, Answer]


@dataclass(frozen=True)
class _Shown:
    """What one medium holds, and what was said of it each time."""

    name: str
    digit: str | None
    answers: tuple[str, ...]
    replies: tuple[Reply, ...]


@dataclass(frozen=True)
class _Group:
    """Queries that differ in what one medium of `kind` holds, each with that medium's name and
    digit, for the summary's `key`.

    `where` is the order in which it is shown among others. With `prompts` they differ in something
    that a sure answer need not show, order or rate: then only replies that are the same to the last
    digit are proof, of one and the same prompt, which comes of `prompts`.
    """

    key: str
    kind: MediaKind
    told: Sequence[tuple[str, str | None, Query]]
    where: str = ""
    prompts: str = ""


def media_kinds(requests: Iterable[Request]) -> frozenset[MediaKind]:
    """The kinds of media that requests show: what the canary has to prove."""
    return frozenset(
        part.kind for request in requests for part in request.parts if isinstance(part, Media)
    )


def verify_engine(
    engine: Engine,
    config: EngineConfig,
    profile: Profile,
    kinds: Set[MediaKind],
    together: Sequence[MediaOrder] = (),
) -> dict[str, str | float]:
    """Raises EngineError unless `engine`, reached as `config` says, perceives media of all `kinds`,
    each of them where they are shown `together`, and answers as the reference does:
    `config.reference`, or the checkpoint's own `canary.json` for a model in this process.

    Returns, for a step's summary: by what each kind and each medium of an order was told apart,
    whether order and rate were seen to count, the noise in nats, and the share of the reference's
    answers that were given, or why there are none.
    """
    if not kinds:
        return {}
    stored = _reference(engine, config, profile)
    with canary_media.write_media(kinds) as (root, media):
        groups = [
            *_alone(kinds, media),
            *(group for order in together for group in _together(order, media)),
        ]
        rates = [_rates(media)] if "video" in kinds and config.video_rate == "seen" else []
        fixed = [
            query
            for query in _fixed(media)
            if isinstance(stored, Reference) and query.id in stored.answers
        ]
        still, filmed = (
            [query for query in fixed if (query.type == "video") is films]
            for films in (False, True)
        )
        replies = iter(_ask(engine, config, profile, [*_twice(groups), *still], root))
        timed = iter(_ask_few(engine, config, profile, [*_twice(rates), *filmed], root))
        seen = [
            (group, [_read(profile, *told, next(replies), next(replies)) for told in group.told])
            for group in groups
        ]
        seen += [
            (group, [_read(profile, *told, next(timed), next(timed)) for told in group.told])
            for group in rates
        ]
        noise = max(_apart(*each.replies) for _, told in seen for each in told)
        by: dict[str, str] = {}
        for group, told in seen:
            found = (
                _tell_prompts_apart(engine.name, group, told, noise)
                if group.prompts
                else _tell_apart(engine.name, group, told, noise)
            )
            by[group.key] = max(
                by.get(group.key, ""), found
            )  # of several places, the weaker: "logprobs" is after "answers"
    _refuse_exchanged(engine.name, seen)
    # JSON has no infinity; a server whose very words change has no figure for its noise.
    summary = {**by, "canary_noise": round(noise, 4) if math.isfinite(noise) else "words"}
    if not isinstance(stored, Reference):
        return {**summary, "canary_agreement": stored}
    given = [
        Reply(answer.words, logprobs=answer.logprobs)
        for answer in (stored.answers[query.id] for query in [*still, *filmed])
    ]
    same = [
        _apart(reply, expected) <= CLOSE
        for reply, expected in zip([*replies, *timed], given, strict=True)
    ]
    if same:
        live.set_gauge("omni_canary_agreement_ratio", sum(same) / len(same))
    if sum(same) < AGREEMENT * len(same):
        raise EngineError(
            f"{engine.name} perceives what it is shown, but answers as another or differently"
            f" configured model would: {sum(same)} of {len(same)} replies are those of {FILE} in"
            f" {config.reference or engine.name}. Usual causes: another checkpoint under this name,"
            " a changed config.json (rope_theta, say), quantisation, another chat template"
        )
    return {
        **summary,
        "canary_agreement": round(sum(same) / len(same), 4) if same else "no reference",
    }


def record_reference(
    engine: Engine, config: EngineConfig, profile: Profile, *, videos: bool = False
) -> Reference:
    """Asks the fixed questions, with `videos` those about films, too.

    Raises EngineError.
    """
    with canary_media.write_media(
        {"image", "audio", "video"} if videos else {"image", "audio"}
    ) as (
        root,
        media,
    ):
        queries = _fixed(media)
        still, filmed = (
            [query for query in queries if (query.type == "video") is films]
            for films in (False, True)
        )
        replies = _ask(engine, config, profile, still, root) + _ask_few(
            engine, config, profile, filmed, root
        )
    answers = {
        query.id: Answer(words=_words(reply), logprobs=tuple(round(p, 4) for p in reply.logprobs))
        for query, reply in zip(queries, replies, strict=True)
    }
    return Reference(asked=_asked(profile), answers=answers)


def write_reference(directory: Path, profile: Profile, *, videos: bool = False) -> None:
    """Writes `canary.json` into a checkpoint: what it answers when it is loaded from there, its
    weights rounded to bf16."""
    from omnicore.engines.transformers import TransformersEngine

    write_json(
        directory / FILE,
        record_reference(
            TransformersEngine(directory, profile), EngineConfig(), profile, videos=videos
        ),
    )


def _tell_apart(name: str, group: _Group, told: Sequence[_Shown], noise: float) -> str:
    """By what the two digits of a kind are told apart.

    Raises EngineError where they are not, or are exchanged, or where silence
    is told from neither: a model may well mistake it for one.
    """
    live.set_gauge("omni_canary_passed", 0, kind=group.kind)  # until it has: what follows raises
    first, second, *silence = told
    if set(first.answers) == {second.digit} and set(second.answers) == {first.digit}:
        raise EngineError(
            f"{name} says of {first.name} what {second.name} holds, and the reverse: the server"
            " mixes up the media of requests that are on their way together, or its cache of"
            " processed media does (vLLM: --mm-processor-cache-gb 0)"
        )
    floor = LEAST if group.where else FLOOR
    by = _evidence(first, second, noise, floor)
    if not by:
        raise EngineError(_unproven(name, group, first, second, noise))
    for quiet in silence:
        if not (_evidence(first, quiet, noise, floor) or _evidence(second, quiet, noise, floor)):
            raise EngineError(_unproven(name, group, first, quiet, noise))
    live.set_gauge("omni_canary_passed", 1, kind=group.kind)
    return by


def _tell_prompts_apart(name: str, group: _Group, told: Sequence[_Shown], noise: float) -> str:
    """By what two prompts are told apart.

    Raises EngineError where they were one and the same: a server without noise replied the
    same to the last digit, and was not so sure that nothing could have shown.
    """
    first, second = told
    unsure = (
        min((p for shown in told for reply in shown.replies for p in reply.logprobs), default=0.0)
        < -FLOOR
    )
    if unsure and noise * TIMES_NOISE < FLOOR and _gap(first, second) <= noise:
        raise EngineError(
            f"{name} is given one and the same prompt for {first.name} and for {second.name}: its"
            f" log-probs differ by {_gap(first, second):.2g} nats. Usual causes: {group.prompts}"
        )
    return _evidence(first, second, noise, LEAST) or "unproven"


def _refuse_exchanged(name: str, seen: Sequence[tuple[_Group, Sequence[_Shown]]]) -> None:
    """Raises EngineError where each of two media of a request is said to hold what the other
    does."""
    by_order: dict[str, list[_Shown]] = {}
    for group, told in seen:
        if group.where and not group.prompts:
            by_order.setdefault(f"{group.kind} {group.where}", []).append(told[0])
    for places in by_order.values():
        first, last = places[0], places[-1]
        if (
            first is not last
            and set(first.answers) == {last.digit}
            and set(last.answers) == {first.digit}
        ):
            raise EngineError(
                f"{name} says of {first.name} what {last.name} holds, and the reverse. Usual"
                f" causes: {_REORDERED}"
            )


def _evidence(a: _Shown, b: _Shown, noise: float, floor: float) -> str:
    if len({*a.answers}) == len({*b.answers}) == 1 and a.answers != b.answers:
        return "answers"
    return "logprobs" if _gap(a, b) > max(floor, TIMES_NOISE * noise) else ""


def _gap(a: _Shown, b: _Shown) -> float:
    return min(_apart(x, y) for x in a.replies for y in b.replies)


def _unproven(name: str, group: _Group, a: _Shown, b: _Shown, noise: float) -> str:
    if not math.isfinite(noise):
        heard = (
            "its greedy replies change from one asking of the same request to the next, so that"
            " they prove nothing"
        )
    elif not (a.replies[0].logprobs and b.replies[0].logprobs):
        heard = (
            "both are answered with the same words, and the server sends no log-probs that could"
            " differ"
        )
    else:
        heard = (
            f"their log-probs differ by {_gap(a, b):.2g} nats, two askings of the same request by"
            f" {noise:.2g}"
        )
    said = " | ".join(
        dict.fromkeys(repr((r.text or r.reasoning)[:80]) for r in (*a.replies, *b.replies))
    )
    what = (
        f"{_VERB[group.kind]} where requests show {group.where}"
        if group.where
        else _VERB[group.kind]
    )
    causes = f"{_LOST}; {_CAUSES[group.kind]}" if group.where else _CAUSES[group.kind]
    return (
        f"{name} does not {what}: {a.name} and {b.name} are answered alike ({said}); {heard}. Usual"
        f" causes: {causes}"
    )


def _read(profile: Profile, name: str, digit: str | None, query: Query, *replies: Reply) -> _Shown:
    answers = tuple(
        extract(reply.text, query.options, profile.style) or _words(reply) for reply in replies
    )
    return _Shown(name, digit, answers, replies)


def _words(reply: Reply) -> str:
    """What was thought and said, wherever the server draws the line between the two."""
    return " ".join(re.sub(r"</?think>", " ", f"{reply.reasoning} {reply.text}").split())


def _apart(a: Reply, b: Reply) -> float:
    """In nats, the largest difference of a token's log-prob; infinite for other words."""
    if _words(a) != _words(b):
        return math.inf
    return max((abs(x - y) for x, y in zip(a.logprobs, b.logprobs, strict=False)), default=0.0)


def _ask(
    engine: Engine, config: EngineConfig, profile: Profile, queries: Sequence[Query], root: Path
) -> list[Reply]:
    requests = [Request(prompt_parts(query, View.omni, profile), root) for query in queries]
    # A model in this process answers them at one go; a server gets them one by one, as it will those of the step.
    size = len(requests) if config.kind == "transformers" else 1
    batches = [Batch(requests[i : i + size], 0) for i in range(0, len(requests), size)]
    found = dict(
        pair
        for done in engine.answer(batches, Sampling(0, profile.max_new_tokens, logprobs=True))
        for pair in done
    )
    replies = [reply for index in range(len(batches)) for reply in found[index]]
    for query, reply in zip(queries, replies, strict=True):
        if reply.error:
            raise EngineError(
                f"{engine.name} cannot be asked with {query.type}: {reply.error}. Usual causes:"
                f" {_CAUSES[query.type]}"
            )
    return replies


def _ask_few(
    engine: Engine, config: EngineConfig, profile: Profile, queries: Sequence[Query], root: Path
) -> list[Reply]:
    """Asks with few frames of a film, so that a long one is shown at a lower rate and nothing
    else."""
    few = profile.model_copy(update={"fps": 1.0, "max_frames": canary_media.VIDEO_FRAMES})
    return _ask(engine.with_profile(few), config, few, queries, root) if queries else []


def _reference(engine: Engine, config: EngineConfig, profile: Profile) -> Reference | str:
    """The stored answers, or why there are none.

    Raises ConfigError for a reference that holds none, DataError for a broken one.
    """
    place = config.reference or (engine.name if config.kind != "http" else "")
    path = model_directory(place) / FILE
    if not (place and path.is_file()):
        if config.reference:
            raise ConfigError(
                f"engine.reference {place} has no {FILE}: write it with `python -m"
                " omnicore.engines.canary DIR`"
            )
        return "no reference"
    try:
        stored = Reference.model_validate(read_json(path))
    except ValidationError as error:
        raise DataError(
            f"{path} is broken: {error}; write it again with `python -m omnicore.engines.canary"
            " DIR`"
        ) from error
    return stored if stored.asked == _asked(profile) else "reference of another profile"


def _asked(profile: Profile) -> str:
    """Answers to other questions are not compared.

    The media count by a number: their files' bytes depend on who writes them.
    """
    media = {
        kind: {name: Media(kind=kind, uri=name, sha256="0" * 64) for name in MIXED}
        for kind in ("image", "audio")
    }
    texts = {query.id: prompt_parts(query, View.text_only, profile) for query in _fixed(media)}
    return digest(
        {
            "media": 1,
            "texts": texts,
            "system": profile.system,
            "max_new_tokens": profile.max_new_tokens,
        }
    )


def _twice(groups: Iterable[_Group]) -> list[Query]:
    return [query for group in groups for *_, query in group.told for _ in range(2)]


def _alone(kinds: Set[MediaKind], media: MediaFiles) -> Iterator[_Group]:
    what = {"image": "the written {}", "audio": "the spoken {}", "video": "the filmed {}"}
    for kind in sorted(kinds):
        names: list[tuple[str, str | None, Media]] = [
            (what[kind].format(digit), digit, media[kind][digit]) for digit in DIGITS[:2]
        ]
        if kind == "audio":
            names.append(("silence", None, media[kind]["silence"]))
        yield _Group(
            f"canary_{kind}",
            kind,
            [(n, digit, _query(n, QUESTIONS[kind], DIGITS, m)) for n, digit, m in names],
        )


def _together(order: MediaOrder, media: MediaFiles) -> Iterator[_Group]:
    """Each first and last medium of a kind among the others, then two that change places."""
    where = media_orders.order_label(order)
    for place in media_orders.tested_places(order):
        told = []
        for varied in (False, True):
            digits = media_orders.digits_shown(order, place, varied)
            name = f"a {digits[place]} as {media_orders.place_name(order, place)}"
            query = _query(
                name,
                media_orders.place_question(order, place),
                DIGITS,
                *media_orders.media_shown(order, digits, media),
            )
            told.append((name, digits[place], query))
        yield _Group(f"canary_{where}", order[place], told, where)
    at, both = media_orders.swapped_orders(order)
    asked = media_orders.place_question(order, at)
    named = [
        (
            f"{media_orders.order_label(turned)} ({', '.join(names)})",
            media_orders.media_shown(turned, names, media),
        )
        for turned, names in both
    ]
    turns = [(name, None, _query(name, asked, DIGITS, *given)) for name, given in named]
    yield _Group(f"canary_{where}_order", order[at], turns, where, _REORDERED)


def _rates(media: MediaFiles) -> _Group:
    """The same frames, said to be one a second and one in sixteen."""
    options = tuple(str(seconds) for seconds in (*canary_media.VIDEO_SECONDS.values(), 2, 32))
    told = [
        (
            f"a video of {seconds} s",
            None,
            _query(f"{name} video", RATE, options, media["video"][name]),
        )
        for name, seconds in canary_media.VIDEO_SECONDS.items()
    ]
    return _Group("canary_rate", "video", told, "a video", _RATELESS)


def _fixed(media: MediaFiles) -> list[Query]:
    """The questions of the reference: of a picture, of a sound, of both; of films at one frame in
    sixteen seconds."""
    kinds = [kind for kind in ("image", "audio") if kind in media]
    queries = [
        _query(f"{kind}-{name}", QUESTIONS[kind], DIGITS, media[kind][name])
        for kind in kinds
        for name in MIXED
    ]
    if len(kinds) == 2:
        for name in MIXED:
            sums = tuple(str((int(name[0]) + int(digit)) % 10) for digit in DIGITS)
            queries.append(
                _query(f"both-{name}", BOTH, sums, media["image"][name], media["audio"][name])
            )
    if "video" in media:
        queries += [
            _query(f"video-{name}", QUESTIONS["video"], DIGITS, media["video"][f"long{name}"])
            for name in MIXED
        ]
    return queries


def _query(name: str, question: str, options: tuple[str, ...], *media: Media) -> Query:
    known = {"benchmark": "canary", "id": name, "type": media[-1].kind, "cluster": name}
    return Query(**known, question=question, options=options, answer=options[0], media=media)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m omnicore.engines.canary", description=f"Writes {FILE} into checkpoints."
    )
    parser.add_argument("directories", type=Path, nargs="+", metavar="DIR")
    for directory in parser.parse_args().directories:
        write_reference(directory, Profile())


if __name__ == "__main__":
    main()
