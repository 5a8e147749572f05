"""Thirty checkpoints as tools write them."""

from __future__ import annotations


def check() -> tuple[bool, str]:
    """Thirty checkpoints as tools write them."""
    return False, "not built yet"
