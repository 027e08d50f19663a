"""Derive verdicts from probe draws: which queries a probe solves with the audio withheld.

`draws` holds queries and answers as arrays, `rules` the measured null and the thresholds,
`policies` the verdicts and the manifest, `leakage` the figures per benchmark, and `manifest_io`
manifests as files. Only `files` reads the outputs of prepare and probe.
"""

from omnicore.audit.draws import (
    FAILED,
    NONE,
    TRUNCATED,
    UNREADABLE,
    Bools,
    HitCounts,
    OptionOrders,
    QueryArrays,
    count_hits,
    full_rotations,
)
from omnicore.audit.leakage import (
    count_replies,
    measure_leakage,
    null_shares,
    random_removal,
    residual_leakage,
    unreadable_shares,
)
from omnicore.audit.policies import (
    build_manifest,
    circular_verdicts,
    repeated_verdicts,
    single_pass_verdicts,
    verdicts_by_policy,
)
from omnicore.audit.rules import ThresholdRule, fit_rules

__all__ = [
    "FAILED",
    "NONE",
    "TRUNCATED",
    "UNREADABLE",
    "Bools",
    "HitCounts",
    "OptionOrders",
    "QueryArrays",
    "ThresholdRule",
    "build_manifest",
    "circular_verdicts",
    "count_hits",
    "count_replies",
    "fit_rules",
    "full_rotations",
    "measure_leakage",
    "null_shares",
    "random_removal",
    "repeated_verdicts",
    "residual_leakage",
    "single_pass_verdicts",
    "unreadable_shares",
    "verdicts_by_policy",
]
