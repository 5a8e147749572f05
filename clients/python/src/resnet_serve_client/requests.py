"""Requests of the API: paths, parameters and bodies, without a connection."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict
from urllib.parse import quote

URL_VARIABLE = "RESNET_SERVE_URL"
KEY_VARIABLE = "RESNET_SERVE_API_KEY"
DEFAULT_URL = "http://localhost:8000"

MAX_BYTES = 16 * 1024 * 1024
"""Bytes of the images in one request; the service takes 32 MiB by default. A larger image is sent alone."""
_MAX_TIMEOUT_MS = 3_600_000

Cam = Literal["values", "overlay", "picture"]
Priority = Literal["interactive", "bulk"]


class Options(TypedDict, total=False):
    """Options of a request to classify images."""

    model: str | None
    """Name of the model; by default the default model of the service."""
    version: int | str | None
    """Version of `model`; by default the current one."""
    top_k: int
    """Number of classes per image, 5 by default."""
    embedding: bool
    """Also return the pooled features."""
    layer: int | None
    """With `embedding`: the pooled features of this stage, instead of the last ones."""
    cam: Cam | None
    """Also return a heat map per class: numbers (`values`), a transparent PNG (`overlay`), or a PNG of the image with
    the map over it (`picture`)."""
    timeout: float | None
    """Time limit in seconds, instead of that of the client. The service gets it, too."""
    priority: Priority
    """Interactive requests are computed before bulk requests."""
    request_id: str
    """Id in the log of the service, up to 128 letters, digits and `._:/+=-`."""


@dataclass(frozen=True)
class Request:
    """One request."""

    method: str
    path: str
    params: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    files: Sequence[bytes] = ()
    """Image files: one is sent as it is, several as a form."""
    accepted: frozenset[int] = frozenset()
    """Statuses beside 2xx that are no errors."""
    timed: bool = False
    """Whether the service gets the time limit."""

    def arguments(self, seconds: float) -> dict[str, Any]:
        """Arguments for httpx.

        Args:
            seconds: time limit of the attempt.
        """
        params, headers, body = dict(self.params), dict(self.headers), dict[str, Any]()
        if self.timed:
            params["timeout_ms"] = str(min(_MAX_TIMEOUT_MS, max(1, math.ceil(seconds * 1000))))
        if len(self.files) == 1:
            body["content"] = self.files[0]
            headers["Content-Type"] = "application/octet-stream"
        elif self.files:
            body["files"] = [
                ("image", (str(number), content, "application/octet-stream"))
                for number, content in enumerate(self.files)
            ]
        return {"method": self.method, "url": self.path, "params": params, "headers": headers, **body}


def classify(files: Sequence[bytes], options: Options, *, inline: bool) -> Request:
    """A request to classify image files.

    Args:
        files: the files, at least one.
        options: options; `timeout` is not used.
        inline: whether the error of a single image is a result.

    Raises:
        ValueError: an option is not valid.
    """
    if unknown := options.keys() - Options.__annotations__.keys():
        raise TypeError(f"there is no option {min(unknown)!r}; there are: {', '.join(Options.__annotations__)}")
    params = {name: str(options[name]) for name in ("top_k", "layer", "priority") if options.get(name) is not None}
    if options.get("embedding"):
        params["embedding"] = "true"
    if cam := options.get("cam"):
        params["cam"] = cam
    if inline:
        params["errors"] = "inline"
    request_id = options.get("request_id")
    headers = {} if request_id is None else {"X-Request-Id": request_id}
    path = _path(options.get("model"), options.get("version")) + "/classify"
    return Request("POST", path, params, headers, files, timed=True)


def model(name: str) -> Request:
    """A request for the description of a model."""
    return Request("GET", _path(name, None))


def _path(name: str | None, version: int | str | None) -> str:
    if name is None:
        if version is not None:
            raise ValueError("a version needs the name of its model: give model as well")
        return "/v1"
    path = f"/v1/models/{quote(name, safe='')}"
    return path if version is None else f"{path}/versions/{quote(str(version), safe='')}"


def base_url(given: str | None) -> str:
    """The URL of the service: as given, from the environment, or the default one, without a slash at its end.

    Raises:
        ValueError: it is not a URL.
    """
    url = given or os.environ.get(URL_VARIABLE) or DEFAULT_URL
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"the URL of the service is {url!r}: begin it with http:// or https://")
    return url.rstrip("/")


def key_headers(given: str | None) -> dict[str, str]:
    """The header with the API key: as given, or from the environment."""
    key = given or os.environ.get(KEY_VARIABLE)
    return {"Authorization": f"Bearer {key}"} if key else {}


def split(files: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Split files into groups of at most `MAX_BYTES`, or of one file."""
    group, size = list[bytes](), 0
    for content in files:
        if group and size + len(content) > MAX_BYTES:
            yield group
            group, size = [], 0
        group.append(content)
        size += len(content)
    if group:
        yield group


def check_seconds(name: str, seconds: float) -> float:
    """A time limit.

    Raises:
        ValueError: it is not a positive number.
    """
    if not (seconds > 0):
        raise ValueError(f"{name} is {seconds}: give a number of seconds above 0")
    return seconds
