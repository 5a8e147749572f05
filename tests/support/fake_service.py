"""A service for the client, in memory: answers that a test chooses, and a record of the requests."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import httpx

_PART = re.compile(rb"Content-Type: application/octet-stream\r\n\r\n(.*?)\r\n--", re.DOTALL)

Answer = httpx.Response | Exception
"""An answer of the service, or the error of the connection."""


def files(request: httpx.Request) -> list[bytes]:
    """The image files in a request to classify."""
    if request.headers["content-type"].startswith("multipart/form-data"):
        return _PART.findall(request.content)
    return [request.content]


def classified(names: Iterable[bytes], **more: Any) -> httpx.Response:
    """The answer for images whose label is their content; content that begins with `bad` gets an error."""
    return httpx.Response(200, json={"model": "m", "version": "3", "results": list(map(_result, names)), **more})


def _result(content: bytes) -> dict[str, Any]:
    if content.startswith(b"bad"):
        return {"error": {"title": "Not a usable image", "status": 422, "detail": "not an image"}}
    return {
        "predictions": [{"label": content.decode(), "index": 1, "probability": 0.5, "unknown": 1}],
        "image": {"width": 2, "height": 3, "format": "PNG"},
    }


def problem(status: int, headers: dict[str, str] | None = None) -> httpx.Response:
    """Problem details of the service."""
    body = {"type": "about:blank", "title": "T", "status": status, "detail": "what to do", "request_id": "id-7"}
    return httpx.Response(
        status, headers={"Content-Type": "application/problem+json", **(headers or {})}, content=json.dumps(body)
    )


class FakeService(httpx.AsyncBaseTransport):
    """Gives scripted answers first, then those of a function.

    Args:
        script: the first answers, in their order.
        answer: gives all further answers; by default it classifies each image as its content.
    """

    def __init__(
        self, script: Iterable[Answer] = (), answer: Callable[[httpx.Request], Awaitable[httpx.Response]] | None = None
    ) -> None:
        self._script = iter(script)
        self._answer = answer
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.requests.append(request)
        scripted = next(self._script, None)
        if isinstance(scripted, Exception):
            raise scripted
        if scripted is not None:
            return scripted
        return classified(files(request)) if self._answer is None else await self._answer(request)
