"""The memory in which a worker passes pixels to the engine process.

A worker makes a memory file and sends its descriptor once; a message then has the offset of each image. The memory is
not part of a container's /dev/shm, which has 64 MB. Only the worker decides which slot is free. The engine process
writes nothing but pixels that it decodes, into slots that the worker keeps for them until it has the answer.
"""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import socket
import weakref
from collections.abc import Callable, Sequence

import numpy as np

from models.imaging.preprocess import UInt8Array
from service.messages import wire

Offer = Callable[[UInt8Array], None]
"""Takes memory, uint8 [bytes], that others may read for as long as the array exists."""

_FIRST_BYTES = 1 << 20
_ALIGNMENT = 64
"""Of a slot, in bytes: a line of the CPU's cache."""
_MIN_FILE_BYTES = 64 * 1024
_LARGE_FILE_BYTES = 1024 * 1024
"""Slots of files from this size on give their memory back when they are freed: few files have each size."""


class Arena:
    """Slots for images, on the side of the worker. Grows to the images that it holds at the same time."""

    def __init__(self) -> None:
        self.file = os.memfd_create("resnet-serve-images", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.file, _FIRST_BYTES)
        # The engine process reads the memory: it must never find less than it knows.
        fcntl.fcntl(self.file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self._map = mmap.mmap(self.file, _FIRST_BYTES)
        self._size = _FIRST_BYTES
        self._used = 0
        self._free: dict[tuple[int, ...], list[Slot]] = {}
        """Free slots by shape. The slot that was freed last is taken first: it is in the cache."""
        self._shared: dict[int, tuple[weakref.ref[UInt8Array], Slot]] = {}
        """Slots whose pixels an array has, by the identity of the array."""

    def take(self, shape: tuple[int, ...]) -> Slot:
        """A free slot."""
        free = self._free.get(shape)
        return free.pop() if free else self._make(shape)

    def put(self, image: UInt8Array) -> Slot:
        """Copy an image into a free slot. An array that `share` gave is in its slot already."""
        if id(image) in self._shared:
            return self._shared[id(image)][1]
        slot = self.take(image.shape)
        slot.pixels[...] = image
        return slot

    def put_file(self, data: bytes) -> Slot:
        """Copy a file into a free slot, whose size is a power of two."""
        slot = self.take((max(_MIN_FILE_BYTES, 1 << (len(data) - 1).bit_length()),))
        slot.pixels[: len(data)] = np.frombuffer(data, np.uint8)
        return slot

    def share(self, slot: Slot) -> UInt8Array:
        """The pixels of a slot, which is freed when the array is no longer used. Views of the array do not count."""
        array = slot.pixels[:]
        key = id(array)

        def take_back(reference: object) -> None:
            del self._shared[key]
            slot.shared = False
            self.free([slot])

        self._shared[key] = weakref.ref(array, take_back), slot
        slot.shared = True
        return array

    def free(self, slots: Sequence[Slot]) -> None:
        """Free slots, except those that are shared."""
        for slot in slots:
            if slot.shared:
                continue
            if slot.pixels.ndim == 1 and slot.pixels.size >= _LARGE_FILE_BYTES:
                self._map.madvise(mmap.MADV_REMOVE, slot.offset, slot.pixels.size)
            self._free.setdefault(slot.pixels.shape, []).append(slot)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.file)

    def _make(self, shape: tuple[int, ...]) -> Slot:
        size = int(np.prod(shape))
        alignment = _ALIGNMENT if size < _LARGE_FILE_BYTES else mmap.PAGESIZE
        offset = -(-self._used // alignment) * alignment
        if offset + size > self._size:
            self._size = max(2 * self._size, offset + size)
            os.ftruncate(self.file, self._size)
            self._map = mmap.mmap(self.file, self._size)  # slots that exist keep the map that they are in
        self._used = offset + size
        return Slot(offset, np.frombuffer(self._map, np.uint8, size, offset).reshape(shape))


class Slot:
    """The place of one image, or of the bytes of a file.

    Args:
        offset: of the first byte in the arena.
        pixels: uint8 [H, W, C], or [bytes] for a file, in the arena.
    """

    __slots__ = ("offset", "pixels", "shared")

    def __init__(self, offset: int, pixels: UInt8Array) -> None:
        self.offset = offset
        self.pixels = pixels
        self.shared = False
        """Whether an array that `Arena.share` gave has the pixels."""


class ArenaView:
    """The arena of a worker, on the side of the engine process.

    Args:
        file: descriptor of the memory, which is closed with the view.
        offer: called with the memory, uint8 [bytes], and again when it has grown.
    """

    def __init__(self, file: int, offer: Offer) -> None:
        self._file, self._offer = file, offer
        self._images: dict[tuple[int, tuple[int, ...]], UInt8Array] = {}
        self._memory = self._map()

    def images(self, offsets: Sequence[int], shape: tuple[int, ...]) -> list[UInt8Array]:
        """The images at offsets, uint8 [H, W, C] each, without a copy."""
        return [self.image(offset, shape) for offset in offsets]

    def image(self, offset: int, shape: tuple[int, ...]) -> UInt8Array:
        """The image at an offset, uint8 [H, W, C], without a copy."""
        view = self._images.get((offset, shape))
        if view is not None:
            return view
        size = int(np.prod(shape))
        self._reach(offset + size)
        view = self._images[offset, shape] = self._memory[offset : offset + size].reshape(shape)
        return view

    def file(self, offset: int, length: int) -> bytes:
        """A copy of the file at an offset: native code reads it, which must not see it change."""
        self._reach(offset + length)
        return self._memory[offset : offset + length].tobytes()

    def close(self) -> None:
        """Close the descriptor, and give the memory back once no batch reads it."""
        os.close(self._file)
        # Objects of the connection refer to each other: a collection, which may come late, would free the map.
        self._images.clear()
        del self._memory

    def _reach(self, end: int) -> None:
        """Map the memory again if it has grown. Batches that are computed keep the map that they read."""
        if end > len(self._memory):
            self._images.clear()
            self._memory = self._map()

    def _map(self) -> UInt8Array:
        memory = np.frombuffer(mmap.mmap(self._file, os.fstat(self._file).st_size), np.uint8)
        self._offer(memory)
        return memory


async def receive_arena(connection: socket.socket, offer: Offer) -> ArenaView:
    """The arena that a worker sends first.

    Args:
        connection: the worker's.
        offer: for `ArenaView`.

    Raises:
        OSError: the worker sends something else, or has ended.
    """
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection, readable.set)
    try:
        await readable.wait()
        message, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
    finally:
        loop.remove_reader(connection)
    if message != bytes([wire.VERSION]) or len(descriptors) != 1:
        raise ConnectionError("it is of another version of the service")
    return ArenaView(descriptors[0], offer)
