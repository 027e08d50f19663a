"""The sections of the steps that do not train."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from omnicore.config.base import Config, EngineConfig
from omnicore.schema import AnswerKind, View

COLUMNS = ("id", "question", "options", "answer", "target", "type", "image", "audio", "video")


class TrainingSource(Config):
    """Rows from outside to train on; `data/training_rows.py` describes the formats."""

    format: Literal["queries", "hub", "r1"]
    path: str = Field(
        description=(
            "file or folder; with `revision`, a data set of the hub, as in m-a-p/OmniInstruct_v1,"
            " or an s3:// address"
        )
    )
    revision: str = Field(
        "",
        pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})?$",
        description=(
            "commit of the hub's data set, 40 hex digits, or digest of what is published in S3, 64:"
            " a name alone may move"
        ),
    )
    files: str = Field(
        "",
        description=(
            "pattern of the files with rows under `path`, as in data/train-*.parquet; none for one"
            " file"
        ),
    )
    media: str = Field(
        "",
        description=(
            "of formats r1 and hub: folder that paths of media are relative to; none: that of the"
            " rows"
        ),
    )
    stages: tuple[Literal["sft", "rlvr", "distill"], ...] = Field(
        min_length=1, description="what the rows are for"
    )
    columns: dict[str, str] = Field(
        {}, description=f"of format hub: its columns for any of {', '.join(COLUMNS)}"
    )
    sound: bool = Field(
        False,
        description=(
            "of format r1: the sound of a video, if it has any, belongs to the query, as"
            " HumanOmniV2 trains"
        ),
    )

    @model_validator(mode="after")
    def _require_columns(self) -> Self:
        unknown = sorted(self.columns.keys() - set(COLUMNS))
        if unknown:
            raise ValueError(f"columns names {unknown[0]}, which is none of {', '.join(COLUMNS)}")
        if self.format == "hub" and not {"question", "answer"} <= self.columns.keys():
            raise ValueError(
                "format hub needs columns, as in {question: question, answer: answer, audio: audio}"
            )
        if self.format != "hub" and self.columns:
            raise ValueError(
                f"format {self.format} has fields of its own: columns are for format hub"
            )
        if self.format == "queries" and self.media:
            raise ValueError(
                "format queries has its media relative to the file with the rows: media is for"
                " formats r1 and hub"
            )
        return self


OWN_COLUMNS = ("id", "question", "options", "answer", "type", "cluster", "image", "audio", "video")
CLIP_COLUMNS = ("start", "end")


class BenchmarkSource(Config):
    """A benchmark of the user's own: a table whose columns are named."""

    path: str = Field(description="file of the table, or its folder")
    files: str = Field(
        "",
        description=(
            "pattern of the tables under a folder, as in data/test-*.parquet; none: all of the one"
            " format that the folder holds"
        ),
    )
    media: str = Field(
        "", description="folder that paths of media are relative to; none: that of the table"
    )
    columns: dict[str, str] = Field(
        {},
        description=(
            f"the table's columns for any of {', '.join(OWN_COLUMNS + CLIP_COLUMNS)}; others have"
            " their own name. Several by `|`, nested fields by dots"
        ),
    )
    answer_kind: AnswerKind | None = Field(
        None, description="none: choice or set where there are options, else by the answer"
    )
    policy: Literal["filtered", "keep_whole"] = Field(
        "filtered", description="whether the clean view may lose queries of it"
    )

    @model_validator(mode="after")
    def _columns_are_known(self) -> Self:
        unknown = sorted(self.columns.keys() - {*OWN_COLUMNS, *CLIP_COLUMNS})
        if unknown:
            known = ", ".join(OWN_COLUMNS + CLIP_COLUMNS)
            raise ValueError(f"columns names {unknown[0]}, which is none of {known}")
        return self


