"""Hostile input, broken surroundings and unusual files, each against a served process or a command.

    python -m tests.acceptance.faults [NUMBER ...]

Prints PASS or FAIL with its figure for each case. Needs the extras `cpu`, `train` and `dev`.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import traceback
from pathlib import Path

from tests.acceptance.faults.case import CASES, Case, Failed

_FRAMEWORK = {"__main__", "case", "fuzz", "health_probe", "served", "soak"}


def main() -> None:
    """Run the cases with the numbers on the command line, or all. Exits with 1 if one does not hold."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name not in _FRAMEWORK:
            importlib.import_module(f"tests.acceptance.faults.{module.name}")
    numbers = {int(argument) for argument in sys.argv[1:]}
    chosen = sorted((case for case in CASES if not numbers or case.number in numbers), key=lambda case: case.number)
    passed = [_run(case) for case in chosen]
    print(f"{sum(passed)} of {len(passed)} cases hold")
    sys.exit(0 if passed and all(passed) else 1)


def _run(case: Case) -> bool:
    try:
        holds, figure = True, case.run()
    except Failed as failed:
        holds, figure = False, str(failed)
    except Exception as error:
        traceback.print_exc()
        holds, figure = False, f"{type(error).__name__}: {error}"
    print(f"{'PASS' if holds else 'FAIL'}  {case.number:2}  {case.title}: {figure}", flush=True)
    return holds


if __name__ == "__main__":
    main()
