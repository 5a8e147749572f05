"""Throughput of training with decoded files."""

from __future__ import annotations


def check() -> tuple[bool, str]:
    """Throughput of training with decoded files."""
    return False, "not built yet"
