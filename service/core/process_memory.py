"""Resident memory of the processes of the service, as the kernel counts it. Linux only."""

from __future__ import annotations

import os
import time
from pathlib import Path

_PROCESSES = Path("/proc")
_PARENT = 1
"""Position in /proc/PID/stat behind the name of the program (proc_pid_stat(5))."""
_RESIDENT = 1
"""Position in /proc/PID/statm (proc_pid_statm(5))."""
_SEARCH_SECONDS = 5.0
"""Time after which new processes are found. A search reads a file per process of the machine."""


class ServiceMemory:
    """Measures the memory of a process and of all processes that it started. For one thread at a time.

    Args:
        root: id of the process.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._found: list[int] = []
        self._next_search = 0.0

    def resident_bytes(self) -> int:
        """Resident memory in bytes. A page that several processes share counts for each of them."""
        if time.monotonic() >= self._next_search:
            self._found = _find(self._root)
            self._next_search = time.monotonic() + _SEARCH_SECONDS
        pages = 0
        for process in self._found:
            try:
                pages += int((_PROCESSES / str(process) / "statm").read_bytes().split()[_RESIDENT])
            except OSError:  # ended meanwhile: perhaps another one took its place
                self._next_search = 0.0
        return pages * os.sysconf("SC_PAGE_SIZE")


def _find(root: int) -> list[int]:
    """Ids of a process and of all processes that it started."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir(_PROCESSES)):
        try:
            stat = (_PROCESSES / name / "stat").read_bytes()
        except OSError:  # ended meanwhile
            continue
        children.setdefault(int(stat.rpartition(b")")[2].split()[_PARENT]), []).append(int(name))
    found = [root]
    for process in found:
        found += children.get(process, ())
    return found
