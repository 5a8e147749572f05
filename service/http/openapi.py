"""The errors of each route, as OpenAPI lists them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

Responses = dict[int | str, dict[str, Any]]

_DESCRIPTIONS = {
    400: "Malformed request",
    401: "No such API key",
    403: "The API key lacks the scope",
    404: "No such model or version",
    408: "Body sent too slowly",
    413: "Too many bytes, pixels or images",
    415: "Content-Type or Content-Encoding not taken",
    422: "Not a usable image",
    429: "More requests than the caller's rate (with Retry-After)",
    500: "Inference failed",
    503: "Not ready, or overloaded (with Retry-After)",
    504: "Time limit passed",
}


def errors(schema: type[BaseModel], *statuses: int) -> Responses:
    """FastAPI's `responses`, all of one schema."""
    return {status: {"model": schema, "description": _DESCRIPTIONS[status]} for status in statuses}
