"""The asynchronous client."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from resnet_serve_client import answers, images, many, requests
from resnet_serve_client.answers import Classification, ModelInfo, Readiness
from resnet_serve_client.connection import Connection
from resnet_serve_client.errors import ClientError, InvalidAnswer
from resnet_serve_client.images import Image
from resnet_serve_client.many import Progress
from resnet_serve_client.requests import Options, Request
from resnet_serve_client.retries import RetryLimits

_Answer = TypeVar("_Answer")


class AsyncClient:
    """A client of one service, for asyncio. Use it as an asynchronous context manager, or call `close`.

    Args:
        base_url: URL of the service. Default: RESNET_SERVE_URL in the environment, or http://localhost:8000.
        api_key: API key. Default: RESNET_SERVE_API_KEY in the environment, or none.
        timeout: seconds for a call, with all its attempts and pauses. The service gets the limit, too, and does not
            compute what would be late.
        retries: most attempts of a call after the first, if the service is overloaded (429, 503), a proxy does not
            reach it (502, 504), or the connection fails. `classify_many` has its own limit.
        options: further arguments of `httpx.AsyncClient`, such as `verify` and `cert` for TLS, `proxy` and `transport`.

    Raises:
        ValueError: an argument is not valid.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        retries: int = 4,
        **options: Any,
    ) -> None:
        self._timeout = requests.check_seconds("timeout", timeout)
        self._retries = retries
        self._connection = Connection(base_url, api_key, options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._connection.close()

    async def classify(self, image: Image, **options: Unpack[Options]) -> Classification:
        """Classify one image.

        Raises:
            UnreadableImage: the image cannot be read.
            ApiError: the service refuses the request or the image.
            NoAnswer: the service cannot be reached, or the time limit passed.
            InvalidAnswer: the answer does not come from this API.
        """
        content = image if isinstance(image, bytes) else await asyncio.to_thread(images.load, image)
        (result,) = await self._connection.classify([content], options, self._limits(options), inline=False)
        return result

    async def classify_batch(self, batch: Sequence[Image], **options: Unpack[Options]) -> list[Classification]:
        """Classify several images. An image that cannot be read or decoded has its `error` in its place.

        Raises:
            ApiError: the service refuses the request.
            NoAnswer: the service cannot be reached, or the time limit passed.
            InvalidAnswer: the answer does not come from this API.
        """
        return await self._connection.classify_in_place(batch, options, self._limits(options))

    async def embed(self, image: Image, **options: Unpack[Options]) -> tuple[float, ...]:
        """The pooled features of one image, before the classifier. Errors are those of `classify`."""
        with_embedding: Options = {"top_k": 1, **options, "embedding": True}
        result = await self.classify(image, **with_embedding)
        if result.embedding is None:
            raise InvalidAnswer("the answer has no embedding")
        return result.embedding

    async def classify_many(
        self,
        iterable: Iterable[Image] | AsyncIterable[Image],
        *,
        batch: int = 16,
        concurrency: int = 4,
        progress: Progress = False,
        give_up_after: float = 600.0,
        **options: Unpack[Options],
    ) -> AsyncGenerator[Classification]:
        """Classify any number of images, and give the results in their order.

        Images are taken from the iterable only as requests are sent: at most `2 * batch * concurrency` are in memory.
        An image that cannot be read or decoded has its `error` in its place. A request that fails is sent again: the
        service may be restarted meanwhile. A generator that is closed, or left by an error, cancels its requests.

        Args:
            iterable: images, or an asynchronous iterable of images.
            batch: images per request.
            concurrency: requests at the same time.
            progress: True for a progress bar, or a function that is called with the number of finished images.
            give_up_after: seconds after which a request that fails again and again is an error.
            options: as for `classify`; the priority is `bulk` by default.

        Raises:
            ApiError: the service refuses a request.
            NoAnswer: the service cannot be reached for `give_up_after` seconds.
            InvalidAnswer: the answer does not come from this API.
        """
        many.check(batch, concurrency)
        groups = many.async_batches(iterable, batch)
        with many.counting(progress, iterable) as count:
            answered = many.async_in_order(groups, self.sender(concurrency, give_up_after, options), 2 * concurrency)
            async with aclosing(answered):
                async for results in answered:
                    for result in results:
                        count()
                        yield result

    async def models(self) -> list[ModelInfo]:
        """The models that are served. Errors are those of `classify`."""
        return await self._get(Request("GET", "/v1/models"), answers.read_models)

    async def model(self, name: str) -> ModelInfo:
        """The current version of a model. Errors are those of `classify`."""
        return await self._get(requests.model(name), answers.read_model)

    async def ready(self) -> Readiness:
        """Whether the service classifies images; a service that cannot be reached does not. Asks once."""
        request = Request("GET", "/readyz", accepted=frozenset({503}))
        try:
            return await self._get(request, answers.read_readiness, retries=0)
        except ClientError as error:
            return Readiness(False, (str(error),))

    async def live(self) -> bool:
        """Whether the process of the service answers. Asks once."""
        try:
            return await self._get(Request("GET", "/healthz"), lambda content: True, retries=0)
        except ClientError:
            return False

    async def _get(self, request: Request, read: Callable[[bytes], _Answer], retries: int | None = None) -> _Answer:
        limits = RetryLimits(self._timeout, self._timeout, self._retries if retries is None else retries)
        return await self._connection.call(request, lambda response: read(response.content), limits)

    def _limits(self, options: Options) -> RetryLimits:
        timeout = self._seconds(options)
        return RetryLimits(timeout, timeout, self._retries)

    def _seconds(self, options: Options) -> float:
        return requests.check_seconds("timeout", options.get("timeout") or self._timeout)

    def sender(
        self, concurrency: int, give_up_after: float, options: Options
    ) -> Callable[[Sequence[Image]], Coroutine[Any, Any, list[Classification]]]:
        """A function that sends a batch of `classify_many` when one of `concurrency` slots is free."""
        slots = asyncio.Semaphore(concurrency)
        timeout = self._seconds(options)
        total = max(timeout, requests.check_seconds("give_up_after", give_up_after))
        limits = RetryLimits(total, timeout, math.inf)
        bulk: Options = {"priority": "bulk", **options}

        async def send(group: Sequence[Image]) -> list[Classification]:
            async with slots:
                return await self._connection.classify_in_place(group, bulk, limits)

        return send
