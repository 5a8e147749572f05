"""The HTTP client of huggingface_hub, with checks of what a server sends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import constants
from huggingface_hub.utils._http import default_client_factory

from export.errors import FetchError
from models.console import console

_NAMES = ("ETag", constants.HUGGINGFACE_HEADER_X_LINKED_ETAG, constants.HUGGINGFACE_HEADER_X_REPO_COMMIT)
"""Headers whose values become names of files in the cache."""


def make_client() -> httpx2.Client:
    """The library's client, which knows its offline mode and the proxies of the environment."""
    client = default_client_factory()
    hooks = client.event_hooks
    client.event_hooks = {"request": [*hooks["request"], _check_request], "response": [_check_response]}
    return client


def _check_request(request: httpx2.Request) -> None:
    scheme, endpoint = request.url.scheme, urlsplit(constants.ENDPOINT).scheme
    if scheme != "https" and not (scheme == "http" and endpoint == "http"):
        raise FetchError(f"the hub leads to {str(request.url)[:200]}, which is not fetched: only https:// is")


def _check_response(response: httpx2.Response) -> None:
    for name in _NAMES if response.request.method == "HEAD" else ():
        value = response.headers.get(name, "").removeprefix("W/").strip('"')
        if not re.fullmatch(r"[\w.:+-]{0,128}", value) or value.startswith("."):
            raise FetchError(f"the hub sends a {name} that is no hash: {value[:100]!r}")
    response.stream = _Stream(response.stream)
    begin = re.match(r"bytes=(\d+)-", response.request.headers.get("Range", ""))
    if begin is not None and response.status_code == 206:
        console.print(f"the connection broke, and is continued after {int(begin[1]):,} bytes", highlight=False)


class _Stream(httpx2.SyncByteStream):
    """A body whose connection may be reset: the library continues it as if the connection had been closed."""

    def __init__(self, stream: object) -> None:
        assert isinstance(stream, httpx2.SyncByteStream)
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        except (httpx2.ReadError, httpx2.WriteError, httpx2.CloseError) as error:
            raise httpx2.RemoteProtocolError(str(error)) from error

    def close(self) -> None:
        self._stream.close()
