"""The sheet of a process, and the log line when it is full."""

from __future__ import annotations

import logging
import math
import os

import pytest

from service.telemetry.shared_series import SharedAmount
from service.telemetry.sheet import Sheet


def test_next_process_continues_counts_and_nothing_else() -> None:
    sheet = Sheet("worker-1")
    sheet.begin()
    sheet.series("images", ("a",), 1)[0] = 7
    sheet.series("queue", ("a",), 1, gauge=True)[0] = 3
    sheet.connections, sheet.accepting, sheet.loading = 5, True, True
    before = sheet.heartbeat
    sheet.begin()
    assert (sheet.connections, sheet.accepting, sheet.loading, sheet.pid) == (0, False, False, os.getpid())
    assert sheet.heartbeat >= before > 0
    assert sheet.series("images", ("a",), 1)[0] == 7
    assert sheet.read("images") == {("a",): [7.0]}
    assert sheet.read("queue") == {}


def test_amounts_of_processes_that_run_are_added_up() -> None:
    own, other, ended = sheets = [Sheet(f"worker-{number}") for number in (1, 2, 3)]
    for sheet in sheets:
        sheet.begin()
    amounts = [SharedAmount(sheet, sheets, "images", "a") for sheet in sheets]
    assert amounts[0].elsewhere() == 0
    for amount, value in zip(amounts, (1, 20, 300), strict=True):
        amount.state(value)
    assert amounts[0].elsewhere() == 320
    ended.end()
    assert amounts[0].elsewhere() == 20
    other.begin()
    assert amounts[0].elsewhere() == 0
    assert own.read("images") == {("a",): [1.0]}


def test_series_of_different_sizes_do_not_overlap() -> None:
    sheet = Sheet("worker-1")
    sizes = {f"name {number}": 1 + number % 7 for number in range(100)}
    for number, (name, size) in enumerate(sizes.items()):
        values = sheet.series(name, ("é\n\0", name), size)
        assert values.tolist() == [0.0] * size
        for place in range(size):
            values[place] = number
    for number, (name, size) in enumerate(sizes.items()):
        assert sheet.read(name) == {("é\n\0", name): [float(number)] * size}


@pytest.mark.parametrize("sizes", [{"values": 10}, {"text_bytes": 100}])
def test_full_sheet_keeps_its_series_and_warns_once(sizes: dict[str, int], caplog: pytest.LogCaptureFixture) -> None:
    sheet = Sheet("worker-1", **sizes)
    with caplog.at_level(logging.WARNING):
        for number in range(100):
            sheet.series("images", (str(number),), 2)[:] = memoryview(bytearray(16)).cast("d")
            values = sheet.series("images", (str(number),), 2)
            values[1] += 5  # a series without room is counted, in memory of the process
    known = sheet.read("images")
    assert 0 < len(known) < 100
    assert list(known) == [(str(number),) for number in range(len(known))]
    assert all(values == [0, 5] for values in known.values())
    (line,) = caplog.messages
    assert "the sheet of worker-1 is full" in line


def test_new_gauge_does_not_exist() -> None:
    sheet = Sheet("worker-1")
    gauge = sheet.series("queue", (), 1, gauge=True)
    assert sheet.read("queue") == {}
    gauge[0] = 0.0
    assert sheet.read("queue") == {(): [0.0]}
    gauge[0] = math.nan
    assert sheet.read("queue") == {}


def test_states_of_processes_that_have_begun() -> None:
    sheets = [Sheet("worker-1"), Sheet("worker-2"), Sheet("engine")]
    for sheet in sheets[:2]:
        sheet.begin()
    sheets[1].connections = 3
    sheets[1].loading = True
    first, second, third = sheets
    assert (first.name, first.pid, first.connections, first.loading) == ("worker-1", os.getpid(), 0, False)
    assert (second.name, second.connections, second.loading) == ("worker-2", 3, True)
    assert second.heartbeat > 0
    assert second.is_running()
    assert not third.pid
    second.end()
    assert not second.pid
    assert not second.is_running()
