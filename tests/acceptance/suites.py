"""Runs tests of the suite for a line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def pytest_counts(*arguments: str, **variables: str) -> tuple[bool, str]:
    """Whether tests pass, and the counts. Failures and the reasons of those that are skipped are shown.

    Args:
        arguments: files of tests, or other arguments of pytest.
        variables: environment variables.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-q", "-rs", "-p", "no:cacheprovider", *arguments],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
    )  # fmt: skip
    lines = done.stdout.strip().splitlines()
    for line in lines:
        if line.startswith(("SKIPPED", "FAILED", "ERROR")):
            print(f"    {line}", flush=True)
    return done.returncode == 0, lines[-1].strip("= ") if lines else done.stderr
