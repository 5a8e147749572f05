"""How many workers answer."""

from __future__ import annotations

import logging
import sys

log = logging.getLogger(__name__)

_MAX_WORKERS = 8


def default_workers(device: str, cpus: int) -> int:
    """The number of workers if the setting has none.

    Args:
        device: kind of device that computes: cpu, gpu or simulated. On a CPU, decoding and computing share the CPUs.
        cpus: number of CPUs.
    """
    return max(1, min(_MAX_WORKERS, cpus // 2)) if device == "gpu" else 1


def count_workers(setting: int | None, device: str, cpus: int, platform: str = sys.platform) -> int:
    """The number of workers. 1 means that one process does everything.

    Args:
        setting: value of the setting `workers`.
        device: as of `default_workers`.
        cpus: number of CPUs.
        platform: as `sys.platform`.
    """
    workers = default_workers(device, cpus) if setting is None else setting
    if workers > 1 and platform != "linux":
        log.warning("workers is %d, but several processes need Linux: one process does everything", workers)
        return 1
    return workers
