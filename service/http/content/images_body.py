"""Reads the image files in a request body: one image as it is, a form with files, or JSON with base64."""

from __future__ import annotations

import asyncio
import io
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, TypeVar

from fastapi import Request
from pydantic import BaseModel, FailFast, Field
from starlette.requests import ClientDisconnect

from service.core.errors import BadRequest, DeadlineExceeded, PayloadTooLarge, UnsupportedMediaType
from service.core.settings import Settings
from service.core.threads import run_python
from service.http.content import image_text, json_text, multipart
from service.http.request_body import header

_BYTES = re.compile(r"(?:image/[\w!#$&^.+*-]+|(?:application|binary)/octet-stream)?", re.ASCII)
JSON = re.compile(r"application/(?:[\w!#$&^.-]+\+)?json|text/json", re.ASCII)

_Parsed = TypeVar("_Parsed")


class Base64Image(BaseModel):
    base64: Annotated[str, Field(json_schema_extra={"format": "byte", "contentEncoding": "base64"})]


class ClassifyRequest(BaseModel):
    """Images in JSON. A third larger than the same files as multipart/form-data, and slower to read."""

    images: Annotated[list[Base64Image], Field(min_length=1), FailFast()]


async def read_images(request: Request, settings: Settings, seconds: float) -> tuple[Sequence[bytes], float]:
    """Read the image files in a request body.

    Args:
        request: the request.
        settings: limits.
        seconds: time limit from the last byte of the body.

    Returns:
        The files, and the seconds that are left.

    Raises:
        BadRequest: the body has no image, or does not match its Content-Type.
        PayloadTooLarge: the body has too many bytes or images.
        UnsupportedMediaType: the Content-Type is not supported.
        DeadlineExceeded: the time limit passed.
    """
    kind = header(request.scope, b"content-type").partition(";")[0].strip().lower()
    if _BYTES.fullmatch(kind):
        return [await read(request)], seconds
    if kind == "multipart/form-data":
        return await _form_files(request, settings.max_images), seconds
    if not JSON.fullmatch(kind):
        raise UnsupportedMediaType(
            f"Content-Type {kind!r} is not supported: send an image as image/* or application/octet-stream "
            "(curl -H 'Content-Type: image/png' --data-binary @FILE), files as multipart/form-data "
            "(curl -F image=@FILE), or JSON"
        )
    body = await read(request)
    started = time.monotonic()
    files = await parse_in_time(_json_files, body, settings, seconds)
    return files, seconds - (time.monotonic() - started)


async def parse_in_time(
    parse: Callable[[bytes, Settings], _Parsed], body: bytes, settings: Settings, seconds: float
) -> _Parsed:
    """Parse a body of JSON in a thread.

    Raises:
        DeadlineExceeded: the time limit passed.
    """
    try:
        async with asyncio.timeout(seconds):
            return await run_python(parse, body, settings)
    except TimeoutError:
        raise DeadlineExceeded("the time limit passed while JSON was parsed: raise timeout_ms") from None


async def read(request: Request) -> bytes:
    """Read the whole body.

    Raises:
        ClientDisconnect: the client disconnected.
    """
    first, more = await _piece(request)
    if not more:
        return first
    body = io.BytesIO()
    body.write(first)
    while more:
        piece, more = await _piece(request)
        body.write(piece)
    return body.getvalue()  # without a copy, which would hold the interpreter lock for 50 ms with 60 MB


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """Read the body piece by piece.

    Raises:
        ClientDisconnect: the client disconnected.
    """
    more = True
    while more:
        piece, more = await _piece(request)
        yield piece


async def _piece(request: Request) -> tuple[bytes, bool]:
    """Read the next piece of the body, and whether more follow. A third of the time of `Request.stream`.

    Raises:
        ClientDisconnect: the client disconnected.
    """
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


async def _form_files(request: Request, max_images: int) -> list[bytes]:
    files = await multipart.read_files(_pieces(request), header(request.scope, b"content-type"), max_images)
    if not files:
        raise BadRequest("the form has no file: send images as files (curl -F image=@FILE)")
    return files


def _json_files(body: bytes, settings: Settings) -> list[bytes]:
    try:
        images = json_text.parse_now(ClassifyRequest, memoryview(body), settings).images
    except BadRequest as error:
        raise BadRequest(f'{error}; expected {{"images": [{{"base64": "…"}}]}}. {image_text.NO_URLS}') from None
    check_count(len(images), settings.max_images)
    return [image_text.decode(image.base64, f"images.{index}.base64") for index, image in enumerate(images)]


def check_count(images: int, max_images: int) -> None:
    """Check the number of images in one request.

    Raises:
        PayloadTooLarge: there are too many.
    """
    if images > max_images:
        raise PayloadTooLarge(f"{images} images in one request, at most {max_images}: send them in several requests")
