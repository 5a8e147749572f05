"""A loaded model for callers without an event loop, such as workers of a cluster: the loop runs in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

from service.app import Service
from service.core.errors import ServiceError
from service.core.settings import Settings
from service.decoding.decoder import DecodedFile
from service.inference.results import ImageResult
from service.messages.model import ServedModel
from service.scoring.classification import CHUNK, CHUNKS_IN_FLIGHT, classify_contents, classify_decoded
from service.scoring.contents import Content

_T = TypeVar("_T")


class ModelThread:
    """Loads a model, and classifies files with it. Methods may be called in several threads at the same time.

    Args:
        settings: the repository, the model, and how it is computed.

    Raises:
        ServiceError: the model cannot be loaded.
    """

    def __init__(self, settings: Settings) -> None:
        self._service = Service(settings)
        self._held = ExitStack()
        self._loop = asyncio.new_event_loop()
        # A daemon: the end of the process does not wait for it.
        self._thread = threading.Thread(target=self._loop.run_forever, name="scoring", daemon=True)
        self._thread.start()
        try:
            self.model = self._run(self._open())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Free the model, and end the thread."""
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def classify_contents(self, contents: Sequence[Content], k: int) -> list[ImageResult]:
        """Classify files, in their order, with the `k` best classes of each.

        Raises:
            ServiceError: no file could be computed.
        """
        return self._run(
            _in_chunks(contents, lambda chunk: classify_contents(self._service.pipeline, self.model, chunk, k))
        )

    def classify_decoded(self, decoded: Sequence[DecodedFile | ServiceError], k: int) -> list[ImageResult]:
        """As `classify_contents`, for files that are decoded already."""
        return self._run(
            _in_chunks(decoded, lambda chunk: classify_decoded(self._service.pipeline, self.model, chunk, k))
        )

    async def _open(self) -> ServedModel:
        await self._service.start()
        return self._held.enter_context(self._service.pipeline.lease())

    async def _close(self) -> None:
        self._held.close()
        await self._service.close()

    def _run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


async def _in_chunks(
    items: Sequence[_T], classify: Callable[[Sequence[_T]], Awaitable[list[ImageResult]]]
) -> list[ImageResult]:
    places = asyncio.Semaphore(CHUNKS_IN_FLIGHT)

    async def one(first: int) -> list[ImageResult]:
        async with places:
            return await classify(items[first : first + CHUNK])

    parts = await asyncio.gather(*(one(first) for first in range(0, len(items), CHUNK)))
    return [result for part in parts for result in part]
