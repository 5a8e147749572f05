"""From the bytes of image files to pixels as the graph takes them, in threads.

Pillow and its codecs release the interpreter lock while they decode, so threads decode in parallel. The event loop
touches no image but the smallest: handing one over costs more than decoding it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from models.imaging import images
from models.imaging.images import DEFAULT_MAX_PIXELS, ImageError, TooManyPixels
from models.imaging.preprocess import Preprocess, UInt8Array
from service.core.choices import DecodeMode
from service.core.errors import PayloadTooLarge, ServiceError, UnprocessableImage
from service.core.priority import Priority, PrioritySemaphore
from service.core.threads import lower_priority
from service.messages.decoding import DecodedImage, GpuDecoder

log = logging.getLogger(__name__)

_MAX_ELONGATION = 200
"""Longer side over shorter side. The shorter one is brought to a fixed size, so a file of 500 bytes with 1 x 200000
pixels would take gigabytes once scaled."""

_SMALL_PIXELS = 64 * 64
_SMALL_BYTES = 4 * _SMALL_PIXELS
"""A PNG or JPEG of so much is decoded in 40 to 100 µs; handing it over, and taking it back, costs about 100."""
_QUICK = (b"\x89PNG", b"\xff\xd8")


class DecodedFile(NamedTuple):
    """One image, and what its file was."""

    pixels: UInt8Array
    """uint8 [H, W, C], resized and cropped."""
    width: int
    """Of the upright image, in pixels."""
    height: int
    format: str


def decode(data: bytes, preprocess: Preprocess, mode: DecodeMode, max_pixels: int = DEFAULT_MAX_PIXELS) -> DecodedFile:
    """One image file.

    Raises:
        ImageError: it cannot be used.
    """
    min_shorter_side = preprocess.min_shorter_side if mode == "fast" else None
    reduced = images.decode_reduced(data, preprocess.mode, min_shorter_side, max_pixels)
    _check_elongation(reduced.width, reduced.height, preprocess)
    pixels = preprocess.apply_fast(reduced) if mode == "fast" else preprocess.apply(reduced.image)
    return DecodedFile(pixels, reduced.width, reduced.height, reduced.image.format or "unknown")


def _check_elongation(width: int, height: int, preprocess: Preprocess) -> None:
    if preprocess.resize is not None and max(width, height) > _MAX_ELONGATION * min(width, height):
        raise ImageError(
            f"the image has {width} x {height} pixels, one side more than {_MAX_ELONGATION} times the other: crop it "
            "first"
        )


class Decoder:
    """Decodes on `threads` threads.

    Args:
        threads: images decoded at the same time.
        max_pixels: larger images are refused before they are decoded.
        mode: exact gives the pixels that training saw, fast nearly the same in less time.
        gpu: decodes JPEG files in colour on a GPU, where it can; closed with the decoder.
    """

    def __init__(
        self, threads: int, max_pixels: int, mode: DecodeMode = "exact", gpu: GpuDecoder | None = None
    ) -> None:
        self._threads = threads
        self._mode = mode
        self._max_pixels = max_pixels
        self._gpu = gpu
        # More than threads: one that finishes finds its next image without waiting for the event loop.
        self._turns = PrioritySemaphore(4 * threads)
        self._pool = ThreadPoolExecutor(threads, "decode", lower_priority)

    def decode_at_once(self, files: Sequence[bytes], preprocess: Preprocess) -> list[DecodedFile | ServiceError]:
        """What `decode` gives of one small image, without a thread; nothing of any other files."""
        height, width = preprocess.size
        if len(files) != 1 or len(files[0]) > _SMALL_BYTES or height * width > _SMALL_PIXELS:
            return []
        if not files[0].startswith(_QUICK):
            return []
        decoded = self._decode_one(files[0], preprocess, min(_SMALL_PIXELS, self._max_pixels))
        return [] if isinstance(decoded, PayloadTooLarge) else [decoded]

    async def decode(
        self, files: Sequence[bytes], preprocess: Preprocess, priority: Priority = Priority.interactive
    ) -> list[DecodedFile | ServiceError]:
        """Decode image files; a bad one gives its error in its place and leaves the others alone."""
        if self._gpu is None or preprocess.mode != "RGB":
            return await self._on_host(files, preprocess, priority)
        cuts = await self._on_device(self._gpu, files, preprocess, priority)
        left = [data for data, cut in zip(files, cuts, strict=True) if cut is None]
        decoded = iter(await self._on_host(left, preprocess, priority) if left else ())
        return [next(decoded) if cut is None else self._checked(cut, preprocess) for cut in cuts]

    async def _on_device(
        self, gpu: GpuDecoder, files: Sequence[bytes], preprocess: Preprocess, priority: Priority
    ) -> Sequence[DecodedImage | None]:
        """Those files that the GPU takes."""
        try:
            return await gpu.decode(files, preprocess, priority)
        except Exception:  # a device that fails must not keep the host from decoding
            log.warning("the GPU's decoder failed on %d images", len(files), exc_info=True)
            return [None] * len(files)

    async def _on_host(
        self, files: Sequence[bytes], preprocess: Preprocess, priority: Priority
    ) -> list[DecodedFile | ServiceError]:
        if len(files) == 1:
            return await self._in_turn(files, preprocess, priority)
        # Neighbours share a hand-over to a thread, which costs as much as decoding a small image.
        size = -(-len(files) // self._threads)
        parts = await asyncio.gather(
            *(self._in_turn(files[first : first + size], preprocess, priority) for first in range(0, len(files), size))
        )
        return [decoded for part in parts for decoded in part]

    async def _in_turn(
        self, files: Sequence[bytes], preprocess: Preprocess, priority: Priority
    ) -> list[DecodedFile | ServiceError]:
        await self._turns.acquire(priority)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._decode_part, files, preprocess)
        finally:
            self._turns.release()

    def _decode_part(self, files: Sequence[bytes], preprocess: Preprocess) -> list[DecodedFile | ServiceError]:
        return [self._decode_one(data, preprocess, self._max_pixels) for data in files]

    def _decode_one(self, data: bytes, preprocess: Preprocess, max_pixels: int) -> DecodedFile | ServiceError:
        try:
            return decode(data, preprocess, self._mode, max_pixels)
        except TooManyPixels as error:
            return PayloadTooLarge(str(error))
        except ImageError as error:
            return UnprocessableImage(str(error))
        except Exception:  # a native codec's exceptions have no common base, and one bad image must fail alone
            log.warning("a codec failed on an image of %d bytes", len(data), exc_info=True)
            return UnprocessableImage("the image cannot be decoded: save it again, as PNG or JPEG")

    def _checked(self, cut: DecodedImage, preprocess: Preprocess) -> DecodedFile | ServiceError:
        try:
            _check_elongation(cut.width, cut.height, preprocess)
        except ImageError as error:
            return UnprocessableImage(str(error))
        return DecodedFile(cut.pixels, cut.width, cut.height, "JPEG")

    def close(self) -> None:
        """Wait for what is being decoded, and end the threads."""
        self._pool.shutdown()
        if self._gpu is not None:
            self._gpu.close()
