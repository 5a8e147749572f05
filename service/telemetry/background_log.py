"""A log handler that formats and writes in a background thread, and that survives every error."""

from __future__ import annotations

import logging
import os
import select
from collections import deque
from collections.abc import Iterator, Sequence
from threading import Event, Thread

_MAX_RECORDS = 10_000
_COLLECT_SECONDS = 0.05
_RETRY_SECONDS = 1.0
_CLOSE_SECONDS = 0.5
_OVERFLOW = f"more than {_MAX_RECORDS:,} lines were waiting to be written"


class BackgroundHandler(logging.Handler):
    """Formats and writes in a background thread, up to twenty times per second.

    Each write, and each wake-up of another thread, releases the interpreter lock, and the event loop waits to get it
    back: one write per line took a tenth of the time of a request. A write also blocks while the reader of the log
    reads nothing. Lines beyond `_MAX_RECORDS` unwritten ones are dropped, and so are lines that cannot be written;
    once writing works, a line states how many.

    The thread does not survive a fork: a forked process makes a handler of its own.

    Args:
        file: file descriptor to write to.
        shared: whether other processes write to it. A write then has as many whole lines as a pipe takes without
            mixing them with those of others, 4096 bytes; a longer line is written alone, and may be mixed.
    """

    def __init__(self, file: int, shared: bool = False) -> None:
        super().__init__()
        self._file = file
        self._shared = shared
        self._records: deque[logging.LogRecord] = deque()
        self._not_kept = 0
        """Records that were dropped by `emit`, under the lock of the handler."""
        self._not_written = 0
        """Records that were dropped by the thread."""
        self._reported = 0
        """Dropped records that a line of the log has stated."""
        self._reason = _OVERFLOW
        self._cut = False
        """Whether the last line was written in part."""
        self._arrived = Event()
        self._closing = Event()
        self._thread = Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Number of lines that were dropped."""
        return self._not_kept + self._not_written

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._records) < _MAX_RECORDS:
            self._records.append(record)
        else:
            self._not_kept += 1
        if not self._arrived.is_set():
            self._arrived.set()

    def close(self) -> None:
        """Write the remaining lines, for at most `_CLOSE_SECONDS`."""
        self._closing.set()
        self._arrived.set()
        self._thread.join(_CLOSE_SECONDS)
        super().close()

    def _run(self) -> None:
        last = False
        while not last:
            if not self._closing.is_set():
                self._arrived.wait(_RETRY_SECONDS if self.dropped > self._reported else None)
            last = self._closing.wait(_COLLECT_SECONDS)
            self._arrived.clear()
            records: list[logging.LogRecord] = []
            written = 0
            try:
                for _ in range(len(self._records)):
                    records.append(self._records.popleft())
                self._report_dropped()
                lines = [self._format(record) for record in records]
                for group in _group(lines) if self._shared else [lines]:
                    whole = self._write(group)
                    written += whole
                    if whole < len(group):
                        break
            except Exception as error:  # such as a lack of memory: the thread must not end
                self._reason = f"{type(error).__name__}: {error}"
            self._not_written += len(records) - written

    def _report_dropped(self) -> None:
        """Write a line about the records that were dropped since the last such line."""
        dropped = self.dropped
        if dropped == self._reported:
            return
        message = f"{dropped - self._reported} log lines were dropped: {self._reason}"
        if self._write([self._format(_make_record(__name__, logging.WARNING, message))]):
            self._reported, self._reason = dropped, _OVERFLOW

    def _format(self, record: logging.LogRecord) -> bytes:
        """The line of a record; if its arguments do not fit its message, a line that says so."""
        try:
            line = self.format(record)
        except Exception as error:
            line = self.format(_make_record(record.name, record.levelno, _describe_unformattable(record, error)))
        return f"{line}\n".encode(errors="backslashreplace")

    def _write(self, lines: Sequence[bytes]) -> int:
        """Write lines. Returns the number of those that were written as a whole."""
        start = b"\n" if self._cut else b""
        data = memoryview(start + b"".join(lines))
        written = 0
        try:
            while written < len(data):
                written += self._write_some(data[written:])
        except OSError as error:
            self._reason = f"the log cannot be written: {error.strerror}"
        if written < len(start):
            return 0
        return self._count_whole(lines, written - len(start))

    def _write_some(self, data: memoryview) -> int:
        try:
            return os.write(self._file, data)
        except BlockingIOError:  # another process that shares the terminal or pipe has made it non-blocking
            writable = select.poll()
            writable.register(self._file, select.POLLOUT)
            writable.poll(1000 * _RETRY_SECONDS)
            return 0

    def _count_whole(self, lines: Sequence[bytes], written: int) -> int:
        """The number of lines that the first `written` bytes hold as a whole."""
        for number, line in enumerate(lines):
            if written < len(line):
                self._cut = written > 0
                return number
            written -= len(line)
        self._cut = False
        return len(lines)


def _group(lines: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Groups of lines that a pipe takes as a whole, with room for the end of a line that was cut; or one long line."""
    group: list[bytes] = []
    size = 0
    for line in lines:
        if group and size + len(line) >= select.PIPE_BUF:
            yield group
            group, size = [], 0
        group.append(line)
        size += len(line)
    if group:
        yield group


def _make_record(name: str, level: int, message: str) -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 0, message, None, None)


def _describe_unformattable(record: logging.LogRecord, error: Exception) -> str:
    try:
        return f"a log line could not be formatted: {type(error).__name__}: {error}: {record.msg!r}"
    except Exception:  # of an object that cannot be turned into text
        return "a log line could not be formatted"


def dropped_lines() -> int:
    """Number of log lines of this process that were dropped."""
    return sum(handler.dropped for handler in logging.root.handlers if isinstance(handler, BackgroundHandler))
