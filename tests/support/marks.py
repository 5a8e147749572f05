"""Marks of test parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def slow_except(fast: object, values: Iterable[Any]) -> list[Any]:
    """Return the values of a parameter, all but one of them marked as slow.

    Args:
        fast: value that `make test-fast` includes.
        values: all values; a tuple sets several parameters.
    """
    values = list(values)
    assert fast in values
    return [value if value == fast else _slow(value) for value in values]


def _slow(value: Any) -> Any:
    return pytest.param(*(value if isinstance(value, tuple) else [value]), marks=pytest.mark.slow)
