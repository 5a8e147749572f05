"""The log when its lines cannot be formatted, cannot be written, or are not read."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from queue import SimpleQueue
from threading import Event
from typing import Any

import pytest

from service.telemetry import background_log
from service.telemetry.background_log import BackgroundHandler, dropped_lines
from service.telemetry.log_config import JsonFormatter, TextFormatter
from service.telemetry.metrics import Metrics
from tests.support.service import TIMEOUT


class Disk:
    """Takes the bytes of a log, as long as it has room."""

    def __init__(self) -> None:
        self.content = b""
        self.room = 1_000_000
        self.tried = SimpleQueue[None]()
        self.ready = Event()
        self.ready.set()

    def write(self, file: int, data: memoryview) -> int:
        self.tried.put(None)
        assert self.ready.wait(TIMEOUT)
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = data[: self.room].tobytes()
        self.content += written
        self.room -= len(written)
        return len(written)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(os, "write", disk.write)
    return disk


@contextmanager
def logging_to(file: int, formatter: logging.Formatter | None = None) -> Iterator[tuple[logging.Logger, Any]]:
    """A logger that writes to a file descriptor, and its handler."""
    logger = logging.Logger("test")
    with closing(BackgroundHandler(file)) as handler:
        handler.setFormatter(formatter or logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        yield logger, handler


class Unprintable:
    def __str__(self) -> str:
        raise ValueError("cannot be printed")

    __repr__ = __str__


def raising() -> dict[str, Any]:
    raise KeyError("fields")


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
@pytest.mark.parametrize(
    ("arguments", "options", "expected"),
    [
        (("%d images", "two"), {}, "could not be formatted: TypeError"),
        (("images",), {"extra": {"fields": raising}}, "could not be formatted: KeyError: 'fields': 'images'"),
        ((Unprintable(),), {}, "could not be formatted"),
        (("%s: cannot be read", "caf\udce9"), {}, r"caf\udce9: cannot be read"),
        (("images",), {"extra": {"fields": {"file": "caf\udce9"}}}, r"caf\udce9"),
    ],
)
def test_line_that_cannot_be_formatted_does_not_end_the_log(
    formatter: logging.Formatter, arguments: tuple[Any, ...], options: dict[str, Any], expected: str, disk: Disk
) -> None:
    with logging_to(1, formatter) as (logger, handler):
        logger.error(*arguments, **options)
        logger.error("the next line")
    first, second = disk.content.decode().splitlines()
    assert expected in first
    assert "the next line" in second
    assert handler.dropped == 0


def test_dropped_lines_are_counted_and_stated_once_writing_works(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.room = 4
    with logging_to(1) as (logger, handler):
        monkeypatch.setattr(logging.root, "handlers", [handler])
        logger.error("a line that fits in part")
        for _ in range(2):  # the part that fits, then the rest
            disk.tried.get(timeout=TIMEOUT)
        disk.room = 1_000_000
        logger.error("kept")
    assert disk.content.decode().splitlines() == [
        "a li",
        "1 log lines were dropped: the log cannot be written: No space left on device",
        "kept",
    ]
    assert handler.dropped == 1


def test_metric_counts_dropped_lines(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.room = 0
    with logging_to(1) as (logger, handler):
        logger.error("lost")
    monkeypatch.setattr(logging.root, "handlers", [handler])
    assert dropped_lines() == 1
    assert "\nresnet_log_lines_dropped_total 1.0\n" in asyncio.run(Metrics().render()).decode()


def test_lines_beyond_the_bound_are_dropped(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_log, "_MAX_RECORDS", 3)
    disk.ready.clear()
    with logging_to(1) as (logger, handler):
        logger.error("0")
        disk.tried.get(timeout=TIMEOUT)
        for number in range(1, 6):
            logger.error("%d", number)
        disk.ready.set()
    assert disk.content.decode().splitlines() == ["0", f"2 log lines were dropped: {background_log._OVERFLOW}", *"123"]
    assert handler.dropped == 2


def test_slow_reader_of_a_non_blocking_pipe_gets_every_line() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    expected = [f"{number:0100}" for number in range(2000)]
    with logging_to(writing) as (logger, handler), open(reading) as lines:
        for line in expected:
            logger.error("%s", line)
        assert [next(lines).rstrip() for _ in expected] == expected
        assert handler.dropped == 0
    os.close(writing)
