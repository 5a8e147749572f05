"""The memory reserved for an image covers its decoding, measured as the peak of a process's memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

WASTE = 2.6
"""Largest ratio of the memory that is reserved to the memory that is taken: the rest would stand idle."""
FIXED_BYTES = 16 * 1024 * 1024
"""Buffers that are reserved for an image of any size."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_reserved_memory_covers_what_decoding_takes() -> None:
    command = [sys.executable, "-m", "tests.support.decode_peak"]
    measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert len(measured) > 30
    low = {name: pair for name, pair in measured.items() if pair[1] > max(pair[0], FIXED_BYTES)}
    assert not low
    wasteful = {name: pair for name, pair in measured.items() if pair[0] - FIXED_BYTES > WASTE * pair[1]}
    assert not wasteful
