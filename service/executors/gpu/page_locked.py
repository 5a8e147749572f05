"""Memory that GPUs copy images from where they lie, without the CPU.

The engine process offers the memory that it shares with the workers. Its pages are locked when an executor on a GPU
first reads from it, so a service without a GPU does nothing here.
"""

from __future__ import annotations

import logging
import weakref
from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from threading import RLock

from models.imaging.preprocess import UInt8Array
from models.runtime.cuda import CudaError

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Block:
    """Memory from one address to another."""

    start: int
    end: int
    locked: bool | None = None
    """None before a GPU reads from it."""


_blocks: list[_Block] = []
"""In the order of their addresses."""
_lock = RLock()  # a garbage collection may withdraw a block while the lock is held


def offer(memory: UInt8Array) -> None:
    """Let GPUs read from memory, uint8 [bytes], for as long as the array exists."""
    start = memory.ctypes.data
    block = _Block(start, start + memory.nbytes)
    with _lock:
        insort(_blocks, block, key=_start)
    # It runs before the memory itself is given back.
    weakref.finalize(memory, _withdraw, block).atexit = False


def are_locked(images: Sequence[UInt8Array]) -> bool:
    """Whether a GPU can copy all images, contiguous, from where they lie."""
    with _lock:
        return all(_is_locked(image) for image in images)


def _is_locked(image: UInt8Array) -> bool:
    address = image.__array_interface__["data"][0]
    index = bisect_right(_blocks, address, key=_start) - 1
    if index < 0 or address >= _blocks[index].end:
        return False
    block = _blocks[index]
    if block.locked is None:
        block.locked = _lock_pages(block)
    return block.locked


def _lock_pages(block: _Block) -> bool:
    from models.runtime.cuda import device  # its bindings need not be installed without a GPU

    size = block.end - block.start
    try:
        device.lock_pages(block.start, size)
    except CudaError as error:
        log.warning("%d MB that workers share cannot be page-locked, so the CPU copies images: %s", size >> 20, error)
        return False
    return True


def _withdraw(block: _Block) -> None:
    with _lock:
        _blocks.remove(block)
    if block.locked:
        from models.runtime.cuda import device

        try:
            device.unlock_pages(block.start)
        except CudaError as error:  # a lost device
            log.warning("page-locked memory was not given back: %s", error)


def _start(block: _Block) -> int:
    return block.start
