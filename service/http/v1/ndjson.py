"""An answer in lines: each image's as soon as it is done."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractContextManager, aclosing

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.http.v1 import schemas
from service.inference.results import ImageResult
from service.messages.model import ServedModel

MEDIA_TYPE = "application/x-ndjson"

Results = AsyncGenerator[tuple[int, ImageResult]]


class Lines(StreamingResponse):
    """Results as lines of JSON. What is not done when the client hangs up is given up.

    Args:
        admitted: gives the model, and is held until the last line; what it raises comes before the first byte.
        classify: gives (position, result) of each image.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self, admitted: AbstractContextManager[ServedModel], classify: Callable[[ServedModel], Results]
    ) -> None:
        # The lines are not known until the model is. nginx would keep them until the end without the header.
        super().__init__((), headers={"X-Accel-Buffering": "no"})
        self._admitted = admitted
        self._classify = classify

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._admitted as model:
            async with aclosing(self._classify(model)) as results:
                self.body_iterator = _lines(model, results)
                await super().__call__(scope, receive, send)


async def _lines(model: ServedModel, results: Results) -> AsyncIterator[bytes]:
    async for index, result in results:
        yield schemas.encode_line(result, index, model.name, model.version)
