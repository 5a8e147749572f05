"""A response of JSON lines: the result of each image as soon as it is computed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractContextManager, aclosing

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.http.v1 import schemas
from service.http.v1.slices import in_slices
from service.inference.results import ImageResult
from service.messages.model import ServedModel

MEDIA_TYPE = "application/x-ndjson"

Results = AsyncGenerator[tuple[int, str, ImageResult]]


class NdjsonResponse(StreamingResponse):
    """Streams results as JSON lines; images in flight are cancelled if the client disconnects.

    Args:
        admitted: gives the model, and is held until the last line; its errors are raised before the first byte.
        classify: returns a generator of (position, version, result) of each image; its errors are raised before the
            first byte.
        large: whether a line takes long to write.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self,
        admitted: AbstractContextManager[ServedModel],
        classify: Callable[[ServedModel], Results],
        *,
        large: bool,
    ) -> None:
        # The body is set once the model is known. Without the header, nginx buffers the response until its end.
        super().__init__((), headers={"X-Accel-Buffering": "no"})
        self._admitted = admitted
        self._classify = classify
        self._large = large

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._admitted as model:
            async with aclosing(self._classify(model)) as results:
                self.body_iterator = _lines(model.name, results, self._large)
                await super().__call__(scope, receive, send)


async def _lines(name: str, results: Results, large: bool) -> AsyncIterator[bytes]:
    async for index, version, result in results:
        if large:
            async for part in in_slices(schemas.encode_line_slices(result, index, name, version)):
                yield part
        else:
            yield schemas.encode_line(result, index, name, version)
