"""What can go wrong with a request, and what its sender is told.

    ServiceError
    ├── BadRequest              400
    ├── Unauthorized            401, with WWW-Authenticate
    ├── Forbidden               403
    ├── NotFound                404
    ├── RequestTimeout          408
    ├── PayloadTooLarge         413
    ├── UnsupportedMediaType    415
    ├── UnprocessableImage      422
    ├── TooManyRequests         429, with Retry-After
    ├── InferenceFailed         500
    ├── Unavailable             503
    │   └── Overloaded          503, with Retry-After
    └── DeadlineExceeded        504

Status and title stand on the class, the detail says what to do. `routes.problems` turns them into responses
(RFC 9457, application/problem+json).
"""

from __future__ import annotations

import math
from typing import ClassVar


class ServiceError(Exception):
    """An error with an HTTP status; its message is shown to the caller."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    reason: str | None = None
    """Why the service refused a request that it could have served at another time; the label of a metric."""

    @property
    def headers(self) -> dict[str, str]:
        return {}


class BadRequest(ServiceError):
    status, title = 400, "Malformed request"


class Unauthorized(ServiceError):
    status, title = 401, "Unauthorized"

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class Forbidden(ServiceError):
    status, title = 403, "Forbidden"


class NotFound(ServiceError):
    status, title = 404, "Not found"


class RequestTimeout(ServiceError):
    """The body does not come; the connection is closed, as the rest of it would be taken for the next request."""

    status, title, reason = 408, "Request too slow", "slow_request"

    @property
    def headers(self) -> dict[str, str]:
        return {"Connection": "close"}


class PayloadTooLarge(ServiceError):
    status, title = 413, "Too large"


class UnsupportedMediaType(ServiceError):
    status, title = 415, "Unsupported media type"


class UnprocessableImage(ServiceError):
    status, title = 422, "Not a usable image"


class TooManyRequests(ServiceError):
    """A caller sends more than its rate.

    Args:
        rate: requests a second that it has.
        retry_after: seconds until it has one again.
    """

    status, title, reason = 429, "Too many requests", "rate"

    def __init__(self, rate: float, retry_after: float) -> None:
        super().__init__(f"more than {rate:g} requests a second: send them more slowly")
        self.retry_after = max(1, math.ceil(retry_after))

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after)}


class InferenceFailed(ServiceError):
    status, title = 500, "Inference failed"


class Unavailable(ServiceError):
    status, title, reason = 503, "Not ready", "not_ready"


class Overloaded(Unavailable):
    """No room, or no time.

    Args:
        retry_after: seconds after which what waits now will have been computed.
        reason: why, from `OVERLOAD`.
    """

    status, title = 503, "Overloaded"

    def __init__(self, retry_after: int, reason: str = "queue_full") -> None:
        super().__init__(f"{OVERLOAD[reason]}: try again in {retry_after} s")
        self.retry_after = retry_after
        self.reason = reason

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after)}


OVERLOAD = {
    "queue_full": "more images are waiting than can be served soon",
    "would_be_late": "so many images are waiting that the time limit would pass",
    "connections": "more clients are connected than are served",
    "memory": "too many bytes of requests are held",
}


class DeadlineExceeded(ServiceError):
    status, title, reason = 504, "Deadline passed", "deadline"


REASONS = (
    *OVERLOAD,
    *(kind.reason for kind in (RequestTimeout, TooManyRequests, Unavailable, DeadlineExceeded) if kind.reason),
)
"""All reasons to refuse a request."""
