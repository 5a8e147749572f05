"""Times calls of a function, and detects whether other processes used the CPUs meanwhile (/proc/stat, Linux only)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MAX_OTHER_LOAD = 0.08
"""Share of the CPUs used by other processes above which a timing counts as disturbed."""
_TICK = os.sysconf("SC_CLK_TCK")
_USER, _NICE, _SYSTEM, _STEAL = 0, 1, 2, 7


@dataclass(frozen=True)
class CpuUsage:
    """Time of the CPUs that this process may use, in seconds since the machine's start."""

    total: float
    """Busy or idle."""
    busy: float
    """In programs of all users, and taken by other virtual machines. Without interrupts: traffic over the loopback
    device belongs to the benchmark, and the kernel charges it to no process."""
    own: float
    """In the processes that are measured."""

    @classmethod
    def now(cls, own: float) -> CpuUsage:
        """The usage until now, with the CPU seconds of the processes that are measured."""
        mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
        ticks = [[int(field) for field in fields[1:9]] for fields in lines if fields[0] in mine]
        busy = sum(cpu[index] for cpu in ticks for index in (_USER, _NICE, _SYSTEM, _STEAL))
        return cls(sum(map(sum, ticks)) / _TICK, busy / _TICK, own)

    def other_load(self, later: CpuUsage) -> float:
        """Share of the CPUs that other processes used from this moment to a later one.

        The system counts in hundredths of a second, so the share is rough over less than a few tenths.
        """
        total = later.total - self.total
        others = later.busy - self.busy - (later.own - self.own)
        return max(0.0, others / total) if total > 0 else 0.0


@dataclass(frozen=True)
class CallTiming:
    """Calls of one function."""

    seconds: float
    """Median of a call."""
    disturbed: bool
    """Whether other processes used more than `MAX_OTHER_LOAD` of the CPUs."""


def time_calls(run: Callable[[], object], seconds: float) -> CallTiming:
    """Call a function for a number of seconds, at least once, after one call that is not timed."""
    run()  # fills the caches, which hold data of the function before
    before = CpuUsage.now(time.process_time())
    calls: list[float] = []
    end = time.perf_counter() + seconds
    while not calls or time.perf_counter() < end:
        started = time.perf_counter()
        run()
        calls.append(time.perf_counter() - started)
    other_load = before.other_load(CpuUsage.now(time.process_time()))
    return CallTiming(float(np.median(calls)), other_load > MAX_OTHER_LOAD)
