"""Image files in text: base64, or a `data:` URL. Every other URL is refused: no request makes the service fetch."""

from __future__ import annotations

import re

from service.core.errors import BadRequest
from service.http.content import base64_text

NO_URLS = "URLs are never fetched: send the content of the file, as base64 or as a data: URL"

_SCHEME = re.compile(r"\s{0,16}([a-z][a-z0-9+.-]{0,15}):", re.IGNORECASE)
_MAX_HEAD = 256
"""Characters of a `data:` URL in which its comma must be."""


def decode(text: str, place: str) -> bytes:
    """The content of an image file.

    Args:
        text: base64, which may have white space, or a `data:` URL in base64 (RFC 2397); its media type is not used.
        place: name of the field, for messages.

    Raises:
        BadRequest: the text is neither.
    """
    if scheme := _SCHEME.match(text):
        if scheme[1].lower() != "data":
            raise BadRequest(f"{place}: {NO_URLS}")
        comma = text.find(",", 0, _MAX_HEAD)
        if not text[: max(0, comma)].rstrip().lower().endswith(";base64"):
            raise BadRequest(f"{place}: the data: URL is not in base64: it must begin like data:image/png;base64,")
        text = text[comma + 1 :]
    try:
        return base64_text.decode(text)
    except ValueError as error:
        raise BadRequest(f"{place}: not base64 ({error}): send base64 or a data: URL") from None
