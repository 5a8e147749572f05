"""Line 6: the page shows a rollout in progress, light and dark, wide and narrow, in a browser."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
TEST = "tests/e2e/test_rollout_page.py"


def check() -> tuple[bool, str]:
    """Run the test of the page; without a browser nothing is shown."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", TEST]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    summary = (done.stdout.strip().splitlines() or ["no output"])[-1].strip("= ")
    return done.returncode == 0 and "skipped" not in summary, f"{TEST}: {summary}"
