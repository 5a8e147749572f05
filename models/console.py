"""Standard error as the command lines use it, and an option that they share. Imports no torch."""

from __future__ import annotations

import functools
import sys
import unicodedata
from typing import Annotated, NoReturn

import typer
from rich.console import Console

console = Console(stderr=True)

ByPosition = Annotated[
    bool,
    typer.Option(
        "--by-position",
        help="The classes of --data are the checkpoint's in this order, whatever their names. Default: by name.",
    ),
]
"""How the classes of a data set are matched with those of a network."""


@functools.cache
def print_once(line: str) -> None:
    """Print a line as it is, unless this process printed it before: both splits of a folder skip the same files."""
    console.print(line, highlight=False, soft_wrap=True, markup=False)


def print_error(error: Exception | str) -> None:
    """Print an `error:` line in red, without line breaks, markup or highlighting."""
    # Of several processes that train together, the others print nothing else.
    console.quiet = False
    console.print(f"error: {error}", style="red", highlight=False, soft_wrap=True, markup=False)


def printable(text: str) -> str:
    """Text of other people, such as a label or a path, as a terminal can show it: surrogates and control characters,
    with which a terminal can be changed, are escaped."""
    return "".join(
        each.encode("unicode_escape").decode() if unicodedata.category(each) in ("Cc", "Cs") else each for each in text
    )


def fail(error: Exception | str) -> NoReturn:
    """Print an `error:` line and end the process with status 2, as for wrong usage."""
    print_error(error)
    sys.exit(2)
