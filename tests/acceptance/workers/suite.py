"""The tests of the HTTP interface, with both sides of the service in one, and apart."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.acceptance.faults.case import expect
from tests.acceptance.faults.served import ROOT
from tests.support.split import VARIABLE

FILES = (
    "access_log",
    "activation_maps",
    "api",
    "api_keys",
    "classify",
    "overload",
    "single_image",
    "stalled_batches",
    "v2",
    "web_ui",
    "wrapping",
)
"""Tests that use `tests.support.service.serve`, in tests/integration."""


def run_both() -> str:
    """Run the tests in both modes."""
    outcomes = {"together": _run(), "apart": _run(**{VARIABLE: "1"})}
    figures = ", ".join(f"{name} {summary}" for name, (_, summary) in outcomes.items())
    expect(all(passed for passed, _ in outcomes.values()), f"tests of the API, both sides {figures}")
    return f"tests of the API, both sides {figures}"


def _run(**environment: str) -> tuple[bool, str]:
    files = [f"tests/integration/test_{name}.py" for name in FILES]
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", *files]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines() or ["no output"]
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            print(f"    {line}", flush=True)
    return done.returncode == 0, lines[-1].strip("= ")
