"""Each layout written and read again."""

from __future__ import annotations


def check() -> tuple[bool, str]:
    """Each layout written and read again."""
    return False, "not built yet"
