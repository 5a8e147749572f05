"""The CPUs of this process."""

from __future__ import annotations

import os
from pathlib import Path


def available_cpus() -> int:
    """Number of CPUs that this process may use: its affinity mask, limited by the CPU quota of its container."""
    cpus = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cpus
    return cpus if quota == "max" else max(1, min(cpus, int(quota) // int(period)))
