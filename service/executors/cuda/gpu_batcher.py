"""Files of many requests decoded together: while the GPU decodes some, those that come meanwhile gather.

As with an engine's batches, nobody waits for a timer. One file at a time a GPU decodes about a quarter as many.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from models.imaging.preprocess import Preprocess
from service.core.priority import BulkShare, Priority
from service.core.threads import lower_priority
from service.executors.cuda.gpu_jpeg import JpegDecoder
from service.messages.decoding import DecodedImage

_LANES = 2
"""While one thread has files decoded, the other reads the headers of the next ones, or takes pixels back."""
_MOST = 32
"""Files that are decoded together: with more there is little to gain, and the lanes have less to overlap."""


@dataclass(eq=False, slots=True)
class _Part:
    """Files of one request."""

    files: Sequence[bytes]
    preprocess: Preprocess
    done: asyncio.Future[list[DecodedImage | None]]


class DecodeBatcher:
    """Used on the event loop only.

    Args:
        jpeg: decodes, in threads of its own; closed with this.
    """

    def __init__(self, jpeg: JpegDecoder) -> None:
        self._jpeg = jpeg
        self._idle = _LANES
        self._interactive: deque[_Part] = deque()
        self._bulk: deque[_Part] = deque()
        self._bulk_share = BulkShare()
        self._pool = ThreadPoolExecutor(_LANES, "decode-gpu", lower_priority)

    async def decode(
        self, files: Sequence[bytes], preprocess: Preprocess, priority: Priority
    ) -> list[DecodedImage | None]:
        """As `JpegDecoder.decode`."""
        loop = asyncio.get_running_loop()
        parts = [
            _Part(files[first : first + _MOST], preprocess, loop.create_future())
            for first in range(0, len(files), _MOST)
        ]
        (self._interactive if priority is Priority.interactive else self._bulk).extend(parts)
        self._start()
        try:
            return [cut for part in parts for cut in await part.done]
        finally:
            for part in parts:  # nobody waits for the others any more
                if not part.done.cancel() and not part.done.cancelled():
                    part.done.exception()  # or asyncio complains that nobody has seen it

    def close(self) -> None:
        """Wait for what is being decoded, and free everything."""
        self._pool.shutdown()
        self._jpeg.close()

    def _start(self) -> None:
        while self._idle and (parts := self._gather()):
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

    def _gather(self) -> list[_Part]:
        """The next parts, as many as are decoded together."""
        parts: list[_Part] = []
        waiting = _files(self._bulk)
        # What bulk has coming, then interactive files, then whatever there is room for.
        self._take(self._bulk, min(self._bulk_share.places(_MOST, waiting), _MOST), parts)
        self._take(self._interactive, _MOST - _files(parts), parts)
        self._take(self._bulk, _MOST - _files(parts), parts)
        self._bulk_share.took(waiting - _files(self._bulk), _files(self._bulk))
        return parts

    def _take(self, lane: deque[_Part], room: int, parts: list[_Part]) -> None:
        """Parts for one network, of together no more files than there is room for."""
        while lane and len(lane[0].files) <= room:
            if parts and lane[0].preprocess != parts[0].preprocess:
                return
            part = lane.popleft()
            if not part.done.done():
                parts.append(part)
                room -= len(part.files)


def _files(parts: Iterable[_Part]) -> int:
    return sum(len(part.files) for part in parts)
