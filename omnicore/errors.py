"""The error model.

`OmniError` is a mistake that a user can fix: the message says what is wrong, where, and what to do;
`code` is stable and names the kind of mistake (docs/reference/errors.md lists all codes). The CLI
prints message and code without a traceback and exits 2. Any other exception is a bug and keeps its
traceback.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


class OmniError(Exception):
    """Base class of every error that a user can fix."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        field: str | None = None,
        path: Path | str | None = None,
        line: int | None = None,
    ) -> None:
        """Create an error.

        Args:
            message: What is wrong, where, and what to do.
            code: Stable name of this kind of mistake in kebab-case, as in `media-missing`.
            field: Recipe field, column, option or environment variable at fault, as in `rlvr.steps`.
            path: File or directory at fault.
            line: Line of `path`, counted from 1.
        """
        super().__init__(message)
        self.code, self.field, self.line = code, field, line
        self.path = None if path is None else str(path)

    def details(self) -> dict[str, Any]:
        """Return the keyword arguments that build the same error, for another process or a log."""
        return {"code": self.code, "field": self.field, "path": self.path, "line": self.line}

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), str(self), self.details())


def _rebuild(kind: type[OmniError], message: str, details: dict[str, Any]) -> OmniError:
    return kind(message, **details)


class ConfigError(OmniError):
    """A recipe, an override or an option is wrong."""


class DataError(OmniError):
    """A query file, media file or manifest is missing, broken or inconsistent."""


class TooLongError(DataError):
    """A clip is longer than the model takes and otherwise valid."""


class CheckpointError(OmniError):
    """A model directory is missing, damaged or unsafe to load."""


class EngineError(OmniError):
    """The model endpoint failed; its replies are never scored as answers."""


class TrainingError(OmniError):
    """A check before or during training failed, such as a missing audio gradient or a NaN loss."""


class StorageError(OmniError):
    """A disk or a bucket refused a read or a write: full, or no permission."""


class StepBusy(OmniError):
    """Another process works on the same output."""


class ClusterError(OmniError):
    """A cluster refused a request, or an object that was created on it failed."""
