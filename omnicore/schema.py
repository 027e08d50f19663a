"""The vocabulary: frozen records that steps exchange.

No behaviour beyond validation and identity. A query is shown to a model under a `View`; what the
model says is a `Reply`; a reply judged against the query is a `Draw` (a probe asks several times)
or a `Response` (an evaluation asks once). Verdicts on queries make a `Manifest`, and the clean view
of a benchmark is a filter by that manifest, never a copied data set.
"""

from __future__ import annotations

import re
from decimal import Decimal
from enum import StrEnum
from math import isfinite
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

SPAN = re.compile(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)")  # an interval in time, in seconds
# What a chat template writes between turns and where media stand, as in <|im_end|> or <|IMAGE|>; tokenizers take it for that in a
# text, too. The two bytes mark media on their way through a prompt.
CONTROL = re.compile(r"<\|[A-Za-z]\w+\|>|[\0\1]")
PLACE = re.compile(r"<media_(\d+)>")  # where a medium stands inside a question or an option


class Record(BaseModel):
    """Base of every record: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class View(StrEnum):
    """Which modalities of a query are shown.

    Withholding happens in `prompts.py`, nowhere else.
    """

    omni = "omni"
    visual_only = "visual_only"
    audio_only = "audio_only"
    text_only = "text_only"


class Outcome(StrEnum):
    """What a reply is worth.

    An engine error is no outcome: it is raised, never scored.
    """

    correct = "correct"
    incorrect = "incorrect"  # also where something is named that is none of the options
    no_answer = "no_answer"  # nothing that can be read: no evidence of anything


class Label(StrEnum):
    """What the audit says of a query: `undecided` queries are kept and flagged."""

    solvable = "solvable"
    not_solvable = "not_solvable"
    undecided = "undecided"
    kept_whole = "kept_whole"


class AnswerKind(StrEnum):
    """How a reply is compared with the answer.

    The last four have no options, or more than one right one.
    """

    choice = "choice"
    yes_no = "yes_no"
    set = "set"
    number = "number"
    interval = "interval"
    text = "text"


class Media(Record):
    """One picture, sound or video.

    `uri` is relative to the file that lists the query; `sha256` is of the file's bytes.
        Sound and picture of one video are two media with the same file: `video` is the picture alone, `audio` its audio track.
        `start` and `end`, in seconds, cut a clip out of the file.
    """

    kind: Literal["image", "audio", "video"]
    uri: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    start: float | None = Field(None, ge=0)
    end: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _ends_after_its_start(self) -> Self:
        if self.end is not None and self.end <= (self.start or 0):
            raise ValueError(f"clip ends at {self.end} s, before it starts at {self.start or 0} s")
        return self


class Query(Record):
    """One question.

    Its key is (benchmark, id); errors inside one `cluster` (picture or video) are not independent.
    `media` is shown in its order before the question, except where question or options place it
    with `<media_N>`, N     counting from 1. `answer` is an option's text, or a number, interval
    (`3.5-7`, in seconds) or text where there are no options;     `also` holds the other members of
    a `set`. `native` keeps what the publisher's own scoring needs. `target` is a written reply,
    in training rows only. `wording` names the template of the question where a benchmark has
    templates.
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
    def key(self) -> tuple[str, str]:
        return self.benchmark, self.id

    @field_validator("question")
    @classmethod
    def _question_asks(cls, question: str) -> str:
        if question.isspace():
            raise ValueError("is blank")
        return question

    @field_validator("question", "options", "answer", "also", "target")
    @classmethod
    def _texts_control_nothing(
        cls, value: str | tuple[str, ...] | None, info: ValidationInfo
    ) -> str | tuple[str, ...] | None:
        for text in (value,) if isinstance(value, str) else value or ():
            if found := CONTROL.search(text):
                raise ValueError(
                    f"{found[0]!r} in {info.data.get('id', 'an item')} controls the model: leave it"
                    " out, or spell it apart"
                )
        return value

    @model_validator(mode="after")
    def _answer_fits_its_kind(self) -> Self:
        if len(set(self.options)) != len(self.options):
            raise ValueError(f"options repeat a value: {list(self.options)}")
        if self.also and self.answer_kind is not AnswerKind.set:
            raise ValueError(
                f"only a set has more than one answer, and this is a {self.answer_kind}"
            )
        if self.answer_kind in (AnswerKind.choice, AnswerKind.yes_no, AnswerKind.set):
            if len(self.options) < 2:
                raise ValueError(
                    f"a {self.answer_kind} needs two options or more, not {list(self.options)}"
                )
            if outside := [a for a in (self.answer, *self.also) if a not in self.options]:
                raise ValueError(
                    f"answer {outside[0]!r} is not among the options {list(self.options)}"
                )
        elif self.options:
            raise ValueError(
                f"a {self.answer_kind} has no options, and these are given: {list(self.options)}"
            )
        if self.answer_kind is AnswerKind.text and not self.answer.strip():
            raise ValueError("is blank, and no reply could give it")
        if self.answer_kind is AnswerKind.number and not isfinite(float(self.answer)):
            raise ValueError(f"answer {self.answer!r} is no number that a reply could name")
        if self.answer_kind is AnswerKind.interval and not _is_span(self.answer):
            raise ValueError(f"answer {self.answer!r} is no interval in time, as 3.5-7 is")
        return self

    @model_validator(mode="after")
    def _places_are_there(self) -> Self:
        for text in (self.question, *self.options):
            for number in PLACE.findall(text):
                if not 1 <= int(number) <= len(self.media):
                    raise ValueError(
                        f"<media_{number}> is placed, but there are {len(self.media)} media"
                    )
        return self


def _is_span(text: str) -> bool:
    found = SPAN.fullmatch(text)
    return found is not None and Decimal(found[1]) < Decimal(found[2])


class BenchmarkInfo(Record):
    """One benchmark as data: where it comes from and how the audit may treat it.

    `refused` of its `native` items could not be read, `excluded` have no answer to compare with (a
    caption to write); `flagged` of its queries are doubtful. All of them stand in `problems.jsonl`.
    `published` is the number of items that the publisher states, 0 where none is known.
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
    def _keep_whole_says_why(self) -> Self:
        if self.filter_policy == "keep_whole" and not self.reason:
            raise ValueError("keep_whole needs a reason")
        return self


class Draw(Record):
    """One probe reply: `permutation[i]` is the index, in the query's own options, of the option
    shown at place i.

    `answer` is the option's text, None when the reply holds no single option: then the outcome is
    `incorrect` where it names something else and `no_answer` where it cannot be read. `reasoning`
    is what the model thought, kept apart; `truncated`: cut by its length limit, so no answer.
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
    """One evaluated reply under a view.

    `official` is its score under the publisher's own rule, None where there is none.
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
    """A figure with its 95 % interval (clustered) and the number of queries behind it.

    All in 0..1 unless named.
    """

    value: float
    low: float
    high: float
    n: int = Field(ge=0)


Policy = Literal["single_pass", "repeated", "circular", "imported"]


class Verdict(Record):
    """The audit's word on one query with its evidence.

    `hits` of `draws` replies were right with the audio withheld; `null` is the measured chance that
    a query nobody can solve is hit that often, `binomial` the textbook one. An imported verdict has
    no draws.
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
        return self.label is not Label.solvable


class Manifest(Record):
    """Verdicts of one audit.

    `content_hash` covers verdicts and policy, whatever their order or the machine.
    """

    policy: Policy
    probe: str
    profile_hash: str
    seed: int = 0
    verdicts: tuple[Verdict, ...]
    content_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    def kept(self) -> frozenset[tuple[str, str]]:
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
