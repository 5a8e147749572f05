"""The settings of glibc's malloc. With another C library nothing here does anything."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE_BYTES = 8 * 1024 * 1024
_LARGEST_BYTES = 32 * 1024 * 1024
"""glibc takes no larger threshold."""
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
"""The system's choice, in brackets."""


def use_huge_pages() -> None:
    """Have malloc ask for pages of 2 MB where Linux leaves that to the program, as on Ubuntu. To be called first.

    glibc reads this option only when a process starts, so the process starts again, once, with the same arguments. The
    environment variable `GLIBC_TUNABLES` then has the option, and the processes that this one starts have it too. Does
    nothing if that variable already decides, or if the system always or never gives huge pages.

    A network reads and writes all its memory for each batch, and the CPU has to find the address of each page.
    `docs/decisions/huge-pages.md` has the measurements.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if "glibc.malloc.hugetlb" in tunables or not _program_decides():
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [tunables, "glibc.malloc.hugetlb=1"]))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _program_decides() -> bool:
    try:
        return "[madvise]" in HUGE_PAGES.read_text(encoding="ascii") and platform.libc_ver()[0] == "glibc"
    except OSError:
        return False


def return_large_blocks() -> None:
    """Have each block of 8 MB or more returned to the system as soon as it is freed. To be called at the start.

    By default glibc raises this threshold to the size of the largest freed block, up to 32 MB, and keeps smaller ones.
    Twelve large photographs then took 3.4 GB for good. A block that is kept is also cleared again for the next image,
    while all threads stand still.
    """
    _set(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def keep_freed_blocks() -> None:
    """Keep freed blocks of up to 32 MB for the next step of a training.

    By default glibc returns free memory at the end of its heap to the system, which clears every page before the next
    step gets it again. Without that, a ResNet-20 (28 x 28, batches of 128) trains 1.08 times as fast on two CPUs, and a
    ResNet-50 (224 x 224, batches of 32) 1.05 times, in 1 to 2 % more memory. Medians of rounds in turn.
    """
    _set(_M_TRIM_THRESHOLD, 2**31 - 1)  # the largest value: never
    _set(_M_MMAP_THRESHOLD, _LARGEST_BYTES)


def trim() -> None:
    """Return freed memory to the system. Takes milliseconds, so call it in a thread.

    glibc keeps the memory of a closed runtime session for later: after ten reloads of a ResNet-18 under load the
    process held 770 MB instead of 260 MB.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def _set(option: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(option, value)
