"""PASS or FAIL and the measured figure for each numbered line."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping

Check = Callable[[], tuple[bool, str]]
"""Measures a line: whether it holds, and the figure."""


def run(checks: Mapping[int, Check]) -> None:
    """Run the lines named on the command line, or all; exits with 1 where one does not hold."""
    chosen = [int(argument) for argument in sys.argv[1:]] or list(checks)
    failed = 0
    for number in chosen:
        try:
            holds, figure = checks[number]()
        except Exception as error:
            traceback.print_exc()
            holds, figure = False, f"{type(error).__name__}: {error}"
        failed += not holds
        print(f"{'PASS' if holds else 'FAIL'}  line {number}: {figure}", flush=True)
    sys.exit(1 if failed else 0)
