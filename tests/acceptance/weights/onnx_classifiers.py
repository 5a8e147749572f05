"""Twenty ONNX classifiers."""

from __future__ import annotations


def check() -> tuple[bool, str]:
    """Twenty ONNX classifiers."""
    return False, "not built yet"
