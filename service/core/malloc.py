"""Gives freed memory back to the system."""

from __future__ import annotations

import ctypes


def trim() -> None:
    """Return to the system what has been freed; where the C library has no malloc_trim (musl, macOS), do nothing.

    glibc keeps what a closed runtime session has freed for later: after ten reloads of a ResNet-18 under load the
    process held 770 MB instead of 260. Takes milliseconds; runs in a thread.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
