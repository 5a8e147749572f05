"""Logs on standard error: one JSON object per line for programs, or text for people."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from service.core.choices import LogFormat, LogLevel
from service.telemetry.background_log import BackgroundHandler
from service.telemetry.direct_log import DirectHandler

_IN_MESSAGE = {"method", "path", "status"}


def configure(log_format: LogFormat | None, level: LogLevel = LogLevel.info, shared: bool = False) -> None:
    """Send the log to standard error. Starts a thread: a forked process calls it after the fork.

    Args:
        log_format: None for text on a terminal, and JSON otherwise.
        level: level of the least important lines.
        shared: whether other processes write to the same standard error.
    """
    _set_handler(BackgroundHandler(sys.stderr.fileno(), shared), log_format, level)


def configure_without_thread(log_format: LogFormat | None, level: LogLevel = LogLevel.info) -> None:
    """Send the log of a process that forks others to standard error. A forked process calls `configure`.

    Args:
        log_format: as of `configure`.
        level: as of `configure`.
    """
    _set_handler(DirectHandler(sys.stderr.fileno()), log_format, level)


def _set_handler(handler: logging.Handler, log_format: LogFormat | None, level: LogLevel) -> None:
    if log_format is None:
        log_format = LogFormat.text if sys.stderr.isatty() else LogFormat.json
    handler.setFormatter(JsonFormatter() if log_format is LogFormat.json else TextFormatter())
    for former in [each for each in logging.root.handlers if isinstance(each, DirectHandler)]:
        logging.root.removeHandler(former)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # No format prints these, and they cost as much as the rest of a line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


@contextmanager
def hold_lines() -> Iterator[list[logging.LogRecord]]:
    """Hold the lines of a block that runs before `configure`; `write_lines` writes them afterwards.

    If the block raises an error, they are written at once, as text.
    """
    lines: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = lines.append  # type: ignore[assignment, method-assign]
    logging.getLogger().addHandler(handler)
    try:
        yield lines
    except BaseException:
        logging.getLogger().removeHandler(handler)
        write_lines(lines)
        raise
    logging.getLogger().removeHandler(handler)


def write_lines(lines: Sequence[logging.LogRecord]) -> None:
    """Write lines to the log."""
    for line in lines:
        logging.getLogger().handle(line)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """The value of `extra={"fields": …}`: a dictionary, or a function that makes one in the background thread."""
    fields = getattr(record, "fields", {})
    made: dict[str, Any] = fields() if callable(fields) else fields
    return made


class JsonFormatter(logging.Formatter):
    """One object: time (UTC), level, message; `fields` given as `extra`; and the traceback, if any, as `error`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        try:
            return to_json(line).decode()
        except PydanticSerializationError:  # such as a file name that is not UTF-8
            return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """Time, level and message, then the fields that are not in the message, as name=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items() if name not in _IN_MESSAGE)
        return super().formatMessage(record) + fields
