"""The numbers of one process, in memory that all processes of the service share.

The parent makes a sheet for each process before it forks. Only that process writes to its sheet, and every process
reads all sheets. The counts are still there after the process was killed, and its replacement continues them.
"""

from __future__ import annotations

import json
import logging
import math
import mmap
import os
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import NamedTuple

log = logging.getLogger(__name__)

_PID, _CONNECTIONS, _ACCEPTING, _LOADING, _TEXT_LENGTH, _HEARTBEAT = range(6)
"""Positions in the header: integers of 64 bits, but a double for the heartbeat."""
_HEADER_BYTES = 64
_VALUES = 512 * 1024
"""Numbers per sheet: 4 MB. A model with 1,000 classes has about 1,200, so this is enough for hundreds of them."""
_TEXT_BYTES = 8 * 1024 * 1024
"""Names per sheet. Memory is used only for the pages that were written, as for the values."""

Labels = tuple[str, ...]


class _Place(NamedTuple):
    """The values of a series."""

    start: int
    size: int
    gauge: bool


class Sheet:
    """The numbers of one process: header, values, and an append-only text that names the series of values.

    A store of eight bytes is never seen in part. A name becomes visible by the length of the text, which is written
    after it. A killed process therefore leaves at most values and text that no reader looks at.

    Args:
        name: name of the process, for `/metrics` and the log, such as "worker-1".
        values: number of values.
        text_bytes: bytes of names.
    """

    def __init__(self, name: str, values: int = _VALUES, text_bytes: int = _TEXT_BYTES) -> None:
        self.name = name
        begin_text = _HEADER_BYTES + 8 * values
        memory = memoryview(mmap.mmap(-1, begin_text + text_bytes))  # shared with forked processes by default
        self._integers = memory[:_HEADER_BYTES].cast("q")
        self._doubles = memory[:_HEADER_BYTES].cast("d")
        self._values = memory[_HEADER_BYTES:begin_text].cast("d")
        self._text = memory[begin_text:]
        self._lock = Lock()
        """For the threads of this process; other processes need none."""
        self._places: dict[str, dict[Labels, _Place]] = {}
        self._text_read = 0
        self._values_used = 0
        self._full = False

    def begin(self) -> None:
        """Take the sheet for the running process, after the fork. Counts continue; everything else begins anew."""
        self._clear_state()
        with self._lock:
            self._read_names()
            for places in self._places.values():
                for place in places.values():
                    if place.gauge:
                        self._values[place.start] = math.nan
        self.beat()
        self._integers[_PID] = os.getpid()

    def end(self) -> None:
        """Note that the process has ended; its counts stay. Called by its parent, before it forks the replacement."""
        self._integers[_PID] = 0
        self._clear_state()

    def beat(self) -> None:
        """Write a heartbeat."""
        self._doubles[_HEARTBEAT] = time.monotonic()

    @property
    def pid(self) -> int:
        """Id of the process; 0 if it has not begun or has ended."""
        return self._integers[_PID]

    @property
    def heartbeat(self) -> float:
        """Time of the last heartbeat, in `time.monotonic` seconds, which all processes of a machine share."""
        return self._doubles[_HEARTBEAT]

    @property
    def connections(self) -> int:
        """Open connections of the process, which writes them itself."""
        return self._integers[_CONNECTIONS]

    @connections.setter
    def connections(self, connections: int) -> None:
        self._integers[_CONNECTIONS] = connections

    @property
    def accepting(self) -> bool:
        """Whether the process accepts connections; written by itself."""
        return bool(self._integers[_ACCEPTING])

    @accepting.setter
    def accepting(self, accepting: bool) -> None:
        self._integers[_ACCEPTING] = accepting

    @property
    def loading(self) -> bool:
        """Whether the process starts or loads models; written by itself."""
        return bool(self._integers[_LOADING])

    @loading.setter
    def loading(self, loading: bool) -> None:
        self._integers[_LOADING] = loading

    def is_running(self) -> bool:
        """Whether the process runs. A process that was killed does not, even before its parent has noticed."""
        if not self.pid:
            return False
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_bytes()
        except OSError:
            return False
        return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")

    def series(self, name: str, labels: Labels, size: int, gauge: bool = False) -> memoryview[float]:
        """The values of a series of this process, as doubles [size]; found again, or new and zero.

        If the sheet is full, a new series gets memory of this process only, and one line of the log says so.

        Args:
            name: name of the metric.
            labels: values of its labels.
            size: number of values.
            gauge: whether the values belong to the running process only. A new gauge is NaN: it does not exist.
        """
        with self._lock:
            self._read_names()
            place = self._places.get(name, {}).get(labels) or self._append(name, labels, size, gauge)
        if place is None:
            return memoryview(array("d", [math.nan if gauge else 0.0] * size))
        return self._values[place.start : place.start + place.size]

    def read(self, name: str) -> dict[Labels, Sequence[float]]:
        """The values of all series of a metric, by their labels. Gauges that do not exist are left out."""
        with self._lock:
            self._read_names()
            places = list(self._places.get(name, {}).items())
        values = {labels: self._values[place.start : place.start + place.size].tolist() for labels, place in places}
        return {labels: series for labels, series in values.items() if not math.isnan(series[0])}

    def find(self, name: str, labels: Labels) -> memoryview[float] | None:
        """The values of a series of the process whose sheet this is, which change with it; None if there is none."""
        with self._lock:
            self._read_names()
        place = self._places.get(name, {}).get(labels)
        return None if place is None else self._values[place.start : place.start + place.size]

    def _clear_state(self) -> None:
        self._integers[_CONNECTIONS] = self._integers[_ACCEPTING] = self._integers[_LOADING] = 0

    def _append(self, name: str, labels: Labels, size: int, gauge: bool) -> _Place | None:
        """Add a series; None if the sheet is full."""
        line = json.dumps([name, labels, size, gauge]).encode() + b"\n"
        start, end = self._values_used, self._text_read + len(line)
        if end > len(self._text) or start + size > len(self._values):
            if not self._full:
                log.warning("the sheet of %s is full: /metrics lacks its further series, such as %s", self.name, name)
            self._full = True
            return None
        self._values[start : start + size] = memoryview(array("d", [math.nan if gauge else 0.0] * size))
        self._text[self._text_read : end] = line
        self._integers[_TEXT_LENGTH] = end
        self._read_names()
        return self._places[name][labels]

    def _read_names(self) -> None:
        """Read the names that were added since the last time."""
        length = self._integers[_TEXT_LENGTH]
        if length == self._text_read:
            return
        for line in self._text[self._text_read : length].tobytes().splitlines():
            name, labels, size, gauge = json.loads(line)
            self._places.setdefault(name, {})[tuple(labels)] = _Place(self._values_used, size, gauge)
            self._values_used += size
        self._text_read = length
