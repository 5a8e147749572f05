"""Sends requests, again if need be, until there is an answer or the time is over."""

from __future__ import annotations

import asyncio
import itertools
import logging
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from random import Random
from typing import Any, TypeVar

import httpx

from resnet_serve_client import answers, images, requests, retries
from resnet_serve_client.answers import Classification
from resnet_serve_client.errors import (
    ApiError,
    ClientError,
    NoAnswer,
    PayloadTooLarge,
    TimedOut,
    UnreadableImage,
    from_response,
)
from resnet_serve_client.images import Image
from resnet_serve_client.requests import Options, Request
from resnet_serve_client.retries import RetryLimits

_Answer = TypeVar("_Answer")

log = logging.getLogger("resnet_serve_client")

_CONNECT_SECONDS = 10.0
_QUIET_ATTEMPTS = 3
"""Attempts whose failure is no warning in the log."""
_IN_PLACE = frozenset({413, 415, 422})
"""Statuses of a request with one image that are errors of this image."""


def _user_agent() -> str:
    try:
        return f"resnet-serve-client/{version('resnet-serve-client')}"
    except PackageNotFoundError:
        return "resnet-serve-client"


class Connection:
    """Sends requests over httpx.

    Args:
        base_url: URL of the service; from the environment by default.
        api_key: API key; from the environment by default.
        options: further arguments of `httpx.AsyncClient`, such as `verify`, `cert`, `proxy` and `transport`.

    Raises:
        ValueError: the URL is not valid.
    """

    def __init__(self, base_url: str | None, api_key: str | None, options: dict[str, Any]) -> None:
        headers = {"User-Agent": _user_agent(), **requests.key_headers(api_key), **options.pop("headers", {})}
        self.url = requests.base_url(base_url)
        try:
            self._http = httpx.AsyncClient(base_url=self.url, headers=headers, **options)
        except httpx.InvalidURL as error:
            raise ValueError(f"the URL of the service is {self.url!r}: {error}") from None
        self._random = Random()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def call(self, request: Request, read: Callable[[httpx.Response], _Answer], limits: RetryLimits) -> _Answer:
        """Send a request until there is an answer.

        Args:
            request: the request.
            read: reads the answer; its errors count as those of the connection.
            limits: limits of time and attempts.

        Raises:
            ClientError: the error of the last attempt.
        """
        end = time.monotonic() + limits.total
        for attempt in itertools.count():
            try:
                return read(await self._attempt(request, min(limits.attempt, end - time.monotonic())))
            except ClientError as error:
                pause = retries.pause(error, attempt, self._random)
                if not retries.can_retry(error) or attempt >= limits.retries or time.monotonic() + pause >= end:
                    raise
                level = logging.INFO if attempt < _QUIET_ATTEMPTS else logging.WARNING
                log.log(level, "%s %s: %s; next attempt in %.1f s", request.method, request.path, error, pause)
            await asyncio.sleep(pause)
        raise AssertionError("the loop has no end")

    async def _attempt(self, request: Request, seconds: float) -> httpx.Response:
        """Send a request once.

        Raises:
            NoAnswer: there is no connection, or it broke.
            ApiError: the status is not 2xx.
        """
        timeout = httpx.Timeout(None, connect=min(_CONNECT_SECONDS, seconds))
        try:
            async with asyncio.timeout(seconds):
                response = await self._http.request(**request.arguments(seconds), timeout=timeout)
        except TimeoutError:
            raise TimedOut(f"{self.url} did not answer within {seconds:.3g} s") from None
        except httpx.ConnectTimeout:
            raise TimedOut(f"{self.url} accepts no connection") from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            failure = NoAnswer(f"no answer from {self.url}: {str(error) or type(error).__name__}")
            failure.can_retry = not _is_permanent(error)
            raise failure from error
        if response.is_success or response.status_code in request.accepted:
            return response
        request_id = response.headers.get("X-Request-Id")
        refused = from_response(response.status_code, response.reason_phrase, response.content, request_id)
        refused.retry_after = retries.retry_after(response.headers)
        raise refused

    async def classify(
        self, files: Sequence[bytes], options: Options, limits: RetryLimits, *, inline: bool
    ) -> list[Classification]:
        """Classify image files with one request; arguments are those of `requests.classify`."""

        def read(response: httpx.Response) -> list[Classification]:
            return answers.read_classification(response.content, len(files), response.headers.get("X-Request-Id"))

        return await self.call(requests.classify(files, options, inline=inline), read, limits)

    async def classify_in_place(
        self, group: Sequence[Image], options: Options, limits: RetryLimits
    ) -> list[Classification]:
        """Classify images; an image that cannot be read or classified has its error in its place.

        Images that the service had no memory or time for are sent again, as whole requests are.

        Raises:
            ClientError: the request failed, not only an image.
        """
        end = time.monotonic() + limits.total
        loaded = await asyncio.to_thread(_load_all, group)
        files, results = dict[int, bytes](), dict[int, Classification]()
        for place, each in enumerate(loaded):
            if isinstance(each, bytes):
                files[place] = each
            else:
                results[place] = Classification(error=each)
        for attempt in itertools.count():
            rest = replace(limits, total=end - time.monotonic())
            found = [
                each
                for part in requests.split(files.values())
                for each in await self._classify_part(part, options, rest)
            ]
            results.update(zip(files, found, strict=True))
            files = {place: files[place] for place in files if _failed_for_now(results[place])}
            if not files:
                break
            error = results[next(iter(files))].error
            assert isinstance(error, ApiError)
            pause = retries.pause(error, attempt, self._random)
            if attempt >= limits.retries or time.monotonic() + pause >= end:
                break
            await asyncio.sleep(pause)
        return [results[place] for place in range(len(group))]

    async def _classify_part(
        self, files: Sequence[bytes], options: Options, limits: RetryLimits
    ) -> list[Classification]:
        """Classify files with one request, or with several if one is too large for the service."""
        try:
            return await self.classify(files, options, limits, inline=True)
        except PayloadTooLarge as error:
            if len(files) == 1:
                return [Classification(error=error, request_id=error.request_id)]
        except ApiError as error:
            if len(files) > 1 or error.status not in _IN_PLACE:
                raise
            return [Classification(error=error, request_id=error.request_id)]
        half = len(files) // 2
        first = await self._classify_part(files[:half], options, limits)
        return first + await self._classify_part(files[half:], options, limits)


def _load_all(group: Sequence[Image]) -> list[bytes | UnreadableImage]:
    return [_load(image) for image in group]


def _load(image: Image) -> bytes | UnreadableImage:
    try:
        return images.load(image)
    except UnreadableImage as error:
        return error


def _failed_for_now(result: Classification) -> bool:
    return isinstance(result.error, ApiError) and result.error.status in retries.RETRIED


def _is_permanent(error: Exception) -> bool:
    """Whether another attempt would fail in the same way: a certificate that is not trusted, or a wrong URL."""
    if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
        return True
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
