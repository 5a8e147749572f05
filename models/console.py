"""Standard error as the command lines use it. Imports no torch."""

from __future__ import annotations

import functools
import sys
from typing import NoReturn

from rich.console import Console

console = Console(stderr=True)


@functools.cache
def print_once(line: str) -> None:
    """Print a line as it is, unless this process printed it before: both splits of a folder skip the same files."""
    console.print(line, highlight=False, soft_wrap=True, markup=False)


def print_error(error: Exception | str) -> None:
    """Print an `error:` line in red, without line breaks, markup or highlighting."""
    console.print(f"error: {error}", style="red", highlight=False, soft_wrap=True, markup=False)


def fail(error: Exception | str) -> NoReturn:
    """Print an `error:` line and end the process with status 2, as for wrong usage."""
    print_error(error)
    sys.exit(2)
