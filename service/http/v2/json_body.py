"""From a request's body to its JSON and the raw tensors behind it."""

from __future__ import annotations

import asyncio
import re
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from service.core.errors import BadRequest
from service.http.images_body import read

LENGTH_HEADER = "Inference-Header-Content-Length"

_INLINE = 65536
"""Bytes of JSON that are parsed on the event loop; a hand-over to a thread costs as much as that."""

Schema = TypeVar("Schema", bound=BaseModel)


def split(request: Request, body: bytes) -> tuple[memoryview, memoryview]:
    """The JSON, and the tensors behind it.

    Raises:
        BadRequest: the length that the header gives is none, or more than there is.
    """
    content = memoryview(body)
    given = request.headers.get(LENGTH_HEADER)
    if given is None:
        return content, content[:0]
    if not re.fullmatch("[0-9]{1,18}", given) or int(given) > len(body):
        raise BadRequest(f"{LENGTH_HEADER} is {given!r}, of a body of {len(body)} bytes")
    return content[: int(given)], content[int(given) :]


async def read_json(request: Request, schema: type[Schema]) -> Schema:
    """A body that is JSON, or empty.

    Raises:
        ServiceError: as `parse`.
    """
    return await parse(schema, memoryview(await read(request) or b"{}"))


async def parse(schema: type[Schema], content: memoryview) -> Schema:
    """JSON as a schema.

    Raises:
        BadRequest: it is not valid JSON, or not of that schema.
    """
    if len(content) > _INLINE:
        return await asyncio.to_thread(_parse, schema, bytes(content))
    return _parse(schema, bytes(content))


def _parse(schema: type[Schema], content: bytes) -> Schema:
    try:
        return schema.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadRequest(f"{place + ': ' if place else ''}{first['msg']}") from None
