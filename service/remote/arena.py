"""The memory in which a worker passes pixels to the engine process.

A worker makes a memory file and sends its descriptor once; a message then has the offset of each image. The memory is
not part of a container's /dev/shm, which has 64 MB. Only the worker writes, and only it decides which slot is free.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Sequence

import numpy as np

from models.imaging.preprocess import UInt8Array

_FIRST_BYTES = 1 << 20
_ALIGNMENT = 64
"""Of a slot, in bytes: a line of the CPU's cache."""


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
        """Free slots by shape of the image. The slot that was freed last is taken first: it is in the cache."""

    def put(self, image: UInt8Array) -> Slot:
        """Copy an image into a free slot."""
        free = self._free.get(image.shape)
        slot = free.pop() if free else self._make(image.shape)
        slot.pixels[...] = image
        return slot

    def free(self, slots: Sequence[Slot]) -> None:
        """Free slots."""
        for slot in slots:
            self._free.setdefault(slot.pixels.shape, []).append(slot)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.file)

    def _make(self, shape: tuple[int, ...]) -> Slot:
        size = int(np.prod(shape))
        offset = self._used
        if offset + size > self._size:
            self._size = max(2 * self._size, offset + size)
            os.ftruncate(self.file, self._size)
            self._map = mmap.mmap(self.file, self._size)  # slots that exist keep the map that they are in
        self._used = -(-(offset + size) // _ALIGNMENT) * _ALIGNMENT
        return Slot(offset, np.frombuffer(self._map, np.uint8, size, offset).reshape(shape))


class Slot:
    """The place of one image.

    Args:
        offset: of the first byte in the arena.
        pixels: uint8 [H, W, C], in the arena.
    """

    __slots__ = ("offset", "pixels")

    def __init__(self, offset: int, pixels: UInt8Array) -> None:
        self.offset = offset
        self.pixels = pixels


class ArenaView:
    """The arena of a worker, on the side of the engine process.

    Args:
        file: descriptor of the memory, which is closed with the view.
    """

    def __init__(self, file: int) -> None:
        self._file = file
        self._map = mmap.mmap(file, os.fstat(file).st_size, prot=mmap.PROT_READ)
        self._images: dict[tuple[int, tuple[int, ...]], UInt8Array] = {}

    def images(self, offsets: Sequence[int], shape: tuple[int, ...]) -> list[UInt8Array]:
        """The images at offsets, uint8 [H, W, C] each, without a copy."""
        return [self._image(offset, shape) for offset in offsets]

    def close(self) -> None:
        """Close the descriptor, and give the memory back once no batch reads it."""
        os.close(self._file)
        # Objects of the connection refer to each other: a collection, which may come late, would free the map.
        self._images.clear()
        del self._map

    def _image(self, offset: int, shape: tuple[int, ...]) -> UInt8Array:
        view = self._images.get((offset, shape))
        if view is not None:
            return view
        size = int(np.prod(shape))
        if offset + size > len(self._map):  # the arena has grown
            self._map = mmap.mmap(self._file, os.fstat(self._file).st_size, prot=mmap.PROT_READ)
        view = self._images[offset, shape] = np.frombuffer(self._map, np.uint8, size, offset).reshape(shape)
        return view
