"""The CPUs of this process."""

from __future__ import annotations

import os
from pathlib import Path

_limit: int | None = None


def limit_cpus(cpus: int) -> None:
    """Have `available_cpus` return this number at most. For a process that shares its machine with others like it."""
    global _limit
    _limit = cpus


def available_cpus() -> int:
    """Number of CPUs that this process may use: its affinity mask, limited by the CPU quota of its container, and by
    `limit_cpus`."""
    cpus = len(os.sched_getaffinity(0))
    if _limit is not None:
        cpus = min(cpus, _limit)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cpus
    return cpus if quota == "max" else max(1, min(cpus, int(quota) // int(period)))
