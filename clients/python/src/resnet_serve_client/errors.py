"""Errors of the client.

ClientError
├── UnreadableImage          the image cannot be sent: no such file, or not an image
├── NoAnswer                 no connection, or it broke
│   └── TimedOut             the time limit passed; also a TimeoutError
├── InvalidAnswer            the answer does not come from this API
└── ApiError                 the service answered with an error
    ├── BadRequest           400
    ├── Unauthorized         401
    ├── Forbidden            403
    ├── NotFound             404
    ├── PayloadTooLarge      413
    ├── UnprocessableImage   422
    ├── TooManyRequests      429
    ├── Unavailable          503
    └── DeadlineExceeded     504
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

_LONGEST_TEXT = 200
"""Characters of an answer that is not JSON in the message of its error."""


class ClientError(Exception):
    """Base class of all errors of the client."""


class UnreadableImage(ClientError, ValueError):
    """The image cannot be sent; the message gives the reason."""


class NoAnswer(ClientError):
    """The service could not be reached, or the connection broke."""

    can_retry: bool = True
    """Whether another attempt may succeed."""


class TimedOut(NoAnswer, TimeoutError):
    """The time limit passed before the answer."""


class InvalidAnswer(ClientError):
    """The answer does not come from this API: another server, or a proxy that changes it."""


class ApiError(ClientError):
    """The service answered with an error.

    Args:
        status: HTTP status.
        title: kind of error.
        detail: what is wrong, and what to do.
        request_id: id of the request in the log of the service.
        retry_after: seconds after which the service asks for another attempt; None if it names none.
    """

    kinds: ClassVar[dict[int, type[ApiError]]] = {}
    """Subclass by status."""

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(status, title, detail, request_id, retry_after)
        self.status = status
        self.title = title
        self.detail = detail
        self.request_id = request_id
        self.retry_after = retry_after

    def __init_subclass__(cls, status: int) -> None:
        ApiError.kinds[status] = cls

    def __str__(self) -> str:
        end = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.status} {self.title}: {self.detail}{end}"


class BadRequest(ApiError, status=400):
    """The request is malformed."""


class Unauthorized(ApiError, status=401):
    """There is no API key, or it is unknown."""


class Forbidden(ApiError, status=403):
    """The API key lacks the scope."""


class NotFound(ApiError, status=404):
    """There is no such model or version."""


class PayloadTooLarge(ApiError, status=413):
    """The request has too many bytes, pixels or images."""


class UnprocessableImage(ApiError, status=422):
    """The file is not an image, or is damaged."""


class TooManyRequests(ApiError, status=429):
    """The client sends more requests than its rate limit allows."""


class Unavailable(ApiError, status=503):
    """The service is overloaded or not ready, or the model cannot be loaded."""


class DeadlineExceeded(ApiError, status=504):
    """The time limit passed in the service."""


def from_problem(problem: Mapping[str, Any], request_id: str | None = None) -> ApiError:
    """Make an error of problem details (RFC 9457).

    Args:
        problem: the details; missing and unknown fields are accepted.
        request_id: used if the details have none.
    """
    status = problem.get("status")
    status = status if isinstance(status, int) else 500
    kind = ApiError.kinds.get(status, ApiError)
    title, detail = str(problem.get("title") or "Error"), str(problem.get("detail") or "no reason is given")
    return kind(status, title, detail, problem.get("request_id") or request_id)


def from_response(status: int, reason: str, content: bytes, request_id: str | None) -> ApiError:
    """Make an error of a response, also of a proxy, whose responses are no problem details.

    Args:
        status: HTTP status.
        reason: reason phrase of the status.
        content: body of the response.
        request_id: id in the header of the response.
    """
    try:
        problem = json.loads(content)
    except ValueError:
        problem = None
    if isinstance(problem, dict) and "detail" in problem:
        return from_problem({**problem, "status": status}, request_id)
    text = " ".join(content[: 4 * _LONGEST_TEXT].decode("utf-8", "replace").split())[:_LONGEST_TEXT]
    kind = ApiError.kinds.get(status, ApiError)
    return kind(status, reason or "Error", text or "the response has no reason", request_id)
