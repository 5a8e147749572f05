"""The memory that a process can take, and a bound for files of other programs."""

from __future__ import annotations

import contextlib
import re
import resource
from collections.abc import Iterator
from pathlib import Path

_SHARE = 0.8
"""Share of the free memory that a file may take."""
_CGROUP = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Let allocations beyond the free memory fail, so that a hostile file raises an error and the kernel kills nothing.

    Without Linux's `/proc` there is no bound.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bound = _bound()
    if bound is None or (soft != resource.RLIM_INFINITY and soft <= bound):
        yield
        return
    resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def available_memory() -> int | None:
    """Bytes that are free on the machine, or fewer if the control group allows fewer; None without Linux's `/proc`."""
    try:
        free = _kilobytes("/proc/meminfo", "MemAvailable")
    except (OSError, ValueError):
        return None
    with contextlib.suppress(OSError, ValueError):  # "max" is no number
        limit, taken = (int((_CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        free = min(free, limit - taken)
    return max(free, 0)


def _bound() -> int | None:
    """Bytes of data that the process may have: what it has, and a share of what is free."""
    free = available_memory()
    try:
        used = _kilobytes("/proc/self/status", "VmData")
    except (OSError, ValueError):
        return None
    return None if free is None else used + int(_SHARE * free)


def _kilobytes(path: str, name: str) -> int:
    """A value in bytes of a file that gives it in kilobytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(path).read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{path} has no {name}")
    return int(found[1]) * 1024
