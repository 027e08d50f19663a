"""`canary.json`: the answers of a checkpoint to fixed questions, which identify it."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from omnicore.config import EngineConfig, Profile, digest
from omnicore.data.prompts import prompt_parts
from omnicore.engines.base import Engine, Reply
from omnicore.engines.canary_evidence import reply_distance, reply_words
from omnicore.engines.canary_media import MIXED
from omnicore.engines.canary_questions import fixed_questions
from omnicore.errors import ConfigError, DataError, EngineError
from omnicore.schema import Media, Query, Record, View
from omnicore.storage.digests import model_directory
from omnicore.storage.files import read_json
from omnicore.telemetry import live

FILE = "canary.json"
# A reply equals the stored one if its words do and no token's log-probability differs by more than
# MAX_DISTANCE nats. Measured on the embedded models: the same model in bf16 or in other batches
# gives all of its answers; another model, or one whose rope_theta is 1,000,000 instead of 10,000,
# at most half of those about pictures and 28 % of all. One in five may turn on a near tie.
MAX_DISTANCE = 0.15
MIN_AGREEMENT = 0.8
_WRITE_IT = "`python -m omnicore.engines.canary DIR`"


class Answer(Record):
    """Reasoning and answer to a fixed question, with the log-probability of every token."""

    words: str
    logprobs: tuple[float, ...]


class Reference(Record):
    """Content of `canary.json`.

    Attributes:
        asked: Digest of the questions as the profile words them.
        answers: Answers by the id of their question.
    """

    asked: str
    answers: dict[str, Answer]


def make_reference(profile: Profile, replies: Sequence[tuple[Query, Reply]]) -> Reference:
    """Build the reference from the replies to the fixed questions."""
    answers = {}
    for query, reply in replies:
        logprobs = tuple(round(logprob, 4) for logprob in reply.logprobs)
        answers[query.id] = Answer(words=reply_words(reply), logprobs=logprobs)
    return Reference(asked=_questions_digest(profile), answers=answers)


def load_reference(engine: Engine, config: EngineConfig, profile: Profile) -> Reference | str:
    """Load the reference of an engine, or return why there is none.

    Raises:
        ConfigError: `config.reference` has no canary.json.
        DataError: canary.json is invalid.
    """
    checkpoint = config.reference
    if not checkpoint and config.kind != "http":
        checkpoint = engine.name
    path = model_directory(checkpoint) / FILE
    if not checkpoint or not path.is_file():
        if config.reference:
            raise ConfigError(
                f"engine.reference {checkpoint} has no {FILE}: write it with {_WRITE_IT}",
                code="canary-reference-missing",
                field="engine.reference",
                path=path,
            )
        return "no reference"
    try:
        reference = Reference.model_validate(read_json(path))
    except ValidationError as error:
        raise DataError(
            f"{path} is invalid: {error}; write it again with {_WRITE_IT}",
            code="canary-reference-invalid",
            path=path,
        ) from error
    if reference.asked != _questions_digest(profile):
        return "reference of another profile"
    return reference


def check_agreement(
    engine_name: str, checkpoint: str, reference: Reference, replies: Sequence[tuple[Query, Reply]]
) -> float | str:
    """Return the share of replies that equal the stored answers, 0 to 1.

    Raises:
        EngineError: It is below MIN_AGREEMENT: another model answers.
    """
    if not replies:
        return "no reference"
    equal = 0
    for query, reply in replies:
        answer = reference.answers[query.id]
        expected = Reply(answer.words, logprobs=answer.logprobs)
        equal += reply_distance(reply, expected) <= MAX_DISTANCE
    agreement = equal / len(replies)
    live.set_gauge("omni_canary_agreement_ratio", agreement)
    if equal < MIN_AGREEMENT * len(replies):
        raise EngineError(
            f"{engine_name} perceives its media, but answers as another or differently configured"
            f" model would: {equal} of {len(replies)} replies equal those of {FILE} in"
            f" {checkpoint}. Usual causes: another checkpoint under this name, a changed"
            " config.json (rope_theta, for example), quantisation, another chat template",
            code="canary-other-model",
            field="engine.reference",
        )
    return round(agreement, 4)


def _questions_digest(profile: Profile) -> str:
    """Identify the questions: answers to other questions are not compared.

    Media count by the version number of their set, because the bytes of their files depend on the
    libraries that write them.
    """
    media = {}
    for kind in ("image", "audio"):
        media[kind] = {name: Media(kind=kind, uri=name, sha256="0" * 64) for name in MIXED}
    texts = {
        query.id: prompt_parts(query, View.text_only, profile) for query in fixed_questions(media)
    }
    return digest(
        {
            "media": 1,
            "texts": texts,
            "system": profile.system,
            "max_new_tokens": profile.max_new_tokens,
        }
    )
