"""Reads the JSON at the start of a request body, and the raw tensors behind it."""

from __future__ import annotations

import asyncio
import re
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from models.validation import first_error
from service.core.errors import BadRequest
from service.http.images_body import read

LENGTH_HEADER = "Inference-Header-Content-Length"

_MAX_ON_EVENT_LOOP = 65536
"""Most bytes of JSON that are parsed on the event loop; a hand-over to a thread takes as long."""

_SchemaT = TypeVar("_SchemaT", bound=BaseModel)


def split(request: Request, body: bytes) -> tuple[memoryview, memoryview]:
    """Split a body into the JSON and the tensors behind it.

    Raises:
        BadRequest: the header is not a length, or the body is shorter.
    """
    content = memoryview(body)
    given = request.headers.get(LENGTH_HEADER)
    if given is None:
        return content, content[:0]
    if not re.fullmatch("[0-9]{1,18}", given) or int(given) > len(body):
        raise BadRequest(f"{LENGTH_HEADER} is {given!r}, for a body of {len(body)} bytes")
    return content[: int(given)], content[int(given) :]


async def read_json(request: Request, schema: type[_SchemaT]) -> _SchemaT:
    """Read a body that is JSON, or empty.

    Raises:
        ServiceError: as `parse`.
    """
    return await parse(schema, memoryview(await read(request) or b"{}"))


async def parse(schema: type[_SchemaT], content: memoryview) -> _SchemaT:
    """Parse JSON.

    Raises:
        BadRequest: the JSON is not valid, or does not match the schema.
    """
    if len(content) > _MAX_ON_EVENT_LOOP:
        return await asyncio.to_thread(_parse, schema, bytes(content))
    return _parse(schema, bytes(content))


def _parse(schema: type[_SchemaT], content: bytes) -> _SchemaT:
    try:
        return schema.model_validate_json(content)
    except ValidationError as error:
        raise BadRequest(first_error(error)) from None
