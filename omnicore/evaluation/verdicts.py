"""Check that a manifest covers the queries of an evaluation.

It lies outside of `audit`: an evaluation's key would otherwise change with every audit rule.
"""

from __future__ import annotations

from collections.abc import Sequence

from omnicore.errors import DataError
from omnicore.schema import Manifest, QueryKey


def require_verdicts(manifest: Manifest, keys: Sequence[QueryKey], remedy: str) -> None:
    """Raise DataError where a manifest lacks a verdict on one of these queries.

    Args:
        manifest: The manifest.
        keys: Keys of the queries.
        remedy: The end of the message: what to do.
    """
    judged = {(verdict.benchmark, verdict.id) for verdict in manifest.verdicts}
    missing = [key for key in keys if key not in judged]
    if missing:
        raise DataError(
            f"the manifest has no verdict on {len(missing)} of {len(keys)} queries"
            f" ({'/'.join(missing[0])} first); {remedy}",
            code="manifest-missing-verdict",
            field="verdicts",
        )
