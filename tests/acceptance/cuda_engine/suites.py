"""Runs tests for a line, those included that take minutes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.thorough import VARIABLE

ROOT = Path(__file__).parents[3]


def pytest_counts(*arguments: str) -> tuple[bool, str]:
    """Whether tests pass, and the counts. Failures and the reasons of those that are skipped are shown."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "-o", "addopts=", *arguments],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, VARIABLE: "1"},
    )  # fmt: skip
    lines = done.stdout.strip().splitlines()
    print("\n".join(f"  {line}" for line in lines if line.startswith(("SKIPPED", "FAILED", "ERROR"))), flush=True)
    return done.returncode == 0, lines[-1].strip("= ") if lines else done.stderr
