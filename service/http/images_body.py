"""Reads the image files in a request body: one image as it is, a form with files, or JSON with base64."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from starlette.requests import ClientDisconnect

from models.validation import first_error
from service.core.errors import BadRequest, PayloadTooLarge, UnsupportedMediaType
from service.http import multipart
from service.http.request_body import header


def _from_base64(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        # The type of pydantic skips characters that are not base64, and reads damaged text as other bytes.
        return base64.b64decode("".join(value.split()), validate=True)
    except ValueError as error:
        raise ValueError(f"not base64 ({error}); of a data: URL, send only the text behind the comma") from None


class Base64Image(BaseModel):
    base64: Annotated[
        bytes, BeforeValidator(_from_base64), Field(json_schema_extra={"format": "byte", "contentEncoding": "base64"})
    ]


class ClassifyRequest(BaseModel):
    """Images in JSON. A third larger than the same files as multipart/form-data, and slower to read."""

    images: list[Base64Image] = Field(min_length=1)


async def read_images(request: Request, max_images: int) -> Sequence[bytes]:
    """Read the image files in a request body.

    Raises:
        BadRequest: the body has no image, or does not match its Content-Type.
        PayloadTooLarge: the body has too many bytes or images.
        UnsupportedMediaType: the Content-Type is not supported.
    """
    kind = header(request.scope, b"content-type", "application/octet-stream").partition(";")[0].strip().lower()
    if kind.startswith("image/") or kind == "application/octet-stream":
        return [await read(request)]
    if kind == "multipart/form-data":
        files = await _form_files(request, max_images)
    elif kind == "application/json":
        files = await asyncio.to_thread(_json_files, await read(request))
    else:
        raise UnsupportedMediaType(
            f"Content-Type {kind!r} is not supported: send an image as image/* or application/octet-stream "
            "(curl -H 'Content-Type: image/png' --data-binary @FILE), files as multipart/form-data "
            "(curl -F image=@FILE), or JSON"
        )
    if len(files) > max_images:
        raise PayloadTooLarge(
            f"{len(files)} images in one request, at most {max_images}: send them in several requests"
        )
    return files


async def read(request: Request) -> bytes:
    """Read the whole body.

    Raises:
        ClientDisconnect: the client disconnected.
    """
    first, more = await _piece(request)
    if not more:
        return first
    pieces = [first]
    while more:
        piece, more = await _piece(request)
        pieces.append(piece)
    return b"".join(pieces)


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


def _json_files(body: bytes) -> list[bytes]:
    try:
        return [image.base64 for image in ClassifyRequest.model_validate_json(body).images]
    except ValidationError as error:
        raise BadRequest(f'{first_error(error)}; expected {{"images": [{{"base64": "…"}}]}}') from None
