"""Requests over HTTP that go nowhere but to HTTPS, or to HTTP on this machine."""

from __future__ import annotations

import http.client
import ipaddress
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Protocol
from urllib.parse import urlsplit

from export.errors import FetchError

_SECONDS = 30.0
"""Longest time without a byte from the server."""
_AGENT = "resnet-export"
BROKEN = (http.client.HTTPException, OSError)
"""Errors of a connection that breaks or cannot be made."""


class _Readable(Protocol):
    def read1(self, count: int, /) -> bytes: ...


@dataclass(frozen=True)
class Answer:
    """The content of a file from some byte on."""

    body: _Readable
    begin: int
    length: int | None
    """Bytes of the body; None if the server does not tell them."""
    etag: str | None
    """Name of the state of the file, for requests of its rest."""

    @property
    def total(self) -> int | None:
        """Bytes of the whole file."""
        return None if self.length is None else self.begin + self.length

    def read(self, count: int) -> bytes:
        """The bytes that came, at most `count`; empty at the end, also if the connection ends early."""
        return self.body.read1(count)


def check_url(url: str) -> None:
    """Refuse addresses that are neither HTTPS nor HTTP on this machine.

    Raises:
        FetchError: the address is of another kind.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError as error:
        raise FetchError(f"{url}: is no address: {error}") from error
    if parts.scheme == "https" and host:
        return
    if parts.scheme == "http" and _is_loopback(host):
        return
    raise FetchError(f"{url}: is not fetched: only https:// is, and http:// from this machine itself")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        try:
            check_url(newurl)
            if req.full_url.startswith("https:") and not newurl.startswith("https:"):
                raise FetchError(f"{req.full_url}: is redirected to {newurl}, which is not encrypted")
        except FetchError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Without the handlers of file:, ftp: and data:."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _CheckedRedirects(),
    ):
        opener.add_handler(handler)
    return opener


@contextmanager
def open_url(url: str, begin: int = 0, etag: str | None = None) -> Iterator[Answer]:
    """Ask for a file, or for its rest.

    Args:
        url: address of the file.
        begin: first byte that is wanted.
        etag: state of the file that the rest is wanted of; for another state the server sends the whole file.

    Raises:
        FetchError: the server refuses, or answers something else.
        HTTPException, OSError: the server cannot be reached again.
    """
    check_url(url)
    headers = {"User-Agent": _AGENT, "Accept-Encoding": "identity"}
    if begin:
        headers["Range"] = f"bytes={begin}-"
        if etag is not None:
            headers["If-Range"] = etag
    try:
        response = _opener().open(urllib.request.Request(url, headers=headers), timeout=_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (429, 500, 502, 503, 504) and begin:
            raise ConnectionError(f"the server answers {error.code}") from error
        raise FetchError(f"{url}: the server answers {error.code} {error.reason}") from error
    except http.client.InvalidURL as error:
        raise FetchError(f"{url}: is no address: {error}") from error
    except BROKEN as error:
        if begin:
            raise
        raise FetchError(f"{url}: cannot be reached: {getattr(error, 'reason', error)}") from error
    with response:
        yield _answer(url, response, begin)


def _answer(url: str, response: http.client.HTTPResponse, begin: int) -> Answer:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise FetchError(f"{url}: the server compresses the file, although the request forbids it")
    length = response.headers.get("Content-Length")
    if response.status == 206:
        found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != begin:
            raise FetchError(f"{url}: the server sends another part of the file than the requested one")
    else:
        begin = 0
    etag = response.headers.get("ETag")
    return Answer(
        response,
        begin,
        int(length) if length is not None and length.isdecimal() else None,
        None if etag is None or etag.startswith("W/") else etag,  # a weak one says nothing about the bytes
    )
