"""The synchronous client: `AsyncClient` on an event loop in a thread."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

from resnet_serve_client import many
from resnet_serve_client.answers import Classification, ModelInfo, Readiness
from resnet_serve_client.async_client import AsyncClient
from resnet_serve_client.images import Image
from resnet_serve_client.loop_thread import LoopThread
from resnet_serve_client.many import Progress
from resnet_serve_client.requests import Options


class Client:
    """A client of one service. Use it as a context manager, or call `close`. Threads may share it.

    Arguments and errors are those of `AsyncClient`. Requests run on an event loop in a thread of the client, so that a
    call ends exactly at its time limit, and an abandoned iterator cancels its requests.
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
        self._client = AsyncClient(base_url, api_key=api_key, timeout=timeout, retries=retries, **options)
        self._thread = LoopThread(self._client.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the requests in flight and close all connections."""
        self._thread.close()

    def classify(self, image: Image, **options: Unpack[Options]) -> Classification:
        """Classify one image, as `AsyncClient.classify`."""
        return self._thread.run(self._client.classify(image, **options))

    def classify_batch(self, batch: Sequence[Image], **options: Unpack[Options]) -> list[Classification]:
        """Classify several images, as `AsyncClient.classify_batch`."""
        return self._thread.run(self._client.classify_batch(batch, **options))

    def embed(self, image: Image, **options: Unpack[Options]) -> tuple[float, ...]:
        """The pooled features of one image, as `AsyncClient.embed`."""
        return self._thread.run(self._client.embed(image, **options))

    def classify_many(
        self,
        iterable: Iterable[Image],
        *,
        batch: int = 16,
        concurrency: int = 4,
        progress: Progress = False,
        give_up_after: float = 600.0,
        **options: Unpack[Options],
    ) -> Generator[Classification]:
        """Classify any number of images, and give the results in their order, as `AsyncClient.classify_many`.

        The iterable is read in the calling thread.
        """
        many.check(batch, concurrency)
        send = self._client.sender(concurrency, give_up_after, options)
        groups = many.batches(iterable, batch)
        with many.counting(progress, iterable) as count:
            for results in many.in_order(groups, lambda group: self._thread.submit(send(group)), 2 * concurrency):
                for result in results:
                    count()
                    yield result

    def models(self) -> list[ModelInfo]:
        """The models that are served, as `AsyncClient.models`."""
        return self._thread.run(self._client.models())

    def model(self, name: str) -> ModelInfo:
        """The current version of a model, as `AsyncClient.model`."""
        return self._thread.run(self._client.model(name))

    def ready(self) -> Readiness:
        """Whether the service classifies images, as `AsyncClient.ready`."""
        return self._thread.run(self._client.ready())

    def live(self) -> bool:
        """Whether the process of the service answers, as `AsyncClient.live`."""
        return self._thread.run(self._client.live())
