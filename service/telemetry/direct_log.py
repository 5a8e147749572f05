"""A log handler without a thread, for a process that forks others."""

from __future__ import annotations

import contextlib
import logging
import os
import select


class DirectHandler(logging.Handler):
    """Formats and writes at once. While the reader of the log reads nothing, lines are dropped: nothing waits for it.

    Args:
        file: file descriptor to write to.
    """

    def __init__(self, file: int) -> None:
        super().__init__()
        self._file = file
        self._writable = select.poll()
        self._writable.register(file, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):  # such as a closed pipe: the log must not end the process
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
            if self._writable.poll(0):  # a pipe then takes at least 4096 bytes
                os.write(self._file, line)
