"""Memory between the steps of a training."""

from __future__ import annotations

import subprocess
import sys

import pytest

FILL = """
import resource, sys
import numpy as np
from models.training.device import keep_freed_memory

def step():
    return [np.ones(16 << 20, np.uint8) for _ in range(4)]

if sys.argv[1] == "keep":
    keep_freed_memory()
step()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library is glibc")
def test_freed_blocks_give_their_pages_to_the_next_ones() -> None:
    faults = {
        mode: int(subprocess.run([sys.executable, "-c", FILL, mode], capture_output=True, check=True).stdout)
        for mode in ("default", "keep")
    }
    assert faults["default"] > 1000  # 16 MB are 4,096 pages of 4 kB
    assert faults["keep"] < 100
