"""Write log records to stderr, as plain text or as JSON lines."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any

from omnicore import processes
from omnicore.errors import ConfigError, OmniError

FORMATS = ("text", "json")
LOG_FORMAT = "OMNI_LOG_FORMAT"  # environment variable with the default format
LOGGERS = ("omnicore", "components", "pipelines", "__main__")  # the last under `python -m`
logger = logging.getLogger(__name__)


def set_up(log_format: str = "") -> None:
    """Send the records of this package's loggers to stderr.

    The first process of a distributed run logs from INFO on, every other one from WARNING on with
    its rank. Calling it again replaces the earlier set-up.

    Args:
        log_format: `text` or `json`; empty for OMNI_LOG_FORMAT, and `text` where that is not set.

    Raises:
        ConfigError: The format is unknown.
    """
    chosen = log_format or os.environ.get(LOG_FORMAT) or "text"
    handler = StderrHandler()
    handler.setFormatter(JsonFormatter() if chosen == "json" else TextFormatter())
    for name in LOGGERS:
        own = logging.getLogger(name)
        own.handlers = [handler]
        own.setLevel(logging.INFO if processes.is_main() else logging.WARNING)
        # KFP's executor has a root handler, which would print every record a second time.
        own.propagate = False
    if chosen not in FORMATS:  # now, so that this error is logged as text
        raise ConfigError(
            f"log format {chosen!r} is unknown: give text or json",
            code="log-format-unknown",
            field="--log-format" if log_format else LOG_FORMAT,
        )


def log_error(error: OmniError, prefix: str = "omnicore") -> None:
    """Log an error that a user can fix: `omnicore: <message> [<code>]`, without a traceback."""
    logger.error("%s: %s", prefix, error, exc_info=error)


class StderrHandler(logging.Handler):
    """Print each record to whatever `sys.stderr` is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


class TextFormatter(logging.Formatter):
    """The message alone; behind it an OmniError's code, below it another error's traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of one record."""
        text = record.getMessage()
        if not processes.is_main():
            text = f"process {processes.rank()}: {text}"
        error = _error(record)
        if isinstance(error, OmniError):
            return f"{text} [{error.code}]" if error.code else text
        if record.exc_info and error:
            return f"{text}\n{self.formatException(record.exc_info)}"
        return text


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, rank and an error's details."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        time = datetime.fromtimestamp(record.created, UTC)
        entry: dict[str, Any] = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if processes.world_size() > 1:
            entry["rank"] = processes.rank()
        error = _error(record)
        if isinstance(error, OmniError):
            details = error.details()
            entry |= {name: value for name, value in details.items() if value not in (None, "")}
        elif record.exc_info and error:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def _error(record: logging.LogRecord) -> BaseException | None:
    return record.exc_info[1] if record.exc_info else None