class PrepareConfig(Config):
    """The benchmarks under study.

    The embedded one, `synthetic`, comes with training sets; `sources` are public ones.
    """

    sources: dict[str, str | BenchmarkSource] = Field(
        {},
        description=(
            "benchmarks by name. A public one: the folder of a local copy in a layout that"
            " docs/audit.md names, or `hub@COMMIT`. One of your own: {path, columns, ...}. None:"
            " the embedded benchmark"
        ),
    )
    limit: int = Field(0, ge=0, description="first queries of each benchmark to keep; 0 keeps all")
    sample: int = Field(
        0,
        ge=0,
        description="random queries of each benchmark to keep, chosen by the seed; 0 keeps all",
    )
    training: dict[str, TrainingSource] = Field(
        {},
        description=(
            "sources of training rows by name; a stage that none is for keeps the rows of the"
            " embedded benchmark"
        ),
    )
    max_refused: float = Field(
        0.01,
        ge=0,
        lt=1,
        description=(
            "share of a benchmark's or source's items that may be unreadable (listed in"
            " problems.jsonl)"
        ),
    )
    split: Literal["dev", "test"] = Field(
        "test", description="tune on dev only: a metric tuned on test is void"
    )
    scale: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of every count below and of the benchmarks, for quick tries",
    )
    controls: int = Field(
        100, ge=4, description="single-modality queries of each type, shown beside the benchmarks"
    )
    sft_rows: int = Field(1500, ge=8)
    rlvr_prompts: int = Field(800, ge=8)
    rlvr_mix: dict[str, float] = Field(
        default_factory=lambda: {
            "picture": 1.0,
            "speech": 1.0,
            "picture_text": 1.0,
            "speech_text": 1.0,
            "transcript": 0.7,
            "sum": 4.0,
        },
        description="weights of query types among the RLVR prompts",
    )
    distill_prompts: int = Field(400, ge=8)
    distill_mix: dict[str, float] = Field(
        default_factory=lambda: {"sum": 1.0}, description="weights of query types to distill from"
    )


class ProbeConfig(Config):
    """A probe model that is asked with modalities withheld, several times, options re-shuffled."""

    model: str = Field(
        "embedded:tiny-probe",
        description="a directory, embedded:NAME, or the name under which a server has it",
    )
    engine: EngineConfig = EngineConfig()
    data: str = Field(
        "queries.jsonl",
        description="file of prepare to ask: the benchmarks, or training items as in rlvr.jsonl",
    )
    draws: dict[View, int] = Field(
        description="draws per query under each view; 0 leaves a view out"
    )
    temperature: float = Field(1.0, ge=0, le=10)
    batch_size: int = Field(
        256, ge=1, description="prompts generated together; also the unit of the journal"
    )

    @model_validator(mode="after")
    def _require_withheld_modality(self) -> Self:
        if View.omni in self.draws:
            raise ValueError("a probe withholds a modality: view `omni` is an evaluation")
        if min(self.draws.values(), default=0) < 0:
            raise ValueError("draws are numbers from 0")
        return self


class CleanConfig(Config):
    """How draws become verdicts.

    Every policy that the draws allow is computed; `policy` names the one that makes the clean view.
    """

    policy: Literal["repeated", "single_pass", "circular"] = "repeated"
    # 0.02 is a precision of 0.98: at 0.05, 5 of 8 passes for a probe that guesses among four
    # options, with 0.97.
    max_fdr: float = Field(
        0.02,
        gt=0,
        lt=1,
        description="at most this share of a benchmark's removals is removed by luck",
    )
    max_lost: float = Field(
        0.03,
        gt=0,
        lt=1,
        description="at most this share of the queries that nobody can solve is removed by luck",
    )
    undecided: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="kept queries rarer than this under the null are flagged undecided",
    )
    # Of 8 draws with an accuracy of 0.95, 6 or more are right in 99 % of cases; in 96 % if 5 % of
    # the draws are lost, and in 11 % if half are: then most of the solvable queries would stay.
    warn_unread: float = Field(
        0.05,
        ge=0,
        le=1,
        description=(
            "above this share of truncated and unreadable draws of a benchmark, sound withheld,"
            " clean warns"
        ),
    )
    max_unread: float = Field(0.5, ge=0, le=1, description="above this share of them clean refuses")


class EvaluateConfig(Config):
    """One greedy reply a query; the ablations ask again with one modality hidden."""

    data: str = Field(
        "queries.jsonl",
        description="file of prepare to score: the benchmarks, or training items as in rlvr.jsonl",
    )
    ablations: tuple[View, ...] = (View.visual_only, View.audio_only)
    batch_size: int = Field(256, ge=1)


class ReportConfig(Config):
    """The HTML report."""

    title: str = "OmniClean and OmniBoost on the embedded benchmark"


class PromoteConfig(Config):
    """The comparison of candidate and champion on the clean view."""

    min_effect: float = Field(
        0.02, ge=0, description="the interval of the paired difference must lie above this"
    )
    worst_drop: float = Field(
        0.05, ge=0, description="no benchmark may lose more than this, beyond its interval"
    )
