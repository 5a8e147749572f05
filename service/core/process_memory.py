"""Resident memory of the processes of the service, as the kernel counts it. Linux only."""

from __future__ import annotations

import os
from pathlib import Path

_PROCESSES = Path("/proc")
_PARENT, _PAGES = 1, 21
"""Positions in /proc/PID/stat behind the name of the program: the parent, and the resident pages (proc_pid_stat(5))."""


def resident_bytes(root: int) -> int:
    """Resident memory of a process and of all processes that it started, in bytes.

    A page that several processes share counts for each of them. Takes about 10 µs per process of the machine, so call
    it in a thread.

    Args:
        root: id of the process.
    """
    pages, children = dict[int, int](), dict[int, list[int]]()
    for name in os.listdir(_PROCESSES):
        if not name.isdigit():
            continue
        try:
            stat = (_PROCESSES / name / "stat").read_bytes()
        except OSError:  # ended meanwhile
            continue
        fields = stat.rpartition(b")")[2].split()
        pages[int(name)] = int(fields[_PAGES])
        children.setdefault(int(fields[_PARENT]), []).append(int(name))
    total, found = 0, [root]
    while found:
        process = found.pop()
        total += pages.get(process, 0)
        found += children.get(process, ())
    return total * os.sysconf("SC_PAGE_SIZE")
