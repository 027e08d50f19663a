"""Read a manifest, and check that it covers the queries of an evaluation.

This module is outside of `audit`: the keys of the steps that use it would otherwise change with
every audit rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from omnicore.errors import DataError
from omnicore.schema import Manifest, QueryKey
from omnicore.storage.files import read_json


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Args:
        path: The manifest's file, or the output of clean that holds it.

    Raises:
        DataError: The file is missing or is not a manifest.
    """
    path = path / "manifest.json" if path.is_dir() else path
    try:
        return Manifest.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "content"
        raise DataError(
            f"{path} is not a manifest: {field}: {first['msg']}; give manifest.json of a clean"
            " step",
            code="manifest-invalid",
            path=path,
            field=field,
        ) from error


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
