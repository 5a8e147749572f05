"""Decoding: from image files to the pixels that the graph takes, in threads.

Files are hostile. The cost of a file is known from its headers before its pixels are made, and all files share one
budget of memory. Each file has a deadline, which is checked whenever a codec reads.

Pillow and its codecs release the interpreter lock while they decode, so threads decode in parallel. The event loop
decodes only the smallest images itself: the hand-over to a thread takes longer than decoding them.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from models.imaging import images
from models.imaging.allowance import UNLIMITED, Allowance, DecodeMemory
from models.imaging.errors import DeadlinePassed, ImageError, TooManyPixels, TooMuchMemory
from models.imaging.preprocess import Preprocess, UInt8Array
from service.core.choices import DecodeMode
from service.core.errors import Overloaded, PayloadTooLarge, ServiceError, UnprocessableImage
from service.core.priority import Priority, PrioritySemaphore
from service.decoding.decoder_threads import DecoderThreads
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


def pixels_of(decoded: Sequence[DecodedFile | ServiceError], place: str) -> list[UInt8Array]:
    """The pixels of all images, uint8 [H, W, C] each, for a response that has no place for the error of an image.

    Args:
        decoded: the images, or their errors.
        place: begins the message of an error; {} is the index of the image.

    Raises:
        ServiceError: the first error.
    """
    pixels = []
    for index, image in enumerate(decoded):
        if isinstance(image, PayloadTooLarge | UnprocessableImage):
            raise type(image)(f"{place.format(index)}: {image}")
        if isinstance(image, ServiceError):
            raise image
        pixels.append(image.pixels)
    return pixels


def decode(data: bytes, preprocess: Preprocess, mode: DecodeMode, allowance: Allowance = UNLIMITED) -> DecodedFile:
    """Decode one image file.

    Raises:
        ImageError: the image cannot be used.
        DeadlinePassed: the deadline of the allowance passed.
        MemoryError: there is no memory.
    """

    def resizing_bytes(width: int, height: int) -> int:
        _check_elongation(width, height, preprocess)
        return preprocess.resizing_bytes(width, height)

    min_shorter_side = preprocess.min_shorter_side if mode == "fast" else None
    reduced = images.decode_reduced(data, preprocess.mode, min_shorter_side, allowance, resizing_bytes)
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
        memory: memory of all images that are decoded at the same time; None for no limit.
    """

    def __init__(
        self,
        threads: int,
        max_pixels: int,
        mode: DecodeMode = "exact",
        gpu: GpuDecoder | None = None,
        memory: DecodeMemory | None = None,
    ) -> None:
        self._count = threads
        self._mode = mode
        self._max_pixels = max_pixels
        self._memory = memory
        self._gpu = gpu
        # More than threads, so that a thread finds its next image without waiting for the event loop.
        self._places = PrioritySemaphore(4 * threads)
        self.threads = DecoderThreads(threads)
        self._small = Allowance(min(_SMALL_PIXELS, max_pixels))

    def not_ready(self) -> list[str]:
        """Reasons why no image can be decoded; empty when the decoder is ready."""
        if not self.threads.exhausted:
            return []
        return ["all decoder threads are held by images that take longer than their time limit"]

    def allowance(self, deadline: float) -> Allowance:
        """The limits for decoding one file until a deadline in `time.monotonic` seconds."""
        return Allowance(self._max_pixels, self._memory, deadline)

    def decode_at_once(self, files: Sequence[bytes], preprocess: Preprocess) -> list[DecodedFile | ServiceError]:
        """Decode a single small image on the event loop; other files give an empty list."""
        height, width = preprocess.size
        if len(files) != 1 or len(files[0]) > _SMALL_BYTES or height * width > _SMALL_PIXELS:
            return []
        if not files[0].startswith(_SMALL_FORMATS):
            return []
        decoded = self._decode_one(files[0], preprocess, self._small)
        return [] if isinstance(decoded, PayloadTooLarge) else [decoded]

    async def decode(
        self,
        files: Sequence[bytes],
        preprocess: Preprocess,
        priority: Priority = Priority.interactive,
        deadline: float = math.inf,
    ) -> list[DecodedFile | ServiceError]:
        """Decode image files; a file that cannot be decoded gives its error in its place.

        Raises:
            DeadlinePassed: the deadline, in `time.monotonic` seconds, passed.
        """
        if self._gpu is None or preprocess.mode != "RGB":
            return await self._on_cpu(files, preprocess, priority, deadline)
        from_gpu = await self._on_gpu(self._gpu, files, preprocess, priority)
        remaining = [data for data, image in zip(files, from_gpu, strict=True) if image is None]
        decoded = iter(await self._on_cpu(remaining, preprocess, priority, deadline) if remaining else ())
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
        self, files: Sequence[bytes], preprocess: Preprocess, priority: Priority, deadline: float
    ) -> list[DecodedFile | ServiceError]:
        if len(files) == 1:
            return await self._in_thread(files, preprocess, priority, deadline)
        # Several images share a hand-over to a thread, which takes as long as decoding a small image.
        size = -(-len(files) // self._count)
        parts = await asyncio.gather(
            *(
                self._in_thread(files[first : first + size], preprocess, priority, deadline)
                for first in range(0, len(files), size)
            )
        )
        return [decoded for part in parts for decoded in part]

    async def _in_thread(
        self, files: Sequence[bytes], preprocess: Preprocess, priority: Priority, deadline: float
    ) -> list[DecodedFile | ServiceError]:
        await self._places.acquire(priority)
        try:
            allowance = self.allowance(deadline)
            return await self.threads.run(partial(self.decode_part, files, preprocess, allowance), allowance.end)
        finally:
            self._places.release()

    def decode_part(
        self, files: Sequence[bytes], preprocess: Preprocess, allowance: Allowance
    ) -> list[DecodedFile | ServiceError]:
        """Decode image files in the calling thread; a file that cannot be decoded gives its error in its place.

        Raises:
            DeadlinePassed: the deadline of the allowance passed.
        """
        decoded = []
        for data in files:
            allowance.check_time()
            decoded.append(self._decode_one(data, preprocess, allowance))
        return decoded

    def _decode_one(self, data: bytes, preprocess: Preprocess, allowance: Allowance) -> DecodedFile | ServiceError:
        try:
            return decode(data, preprocess, self._mode, allowance)
        except (TooManyPixels, TooMuchMemory) as error:
            return PayloadTooLarge(str(error))
        except ImageError as error:
            return UnprocessableImage(str(error))
        except DeadlinePassed:
            raise
        except MemoryError:
            return Overloaded(1, "memory")
        except Exception:  # the exceptions of native codecs have no common base class; only this image may fail
            log.warning("a codec failed on an image of %d bytes", len(data), exc_info=True)
            return UnprocessableImage("the image cannot be decoded: save it again, as PNG or JPEG")
        finally:
            allowance.release()

    def _checked(self, image: DecodedImage, preprocess: Preprocess) -> DecodedFile | ServiceError:
        try:
            _check_elongation(image.width, image.height, preprocess)
        except ImageError as error:
            return UnprocessableImage(str(error))
        return DecodedFile(image.pixels, image.width, image.height, "JPEG")

    def close(self) -> None:
        """End the threads, without waiting for files that are being decoded."""
        self.threads.close()
        if self._gpu is not None:
            self._gpu.close()
