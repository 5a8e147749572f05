"""Logs on standard error: one JSON object a line for programs, or text for people."""

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
    """Send every log line to standard error; without a format as text where that is a terminal, else as JSON."""
    if log_format is None:
        log_format = LogFormat.text if sys.stderr.isatty() else LogFormat.json
    handler = BackgroundHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format is LogFormat.json else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # Nobody prints these, and finding them out costs as much as the rest of a line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


class BackgroundHandler(logging.Handler):
    """Formats and writes in a thread of its own, what has come within a twentieth of a second at once.

    Each write, and each waking of another thread, gives the interpreter away, and the event loop waits to get it back:
    for each line that took a tenth of the time of a request. And where nobody reads the log, a write waits for ever.
    Lines beyond `_MAX_RECORDS` unwritten ones are left out.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._records: deque[logging.LogRecord] = deque()
        self._come = Event()
        self._closing = Event()
        self._thread = Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._records) < _MAX_RECORDS:
            self._records.append(record)
        if not self._come.is_set():
            self._come.set()

    def close(self) -> None:
        """Write what has come, for as long as somebody reads it."""
        self._closing.set()
        self._come.set()
        self._thread.join(_CLOSE_SECONDS)
        super().close()

    def _write(self) -> None:
        while not self._closing.is_set():
            self._come.wait()
            self._closing.wait(_COLLECT_SECONDS)
            self._come.clear()
            records = [self._records.popleft() for _ in range(len(self._records))]
            self._stream.write("".join(f"{self.format(record)}\n" for record in records))
            self._stream.flush()


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What was given as `extra={"fields": …}`: a dictionary, or a function that makes it, in the thread that writes."""
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
    """Time, level and message, then the fields that it does not name, as name=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items() if name not in _IN_MESSAGE)
        return super().formatMessage(record) + fields
