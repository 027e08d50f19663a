"""The error model.

`OmniError` is a mistake that a user can fix: the message says what is wrong, where, and what to do;
`code` is stable and names the kind of mistake (docs/reference/errors.md lists all codes). The CLI
prints message and code without a traceback and exits 2. Any other exception is a bug and keeps its
traceback.
"""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


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
            field: Recipe field, column, option or variable at fault, as in `rlvr.steps`.
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


def missing_package(package: str | None, extra: str, purpose: str) -> ConfigError:
    """Return the error for an optional package that `purpose` needs, with its install command.

    Args:
        package: Name of the module that cannot be imported.
        extra: The extra of omnicore that brings it, or several, as in `train,serve`.
        purpose: What needs it, as in `omnicore serve`.
    """
    return ConfigError(
        f"{purpose} needs {package or extra}, which is not installed: {install_command(extra)}",
        code="package-missing",
        field=package,
    )


def install_command(extra: str) -> str:
    """Return the pip command that adds an extra to this installation of omnicore.

    pip records where a package came from (PEP 610, `direct_url.json`); without a record it came
    from an index.
    """
    try:
        record = distribution("omnicore").read_text("direct_url.json")
    except PackageNotFoundError:
        record = None
    origin: dict[str, Any] = json.loads(record) if record else {}
    url = origin.get("url", "")
    place = unquote(urlsplit(url).path)
    if "dir_info" in origin:
        editable = "-e " if origin["dir_info"].get("editable") else ""
        return f"pip install {editable}'{place}[{extra}]'"
    if "vcs_info" in origin:
        version = origin["vcs_info"]["commit_id"]
        return f"pip install 'omnicore[{extra}] @ git+{url}@{version}'"
    if url.startswith("file:"):
        return f"pip install '{place}[{extra}]'"
    return f"pip install 'omnicore[{extra}]{f' @ {url}' if url else ''}'"
