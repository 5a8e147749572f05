"""Logs on standard error: one JSON object a line for programs, or text for people."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any


class LogFormat(StrEnum):
    json = "json"
    text = "text"


def configure(log_format: LogFormat | None) -> None:
    """Send every log line to standard error; without a format as text where that is a terminal, else as JSON."""
    if log_format is None:
        log_format = LogFormat.text if sys.stderr.isatty() else LogFormat.json
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format is LogFormat.json else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # Nobody prints these, and finding them out costs as much as the rest of a line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


class JsonFormatter(logging.Formatter):
    """One object: time (UTC), level, message; `fields` given as `extra`; and the traceback, if any, as `error`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """Time, level and message, then the fields as name=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in getattr(record, "fields", {}).items())
        return super().formatMessage(record) + fields
