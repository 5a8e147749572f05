"""An answer in lines: each image's as soon as it is done."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, aclosing

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.repository import LoadedModel
from service.schemas import ImageResult, StreamedResult

MEDIA_TYPE = "application/x-ndjson"


class Lines(StreamingResponse):
    """Results as lines of JSON. What is not done when the client hangs up is given up.

    Args:
        model: that answers.
        results: (position, result) of each image.
        admitted: entered around all of it; what it raises comes before the first byte of the answer.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self,
        model: LoadedModel,
        results: AsyncGenerator[tuple[int, ImageResult]],
        admitted: AbstractContextManager[None],
    ) -> None:
        super().__init__(
            StreamedResult(index=index, model=model.name, version=model.version, **dict(result)).line()
            async for index, result in results
        )
        self._results = results
        self._admitted = admitted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._admitted:
            async with aclosing(self._results):
                await super().__call__(scope, receive, send)
