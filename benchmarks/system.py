"""CPU time and memory of processes, and the load of the machine, from /proc (Linux)."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.cli.tune_timing import CpuUsage

_PROC = Path("/proc")
_TICK = os.sysconf("SC_CLK_TCK")
_MIB = 1024 * 1024


def process_tree(root: int) -> list[int]:
    """The ids of a process and of all its descendants."""
    children = defaultdict(list)
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(entry / "stat")):
            children[int(fields[1])].append(int(entry.name))
    tree = [root]
    for process in tree:  # grows during the loop
        tree += children[process]
    return tree


def cpu_seconds(processes: Sequence[int]) -> float:
    """CPU time of all threads of processes, in steps of a tick (10 ms)."""
    return sum(_used(_stat(_PROC / str(process) / "stat")) for process in processes)


def cpu_by_thread(processes: Sequence[int]) -> dict[str, float]:
    """CPU seconds by thread name. The main thread is `main`; Python names other threads from version 3.14 on."""
    used: dict[str, float] = defaultdict(float)
    for process in processes:
        for task in _entries(_PROC / str(process) / "task"):
            name = "main" if task.name == str(process) else _read(task / "comm").strip()
            used[name] += _used(_stat(task / "stat"))
    return dict(used)


@dataclass(frozen=True)
class Memory:
    """Sums over processes, in MiB."""

    rss: float
    """A page that two processes share counts twice."""
    pss: float
    """A page that two processes share counts half in each."""


def memory(processes: Sequence[int]) -> Memory:
    """The memory of processes."""
    sums = {"Rss:": 0.0, "Pss:": 0.0}
    for process in processes:
        for line in _read(_PROC / str(process) / "smaps_rollup").splitlines():
            name, *rest = line.split()
            if name in sums:
                sums[name] += int(rest[0]) * 1024 / _MIB
    return Memory(sums["Rss:"], sums["Pss:"])


def cpu_usage() -> CpuUsage:
    """The usage until now; this process and its descendants are those that are measured."""
    _, *children = process_tree(os.getpid())
    return CpuUsage.now(time.process_time() + cpu_seconds(children))


def _used(fields: list[str]) -> float:
    return (int(fields[11]) + int(fields[12])) / _TICK if fields else 0.0


def _stat(path: Path) -> list[str]:
    """The fields behind the process's name, which may contain any character; empty if the process has ended."""
    return _read(path).rpartition(")")[2].split()


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # the process has ended, or belongs to another user
        return ""


def _entries(folder: Path) -> Iterator[Path]:
    try:
        yield from folder.iterdir()
    except OSError:
        return
