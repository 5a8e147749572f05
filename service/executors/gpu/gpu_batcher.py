"""Batches of image files from many requests: while the GPU decodes one batch, the next one forms.

As in the batch queue of an engine, no timer delays a batch. One file at a time, a GPU decodes about a quarter as many.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice

import numpy as np
from PIL import Image

from models.imaging.preprocess import Preprocess
from service.core.priority import BulkShare, Priority
from service.core.threads import lower_priority
from service.executors.gpu.gpu_jpeg import JpegDecoder
from service.messages.decoding import DecodedImage

log = logging.getLogger(__name__)

_THREADS = 2
"""While one thread waits for the GPU, the other reads the headers of the next files, or copies pixels back."""
_MAX_FILES = 32
"""Files per batch: larger batches gain little, and the two threads overlap less."""
_WARM_UP_SIZES = (256, 256), (500, 375), (1280, 960)
"""Width and height in pixels."""


@dataclass(eq=False, slots=True)
class _Part:
    """Files of one request, at most `_MAX_FILES`."""

    files: Sequence[bytes]
    preprocess: Preprocess
    done: asyncio.Future[list[DecodedImage | None]]


class DecodeBatcher:
    """Decodes the files of many requests in batches. Used on the event loop only.

    Args:
        jpeg: decodes a batch, in the threads of this object; closed with it.
    """

    def __init__(self, jpeg: JpegDecoder) -> None:
        self._jpeg = jpeg
        self._idle = _THREADS
        self._interactive: deque[_Part] = deque()
        self._bulk: deque[_Part] = deque()
        self._bulk_share = BulkShare()
        self._pool = ThreadPoolExecutor(_THREADS, "decode-gpu", lower_priority)

    async def decode(
        self, files: Sequence[bytes], preprocess: Preprocess, priority: Priority
    ) -> list[DecodedImage | None]:
        """Decode image files; None in place of a file that the GPU does not take. Raises as `JpegDecoder.decode`."""
        loop = asyncio.get_running_loop()
        parts = [
            _Part(files[first : first + _MAX_FILES], preprocess, loop.create_future())
            for first in range(0, len(files), _MAX_FILES)
        ]
        (self._interactive if priority is Priority.interactive else self._bulk).extend(parts)
        self._start()
        try:
            return [image for part in parts for image in await part.done]
        finally:
            for part in parts:  # after an error or a cancellation, drop the other parts
                if not part.done.cancel() and not part.done.cancelled():
                    part.done.exception()  # mark it as retrieved, otherwise asyncio logs it

    async def warm_up(self, preprocesses: Iterable[Preprocess]) -> None:
        """Decode synthetic photographs: the first files of a thread take seconds. A failure is logged.

        Args:
            preprocesses: those of the models that are served.
        """
        try:
            photographs = await asyncio.to_thread(_make_photographs)
            several = list(islice(cycle(photographs), _THREADS * _MAX_FILES))
            for preprocess in dict.fromkeys(each for each in preprocesses if each.mode == "RGB"):
                await self.decode(photographs[:1], preprocess, Priority.interactive)
                # One part for each thread: the second one is taken while the first one is decoded.
                await self.decode(several, preprocess, Priority.interactive)
        except Exception:  # the CPUs decode if the device fails
            log.warning("decode_gpu: the warm-up failed", exc_info=True)

    def close(self) -> None:
        """Wait for the files that are being decoded, then free the device."""
        self._pool.shutdown()
        self._jpeg.close()

    def _start(self) -> None:
        while self._idle and (parts := self._next_batch()):
            self._idle -= 1
            files = [file for part in parts for file in part.files]
            loop = asyncio.get_running_loop()
            work = loop.run_in_executor(self._pool, self._jpeg.decode, files, parts[0].preprocess)
            work.add_done_callback(partial(self._finish, parts))

    def _finish(self, parts: Sequence[_Part], work: asyncio.Future[list[DecodedImage | None]]) -> None:
        self._idle += 1
        self._start()
        error = work.exception()
        first = 0
        for part in parts:
            end = first + len(part.files)
            if not part.done.done():
                if error is None:
                    part.done.set_result(work.result()[first:end])
                else:
                    part.done.set_exception(error)
            first = end

    def _next_batch(self) -> list[_Part]:
        """The parts of the next batch."""
        parts: list[_Part] = []
        waiting = _files(self._bulk)
        # The share of bulk files, then interactive files, then bulk files that still fit.
        self._take(self._bulk, min(self._bulk_share.places(_MAX_FILES, waiting), _MAX_FILES), parts)
        self._take(self._interactive, _MAX_FILES - _files(parts), parts)
        self._take(self._bulk, _MAX_FILES - _files(parts), parts)
        self._bulk_share.took(waiting - _files(self._bulk), _files(self._bulk))
        return parts

    def _take(self, waiting: deque[_Part], room: int, parts: list[_Part]) -> None:
        """Move parts into a batch: with the same preprocessing, and with at most `room` files."""
        while waiting and len(waiting[0].files) <= room:
            if parts and waiting[0].preprocess != parts[0].preprocess:
                return
            part = waiting.popleft()
            if not part.done.done():
                parts.append(part)
                room -= len(part.files)


def _files(parts: Iterable[_Part]) -> int:
    return sum(len(part.files) for part in parts)


def _make_photographs() -> list[bytes]:
    """JPEG files of several sizes, with all and with a quarter of their chroma."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    files = []
    for size in _WARM_UP_SIZES:
        for subsampling in ("4:4:4", "4:2:0"):
            file = io.BytesIO()
            noise.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", subsampling=subsampling)
            files.append(file.getvalue())
    return files
