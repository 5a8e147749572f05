"""What else the machine does: time of the processors that was spent, and not by this process."""

from __future__ import annotations

import os
import time
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


class OtherLoad:
    """Watches the processors that this process may use, from when it is made."""

    def __init__(self) -> None:
        self._started, self._others = time.perf_counter(), _others()

    def share(self) -> float:
        """Of these processors' time since then, the share that others used; 0 where the system does not tell.

        The system counts in hundredths of a second: over less than a few tenths it says little.
        """
        possible = (time.perf_counter() - self._started) * len(os.sched_getaffinity(0))
        return max(0.0, _others() - self._others) / possible


def _others() -> float:
    """Seconds that these processors were busy, less those of this process."""
    mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return 0.0
    busy = 0
    for line in lines:
        name, *ticks = line.split()
        if name in mine:
            user, nice, system, _, _, irq, soft, steal = (int(tick) for tick in ticks[:8])
            busy += user + nice + system + irq + soft + steal
    return busy / _TICK - time.process_time()
