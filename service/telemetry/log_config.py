"""Logs on standard error: one JSON object per line for programs, or text for people."""

from __future__ import annotations

import logging
import sys
from collections import deque
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Any, TextIO

from pydantic_core import to_json

from service.core.choices import LogFormat, LogLevel

_MAX_RECORDS = 10_000
_COLLECT_SECONDS = 0.05
_CLOSE_SECONDS = 2.0
_IN_MESSAGE = {"method", "path", "status"}


def configure(log_format: LogFormat | None, level: LogLevel = LogLevel.info) -> None:
    """Send the log to standard error.

    Args:
        log_format: None for text on a terminal, and JSON otherwise.
        level: level of the least important lines.
    """
    if log_format is None:
        log_format = LogFormat.text if sys.stderr.isatty() else LogFormat.json
    handler = BackgroundHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format is LogFormat.json else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # No format prints these, and they cost as much as the rest of a line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


class BackgroundHandler(logging.Handler):
    """Formats and writes in a background thread, up to twenty times per second.

    Each write, and each wake-up of another thread, releases the interpreter lock, and the event loop waits to get it
    back: one write per line took a tenth of the time of a request. A write also blocks while the reader of the log
    reads nothing. Lines beyond `_MAX_RECORDS` unwritten ones are dropped.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._records: deque[logging.LogRecord] = deque()
        self._arrived = Event()
        self._closing = Event()
        self._thread = Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._records) < _MAX_RECORDS:
            self._records.append(record)
        if not self._arrived.is_set():
            self._arrived.set()

    def close(self) -> None:
        """Write the remaining lines, for at most `_CLOSE_SECONDS`."""
        self._closing.set()
        self._arrived.set()
        self._thread.join(_CLOSE_SECONDS)
        super().close()

    def _write(self) -> None:
        while not self._closing.is_set():
            self._arrived.wait()
            self._closing.wait(_COLLECT_SECONDS)
            self._arrived.clear()
            records = [self._records.popleft() for _ in range(len(self._records))]
            self._stream.write("".join(f"{self.format(record)}\n" for record in records))
            self._stream.flush()


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
        return to_json(line).decode()


class TextFormatter(logging.Formatter):
    """Time, level and message, then the fields that are not in the message, as name=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items() if name not in _IN_MESSAGE)
        return super().formatMessage(record) + fields
