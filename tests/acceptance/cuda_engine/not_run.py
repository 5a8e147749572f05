"""Lines that the executor's side has to show."""

from __future__ import annotations


def on_a_gpu() -> tuple[bool, str]:
    """Speed on a GPU of the H100 class."""
    return False, "not run: needs the executor and a GPU"


def in_images() -> tuple[bool, str]:
    """The Compose profile and target."""
    return False, "not run: needs the executor's image"


def damaged() -> tuple[bool, str]:
    """Damaged and foreign engines in the service."""
    return False, "not run: needs the executor; tests/unit/test_cuda_engine.py has the files"
