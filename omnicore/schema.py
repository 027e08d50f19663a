"""The vocabulary: frozen records that steps exchange. No behaviour beyond validation and identity.

A query is shown to a model under a `View`; what the model says is a `Reply`; a reply judged against the query
is a `Draw` (a probe asks several times) or a `Response` (an evaluation asks once). Verdicts on queries make a
`Manifest`, and the clean view of a benchmark is a filter by that manifest, never a copied data set.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Record(BaseModel):
    """Base of every record: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class View(StrEnum):
    """Which modalities of a query are shown. Withholding happens in `prompts.py`, nowhere else."""

    omni = "omni"
    visual_only = "visual_only"
    audio_only = "audio_only"
    text_only = "text_only"


class Outcome(StrEnum):
    """What a reply is worth. An engine error is no outcome: it is raised, never scored."""

    correct = "correct"
    incorrect = "incorrect"
    no_answer = "no_answer"


class Label(StrEnum):
    """What the audit says of a query: `undecided` queries are kept and flagged."""

    solvable = "solvable"
    not_solvable = "not_solvable"
    undecided = "undecided"
    kept_whole = "kept_whole"


class AnswerKind(StrEnum):
    """How a reply is compared with the answer."""

    choice = "choice"
    yes_no = "yes_no"


class Media(Record):
    """One picture or sound. `uri` is relative to the file that lists the query; `sha256` is of the file's bytes."""

    kind: Literal["image", "audio", "video"]
    uri: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Query(Record):
    """One question. Its key is (benchmark, id); errors inside one `cluster` (picture or video) are not independent.

    `media` stands in the order in which it is shown, before the question. `target` is a written reply, in training
    rows only. `wording` names the template of the question where a benchmark has templates.
    """

    benchmark: str = Field(min_length=1)
    id: str = Field(min_length=1)
    type: str
    question: str = Field(min_length=1)
    options: tuple[str, ...] = Field(min_length=2)
    answer: str
    answer_kind: AnswerKind = AnswerKind.choice
    media: tuple[Media, ...] = ()
    cluster: str
    wording: str = ""
    target: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.benchmark, self.id

    @model_validator(mode="after")
    def _answer_is_an_option(self) -> Self:
        if len(set(self.options)) != len(self.options):
            raise ValueError(f"options repeat a value: {list(self.options)}")
        if self.answer not in self.options:
            raise ValueError(f"answer {self.answer!r} is not among the options {list(self.options)}")
        return self


class BenchmarkInfo(Record):
    """One benchmark as data: how the audit may treat it."""

    name: str
    filter_policy: Literal["filtered", "keep_whole"]
    reason: str = ""
    queries: int = Field(ge=0)

    @model_validator(mode="after")
    def _keep_whole_says_why(self) -> Self:
        if self.filter_policy == "keep_whole" and not self.reason:
            raise ValueError("keep_whole needs a reason")
        return self


class Draw(Record):
    """One probe reply: `permutation[i]` is the index, in the query's own options, of the option shown at place i.

    `answer` is the option's text, None when the reply holds no single option.
    """

    benchmark: str
    id: str
    view: View
    draw: int = Field(ge=0)
    permutation: tuple[int, ...]
    reply: str
    answer: str | None
    outcome: Outcome


class Response(Record):
    """One evaluated reply under a view."""

    benchmark: str
    id: str
    view: View
    reply: str
    answer: str | None
    outcome: Outcome


class Estimate(Record):
    """A figure with its 95 % interval (clustered) and the number of queries behind it. All in 0..1 unless named."""

    value: float
    low: float
    high: float
    n: int = Field(ge=0)


class Verdict(Record):
    """The audit's word on one query with its evidence.

    `hits` of `draws` replies were right with the audio withheld; `null` is the measured chance that a query nobody can
    solve is hit that often, `binomial` the textbook one.
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
    """Verdicts of one audit. `content_hash` covers verdicts and policy, whatever their order or the machine."""

    policy: Literal["single_pass", "repeated"]
    probe: str
    profile_hash: str
    verdicts: tuple[Verdict, ...]
    content_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    def kept(self) -> frozenset[tuple[str, str]]:
        return frozenset((v.benchmark, v.id) for v in self.verdicts if v.kept)
