"""An ensemble, and ten crops."""

from __future__ import annotations


def check() -> tuple[bool, str]:
    """An ensemble, and ten crops."""
    return False, "not built yet"
