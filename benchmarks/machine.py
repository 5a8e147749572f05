"""What processes use, and what else runs on the machine, out of /proc (Linux)."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICK = os.sysconf("SC_CLK_TCK")
_USER, _NICE, _SYSTEM, _STEAL = 0, 1, 2, 7
_MIB = 1024 * 1024


def process_tree(root: int) -> list[int]:
    """A process and all that descend from it, by number."""
    children = defaultdict(list)
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(entry / "stat")):
            children[int(fields[1])].append(int(entry.name))
    tree = [root]
    for process in tree:  # grows meanwhile
        tree += children[process]
    return tree


def cpu_seconds(processes: Sequence[int]) -> float:
    """Processor time that they have used, all threads, in steps of a tick (10 ms)."""
    return sum(_used(_stat(_PROC / str(process) / "stat")) for process in processes)


def cpu_by_thread(processes: Sequence[int]) -> dict[str, float]:
    """The same by the threads' names. The main thread is `main`; Python names its others only from 3.14 on."""
    used: dict[str, float] = defaultdict(float)
    for process in processes:
        for task in _entries(_PROC / str(process) / "task"):
            name = "main" if task.name == str(process) else _read(task / "comm").strip()
            used[name] += _used(_stat(task / "stat"))
    return dict(used)


@dataclass(frozen=True)
class Memory:
    """In MiB, added up over the processes."""

    rss: float
    """Pages that two processes share count twice."""
    pss: float
    """Pages that two processes share count half in each."""


def memory(processes: Sequence[int]) -> Memory:
    sums = {"Rss:": 0.0, "Pss:": 0.0}
    for process in processes:
        for line in _read(_PROC / str(process) / "smaps_rollup").splitlines():
            name, *rest = line.split()
            if name in sums:
                sums[name] += int(rest[0]) * 1024 / _MIB
    return Memory(sums["Rss:"], sums["Pss:"])


@dataclass(frozen=True)
class Moment:
    """Time until now of the processors that this process may use, in seconds."""

    whole: float
    """Idle or not."""
    busy: float
    """In programs, whoever's, and what other virtual machines took. Interrupts are left out: network traffic over the
    loopback device is this run's own, and the kernel charges it to nobody."""
    own: float
    """Of this process and those that it has started."""

    @classmethod
    def now(cls) -> Moment:
        mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        lines = [line.split() for line in _read(_PROC / "stat").splitlines()]
        ticks = [[int(field) for field in fields[1:9]] for fields in lines if fields[0] in mine]
        busy = sum(processor[index] for processor in ticks for index in (_USER, _NICE, _SYSTEM, _STEAL))
        _, *children = process_tree(os.getpid())
        return cls(sum(map(sum, ticks)) / _TICK, busy / _TICK, time.process_time() + cpu_seconds(children))

    def other_load(self, later: Moment) -> float:
        """Share of these processors that others used from this moment to the later one.

        The system counts in hundredths of a second: over less than a few tenths it says little.
        """
        whole = later.whole - self.whole
        others = later.busy - self.busy - (later.own - self.own)
        return max(0.0, others / whole) if whole > 0 else 0.0


def processor() -> str:
    """Its name."""
    for line in _read(_PROC / "cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def _used(fields: list[str]) -> float:
    return (int(fields[11]) + int(fields[12])) / _TICK if fields else 0.0


def _stat(path: Path) -> list[str]:
    """The fields behind the name, which may hold anything; none once the process has ended."""
    return _read(path).rpartition(")")[2].split()


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # it has ended, or is another user's
        return ""


def _entries(folder: Path) -> Iterator[Path]:
    try:
        yield from folder.iterdir()
    except OSError:
        return
