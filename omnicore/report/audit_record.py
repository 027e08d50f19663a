"""Define the records of `audit.json`, as far as the report shows them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from omnicore.schema import Estimate, View


class _FileRecord(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class LeakageRecord(_FileRecord):
    """Hit rate of the probe, its chance level, and the rate corrected for it."""

    solved: Estimate
    chance: float
    corrected: Estimate


class ThresholdRecord(_FileRecord):
    """The rule of a benchmark: remove a query at `hits` right draws of `draws`.

    `hits` is None where no rule keeps the false removals within bounds.
    """

    hits: int | None
    draws: int
    null: float | None = None
    binomial: float | None = None
    source: str = "measured"


class NullRecord(_FileRecord):
    """Shares of wrong options drawn exactly 0..n times: measured, and of independent guesses."""

    hits: list[float]
    binomial: list[float]


class ResidualRecord(_FileRecord):
    """Hit rate of the second probe on the kept queries, its baseline, and their difference."""

    hit: Estimate
    baseline: Estimate
    excess: Estimate


class RepeatedRange(_FileRecord):
    """Mean over repeated random removals, and the range of 95 % of them."""

    mean: float
    low: float
    high: float


class RandomRemovalRecord(_FileRecord):
    """Hits of the second probe had as many queries been removed at random."""

    hit: RepeatedRange
    excess: RepeatedRange
    removed: int
    repeats: int


class ReplyCounts(_FileRecord):
    """Draws of a benchmark under a view, and their fates."""

    draws: int
    failed: int
    truncated: int
    no_answer: int
    outside: int = 0


class PolicyRecord(_FileRecord):
    """Figures of one policy; `residual` and `control` need a second probe."""

    undecided: int
    residual: ResidualRecord | None = None
    control: RandomRemovalRecord | None = None


class AuditRecord(_FileRecord):
    """`audit.json` of one cleaning; mappings are by benchmark, type and view."""

    probe: str
    second_probe: str | None = None
    data: str = "queries.jsonl"
    leakage: dict[str, dict[View, LeakageRecord]]
    leakage_by_type: dict[str, dict[str, dict[View, LeakageRecord]]]
    replies: dict[str, dict[View, ReplyCounts]]
    failed_queries: int
    thresholds: dict[str, ThresholdRecord]
    null: NullRecord
    policies: dict[str, PolicyRecord]
