"""Decoding: from image files to the pixels that the graph takes, in threads.

Pillow and its codecs release the interpreter lock while they decode, so threads decode in parallel. The event loop
decodes only the smallest images itself: the hand-over to a thread takes longer than decoding them.
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
"""Largest ratio of the longer to the shorter side. The shorter side is scaled to a fixed size, so that a file of 500
bytes with 1 x 200000 pixels would take gigabytes of memory."""

_SMALL_PIXELS = 64 * 64
_SMALL_BYTES = 4 * _SMALL_PIXELS
"""Largest PNG or JPEG that is decoded on the event loop, in 40 to 100 µs; a hand-over to a thread takes about 100."""
_SMALL_FORMATS = (b"\x89PNG", b"\xff\xd8")


class DecodedFile(NamedTuple):
    """One decoded image file."""

    pixels: UInt8Array
    """uint8 [H, W, C], resized and cropped."""
    width: int
    """Width of the upright image in pixels, as `height`."""
    height: int
    format: str


def decode(data: bytes, preprocess: Preprocess, mode: DecodeMode, max_pixels: int = DEFAULT_MAX_PIXELS) -> DecodedFile:
    """Decode one image file.

    Raises:
        ImageError: the image cannot be used.
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
    """Decodes image files in threads, and JPEG files on a GPU if there is one.

    Args:
        threads: images decoded at the same time.
        max_pixels: largest image; a larger one is refused before it is decoded.
        mode: exact gives the pixels of training, fast nearly the same pixels in less time.
        gpu: decodes JPEG files for models with colour images; closed with the decoder.
    """

    def __init__(
        self, threads: int, max_pixels: int, mode: DecodeMode = "exact", gpu: GpuDecoder | None = None
    ) -> None:
        self._threads = threads
        self._mode = mode
        self._max_pixels = max_pixels
        self._gpu = gpu
        # More than threads, so that a thread finds its next image without waiting for the event loop.
        self._places = PrioritySemaphore(4 * threads)
        self._pool = ThreadPoolExecutor(threads, "decode", lower_priority)

    def decode_at_once(self, files: Sequence[bytes], preprocess: Preprocess) -> list[DecodedFile | ServiceError]:
        """Decode a single small image on the event loop; other files give an empty list."""
        height, width = preprocess.size
        if len(files) != 1 or len(files[0]) > _SMALL_BYTES or height * width > _SMALL_PIXELS:
            return []
        if not files[0].startswith(_SMALL_FORMATS):
            return []
        decoded = self._decode_one(files[0], preprocess, min(_SMALL_PIXELS, self._max_pixels))
        return [] if isinstance(decoded, PayloadTooLarge) else [decoded]

    async def decode(
        self, files: Sequence[bytes], preprocess: Preprocess, priority: Priority = Priority.interactive
    ) -> list[DecodedFile | ServiceError]:
        """Decode image files; a file that cannot be decoded gives its error in its place."""
        if self._gpu is None or preprocess.mode != "RGB":
            return await self._on_cpu(files, preprocess, priority)
        from_gpu = await self._on_gpu(self._gpu, files, preprocess, priority)
        remaining = [data for data, image in zip(files, from_gpu, strict=True) if image is None]
        decoded = iter(await self._on_cpu(remaining, preprocess, priority) if remaining else ())
        return [next(decoded) if image is None else self._checked(image, preprocess) for image in from_gpu]

    async def _on_gpu(
        self, gpu: GpuDecoder, files: Sequence[bytes], preprocess: Preprocess, priority: Priority
    ) -> Sequence[DecodedImage | None]:
        """Decode files on the GPU; None in place of a file that the GPU does not take."""
        try:
            return await gpu.decode(files, preprocess, priority)
        except Exception:  # the CPUs decode if the device fails
            log.warning("the decoder of the GPU failed on %d images", len(files), exc_info=True)
            return [None] * len(files)

    async def _on_cpu(
        self, files: Sequence[bytes], preprocess: Preprocess, priority: Priority
    ) -> list[DecodedFile | ServiceError]:
        if len(files) == 1:
            return await self._in_thread(files, preprocess, priority)
        # Several images share a hand-over to a thread, which takes as long as decoding a small image.
        size = -(-len(files) // self._threads)
        parts = await asyncio.gather(
            *(
                self._in_thread(files[first : first + size], preprocess, priority)
                for first in range(0, len(files), size)
            )
        )
        return [decoded for part in parts for decoded in part]

    async def _in_thread(
        self, files: Sequence[bytes], preprocess: Preprocess, priority: Priority
    ) -> list[DecodedFile | ServiceError]:
        await self._places.acquire(priority)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._decode_part, files, preprocess)
        finally:
            self._places.release()

    def _decode_part(self, files: Sequence[bytes], preprocess: Preprocess) -> list[DecodedFile | ServiceError]:
        return [self._decode_one(data, preprocess, self._max_pixels) for data in files]

    def _decode_one(self, data: bytes, preprocess: Preprocess, max_pixels: int) -> DecodedFile | ServiceError:
        try:
            return decode(data, preprocess, self._mode, max_pixels)
        except TooManyPixels as error:
            return PayloadTooLarge(str(error))
        except ImageError as error:
            return UnprocessableImage(str(error))
        except Exception:  # the exceptions of native codecs have no common base class; only this image may fail
            log.warning("a codec failed on an image of %d bytes", len(data), exc_info=True)
            return UnprocessableImage("the image cannot be decoded: save it again, as PNG or JPEG")

    def _checked(self, image: DecodedImage, preprocess: Preprocess) -> DecodedFile | ServiceError:
        try:
            _check_elongation(image.width, image.height, preprocess)
        except ImageError as error:
            return UnprocessableImage(str(error))
        return DecodedFile(image.pixels, image.width, image.height, "JPEG")

    def close(self) -> None:
        """Wait for the files that are being decoded, then end the threads."""
        self._pool.shutdown()
        if self._gpu is not None:
            self._gpu.close()
