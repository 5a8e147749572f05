"""Reads the JSON at the start of a request body, and the raw tensors behind it."""

from __future__ import annotations

import re
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel

from service.core.errors import BadRequest
from service.http.content import json_text
from service.http.content.images_body import read

LENGTH_HEADER = "Inference-Header-Content-Length"

_SchemaT = TypeVar("_SchemaT", bound=BaseModel)


def json_length(request: Request) -> int | None:
    """Bytes of the JSON at the start of the body, according to the header; None without the header.

    Raises:
        BadRequest: the header is not a length.
    """
    given = request.headers.get(LENGTH_HEADER)
    if given is None:
        return None
    if not re.fullmatch("[0-9]{1,18}", given):
        raise BadRequest(f"{LENGTH_HEADER} is {given!r}, which is not a number of bytes")
    return int(given)


def split(body: bytes, length: int | None) -> tuple[memoryview, memoryview]:
    """Split a body into the JSON and the tensors behind it.

    Args:
        body: the body.
        length: bytes of the JSON; None for all.

    Raises:
        BadRequest: the body is shorter.
    """
    content = memoryview(body)
    if length is None:
        return content, content[:0]
    if length > len(body):
        raise BadRequest(f"{LENGTH_HEADER} is {length}, for a body of {len(body)} bytes")
    return content[:length], content[length:]


async def read_json(request: Request, schema: type[_SchemaT]) -> _SchemaT:
    """Read a body that is JSON, or empty.

    Raises:
        ServiceError: as `json_text.parse`.
    """
    content = memoryview(await read(request) or b"{}")
    return await json_text.parse(schema, content, request.app.state.pipeline.settings)
