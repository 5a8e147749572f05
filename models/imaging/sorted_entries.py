"""The entries of a folder in order, in constant memory: a folder may have millions.

Sorted runs go to a temporary file and are merged, as in Knuth, The Art of Computer Programming, volume 3, section 5.4.
"""

from __future__ import annotations

import heapq
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import IO

Entry = tuple[str, bool]
"""Name of an entry, and whether it is a folder."""

RUN = 20_000
"""Entries that are sorted in memory, in about 3 MB; a smaller folder needs no temporary file."""
_PIECE = 1 << 13
"""Bytes that are read of a run at a time."""


def sort_entries(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Sort entries by name. All are read before this returns.

    Raises:
        OSError: the temporary file cannot be written.
    """
    remaining = iter(entries)
    first = sorted(islice(remaining, RUN))
    if len(first) < RUN:
        return iter(first)
    file, ends, run = tempfile.TemporaryFile(), [0], first  # noqa: SIM115
    while run:
        # A name holds neither a slash nor a zero byte.
        file.write(b"".join(os.fsencode(name) + (b"/\0" if is_folder else b"\0") for name, is_folder in run))
        ends.append(file.tell())
        run = sorted(islice(remaining, RUN))
    file.flush()
    return _merge(file, ends)


def _merge(file: IO[bytes], ends: Sequence[int]) -> Iterator[Entry]:
    with file:
        runs = (_read_run(file.fileno(), *bounds) for bounds in pairwise(ends))
        yield from heapq.merge(*runs)


def _read_run(descriptor: int, position: int, end: int) -> Iterator[Entry]:
    rest = b""
    while position < end:
        piece = os.pread(descriptor, min(_PIECE, end - position), position)
        position += len(piece)
        *names, rest = (rest + piece).split(b"\0")
        for name in map(os.fsdecode, names):
            yield name.removesuffix("/"), name.endswith("/")
