"""Canary: verify that an engine processes images and audio and serves the expected checkpoint.

A server that drops sound still answers every question, and an audit of it would call nothing
solvable by ear. So before a step sends its requests, the canary asks about media with known
content: two spoken digits and silence, two written digits. Every question is asked twice, greedily,
with log-probabilities. Differences between the two are the noise of the server; two media are told
apart only by answers that repeat, or by log-probabilities that differ by more than that noise.
Where requests show several media together, each is tested among the others (media_orders.py), and a
video is shown at two rates.

A checkpoint may hold `canary.json`, its answers to a fixed set of questions (canary_reference.py).
A server under its name has to give the same answers: another model, or the same one with another
configuration, perceives media as well, and its scores would be those of another model.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path

from omnicore.config import EngineConfig, Profile
from omnicore.data.prompts import prompt_parts
from omnicore.engines import canary_media
from omnicore.engines.base import Batch, Engine, Reply, Request, Sampling
from omnicore.engines.canary_evidence import (
    Observed,
    check_swapped_answers,
    reply_distance,
    reply_words,
    tell_media_apart,
    tell_prompts_apart,
)
from omnicore.engines.canary_media import MediaKind
from omnicore.engines.canary_questions import (
    CAUSES,
    Comparison,
    fixed_questions,
    frame_rates,
    media_together,
    single_media,
)
from omnicore.engines.canary_reference import (
    FILE,
    Reference,
    check_agreement,
    load_reference,
    make_reference,
)
from omnicore.engines.media_orders import MediaOrder
from omnicore.errors import EngineError
from omnicore.schema import Media, Query, View
from omnicore.scoring.extract import extract_option
from omnicore.storage.files import write_json


def media_kinds(requests: Iterable[Request]) -> frozenset[MediaKind]:
    """Return the kinds of media that requests show."""
    kinds: set[MediaKind] = set()
    for request in requests:
        kinds |= {part.kind for part in request.parts if isinstance(part, Media)}
    return frozenset(kinds)


def verify_engine(
    engine: Engine,
    config: EngineConfig,
    profile: Profile,
    kinds: Set[MediaKind],
    orders: Sequence[MediaOrder] = (),
) -> dict[str, str | float]:
    """Verify that an engine perceives media and answers as its reference does.

    Args:
        engine: The engine to test.
        config: How it is reached. The reference is `config.reference`, or for a model in this
            process the `canary.json` of its checkpoint.
        profile: Shows media and writes prompts.
        kinds: Kinds of media that it has to perceive.
        orders: Orders of several media that it has to perceive together.

    Returns:
        For the summary of a step: by what each comparison was told apart (`answers` or `logprobs`,
        for orders and rates also `unproven`), the noise in nats, and the share of the reference's
        answers that were given, or why there is none.

    Raises:
        EngineError: A medium is not perceived, or another model answers.
        ConfigError: `config.reference` has no canary.json.
        DataError: canary.json is invalid.
    """
    if not kinds:
        return {}
    reference = load_reference(engine, config, profile)
    with canary_media.write_media(kinds) as (root, media):
        comparisons = list(single_media(kinds, media))
        for order in orders:
            comparisons += media_together(order, media)
        with_rates = "video" in kinds and config.video_rate == "seen"
        rates = [frame_rates(media)] if with_rates else []
        fixed = fixed_questions(media)
        if isinstance(reference, Reference):
            fixed = [query for query in fixed if query.id in reference.answers]
        else:
            fixed = []
        still, videos = _split_videos(fixed)
        replies = iter(_ask(engine, config, profile, [*_twice(comparisons), *still], root))
        rate_replies = iter(
            _ask_with_few_frames(engine, config, profile, [*_twice(rates), *videos], root)
        )
    observations = _observe(comparisons, replies, profile) + _observe(rates, rate_replies, profile)
    summary, noise = _tell_apart(engine.name, observations)
    # JSON has no infinity; a server whose words change has no figure for its noise.
    summary["canary_noise"] = round(noise, 4) if math.isfinite(noise) else "words"
    if not isinstance(reference, Reference):
        return {**summary, "canary_agreement": reference}
    given = list(zip([*still, *videos], [*replies, *rate_replies], strict=True))
    summary["canary_agreement"] = check_agreement(
        engine.name, config.reference or engine.name, reference, given
    )
    return summary


def record_reference(
    engine: Engine, config: EngineConfig, profile: Profile, *, videos: bool = False
) -> Reference:
    """Ask the fixed questions, with `videos` also those about videos, and return the answers.

    Raises:
        EngineError: A question failed.
    """
    kinds: set[MediaKind] = {"image", "audio"}
    if videos:
        kinds.add("video")
    with canary_media.write_media(kinds) as (root, media):
        still, filmed = _split_videos(fixed_questions(media))
        replies = _ask(engine, config, profile, still, root)
        replies += _ask_with_few_frames(engine, config, profile, filmed, root)
    return make_reference(profile, list(zip([*still, *filmed], replies, strict=True)))


def write_reference(directory: Path, profile: Profile, *, videos: bool = False) -> None:
    """Write `canary.json` into a checkpoint: its answers when loaded from there, in bf16."""
    from omnicore.engines.transformers import TransformersEngine

    engine = TransformersEngine(directory, profile)
    write_json(directory / FILE, record_reference(engine, EngineConfig(), profile, videos=videos))


def _split_videos(queries: Sequence[Query]) -> tuple[list[Query], list[Query]]:
    """Split the questions into those about pictures and sound, and those about videos."""
    still = [query for query in queries if query.type != "video"]
    videos = [query for query in queries if query.type == "video"]
    return still, videos


def _twice(comparisons: Iterable[Comparison]) -> list[Query]:
    queries = []
    for comparison in comparisons:
        for case in comparison.cases:
            queries += [case.query, case.query]
    return queries


def _observe(
    comparisons: Sequence[Comparison], replies: Iterator[Reply], profile: Profile
) -> list[tuple[Comparison, list[Observed]]]:
    """Take two replies for each case, in the order of `_twice`."""
    observations = []
    for comparison in comparisons:
        observed = []
        for case in comparison.cases:
            pair = (next(replies), next(replies))
            answers = [
                extract_option(reply.text, case.query.options, profile.style) or reply_words(reply)
                for reply in pair
            ]
            observed.append(Observed(case.name, case.digit, tuple(answers), pair))
        observations.append((comparison, observed))
    return observations


def _tell_apart(
    engine_name: str, observations: Sequence[tuple[Comparison, list[Observed]]]
) -> tuple[dict[str, str | float], float]:
    """Return by what each comparison was told apart, and the noise in nats.

    Raises:
        EngineError: Two media were not told apart, or were taken for each other.
    """
    noise = 0.0
    for _, observed in observations:
        noise = max(noise, *(reply_distance(*each.replies) for each in observed))
    evidence: dict[str, str] = {}
    for comparison, observed in observations:
        tell = tell_prompts_apart if comparison.same_prompt_causes else tell_media_apart
        found = tell(engine_name, comparison, observed, noise)
        # Of several places, the weaker evidence: "logprobs" sorts after "answers".
        evidence[comparison.key] = max(evidence.get(comparison.key, ""), found)
    check_swapped_answers(engine_name, observations)
    return dict(evidence), noise


def _ask(
    engine: Engine, config: EngineConfig, profile: Profile, queries: Sequence[Query], root: Path
) -> list[Reply]:
    requests = [Request(prompt_parts(query, View.omni, profile), root) for query in queries]
    # A model in this process answers all in one batch; a server gets them one by one, as it will
    # get the requests of the step.
    size = len(requests) if config.kind == "transformers" else 1
    starts = range(0, len(requests), size)
    batches = [Batch(requests[start : start + size], 0) for start in starts]
    replies_by_batch: dict[int, list[Reply]] = {}
    sampling = Sampling(0, profile.max_new_tokens, logprobs=True)
    for finished in engine.answer(batches, sampling):
        replies_by_batch.update(finished)
    replies = []
    for index in range(len(batches)):
        replies += replies_by_batch[index]
    for query, reply in zip(queries, replies, strict=True):
        if reply.error:
            raise EngineError(
                f"{engine.name} cannot be asked with {query.type}: {reply.error}. Usual causes:"
                f" {CAUSES[query.type]}",
                code="canary-request-failed",
            )
    return replies


def _ask_with_few_frames(
    engine: Engine, config: EngineConfig, profile: Profile, queries: Sequence[Query], root: Path
) -> list[Reply]:
    """Ask with few frames of a video, so that a long one differs only in its frame rate."""
    if not queries:
        return []
    few = profile.model_copy(update={"fps": 1.0, "max_frames": canary_media.VIDEO_FRAMES})
    return _ask(engine.with_profile(few), config, few, queries, root)


def main() -> None:
    """Write `canary.json` into the checkpoints named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m omnicore.engines.canary", description=f"Write {FILE} into checkpoints."
    )
    parser.add_argument("directories", type=Path, nargs="+", metavar="DIR")
    for directory in parser.parse_args().directories:
        write_reference(directory, Profile())


if __name__ == "__main__":
    main()
