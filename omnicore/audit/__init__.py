"""Verdicts from draws: which queries a probe solves with the audio withheld, and what that leaves.

`draws` holds queries and answers as arrays, `rules` the measured null and the thresholds,
`policies` the verdicts and the manifest, `leakage` the figures; `files` alone reads what prepare
and probe wrote.
"""

from omnicore.audit.draws import (
    CUT,
    FAILED,
    NONE,
    UNREAD,
    Audited,
    Bools,
    Hits,
    Orders,
    circles,
    count,
)
from omnicore.audit.leakage import control, leakage, null_shares, replies, residual, unread
from omnicore.audit.policies import build_manifest, circular, repeated, single_pass, verdicts
from omnicore.audit.rules import Rule, rules

__all__ = [
    "CUT",
    "FAILED",
    "NONE",
    "UNREAD",
    "Audited",
    "Bools",
    "Hits",
    "Orders",
    "Rule",
    "build_manifest",
    "circles",
    "circular",
    "control",
    "count",
    "leakage",
    "null_shares",
    "repeated",
    "replies",
    "residual",
    "rules",
    "single_pass",
    "unread",
    "verdicts",
]
