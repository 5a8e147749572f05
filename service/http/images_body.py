"""From a request's body to image files: one image as it is, a form with files, or JSON with base64."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from fastapi import Request
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from service.core.errors import BadRequest, PayloadTooLarge, UnsupportedMediaType
from service.http import multipart
from service.http.request_body import header
from service.http.v1.schemas import ClassifyRequest


async def read_images(request: Request, max_images: int) -> Sequence[bytes]:
    """The image files in a request's body.

    Raises:
        BadRequest: no image, or a body that is not what its Content-Type says.
        PayloadTooLarge: too many bytes or images.
        UnsupportedMediaType: a Content-Type that is not taken.
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
            f"Content-Type {kind!r} is not taken: send an image as image/* or application/octet-stream "
            "(curl -H 'Content-Type: image/png' --data-binary @FILE), files as multipart/form-data "
            "(curl -F image=@FILE), or JSON"
        )
    if len(files) > max_images:
        raise PayloadTooLarge(f"{len(files)} images in one request, {max_images} are taken: send them in several")
    return files


async def read(request: Request) -> bytes:
    """The whole body.

    Raises:
        ClientDisconnect: the client has gone.
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
    """The body as it comes.

    Raises:
        ClientDisconnect: the client has gone.
    """
    more = True
    while more:
        piece, more = await _piece(request)
        yield piece


async def _piece(request: Request) -> tuple[bytes, bool]:
    """The next piece of the body, and whether there are more; Starlette's own way, through two generators, takes three
    times as long. Raises ClientDisconnect."""
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


async def _form_files(request: Request, max_images: int) -> list[bytes]:
    files = await multipart.read_files(_pieces(request), header(request.scope, b"content-type"), max_images)
    if not files:
        raise BadRequest("the form holds no file: send images as files (curl -F image=@FILE)")
    return files


def _json_files(body: bytes) -> list[bytes]:
    try:
        return [image.base64 for image in ClassifyRequest.model_validate_json(body).images]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadRequest(
            f'{place + ": " if place else ""}{first["msg"]}; expected {{"images": [{{"base64": "…"}}]}}'
        ) from None
