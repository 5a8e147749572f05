"""Resizes and crops decoded images on the GPU that decoded them, to exactly the pixels that Pillow computes.

A photograph has several times the pixels that the network takes, and copying all of them to the host takes longer than
decoding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from models.imaging.preprocess import Geometry, UInt8Array
from models.runtime.cuda.device import CudaDevice, Kernels

FILTERS = {"bilinear": (1, 1.0), "bicubic": (2, 2.0), "lanczos": (3, 3.0)}
"""Number of each filter in `resize.cu`, and its support in pixels. Nearest-neighbour resizing is left to the host."""

_ADDRESSES = ("source", "rows", "across", "down", "output")
_NUMBERS = (
    "pitch width height wide high left top crop_width crop_height taps_across taps_down first_row row_count filter"
)
JOB = np.dtype(
    [(name, "u8") for name in _ADDRESSES] + [("support", "f8")] + [(name, "i4") for name in _NUMBERS.split()]
)
"""`Job` in `resize.cu`."""

_KERNELS = ("weigh", "resize_across", "resize_down")
_BLOCKS, _THREADS = 64, 256
"""Blocks per image, and threads per block. A few images fill a GPU."""
_ALIGNMENT = 256


@dataclass(frozen=True)
class DeviceImage:
    """A decoded image on the device: uint8 [height][pitch], of which 3 * width bytes are a row."""

    address: int
    width: int
    height: int
    pitch: int

    @classmethod
    def of(cls, image: Any) -> DeviceImage:
        """An image of nvImageCodec; valid as long as that image."""
        interface = image.__cuda_array_interface__
        height, width, channels = interface["shape"]
        strides = interface.get("strides")
        return cls(interface["data"][0], width, height, strides[0] if strides else width * channels)


def takes(width: int, height: int, geometry: Geometry) -> bool:
    """Whether images of this size are resized exactly as by Pillow, in all of its versions.

    From version 13 on, Pillow resizes an image that loses more than twice as many rows as columns first down, then
    across, which rounds in another way. Few photographs are so narrow.
    """
    (wide, high), _ = geometry.cut(width, height)
    return geometry.interpolation in FILTERS and (height <= high or height - high <= 2 * (width - wide))


def load(device: CudaDevice) -> Kernels:
    """The kernels, compiled for a device.

    Raises:
        CudaError: the compiler, NVRTC, is missing.
    """
    source = resources.files("service.executors.gpu").joinpath("resize.cu").read_text(encoding="utf-8")
    # With contraction, weights would be rounded in another way than by Pillow.
    return device.compile("resize.cu", source, _KERNELS, ("--fmad=false",))


class Resizer:
    """Resizes on its own stream; used by one thread at a time.

    Args:
        device: device that has the images.
        kernels: kernels of `load`.
    """

    def __init__(self, device: CudaDevice, kernels: Kernels) -> None:
        self._device = device
        self._kernels = kernels
        self.stream = device.make_stream()
        self._on_device = _Memory(device.allocate)
        self._jobs = _Memory(device.allocate_pinned)
        self._pixels = _Memory(device.allocate_pinned)

    def apply(self, images: Sequence[DeviceImage], geometry: Geometry) -> UInt8Array:
        """Resize and crop images as `geometry.apply`, to uint8 [n, H, W, 3]. The next call uses the memory again.

        Raises:
            CudaError: the device fails, or is out of memory.
        """
        layout = Layout()
        jobs = np.array([_job(image, geometry, layout) for image in images], JOB)
        pixels = len(images) * math.prod(geometry.shape)
        jobs["output"] = layout.place(pixels) + np.arange(len(images), dtype=np.uint64) * math.prod(geometry.shape)
        table = layout.place(jobs.nbytes)
        base = self._on_device.get(layout.size)
        for name in ("rows", "across", "down", "output"):
            jobs[name] += np.uint64(base)
        staged = self._jobs.get(jobs.nbytes)[: jobs.nbytes]
        staged[:] = jobs.view(np.uint8)
        self._device.copy_in(base + table, staged, self.stream)
        for name in _KERNELS:
            self._kernels.launch(name, (_BLOCKS, len(images)), _THREADS, base + table, self.stream)
        result: UInt8Array = self._pixels.get(pixels)[:pixels]
        self._device.copy_out(result, int(jobs["output"][0]), self.stream)
        self._device.synchronise(self.stream)
        return result.reshape(len(images), *geometry.shape)


class Layout:
    """Consecutive regions of a block of memory."""

    def __init__(self) -> None:
        self.size = 0

    def place(self, size: int) -> int:
        """Add a region of `size` bytes.

        Returns:
            Its offset in bytes.
        """
        offset = self.size
        self.size += -(-size // _ALIGNMENT) * _ALIGNMENT
        return offset


class _Memory:
    """A block of memory that grows. Smaller blocks are freed with the device; together they are no larger than the
    last."""

    def __init__(self, allocate: Any) -> None:
        self._allocate = allocate
        self._size = 0
        self._memory: Any = None

    def get(self, size: int) -> Any:
        if size > self._size:
            self._size = max(size, 2 * self._size)
            self._memory = self._allocate(self._size)
        return self._memory


def _job(image: DeviceImage, geometry: Geometry, layout: Layout) -> tuple[float, ...]:
    """One row of `JOB`, with offsets instead of addresses."""
    number, support = FILTERS[geometry.interpolation]
    height, width, channels = geometry.shape
    (wide, high), (left, top) = geometry.cut(image.width, image.height)
    first_row, _ = window(top, image.height, high, support)
    _, end_row = window(top + height - 1, image.height, high, support)
    taps_across, taps_down = most_taps(image.width, wide, support), most_taps(image.height, high, support)
    rows = layout.place((end_row - first_row) * width * channels)
    across, down = layout.place(width * taps_across * 4), layout.place(height * taps_down * 4)
    return (
        image.address, rows, across, down, 0, support,
        image.pitch, image.width, image.height, wide, high, left, top, width, height, taps_across, taps_down,
        first_row, end_row - first_row, number,
    )  # fmt: skip


def window(index: int, size: int, resized: int, support: float) -> tuple[int, int]:
    """First and end of the source pixels of one pixel of a resized row, as in Resample.c of Pillow."""
    scale = size / resized
    reach = support * max(scale, 1.0)
    centre = (index + 0.5) * scale
    return max(0, int(centre - reach + 0.5)), min(size, int(centre + reach + 0.5))


def most_taps(size: int, resized: int, support: float) -> int:
    """Upper bound of the number of pixels in a window."""
    return 2 * math.ceil(support * max(size / resized, 1.0)) + 1
