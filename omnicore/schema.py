"""Define the frozen records that steps exchange.

They have no behaviour beyond validation and identity. A query is shown to a model under a `View`;
the model's answer is a `Reply`; a reply judged against the query is a `Draw` (a probe asks several
times) or a `Response` (an evaluation asks once). Verdicts on queries make a `Manifest`, and the
clean view of a benchmark is a filter by that manifest, never a copied data set.
"""

from __future__ import annotations

import re
from decimal import Decimal
from enum import StrEnum
from math import isfinite
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

INTERVAL = re.compile(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)")  # an interval in time, in seconds
# Control tokens that a chat template writes between turns and in place of media, as in <|im_end|>
# and <|IMAGE|>; a tokenizer also reads them as such inside a text. The two bytes mark media in a
# prompt that is being built.
CONTROL_TOKEN = re.compile(r"<\|[A-Za-z]\w+\|>|[\0\1]")
MEDIA_PLACEHOLDER = re.compile(r"<media_(\d+)>")  # place of a medium inside a question or an option
# The file of prepare that holds the benchmarks.
BENCHMARK_QUERIES = "queries.jsonl"
QueryKey = tuple[str, str]  # benchmark and id of a query


class Record(BaseModel):
    """Base of every record: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class View(StrEnum):
    """Which modalities of a query are shown; only `data/prompts.py` withholds them."""

    omni = "omni"
    visual_only = "visual_only"
    audio_only = "audio_only"
    text_only = "text_only"


class Outcome(StrEnum):
    """Judgement of a reply; an engine error has none, since it is raised and never scored."""

    correct = "correct"
    incorrect = "incorrect"  # also where the answer is none of the options
    no_answer = "no_answer"  # no answer can be read, so the reply is not evidence


class Label(StrEnum):
    """Audit label of a query: `undecided` queries are kept and flagged."""

    solvable = "solvable"
    not_solvable = "not_solvable"
    undecided = "undecided"
    kept_whole = "kept_whole"


class AnswerKind(StrEnum):
    """How a reply is compared with the answer.

    The last four kinds have no options, or several right ones.
    """

    choice = "choice"
    yes_no = "yes_no"
    set = "set"
    number = "number"
    interval = "interval"
    text = "text"


class Media(Record):
    """One picture, sound or video.

    Sound and picture of one video are two media of the same file: `video` is only the picture,
    `audio` its audio track.

    Attributes:
        kind: `image`, `audio` or `video`.
        uri: Path relative to the file that lists the query.
        sha256: Digest of the file's bytes.
        start: Start of the clip within the file, in seconds; None is the file's start.
        end: End of the clip within the file, in seconds; None is the file's end.
    """

    kind: Literal["image", "audio", "video"]
    uri: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    start: float | None = Field(None, ge=0)
    end: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        if self.end is not None and self.end <= (self.start or 0):
            raise ValueError(f"clip ends at {self.end} s, before it starts at {self.start or 0} s")
        return self


class Query(Record):
    """One question with its media and its answer.

    `media` are shown in their order before the question, except where the question or an option
    places one with `<media_N>`, N counted from 1.

    Attributes:
        benchmark: Name of the benchmark, or of the source of a training row.
        id: Unique within the benchmark.
        type: The benchmark's type of question.
        question: The text of the question.
        options: The options, in the benchmark's order; empty where there are none.
        answer: The right option's text; without options a number, an interval (`3.5-7`, in seconds)
            or a text.
        also: The other members of a `set`.
        answer_kind: How a reply is compared with the answer.
        media: Pictures, sounds and videos.
        cluster: Name of the shared picture or video: errors inside a cluster are not independent.
        wording: Name of the question's template, where a benchmark has templates.
        native: Fields that the publisher's own scoring needs.
        target: A written reply; only in training rows.
    """

    benchmark: str = Field(min_length=1)
    id: str = Field(min_length=1)
    type: str
    question: str = Field(min_length=1)
    options: tuple[str, ...] = ()
    answer: str
    also: tuple[str, ...] = ()
    answer_kind: AnswerKind = AnswerKind.choice
    media: tuple[Media, ...] = ()
    cluster: str
    wording: str = ""
    native: dict[str, str] = {}
    target: str | None = None

    @property
    def key(self) -> QueryKey:
        """Return benchmark and id."""
        return self.benchmark, self.id

    @field_validator("question")
    @classmethod
    def _check_question(cls, question: str) -> str:
        if question.isspace():
            raise ValueError("is blank")
        return question

    @field_validator("question", "options", "answer", "also", "target")
    @classmethod
    def _refuse_control_tokens(
        cls, value: str | tuple[str, ...] | None, info: ValidationInfo
    ) -> str | tuple[str, ...] | None:
        for text in (value,) if isinstance(value, str) else value or ():
            token = CONTROL_TOKEN.search(text)
            if token:
                raise ValueError(
                    f"{token[0]!r} in {info.data.get('id', 'an item')} is a control token of chat"
                    " templates: remove it, or separate its characters"
                )
        return value

    @model_validator(mode="after")
    def _check_answer(self) -> Self:
        if len(set(self.options)) != len(self.options):
            raise ValueError(f"options repeat a value: {list(self.options)}")
        if self.also and self.answer_kind is not AnswerKind.set:
            raise ValueError(
                f"only a set has more than one answer, and this is a {self.answer_kind}"
            )
        if self.answer_kind in (AnswerKind.choice, AnswerKind.yes_no, AnswerKind.set):
            self._check_options()
        elif self.options:
            raise ValueError(
                f"a {self.answer_kind} has no options, and these are given: {list(self.options)}"
            )
        if self.answer_kind is AnswerKind.text and not self.answer.strip():
            raise ValueError("answer is blank, and no reply could give it")
        if self.answer_kind is AnswerKind.number and not isfinite(float(self.answer)):
            raise ValueError(f"answer {self.answer!r} is not a number that a reply could name")
        if self.answer_kind is AnswerKind.interval and not _is_interval(self.answer):
            raise ValueError(f"answer {self.answer!r} is not an interval in time, as 3.5-7 is")
        return self

    def _check_options(self) -> None:
        if len(self.options) < 2:
            raise ValueError(
                f"a {self.answer_kind} needs two options or more, not {list(self.options)}"
            )
        for answer in (self.answer, *self.also):
            if answer not in self.options:
                raise ValueError(f"answer {answer!r} is not among the options {list(self.options)}")

    @model_validator(mode="after")
    def _check_placeholders(self) -> Self:
        for text in (self.question, *self.options):
            for number in MEDIA_PLACEHOLDER.findall(text):
                if not 1 <= int(number) <= len(self.media):
                    raise ValueError(
                        f"<media_{number}> is placed, but there are {len(self.media)} media"
                    )
        return self


def _is_interval(text: str) -> bool:
    match = INTERVAL.fullmatch(text)
    return match is not None and Decimal(match[1]) < Decimal(match[2])


class BenchmarkInfo(Record):
    """One benchmark: its origin, its counts, and how the audit may treat it.

    Refused, excluded and flagged items are listed in `problems.jsonl`.

    Attributes:
        name: Name of the benchmark.
        filter_policy: Whether the audit may remove queries.
        reason: Why it is kept whole.
        source: Where the files come from.
        revision: Revision of the source.
        licence: Licence of the source.
        queries: Number of queries.
        native: Number of the publisher's items.
        refused: Native items that could not be read.
        excluded: Native items without an answer to compare with, such as a caption to write.
        flagged: Doubtful queries.
        published: Number of items that the publisher states; 0 where none is known.
    """

    name: str
    filter_policy: Literal["filtered", "keep_whole"]
    reason: str = ""
    source: str = ""
    revision: str = ""
    licence: str = ""
    queries: int = Field(ge=0)
    native: int = Field(0, ge=0)
    refused: int = Field(0, ge=0)
    excluded: int = Field(0, ge=0)
    flagged: int = Field(0, ge=0)
    published: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check_reason(self) -> Self:
        if self.filter_policy == "keep_whole" and not self.reason:
            raise ValueError("keep_whole needs a reason")
        return self


class Draw(Record):
    """One reply of a probe.

    Attributes:
        benchmark: Benchmark of the query.
        id: Id of the query.
        view: Modalities shown.
        draw: Number of the draw, from 0.
        permutation: Index, in the query's own options, of the option shown at each place.
        reply: The reply's text.
        reasoning: The model's thinking, where the engine returns it separately.
        truncated: The reply reached its length limit, so it has no answer.
        answer: The option's text; None where the reply names no single option. Then `outcome` is
            `incorrect` where it names something else and `no_answer` where it cannot be read.
        outcome: The judgement.
    """

    benchmark: str
    id: str
    view: View
    draw: int = Field(ge=0)
    permutation: tuple[int, ...]
    reply: str
    reasoning: str = ""
    truncated: bool = False
    answer: str | None
    outcome: Outcome


class Response(Record):
    """One evaluated reply under a view; fields as in `Draw`.

    Attributes:
        official: Score under the publisher's own rule; None where there is none.
    """

    benchmark: str
    id: str
    view: View
    reply: str
    reasoning: str = ""
    truncated: bool = False
    answer: str | None
    outcome: Outcome
    official: float | None = None


class Estimate(Record):
    """A figure with its clustered 95 % interval `low`..`high` and its number of queries `n`.

    All values are in 0..1 unless stated otherwise.
    """

    value: float
    low: float
    high: float
    n: int = Field(ge=0)


Policy = Literal["single_pass", "repeated", "circular", "imported"]


class Verdict(Record):
    """Audit verdict for one query, with its evidence.

    Attributes:
        benchmark: Benchmark of the query.
        id: Id of the query.
        label: The verdict.
        hits: Draws that were right with the audio withheld.
        draws: Answered draws; 0 in an imported verdict.
        null: Measured chance that an unsolvable query has so many hits or more.
        binomial: The same for independent guesses.
    """

    benchmark: str
    id: str
    label: Label
    hits: int
    draws: int
    null: float
    binomial: float

    @property
    def kept(self) -> bool:
        """Whether the clean view has the query."""
        return self.label is not Label.solvable


class Manifest(Record):
    """Verdicts of one audit.

    Attributes:
        policy: Policy that made the verdicts.
        probe: Name of the probe model.
        profile_hash: Profile of the draws; empty for an imported manifest.
        seed: Seed of the probe.
        verdicts: One verdict per query, in the order of their keys.
        content_hash: SHA-256 of policy and verdicts, independent of their order and the machine.
    """

    policy: Policy
    probe: str
    profile_hash: str
    seed: int = 0
    verdicts: tuple[Verdict, ...]
    content_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    def kept(self) -> frozenset[QueryKey]:
        """Return the keys of the queries in the clean view."""
        return frozenset((v.benchmark, v.id) for v in self.verdicts if v.kept)


class RejectionReason(StrEnum):
    """Why a rollout does not become a training row, in the order of the rules."""

    failed = "failed"
    cut = "cut"
    no_answer = "no_answer"
    incorrect = "incorrect"
    minority = "minority"
    solvable = "solvable"
    short = "short"
    long = "long"
    per_query = "per_query"
    source = "source"
    type = "type"


class Finding(NamedTuple):
    """What one check of `omnicore doctor` found.

    `fail` means that something asked for cannot run, `warn` that it may not; `remedy` is empty for
    `ok`.
    """

    subject: str
    state: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""
